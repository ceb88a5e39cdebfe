//! Dialling, and the streams that a connection is opened with.
//!
//! A worker dials its coordinator, for ever and with growing pauses. Between workers the one with
//! the smaller PeerId dials, so a pair has one connection. A coordinator only accepts.

use super::{BULK, Hub, Internal, Role};
use crate::NetError;
use crate::handshake::{self, HANDSHAKE_TIMEOUT, Intent, Introduction};
use libp2p::PeerId;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use std::time::Duration;

pub(super) const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(3);

impl Hub {
    pub(super) fn dial(&mut self, peer: PeerId) {
        let state = self.peer(peer);
        if state.dialling || state.session.is_some() || state.addresses.is_empty() {
            return;
        }
        state.dialling = true;
        let addresses = state.addresses.clone();
        let options = DialOpts::peer_id(peer)
            .addresses(addresses)
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .build();
        if self.swarm.dial(options).is_err() {
            // Still connected from before: only the streams are to be opened again.
            if self.swarm.is_connected(&peer) {
                self.open(peer);
            } else {
                self.redial(peer);
            }
        }
    }

    pub(super) fn redial(&mut self, peer: PeerId) {
        let internal = self.internal.clone();
        let state = self.peer(peer);
        state.dialling = false;
        let pause = state.pause;
        state.pause = (pause * 2).min(PAUSE_MAX);
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let _ = internal.send(Internal::Redial(peer));
        });
    }

    /// Opens the two streams to a peer that we dialled.
    pub(super) fn open(&mut self, peer: PeerId) {
        let local = *self.swarm.local_peer_id();
        let token = match &self.config.role {
            Role::Worker(token) if token.coordinator == peer => Some(token.clone()),
            _ => None,
        };
        let (version, name) = (self.config.version, self.config.name.clone());
        let listening = self.listening.clone();
        let (mut control, internal) = (self.control.clone(), self.internal.clone());
        tokio::spawn(async move {
            let opening = async {
                let introduction = Introduction {
                    version,
                    intent: Intent::Work,
                    token: token.as_ref(),
                    name: &name,
                    listening: &listening,
                };
                let dialled = handshake::dial(&mut control, (local, peer), introduction).await?;
                let bulk = handshake::open(&mut control, peer, BULK).await?;
                Ok((dialled, bulk))
            };
            let late = Err(NetError::Io(std::io::ErrorKind::TimedOut.into()));
            let opened = tokio::time::timeout(HANDSHAKE_TIMEOUT, opening).await.unwrap_or(late);
            let _ = internal.send(match opened {
                Ok((dialled, bulk)) => Internal::Dialled(peer, dialled, bulk),
                Err(error) => Internal::DialFailed(peer, error),
            });
        });
    }
}
