//! The handshake on a fresh control stream: version first, then membership. Nothing of the
//! protocol is read before it has ended well. The dialer says which version is spoken; where the other
//! side does not know that one, it tries the one before on a stream of its own.
//!
//! ```text
//! dialer                                   acceptor
//!   magic, version ────────────────────────▶  not one of ours? Refused, naming both
//!   ◀──────────────────────────────── nonce
//!   invitation, proof, name, ports ────────▶  neither member nor invited? Refused, saying why
//!   ◀───────────────────────────── Admitted
//! ```

use crate::admission::{Claimant, InvitationId};
use crate::frame::{decode, read_limited, write_message};
use crate::register::now_unix_s;
use crate::token::Token;
use crate::{NetError, Refused, Register};
use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::time::Duration;

/// The stream that a handshake opens.
pub(crate) const CONTROL: StreamProtocol = StreamProtocol::new("/tilehive/control/1");

/// How long a stranger may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

const MAGIC: &[u8; 8] = b"TILEHIVE";

/// A message of the handshake is never longer, whatever a stranger says of its length.
const MESSAGE_MAX: usize = 8 * 1024;

/// Addresses that a dialer tells of.
const ADDRESSES_MAX: usize = 16;

/// What a dialer comes for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Intent {
    /// To work: a session follows.
    Work,
    /// To become a member and leave.
    Enrol,
    /// To hear the verdict and leave; nothing is written down.
    Ask,
}

/// What the dialer says after the nonce.
#[derive(Serialize, Deserialize)]
pub(crate) struct Claim {
    intent: Intent,
    /// The invitation that it holds; none between workers.
    invitation: Option<u32>,
    /// Proof of the invitation's secret; empty between workers.
    proof: Vec<u8>,
    /// What the dialer calls itself.
    name: String,
    /// Where the dialer listens.
    addresses: Vec<String>,
}

#[derive(Serialize, Deserialize)]
pub(crate) enum Verdict {
    /// So far, so good; or, after the claim, admitted, with the acceptor's clock.
    Ok {
        unix_s: u64,
    },
    Refused(Refused),
}

/// How an acceptor judges a dialer.
#[derive(Clone)]
pub(crate) enum Judge {
    /// A coordinator: members, and who shows an open invitation.
    Register(Register),
    /// A worker: whoever the coordinator listed.
    Listed(bool),
}

/// What a dialer shows of itself.
#[derive(Clone, Copy)]
pub(crate) struct Introduction<'a> {
    /// Its own version; which others it speaks follows from that.
    pub version: u32,
    pub intent: Intent,
    /// Given towards a coordinator.
    pub token: Option<&'a Token>,
    pub name: &'a str,
    pub listening: &'a [Multiaddr],
}

/// An admitted dialer.
pub(crate) struct Guest {
    pub intent: Intent,
    /// What is spoken.
    pub version: u32,
    /// Where it listens.
    pub addresses: Vec<Multiaddr>,
}

/// A dialer that was admitted.
pub(crate) struct Dialled {
    /// The control stream.
    pub stream: Stream,
    /// What is spoken on it.
    pub version: u32,
    /// The acceptor's clock.
    pub unix_s: u64,
}

/// The dialer's side, on a stream that it opens to a connected peer.
pub(crate) async fn dial(
    control: &mut libp2p_stream::Control,
    (local, peer): (PeerId, PeerId),
    introduction: Introduction<'_>,
) -> Result<Dialled, NetError> {
    let mut unknown = None;
    for version in protocol::spoken(introduction.version) {
        let mut stream = open(control, peer, CONTROL).await?;
        match say_version(&mut stream, version).await? {
            Ok(nonce) => {
                let unix_s = claim(&mut stream, local, &nonce, introduction).await?;
                return Ok(Dialled { stream, version, unix_s });
            }
            // Of what is said to our own version, the cure is of most use.
            Err(refused) => _ = unknown.get_or_insert(refused),
        }
    }
    Err(unknown.map_or_else(|| NetError::Breach("no version to speak".into()), NetError::Refused))
}

/// Opens a stream to a connected peer.
pub(crate) async fn open(
    control: &mut libp2p_stream::Control,
    peer: PeerId,
    protocol: StreamProtocol,
) -> Result<Stream, NetError> {
    let opened = control.open_stream(peer, protocol).await;
    opened.map_err(|error| NetError::Io(std::io::Error::other(error.to_string())))
}

/// Says which version is to be spoken. Returns what the proof is to be made of, or why the other side
/// does not speak it.
async fn say_version(
    stream: &mut Stream,
    version: u32,
) -> Result<Result<[u8; 32], Refused>, NetError> {
    stream.write_all(MAGIC).await?;
    stream.write_all(&version.to_le_bytes()).await?;
    stream.flush().await?;
    if let Verdict::Refused(refused) = read(stream).await? {
        return Ok(Err(refused));
    }
    let mut nonce = [0; 32];
    stream.read_exact(&mut nonce).await?;
    Ok(Ok(nonce))
}

/// Claims membership; returns the acceptor's clock.
async fn claim(
    stream: &mut Stream,
    local: PeerId,
    nonce: &[u8; 32],
    introduction: Introduction<'_>,
) -> Result<u64, NetError> {
    let Introduction { version: _, intent, token, name, listening } = introduction;
    let proof = token.map(|t| Token::proof(&t.secret.0, nonce, &local).to_vec());
    let addresses = listening.iter().take(ADDRESSES_MAX).map(|a| a.to_string()).collect();
    let claim = Claim {
        intent,
        invitation: token.map(|t| t.invitation.0),
        proof: proof.unwrap_or_default(),
        name: name.chars().take(256).collect(),
        addresses,
    };
    write_message(stream, &claim).await?;
    match read::<Verdict>(stream).await? {
        Verdict::Ok { unix_s } => Ok(unix_s),
        Verdict::Refused(refused) => Err(NetError::Refused(refused)),
    }
}

