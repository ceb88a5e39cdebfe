//! The handshake on a fresh control stream: version first, then membership. Nothing of the
//! protocol is read before it has ended well.
//!
//! ```text
//! dialer                                   acceptor
//!   magic, version ────────────────────────▶  other version? Refused, naming both
//!   ◀──────────────────────────────── nonce
//!   proof (worker), port ──────────────────▶  wrong proof, no member? Refused
//!   ◀──────────────────────────────────  Ok
//! ```

use crate::NetError;
use crate::frame::{read_limited, read_message, write_message};
use crate::token::Token;
use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::{Multiaddr, PeerId, Stream};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long a stranger may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

const MAGIC: &[u8; 8] = b"TILEHIVE";

/// What the dialer says after the nonce.
#[derive(Serialize, Deserialize)]
struct Claim {
    /// Proof of the cluster's secret; empty between members.
    proof: Vec<u8>,
    /// Where the dialer listens.
    addresses: Vec<String>,
}

#[derive(Serialize, Deserialize)]
enum Verdict {
    Ok,
    Refused(String),
}

/// How an acceptor judges a dialer.
#[derive(Clone)]
pub(crate) enum Judge {
    /// A coordinator: whoever proves the secret is a worker.
    Secret([u8; 16]),
    /// A worker: whoever the coordinator listed.
    Member(bool),
}

/// The dialer's side. `secret` is given towards a coordinator.
pub(crate) async fn dial(
    stream: &mut Stream,
    local: PeerId,
    version: u32,
    secret: Option<[u8; 16]>,
    listening: &[Multiaddr],
) -> Result<(), NetError> {
    stream.write_all(MAGIC).await?;
    stream.write_all(&version.to_le_bytes()).await?;
    stream.flush().await?;
    let mut nonce = [0; 32];
    match read_message::<Verdict>(stream).await? {
        Verdict::Refused(reason) => return Err(NetError::Refused(reason)),
        Verdict::Ok => stream.read_exact(&mut nonce).await?,
    }
    let proof = secret.map(|s| Token::proof(&s, &nonce, &local).to_vec()).unwrap_or_default();
    let addresses = listening.iter().map(|a| a.to_string()).collect();
    write_message(stream, &Claim { proof, addresses }).await?;
    match read_message::<Verdict>(stream).await? {
        Verdict::Ok => Ok(()),
        Verdict::Refused(reason) => Err(NetError::Refused(reason)),
    }
}

/// The acceptor's side; returns where the dialer listens.
pub(crate) async fn accept(
    stream: &mut Stream,
    remote: PeerId,
    version: u32,
    judge: Judge,
) -> Result<Vec<Multiaddr>, NetError> {
    let opening = read_limited(stream, MAGIC.len() + 4, MAGIC.len() + 4).await?;
    if !opening.starts_with(MAGIC) {
        return Err(NetError::Breach("not a Tilehive handshake".into()));
    }
    let theirs = opening[MAGIC.len()..].iter().rev().fold(0u32, |v, &b| v << 8 | u32::from(b));
    if theirs != version {
        let reason = format!(
            "protocol version {theirs} met version {version}: install the same Tilehive release on both devices"
        );
        return refuse(stream, reason).await;
    }
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(std::io::Error::other)?;
    write_message(stream, &Verdict::Ok).await?;
    stream.write_all(&nonce).await?;
    stream.flush().await?;
    let claim: Claim = read_message(stream).await?;
    let admitted = match judge {
        Judge::Secret(secret) => {
            let expected = Token::proof(&secret, &nonce, &remote);
            // blake3 compares hashes in constant time.
            <[u8; 32]>::try_from(claim.proof)
                .is_ok_and(|p| blake3::Hash::from_bytes(p) == blake3::Hash::from_bytes(expected))
        }
        Judge::Member(listed) => listed,
    };
    if !admitted {
        return refuse(stream, "the join token is wrong or was replaced".into()).await;
    }
    write_message(stream, &Verdict::Ok).await?;
    Ok(claim.addresses.iter().take(16).filter_map(|a| a.parse().ok()).collect())
}

async fn refuse(stream: &mut Stream, reason: String) -> Result<Vec<Multiaddr>, NetError> {
    write_message(stream, &Verdict::Refused(reason.clone())).await?;
    stream.close().await?;
    Err(NetError::Refused(reason))
}
