//! Accepting, discovery, and which peers are up.

mod dialling;

use crate::door::Door;
use crate::frame::BulkHeader;
use crate::handshake::{self, CONTROL, Dialled, Guest, Intent, Judge};
use crate::session::{Limits, Outgoing, Session};
use crate::swarm::{Behaviour, BehaviourEvent, build, listen};
use crate::{Command, Event, HANDSHAKE_TIMEOUT, Identity, Net, NetError, Register, Token, Wanted};
use futures::StreamExt;
use libp2p::core::ConnectedPoint;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol, Swarm};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::mpsc;

const BULK: StreamProtocol = StreamProtocol::new("/tilehive/bulk/1");

/// Which side of a cluster we are.
#[derive(Clone, Debug)]
pub enum Role {
    /// Workers join us, if they are in this register or show an invitation of it.
    Coordinator(Register),
    /// We join this one.
    Worker(Token),
}

/// How to start.
#[derive(Clone)]
pub struct NetConfig {
    /// Our key.
    pub identity: Identity,
    /// Our side.
    pub role: Role,
    /// What a coordinator is told to call us.
    pub name: String,
    /// Where to listen; port 0 means any free one.
    pub listen: Vec<Multiaddr>,
    /// Whether to announce ourselves and look for peers by mDNS.
    pub mdns: bool,
    /// Tensor bytes that one peer may have waiting here; also the largest bundle.
    pub bundle_bytes_max: usize,
    /// The largest blob.
    pub blob_bytes_max: usize,
    /// The protocol version to speak; other than [`protocol::VERSION`] only in tests.
    pub version: u32,
}

impl NetConfig {
    /// Defaults for a role: 1 GiB of tensors, 4 GiB of weights, mDNS on.
    pub fn new(identity: Identity, role: Role, listen: Vec<Multiaddr>) -> Self {
        Self {
            identity,
            role,
            name: String::new(),
            listen,
            mdns: true,
            bundle_bytes_max: 1 << 30,
            blob_bytes_max: usize::try_from(4u64 << 30).unwrap_or(usize::MAX),
            version: protocol::VERSION,
        }
    }
}

/// What the hub's own tasks tell it.
enum Internal {
    /// A dialled peer admitted us; the second stream is for bulk.
    Dialled(PeerId, Dialled, Stream),
    /// A dialled peer did not.
    DialFailed(PeerId, NetError),
    /// An incoming peer passed the handshake.
    Admitted(PeerId, Stream, Guest),
    /// An incoming peer did not.
    Turned(PeerId, NetError),
    /// A session ended.
    Ended(PeerId, u64, String),
    /// It is time to dial again.
    Redial(PeerId),
}

struct PeerState {
    session: Option<(u64, Session)>,
    /// Handshake done, bulk stream still to come.
    admitted: Option<(Stream, Guest)>,
    /// A bulk stream that overtook the end of our side of the handshake.
    early_bulk: Option<Stream>,
    /// Where we may dial it; empty when it dials us.
    addresses: Vec<Multiaddr>,
    dialling: bool,
    pause: Duration,
    seen_at: Option<Multiaddr>,
}

struct Hub {
    swarm: Swarm<Behaviour>,
    control: libp2p_stream::Control,
    config: NetConfig,
    peers: BTreeMap<PeerId, PeerState>,
    members: Vec<PeerId>,
    door: Door,
    next_session: u64,
    internal: mpsc::UnboundedSender<Internal>,
    events: mpsc::UnboundedSender<Event>,
    wanted: Wanted,
    listening: Vec<Multiaddr>,
}

