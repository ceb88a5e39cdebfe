//! Asking a coordinator without working for it: to become a member, or only to hear what it would
//! say. One connection of its own, closed when the answer is there, so that a worker with the same
//! key goes on undisturbed.

use crate::handshake::{self, Intent, Introduction};
use crate::hub::{NetConfig, Role};
use crate::swarm::{Behaviour, BehaviourEvent, build, listen};
use crate::{HANDSHAKE_TIMEOUT, NetError, Refused};
use futures::StreamExt;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{DialError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm};
use std::time::Duration;
use tokio::sync::mpsc;

/// What came of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// This device is a member, or would become one.
    Admitted {
        /// The coordinator's clock.
        unix_s: u64,
    },
    /// It is not, and would not.
    Refused(Refused),
    /// At one of the addresses another program answers, with another key.
    Impostor(Multiaddr, PeerId),
    /// Nobody answered; the last thing that went wrong.
    Nobody(String),
}

/// Dials the coordinator of `config`'s token for as long as `patience`, and asks.
///
/// *Errors*: the transport cannot be set up, or `config` is a coordinator's.
pub async fn ask(
    config: NetConfig,
    intent: Intent,
    patience: Duration,
) -> Result<Answer, NetError> {
    let Role::Worker(token) = &config.role else {
        return Err(NetError::Transport("only a worker asks".into()));
    };
    let coordinator = token.coordinator;
    let mut swarm = build(&config)?;
    // Discovery wants an address to answer to.
    let (_, early) = listen(&mut swarm, &config.listen).await?;
    let mut asking = Asking {
        control: swarm.behaviour().streams.new_control(),
        addresses: token.addresses.clone(),
        coordinator,
        last: "no address of the token answered".into(),
        impostor: None,
    };
    let (answers, mut answer) = mpsc::channel(1);
    asking.dial(&mut swarm);
    for event in early {
        asking.on_swarm(&mut swarm, event, &config, intent, &answers);
    }
    let give_up = tokio::time::sleep(patience);
    tokio::pin!(give_up);
    let mut again = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            () = &mut give_up => return Ok(match asking.impostor {
                Some((address, peer)) => Answer::Impostor(address, peer),
                None => Answer::Nobody(asking.last),
            }),
            Some(outcome) = answer.recv() => match outcome {
                Ok(unix_s) => return Ok(Answer::Admitted { unix_s }),
                Err(NetError::Refused(refused)) => return Ok(Answer::Refused(refused)),
                // Crowded out, or the coordinator ended just now: there is time to try again.
                Err(error) => {
                    asking.last = error.to_string();
                    let _ = swarm.disconnect_peer_id(coordinator);
                }
            },
            _ = again.tick() => asking.dial(&mut swarm),
            event = swarm.select_next_some() => {
                asking.on_swarm(&mut swarm, event, &config, intent, &answers);
            }
        }
    }
}

/// What went wrong at each address, in the words of the system.
fn plain(error: &DialError) -> String {
    let DialError::Transport(failures) = error else { return error.to_string() };
    let failures = failures.iter().map(|(address, error)| {
        let mut innermost: &dyn std::error::Error = error;
        while let Some(source) = innermost.source() {
            innermost = source;
        }
        format!("{}: {innermost}", without_peer(address))
    });
    failures.collect::<Vec<_>>().join("; ")
}

fn without_peer(address: &Multiaddr) -> Multiaddr {
    address.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect()
}

struct Asking {
    control: libp2p_stream::Control,
    coordinator: PeerId,
    addresses: Vec<Multiaddr>,
    last: String,
    impostor: Option<(Multiaddr, PeerId)>,
}

impl Asking {
    fn dial(&self, swarm: &mut Swarm<Behaviour>) {
        if self.addresses.is_empty() {
            return;
        }
        let options = DialOpts::peer_id(self.coordinator)
            .addresses(self.addresses.clone())
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .build();
        // Under way already, or told of by an event.
        let _ = swarm.dial(options);
    }

    fn on_swarm(
        &mut self,
        swarm: &mut Swarm<Behaviour>,
        event: SwarmEvent<BehaviourEvent>,
        config: &NetConfig,
        intent: Intent,
        answers: &mpsc::Sender<Result<u64, NetError>>,
    ) {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, .. } if peer_id == self.coordinator => {
                let (mut control, config) = (self.control.clone(), config.clone());
                let (local, coordinator) = (*swarm.local_peer_id(), self.coordinator);
                let answers = answers.clone();
                tokio::spawn(async move {
                    let asking = async {
                        let token = match &config.role {
                            Role::Worker(token) => Some(token),
                            Role::Coordinator(_) => None,
                        };
                        let introduction = Introduction {
                            version: config.version,
                            intent,
                            token,
                            name: &config.name,
                            listening: &[],
                        };
                        let between = (local, coordinator);
                        let dialled = handshake::dial(&mut control, between, introduction).await?;
                        Ok(dialled.unix_s)
                    };
                    let late = Err(NetError::Io(std::io::ErrorKind::TimedOut.into()));
                    let outcome = tokio::time::timeout(HANDSHAKE_TIMEOUT, asking).await;
                    let _ = answers.send(outcome.unwrap_or(late)).await;
                });
            }
            SwarmEvent::OutgoingConnectionError { error, .. } => {
                if let DialError::WrongPeerId { obtained, address } = &error {
                    self.impostor = Some((without_peer(address), *obtained));
                }
                self.last = plain(&error);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Mdns(libp2p::mdns::Event::Discovered(found))) => {
                for (peer, address) in found {
                    if peer == self.coordinator && !self.addresses.contains(&address) {
                        self.addresses.push(address);
                        self.dial(swarm);
                    }
                }
            }
            _ => {}
        }
    }
}