/// The acceptor's side.
pub(crate) async fn accept(
    stream: &mut Stream,
    remote: PeerId,
    version: u32,
    judge: Judge,
) -> Result<Guest, NetError> {
    let opening = read_limited(stream, MAGIC.len() + 4, MAGIC.len() + 4).await?;
    if !opening.starts_with(MAGIC) {
        return Err(NetError::Breach("not a Tilehive handshake".into()));
    }
    let theirs = opening[MAGIC.len()..].iter().rev().fold(0u32, |v, &b| v << 8 | u32::from(b));
    if protocol::spoken(version).all(|ours| ours != theirs) {
        return refuse(stream, other_version(theirs, version)).await;
    }
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(std::io::Error::other)?;
    write_message(stream, &Verdict::Ok { unix_s: 0 }).await?;
    stream.write_all(&nonce).await?;
    stream.flush().await?;
    let claim: Claim = read(stream).await?;
    let addresses =
        claim.addresses.iter().take(ADDRESSES_MAX).filter_map(|a| a.parse().ok()).collect();
    let guest = Guest { intent: claim.intent, version: theirs, addresses };
    let judged = match judge {
        Judge::Listed(true) => Ok(()),
        Judge::Listed(false) => Err(Refused {
            reason: "the coordinator has not told of this worker".into(),
            cure: "none is needed: it will be told of soon, or is no longer a member".into(),
        }),
        Judge::Register(register) => {
            // Files are read, and written with a lock held.
            let judging = move || judge_by(&register, remote, &nonce, &claim);
            tokio::task::spawn_blocking(judging).await.map_err(std::io::Error::other)?
        }
    };
    if let Err(refused) = judged {
        return refuse(stream, refused).await;
    }
    write_message(stream, &Verdict::Ok { unix_s: now_unix_s() }).await?;
    Ok(guest)
}

fn judge_by(
    register: &Register,
    peer: PeerId,
    nonce: &[u8; 32],
    claim: &Claim,
) -> Result<(), Refused> {
    let shown = <[u8; 32]>::try_from(claim.proof.as_slice()).ok().map(blake3::Hash::from_bytes);
    // blake3 compares hashes in constant time.
    let proves = |secret: &[u8; 16]| {
        let expected = blake3::Hash::from_bytes(Token::proof(secret, nonce, &peer));
        shown.is_some_and(|shown| shown == expected)
    };
    let claimant =
        Claimant { peer, invitation: claim.invitation.map(InvitationId), proves: &proves };
    match register.judge(&claimant, &claim.name, claim.intent != Intent::Ask) {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(refusal)) => {
            Err(Refused { reason: refusal.to_string(), cure: refusal.cure().into() })
        }
        Err(error) => {
            // The device is told that it is not its fault; the rest is for the owner of the file.
            tracing::error!("nobody new can join: {error}");
            Err(Refused {
                reason: "the coordinator cannot read its list of members".into(),
                cure: "run `tilehive doctor` on the coordinator".into(),
            })
        }
    }
}

/// What a dialer is told whose messages have another form: which release to install, and where. The number of a
/// release alone says nothing, since most leave the messages as they are.
fn other_version(theirs: u32, ours: u32) -> Refused {
    let release = env!("CARGO_PKG_VERSION");
    let cure = match theirs < ours {
        true => format!("upgrade this device to Tilehive {release}, the release of the other one"),
        false => format!(
            "upgrade the other device, which has Tilehive {release}, to this one's release; then start \
             this one again"
        ),
    };
    Refused { reason: format!("protocol version {theirs} met version {ours}"), cure }
}

async fn refuse(stream: &mut Stream, refused: Refused) -> Result<Guest, NetError> {
    write_message(stream, &Verdict::Refused(refused.clone())).await?;
    stream.close().await?;
    Err(NetError::Refused(refused))
}

async fn read<T: DeserializeOwned>(stream: &mut Stream) -> Result<T, NetError> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    let bytes = read_limited(stream, u32::from_le_bytes(length) as usize, MESSAGE_MAX).await?;
    decode(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_older_is_told_to_upgrade() {
        let release = env!("CARGO_PKG_VERSION");
        let old = other_version(8, 9);
        assert_eq!(old.reason, "protocol version 8 met version 9");
        assert!(old.cure.starts_with(&format!("upgrade this device to Tilehive {release}")));
        let new = other_version(10, 9);
        assert!(
            new.cure
                .starts_with(&format!("upgrade the other device, which has Tilehive {release}"))
        );
    }

    #[test]
    fn the_longest_honest_claim_fits() {
        let claim = Claim {
            intent: Intent::Work,
            invitation: Some(u32::MAX),
            proof: vec![0xff; 32],
            name: "\u{10ffff}".repeat(256),
            addresses: vec![
                "/ip6/2001:db8:1234:5678:9abc:def0:1234:5678/tcp/65535".repeat(2);
                ADDRESSES_MAX
            ],
        };
        assert!(crate::frame::encode(&claim).unwrap().len() <= MESSAGE_MAX);
    }
}