/// Binds the addresses and starts the network on the current tokio runtime.
///
/// *Errors*: an address that is taken, a transport that cannot be set up.
pub async fn start(config: NetConfig) -> Result<Net, NetError> {
    let mut swarm = build(&config)?;
    let (listening, early) = listen(&mut swarm, &config.listen).await?;
    let mut control = swarm.behaviour().streams.new_control();
    let taken = |_| NetError::Transport("stream protocol registered twice".into());
    let incoming_control = control.accept(CONTROL).map_err(taken)?;
    let incoming_bulk = control.accept(BULK).map_err(taken)?;
    let (commands, command_rx) = mpsc::unbounded_channel();
    let (events, event_rx) = mpsc::unbounded_channel();
    let (internal, internal_rx) = mpsc::unbounded_channel();
    let wanted = Wanted::default();
    let local = *swarm.local_peer_id();
    let mut hub = Hub {
        swarm,
        control,
        config,
        peers: BTreeMap::new(),
        members: Vec::new(),
        door: Door::new(),
        next_session: 0,
        internal,
        events,
        wanted: wanted.clone(),
        listening: listening.clone(),
    };
    if let Role::Worker(token) = &hub.config.role {
        let (coordinator, addresses) = (token.coordinator, token.addresses.clone());
        hub.peer(coordinator).addresses = addresses;
        hub.dial(coordinator);
    }
    let counters = hub.door.counters.clone();
    // What was discovered while the addresses were bound is not told twice.
    early.into_iter().for_each(|event| hub.on_swarm(event));
    tokio::spawn(hub.run(command_rx, internal_rx, incoming_control, incoming_bulk));
    Ok(Net { local, listening, commands, events: event_rx, wanted, counters })
}

impl Hub {
    async fn run(
        mut self,
        mut commands: mpsc::UnboundedReceiver<Command>,
        mut internal: mpsc::UnboundedReceiver<Internal>,
        mut control: libp2p_stream::IncomingStreams,
        mut bulk: libp2p_stream::IncomingStreams,
    ) {
        loop {
            tokio::select! {
                // Incoming streams first: their queue has a single slot and drops what overflows.
                biased;
                Some((peer, stream)) = control.next() => self.on_incoming_control(peer, stream),
                Some((peer, stream)) = bulk.next() => self.on_incoming_bulk(peer, stream),
                Some(event) = internal.recv() => self.on_internal(event),
                command = commands.recv() => match command {
                    Some(Command::Shutdown) | None => return self.shut_down().await,
                    Some(command) => self.on_command(command),
                },
                event = self.swarm.select_next_some() => self.on_swarm(event),
            }
        }
    }

    fn peer(&mut self, peer: PeerId) -> &mut PeerState {
        self.peers.entry(peer).or_insert_with(|| PeerState {
            session: None,
            admitted: None,
            early_bulk: None,
            addresses: Vec::new(),
            dialling: false,
            pause: dialling::PAUSE_MIN,
            seen_at: None,
        })
    }

