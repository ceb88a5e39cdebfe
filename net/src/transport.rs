//! TCP, encrypted by Noise, shared by Yamux: which gives up on who does not answer.

use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::Boxed;
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::{PeerId, Transport, noise, tcp, yamux};
use std::time::Duration;

/// How long sent bytes may stay without an answer. After a cable was out, TCP tries again only as
/// long after as it had been out, and a connection seems alive till then. A little longer than the
/// silence after which the protocol gives a peer up.
const UNANSWERED: Duration = Duration::from_nanos(protocol::SILENCE_NS + 1_000_000_000);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The way in which peers are connected.
///
/// *Errors*: a key that Noise cannot use.
pub(crate) fn build(key: &Keypair) -> Result<Boxed<(PeerId, StreamMuxerBox)>, BoxError> {
    let plain = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
    let tuned = plain.map(|stream, _| {
        give_up_in_time(&stream.0);
        stream
    });
    let secured = tuned.upgrade(Version::V1Lazy).authenticate(noise::Config::new(key)?);
    Ok(secured.multiplex(yamux::Config::default()).boxed())
}

/// Ends a connection whose other side does not answer; where the system cannot, it decides.
fn give_up_in_time(stream: &tokio::net::TcpStream) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Err(error) = socket2::SockRef::from(stream).set_tcp_user_timeout(Some(UNANSWERED)) {
        tracing::debug!(%error, "a dead connection will be noticed late");
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = (stream, UNANSWERED);
}
