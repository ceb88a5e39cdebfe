//! Who may join: invitations, members, and the rule that judges a device. No file, no clock, no
//! randomness: see `register.rs` for these.
//!
//! A device that is a member shows its key in the transport's handshake and needs nothing else, so
//! a token that expired keeps nobody out who came in time. Anybody else must prove the secret of an
//! open invitation. A removed member is a stranger again to whom only invitations made after its
//! removal are open: these are told apart by a running number, since the clocks of small devices
//! jump.

use libp2p::PeerId;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;

/// Invitations that are remembered; the oldest that are over are forgotten first.
const INVITATIONS_MAX: usize = 256;

/// Members of one cluster, removed ones included. Whoever holds a token can make up identities, and
/// each of them costs a line in a file.
const MEMBERS_MAX: usize = 1024;

/// Letters of a name or label that are kept.
const NAME_MAX: usize = 64;

/// The public name of an invitation: eight hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InvitationId(pub(crate) u32);

impl fmt::Display for InvitationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl FromStr for InvitationId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.len() == 8 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let number = u32::from_str_radix(text, 16).ok().filter(|_| digits);
        number.map(Self).ok_or("an invitation is named by eight hexadecimal digits")
    }
}

impl Serialize for InvitationId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for InvitationId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// What an invited device knows and a stranger does not. Never printed but in a token and in the
/// coordinator's own file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) [u8; 16]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(de::Error::custom)?;
        let secret = bytes.try_into().map_err(|_| de::Error::custom("a secret has 16 bytes"))?;
        Ok(Self(secret))
    }
}

/// How long an invitation is open, and what a person calls it.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// What a person calls it, such as the room of the device.
    pub label: String,
    /// Seconds that it is open; for ever where there is no end.
    pub lifetime_s: Option<u64>,
}

/// An invitation: whoever proves its secret while it is open becomes a member.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invitation {
    /// Its public name.
    pub id: InvitationId,
    pub(crate) secret: Secret,
    /// Its place in the order in which invitations were made.
    number: u64,
    /// What a person calls it.
    pub label: String,
    /// When it was made.
    pub created_unix_s: u64,
    /// When it ends by itself.
    pub expires_unix_s: Option<u64>,
    /// Whether a person ended it.
    pub revoked: bool,
}

impl Invitation {
    /// Whether a device may still use it.
    pub fn is_open(&self, now_unix_s: u64) -> bool {
        !self.revoked && !self.is_expired(now_unix_s)
    }

    fn is_expired(&self, now_unix_s: u64) -> bool {
        self.expires_unix_s.is_some_and(|end| now_unix_s >= end)
    }
}

/// A device that joined once.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Membership {
    /// Its transport identity.
    #[serde(with = "peer_text")]
    pub peer: PeerId,
    /// What it calls itself.
    pub name: String,
    /// The invitation that it came with.
    pub invitation: InvitationId,
    /// When it came with it.
    pub since_unix_s: u64,
    /// When it was here last, give or take a minute.
    pub seen_unix_s: u64,
    /// Present for one that was sent away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed: Option<Removal>,
}

/// When a member was sent away.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Removal {
    /// By the clock, for people.
    pub unix_s: u64,
    /// The first invitation that may bring it back.
    next_number: u64,
}

mod peer_text {
    use super::*;

    pub(super) fn serialize<S: Serializer>(peer: &PeerId, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(peer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PeerId, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

/// Why a device was turned away, and what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is no member and shows no invitation.
    #[error("this device is no member of the cluster, and showed no token")]
    Uninvited,
    /// There is no such invitation, or its secret was not proven. A stranger does not learn which.
    #[error("the token is of no invitation that the coordinator knows")]
    Unknown,
    /// It came too late.
    #[error("the token of invitation {0} expired before this device joined")]
    Expired(InvitationId),
    /// A person ended the invitation.
    #[error("invitation {0} was revoked")]
    Revoked(InvitationId),
    /// It was a member, and a person sent it away.
    #[error("this device was removed from the cluster")]
    Removed,
    /// There are too many members.
    #[error("the cluster has {MEMBERS_MAX} members, the most that are kept")]
    Full,
}

impl Refusal {
    /// What to do about it.
    pub fn cure(&self) -> &'static str {
        match self {
            Self::Full => {
                "on the coordinator, `tilehive devices remove NAME` makes room for another"
            }
            _ => {
                "print a new token with `tilehive cluster token` on the coordinator, then run \
                 `tilehive-worker join TOKEN` here"
            }
        }
    }
}

/// What a device says of itself when it comes.
pub struct Claimant<'a> {
    /// Its identity, proven by the transport.
    pub peer: PeerId,
    /// The invitation that it claims to have.
    pub invitation: Option<InvitationId>,
    /// Whether it proved to know a secret.
    pub proves: &'a dyn Fn(&[u8; 16]) -> bool,
}