    fn emit(&self, event: Event) {
        let _ = self.events.send(event);
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Send(to, message) => {
                if let Some((_, session)) = self.peer(to).session.as_ref() {
                    let _ = session.control.send(message);
                }
            }
            Command::SendBundle(to, bundle, payload) => {
                self.send_bulk(to, BulkHeader::Bundle(bundle), payload);
            }
            Command::SendBlob(to, hash, payload) => {
                let bytes = payload.len() as u64;
                self.send_bulk(to, BulkHeader::Blob { hash, bytes }, payload);
            }
            Command::Disconnect(peer, reason) => self.end(peer, reason),
            Command::Members(members) => self.on_members(members),
            Command::Shutdown => {}
        }
    }

    fn send_bulk(&mut self, to: PeerId, header: BulkHeader, payload: crate::Payload) {
        if let Some((_, session)) = self.peer(to).session.as_ref() {
            let _ = session.bulk.send(Outgoing { header, payload });
        }
    }

    fn on_members(&mut self, members: Vec<(PeerId, Vec<Multiaddr>)>) {
        let local = *self.swarm.local_peer_id();
        self.members = members.iter().map(|(peer, _)| *peer).collect();
        for (peer, addresses) in members {
            if local < peer {
                self.peer(peer).addresses = addresses;
                self.dial(peer);
            }
        }
        let coordinator = self.coordinator();
        let gone: Vec<PeerId> = self.peers.keys().copied().collect();
        for peer in gone {
            if Some(peer) != coordinator && !self.members.contains(&peer) {
                self.end(peer, "no longer a member".into());
                self.peers.remove(&peer);
            }
        }
    }

    fn coordinator(&self) -> Option<PeerId> {
        match &self.config.role {
            Role::Coordinator(_) => None,
            Role::Worker(token) => Some(token.coordinator),
        }
    }

    fn on_incoming_control(&mut self, peer: PeerId, mut stream: Stream) {
        if !self.door.enter(peer) {
            return; // Dropping the stream ends it; an honest peer tries again.
        }
        let judge = match &self.config.role {
            Role::Coordinator(register) => Judge::Register(register.clone()),
            Role::Worker(_) => Judge::Listed(self.members.contains(&peer)),
        };
        let (version, internal) = (self.config.version, self.internal.clone());
        tokio::spawn(async move {
            let accepting = handshake::accept(&mut stream, peer, version, judge);
            let late = Err(NetError::Io(std::io::ErrorKind::TimedOut.into()));
            let accepted = tokio::time::timeout(HANDSHAKE_TIMEOUT, accepting).await.unwrap_or(late);
            let _ = internal.send(match accepted {
                Ok(guest) => Internal::Admitted(peer, stream, guest),
                Err(error) => Internal::Turned(peer, error),
            });
        });
    }

    fn on_incoming_bulk(&mut self, peer: PeerId, stream: Stream) {
        match self.peer(peer).admitted.take() {
            Some((control, guest)) => self.up(peer, (control, stream), guest),
            None if self.door.is_in_lobby(peer) => self.peer(peer).early_bulk = Some(stream),
            // Kept, it would keep a stranger's connection open for as long as that likes.
            None => self.door.crowd_out(),
        }
    }

    fn on_internal(&mut self, event: Internal) {
        match event {
            Internal::Dialled(peer, Dialled { stream, version, .. }, bulk) => {
                self.peer(peer).dialling = false;
                self.peer(peer).pause = dialling::PAUSE_MIN;
                let addresses = self.peer(peer).addresses.clone();
                let host = Guest { intent: Intent::Work, version, addresses };
                self.up(peer, (stream, bulk), host);
            }
            Internal::DialFailed(peer, NetError::Refused(refused))
                if Some(peer) == self.coordinator() =>
            {
                self.emit(Event::Refused(refused));
            }
            Internal::DialFailed(peer, error) => {
                tracing::debug!(%peer, %error, "handshake failed");
                self.redial(peer);
            }
            Internal::Admitted(peer, _, guest) if guest.intent != Intent::Work => {
                self.door.admit(peer);
                self.forget_if_idle(peer);
            }
            Internal::Admitted(peer, control, guest) => {
                self.door.admit(peer);
                let addresses = self.reachable(peer, guest.addresses);
                let guest = Guest { addresses, ..guest };
                match self.peer(peer).early_bulk.take() {
                    Some(bulk) => self.up(peer, (control, bulk), guest),
                    None => self.peer(peer).admitted = Some((control, guest)),
                }
            }
            Internal::Turned(peer, error) => {
                match self.config.role {
                    // The cure is told to the device, where it is of use.
                    Role::Coordinator(_) => match &error {
                        NetError::Refused(refused) => self.door.turn_away(peer, &refused.reason),
                        error => self.door.turn_away(peer, error),
                    },
                    // Another worker may know the roster a moment before we do, and tries again.
                    Role::Worker(_) => {
                        self.door.leave(peer);
                        tracing::debug!(%peer, "turned away: {error}");
                    }
                }
                self.forget_if_idle(peer);
            }
            Internal::Ended(peer, number, reason) => {
                let current = self.peer(peer).session.as_ref().map(|(n, _)| *n);
                if current == Some(number) {
                    self.end(peer, reason);
                }
            }
            Internal::Redial(peer) => self.dial(peer),
        }
    }

    /// Forgets a peer that came to the door, unless it works here on another connection.
    fn forget_if_idle(&mut self, peer: PeerId) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.early_bulk = None;
            if state.session.is_none() && state.admitted.is_none() && state.addresses.is_empty() {
                self.peers.remove(&peer);
            }
        }
    }

    /// Where others may reach a peer: first the address we see it at, with the ports it listens on.
    fn reachable(&mut self, peer: PeerId, claimed: Vec<Multiaddr>) -> Vec<Multiaddr> {
        let seen = self.peer(peer).seen_at.clone();
        let seen = seen.as_ref().and_then(|a| a.iter().next());
        let ports = claimed.iter().filter_map(|a| a.iter().find(|p| matches!(p, Protocol::Tcp(_))));
        let mut addresses: Vec<Multiaddr> = match seen {
            Some(ip) => ports.map(|port| Multiaddr::from(ip.clone()).with(port)).collect(),
            None => Vec::new(),
        };
        for address in claimed {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }

    /// A session begins; one that the same peer had before is over.
    fn up(&mut self, peer: PeerId, streams: (Stream, Stream), guest: Guest) {
        if self.peer(peer).session.take().is_some() {
            self.emit(Event::Down(peer, "it connected again".into()));
        }
        self.next_session += 1;
        let number = self.next_session;
        let limits = Limits {
            bundle_bytes_max: self.config.bundle_bytes_max,
            blob_bytes_max: self.config.blob_bytes_max,
        };
        let internal = self.internal.clone();
        let ended = move |reason| {
            let _ = internal.send(Internal::Ended(peer, number, reason));
        };
        self.emit(Event::Up(peer, guest.version, guest.addresses));
        let shared = (self.wanted.clone(), self.door.counters.clone());
        let events = self.events.clone();
        let session = Session::start(peer, streams, limits, shared, events, ended);
        self.peer(peer).session = Some((number, session));
    }

    fn end(&mut self, peer: PeerId, reason: String) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        if state.session.take().is_some() {
            self.emit(Event::Down(peer, reason));
            self.note_seen(vec![peer]);
        }
        let _ = self.swarm.disconnect_peer_id(peer);
        if Some(peer) == self.coordinator() {
            // The others lose us when it does, and where a cable is out their farewell never comes: a
            // session with them would look alive until TCP tries again. It names them anew.
            self.on_members(Vec::new());
        }
        let dials = self.peers.get(&peer).is_some_and(|s| !s.addresses.is_empty() && !s.dialling);
        let wanted = Some(peer) == self.coordinator()
            || (self.members.contains(&peer) && *self.swarm.local_peer_id() < peer);
        if dials && wanted {
            self.redial(peer);
        }
    }

    /// Writes down until when members were here.
    fn note_seen(&self, peers: Vec<PeerId>) -> Option<tokio::task::JoinHandle<()>> {
        let Role::Coordinator(register) = &self.config.role else { return None };
        let register = register.clone();
        Some(tokio::task::spawn_blocking(move || register.see(&peers)))
    }

    fn on_swarm(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, endpoint, .. } => match endpoint {
                ConnectedPoint::Dialer { .. } => self.open(peer_id),
                ConnectedPoint::Listener { send_back_addr, .. } => {
                    self.peer(peer_id).seen_at = Some(send_back_addr);
                }
            },
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, cause, .. } => {
                let reason = cause.map_or("it went away".into(), |e| format!("it went away ({e})"));
                let state = self.peer(peer_id);
                if state.session.is_some() {
                    self.end(peer_id, reason);
                } else if self.peers.get(&peer_id).is_some_and(|s| s.addresses.is_empty()) {
                    self.peers.remove(&peer_id);
                }
            }
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), error, .. } => {
                if Some(peer) == self.coordinator() {
                    self.emit(Event::Unreachable(error.to_string()));
                }
                self.redial(peer);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Mdns(libp2p::mdns::Event::Discovered(found))) => {
                // Only the coordinator that the token names is of interest; the rest of the local
                // network, IPFS nodes included, also answers here.
                let Some(coordinator) = self.coordinator() else { return };
                for (peer, address) in found {
                    let known = &mut self.peer(coordinator).addresses;
                    if peer == coordinator && !known.contains(&address) {
                        tracing::debug!(%address, "coordinator found by mDNS");
                        known.push(address);
                        self.dial(coordinator);
                    }
                }
            }
            _ => {}
        }
    }

    /// Lets what is queued go out, for a moment, then ends.
    async fn shut_down(mut self) {
        let here = self.peers.iter().filter(|(_, state)| state.session.is_some());
        let noted = self.note_seen(here.map(|(peer, _)| *peer).collect());
        let grace = tokio::time::sleep(Duration::from_millis(150));
        tokio::pin!(grace);
        loop {
            tokio::select! {
                () = &mut grace => break,
                _ = self.swarm.select_next_some() => {}
            }
        }
        if let Some(noted) = noted {
            let _ = noted.await;
        }
    }
}
