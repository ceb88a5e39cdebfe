//! The join token: one line that names the coordinator, says where it is, and carries an invitation.
//!
//! The coordinator's PeerId is pinned, so a worker cannot be talked into joining another one; the
//! invitation's secret proves to the coordinator that the worker was invited.

use crate::NetError;
use crate::admission::{Invitation, InvitationId, Secret};
use data_encoding::BASE64URL_NOPAD;
use libp2p::{Multiaddr, PeerId};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

const PREFIX: &str = "tilehive2-";

/// Tokens of releases without invitations.
const OLD_PREFIX: &str = "tilehive1-";

/// A token longer than this is not one of ours.
const TEXT_MAX: usize = 4096;

/// What a worker needs to join.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// The coordinator.
    pub coordinator: PeerId,
    /// Where it listens.
    pub addresses: Vec<Multiaddr>,
    /// The invitation that it carries.
    pub invitation: InvitationId,
    /// When that ends by itself.
    pub expires_unix_s: Option<u64>,
    pub(crate) secret: Secret,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    peer: Vec<u8>,
    addresses: Vec<Vec<u8>>,
    invitation: u32,
    expires_unix_s: Option<u64>,
    secret: [u8; 16],
}

impl Token {
    /// The token of an invitation to a coordinator that listens on these addresses.
    pub fn new(coordinator: PeerId, addresses: Vec<Multiaddr>, invitation: &Invitation) -> Self {
        let Invitation { id, secret, expires_unix_s, .. } = *invitation;
        Self { coordinator, addresses, invitation: id, expires_unix_s, secret }
    }

    /// What proves the knowledge of the secret for one handshake: it is of no use for another
    /// nonce or to another worker.
    pub(crate) fn proof(secret: &[u8; 16], nonce: &[u8; 32], worker: &PeerId) -> [u8; 32] {
        let key = blake3::derive_key("tilehive join proof 2", secret);
        let mut message = nonce.to_vec();
        message.extend(worker.to_bytes());
        *blake3::keyed_hash(&key, &message).as_bytes()
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wire = Wire {
            peer: self.coordinator.to_bytes(),
            addresses: self.addresses.iter().map(|a| a.to_vec()).collect(),
            invitation: self.invitation.0,
            expires_unix_s: self.expires_unix_s,
            secret: self.secret.0,
        };
        let bytes = postcard::to_stdvec(&wire).map_err(|_| fmt::Error)?;
        write!(f, "{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes))
    }
}

/// Never shows the secret.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({} at {:?})", self.coordinator, self.addresses)
    }
}

impl FromStr for Token {
    type Err = NetError;

    fn from_str(text: &str) -> Result<Self, NetError> {
        let text = text.trim();
        if text.len() > TEXT_MAX {
            return Err(NetError::Token("it is too long"));
        }
        let foreign = match text.starts_with(OLD_PREFIX) {
            true => "it is of an older release",
            false => "it does not begin with `tilehive2-`",
        };
        let body = text.strip_prefix(PREFIX).ok_or(NetError::Token(foreign))?;
        let bytes = BASE64URL_NOPAD
            .decode(body.as_bytes())
            .map_err(|_| NetError::Token("it is cut short or has a foreign character"))?;
        let wire: Wire = postcard::from_bytes(&bytes)
            .map_err(|_| NetError::Token("it is cut short or damaged"))?;
        let coordinator = PeerId::from_bytes(&wire.peer)
            .map_err(|_| NetError::Token("it names no coordinator"))?;
        let addresses = wire.addresses.into_iter().map(Multiaddr::try_from);
        let addresses = addresses
            .collect::<Result<_, _>>()
            .map_err(|_| NetError::Token("it has an address that cannot be read"))?;
        Ok(Self {
            coordinator,
            addresses,
            invitation: InvitationId(wire.invitation),
            expires_unix_s: wire.expires_unix_s,
            secret: Secret(wire.secret),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Identity, Register, Terms};
    use proptest::prelude::*;

    #[test]
    fn a_token_survives_text() {
        let address: Multiaddr = "/ip4/192.168.1.7/tcp/47470".parse().unwrap();
        let terms = Terms { lifetime_s: Some(60), ..Terms::default() };
        let invitation = Register::in_memory().invite(&terms).unwrap();
        let token = Token::new(Identity::ephemeral().peer_id(), vec![address], &invitation);
        assert_eq!(token.to_string().parse::<Token>().unwrap(), token);
        assert_eq!(token.expires_unix_s, invitation.expires_unix_s);
        let cut = &token.to_string()[..40];
        assert!(cut.parse::<Token>().is_err());
    }

    proptest! {
        #[test]
        fn garbage_is_an_error(text in ".{0,80}", body in "[A-Za-z0-9_-]{0,120}") {
            prop_assert!(text.parse::<Token>().is_err());
            let prefixed = format!("{PREFIX}{body}");
            prop_assert!(prefixed.parse::<Token>().is_err());
        }
    }
}