/// Why a device may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is a member already.
    Member,
    /// It shows an open invitation.
    Invited(InvitationId),
}

/// What a coordinator knows of devices: whom it invited, and who came.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admission {
    /// Of this form of the file.
    version: u32,
    next_number: u64,
    /// In the order in which they were made.
    pub invitations: Vec<Invitation>,
    /// In the order in which they came.
    pub members: Vec<Membership>,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            version: Self::VERSION,
            next_number: 0,
            invitations: Vec::new(),
            members: Vec::new(),
        }
    }
}

impl Admission {
    const VERSION: u32 = 1;

    /// Whether this release reads what was written.
    ///
    /// *Errors*: what is wrong with it.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.version != Self::VERSION {
            let (theirs, ours) = (self.version, Self::VERSION);
            return Err(format!("it has form {theirs}, and this release reads form {ours}"));
        }
        let numbers = self.invitations.iter().map(|i| i.number);
        let sound =
            numbers.is_sorted() && self.invitations.iter().all(|i| i.number < self.next_number);
        if sound { Ok(()) } else { Err("its invitations are out of order".into()) }
    }

    /// Judges a device: members come in, others need an open invitation.
    ///
    /// *Errors*: why not.
    pub fn judge(&self, claimant: &Claimant<'_>, now_unix_s: u64) -> Result<Standing, Refusal> {
        let known = self.members.iter().find(|m| m.peer == claimant.peer);
        let removal = known.and_then(|m| m.removed.as_ref());
        if known.is_some() && removal.is_none() {
            return Ok(Standing::Member);
        }
        let shown = self.shown(claimant);
        if let Some(removal) = removal
            && !shown.is_ok_and(|invitation| invitation.number >= removal.next_number)
        {
            return Err(Refusal::Removed);
        }
        let invitation = shown?;
        if invitation.revoked {
            return Err(Refusal::Revoked(invitation.id));
        }
        if invitation.is_expired(now_unix_s) {
            return Err(Refusal::Expired(invitation.id));
        }
        let places = self.members.iter().filter(|m| !self.may_be_forgotten(m, now_unix_s));
        if known.is_none() && places.count() >= MEMBERS_MAX {
            return Err(Refusal::Full);
        }
        Ok(Standing::Invited(invitation.id))
    }

    /// The invitation whose secret a device proved. What became of it only these learn.
    fn shown(&self, claimant: &Claimant<'_>) -> Result<&Invitation, Refusal> {
        let id = claimant.invitation.ok_or(Refusal::Uninvited)?;
        let invitation = self.invitations.iter().find(|i| i.id == id);
        invitation.filter(|i| (claimant.proves)(&i.secret.0)).ok_or(Refusal::Unknown)
    }

    /// Whether a removed member has no invitation left that forgetting its removal would open again.
    fn may_be_forgotten(&self, member: &Membership, now_unix_s: u64) -> bool {
        member.removed.as_ref().is_some_and(|removal| {
            let earlier = self.invitations.iter().filter(|i| i.number < removal.next_number);
            !earlier.into_iter().any(|i| i.is_open(now_unix_s))
        })
    }

    /// Notes that a device came in. Whether that is worth writing down: a member that comes and goes
    /// is noted once a minute, to be kind to memory cards.
    pub fn admit(&mut self, peer: PeerId, name: &str, standing: Standing, now_unix_s: u64) -> bool {
        let name = tidy(name);
        let known = self.members.iter_mut().find(|m| m.peer == peer);
        let (known, invitation) = match (known, standing) {
            (Some(member), Standing::Member) => {
                let new_name = !name.is_empty() && name != member.name;
                if new_name {
                    member.name = name;
                }
                return member.see(now_unix_s) || new_name;
            }
            // Removed by another process a moment ago.
            (None, Standing::Member) => return false,
            (known, Standing::Invited(invitation)) => (known, invitation),
        };
        let name = if name.is_empty() { short(&peer) } else { name };
        let (since_unix_s, seen_unix_s) = (now_unix_s, now_unix_s);
        let member =
            Membership { peer, name, invitation, since_unix_s, seen_unix_s, removed: None };
        match known {
            Some(known) => *known = member,
            None => {
                if self.members.len() >= MEMBERS_MAX {
                    let old: Vec<PeerId> = self
                        .members
                        .iter()
                        .filter(|m| self.may_be_forgotten(m, now_unix_s))
                        .map(|m| m.peer)
                        .collect();
                    self.members.retain(|m| !old.contains(&m.peer));
                }
                self.members.push(member);
            }
        }
        true
    }

    /// Notes that members were here until now. Whether that is worth writing down.
    pub fn see(&mut self, peers: &[PeerId], now_unix_s: u64) -> bool {
        let mut news = false;
        for member in self.members.iter_mut().filter(|m| peers.contains(&m.peer)) {
            news |= member.see(now_unix_s);
        }
        news
    }

    /// Adds an invitation. The caller draws id and secret.
    pub(crate) fn invite(
        &mut self,
        (id, secret): (InvitationId, Secret),
        terms: &Terms,
        now_unix_s: u64,
    ) -> Invitation {
        while self.invitations.len() >= INVITATIONS_MAX {
            let over = self.invitations.iter().position(|i| !i.is_open(now_unix_s));
            self.invitations.remove(over.unwrap_or(0));
        }
        let invitation = Invitation {
            id,
            secret,
            number: self.next_number,
            label: tidy(&terms.label),
            created_unix_s: now_unix_s,
            expires_unix_s: terms.lifetime_s.map(|s| now_unix_s.saturating_add(s)),
            revoked: false,
        };
        self.next_number += 1;
        self.invitations.push(invitation.clone());
        invitation
    }

    /// Ends an invitation; none when there is no such. Those who came with it stay.
    pub fn revoke(&mut self, id: InvitationId) -> Option<&Invitation> {
        let invitation = self.invitations.iter_mut().find(|i| i.id == id)?;
        invitation.revoked = true;
        Some(invitation)
    }

    /// Sends a member away. The invitation that it came with ends too, since with a new key it would
    /// be a stranger who still holds the token; whether it was open until now.
    pub fn remove(&mut self, peer: &PeerId, now_unix_s: u64) -> Option<Removed> {
        let next_number = self.next_number;
        let member = self.members.iter_mut().find(|m| m.peer == *peer && m.removed.is_none())?;
        member.removed = Some(Removal { unix_s: now_unix_s, next_number });
        let member = member.clone();
        let used = self.invitations.iter_mut().find(|i| i.id == member.invitation);
        let ended = used.filter(|i| i.is_open(now_unix_s)).map(|i| {
            i.revoked = true;
            i.id
        });
        Some(Removed { member, ended })
    }

    /// Members that were not sent away.
    pub fn present(&self) -> impl Iterator<Item = &Membership> {
        self.members.iter().filter(|m| m.removed.is_none())
    }
}

/// What a removal did.
#[derive(Clone, Debug)]
pub struct Removed {
    /// Who was sent away.
    pub member: Membership,
    /// The invitation that ended with it.
    pub ended: Option<InvitationId>,
}

impl Membership {
    /// Whether that is news by a minute or more; a clock that was set back is news too.
    fn see(&mut self, now_unix_s: u64) -> bool {
        let news = now_unix_s.abs_diff(self.seen_unix_s) >= 60;
        if news {
            self.seen_unix_s = now_unix_s;
        }
        news
    }
}

/// A name without what would move a terminal's cursor, and no longer than a line of a table bears.
fn tidy(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(NAME_MAX).collect::<String>().trim().to_owned()
}

/// The end of a PeerId, which is what tells two of them apart.
fn short(peer: &PeerId) -> String {
    let text = peer.to_string();
    text.get(text.len().saturating_sub(8)..).unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests;
