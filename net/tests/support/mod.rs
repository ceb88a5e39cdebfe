//! A stranger: a libp2p node that says whatever a test wants it to, byte by byte.

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::swarm::SwarmEvent;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::{PeerId, Stream, StreamProtocol, SwarmBuilder};
use net::Token;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

pub(crate) const CONTROL: StreamProtocol = StreamProtocol::new("/tilehive/control/1");
pub(crate) const BULK: StreamProtocol = StreamProtocol::new("/tilehive/bulk/1");

/// What a dialer says after the nonce, field by field as on the wire.
#[derive(Clone, Serialize)]
pub(crate) struct Claim {
    pub(crate) intent: u8,
    pub(crate) invitation: Option<u32>,
    pub(crate) proof: Vec<u8>,
    pub(crate) name: String,
    pub(crate) addresses: Vec<String>,
}

/// As the first and the last variant of what a device comes for.
pub(crate) const WORK: u8 = 0;
pub(crate) const ASK: u8 = 2;

#[derive(Debug, Deserialize)]
pub(crate) enum Verdict {
    Ok(#[allow(dead_code)] u64),
    Refused(String, #[allow(dead_code)] String),
}

pub(crate) struct Stranger {
    pub(crate) peer: PeerId,
    coordinator: PeerId,
    control: libp2p_stream::Control,
    closed: mpsc::UnboundedReceiver<()>,
}

impl Stranger {
    /// A node with a key of its own, connected to the coordinator of a token.
    pub(crate) async fn connected(token: &Token) -> Self {
        Self::with_key(libp2p::identity::Keypair::generate_ed25519(), token).await
    }

    pub(crate) async fn with_key(key: libp2p::identity::Keypair, token: &Token) -> Self {
        let mut swarm = SwarmBuilder::with_existing_identity(key)
            .with_tokio()
            .with_tcp(
                libp2p::tcp::Config::default(),
                libp2p::noise::Config::new,
                libp2p::yamux::Config::default,
            )
            .unwrap()
            .with_behaviour(|_| libp2p_stream::Behaviour::new())
            .unwrap()
            .build();
        let (peer, coordinator) = (*swarm.local_peer_id(), token.coordinator);
        let control = swarm.behaviour().new_control();
        let dial = DialOpts::peer_id(coordinator).addresses(token.addresses.clone()).build();
        swarm.dial(dial).unwrap();
        let (up, mut is_up) = mpsc::unbounded_channel();
        let (down, closed) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                match swarm.select_next_some().await {
                    SwarmEvent::ConnectionEstablished { .. } => drop(up.send(())),
                    SwarmEvent::ConnectionClosed { .. } => drop(down.send(())),
                    SwarmEvent::OutgoingConnectionError { .. } => drop(down.send(())),
                    _ => {}
                }
            }
        });
        is_up.recv().await.unwrap();
        Self { peer, coordinator, control, closed }
    }

    pub(crate) async fn open(&mut self, protocol: StreamProtocol) -> Stream {
        self.control.open_stream(self.coordinator, protocol).await.unwrap()
    }

    /// Waits until the coordinator has ended the connection.
    pub(crate) async fn is_cut_off(&mut self) {
        self.closed.recv().await.unwrap();
    }

    /// Says the version and hears the nonce.
    pub(crate) async fn begin(&mut self) -> (Stream, [u8; 32]) {
        let mut stream = self.open(CONTROL).await;
        let mut opening = b"TILEHIVE".to_vec();
        opening.extend(protocol::VERSION.to_le_bytes());
        stream.write_all(&opening).await.unwrap();
        stream.flush().await.unwrap();
        assert!(matches!(hear(&mut stream).await, Verdict::Ok(_)));
        let mut nonce = [0; 32];
        stream.read_exact(&mut nonce).await.unwrap();
        (stream, nonce)
    }

    /// A whole handshake with a claim that follows from the nonce.
    pub(crate) async fn shake(&mut self, claim: impl FnOnce([u8; 32]) -> Claim) -> Verdict {
        let (mut stream, nonce) = self.begin().await;
        say(&mut stream, &claim(nonce)).await;
        hear(&mut stream).await
    }
}

pub(crate) async fn say(stream: &mut Stream, claim: &Claim) {
    let bytes = postcard::to_stdvec(claim).unwrap();
    stream.write_all(&(bytes.len() as u32).to_le_bytes()).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    stream.flush().await.unwrap();
}

pub(crate) async fn hear(stream: &mut Stream) -> Verdict {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await.unwrap();
    let mut bytes = vec![0; u32::from_le_bytes(length) as usize];
    stream.read_exact(&mut bytes).await.unwrap();
    postcard::from_bytes(&bytes).unwrap()
}

/// What shows that one knows the secret of a token: its last 16 bytes.
pub(crate) fn proof(token: &Token, nonce: &[u8; 32], worker: &PeerId) -> Vec<u8> {
    let text = token.to_string();
    let body = &text["tilehive2-".len()..];
    let bytes = data_encoding::BASE64URL_NOPAD.decode(body.as_bytes()).unwrap();
    let key = blake3::derive_key("tilehive join proof 2", &bytes[bytes.len() - 16..]);
    let mut message = nonce.to_vec();
    message.extend(worker.to_bytes());
    blake3::keyed_hash(&key, &message).as_bytes().to_vec()
}

/// The number in a token's invitation.
pub(crate) fn invitation(token: &Token) -> Option<u32> {
    u32::from_str_radix(&token.invitation.to_string(), 16).ok()
}
