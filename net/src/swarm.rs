//! The swarm itself: transport, behaviours, bound addresses.

use crate::door::LOBBY_MAX;
use crate::hub::NetConfig;
use crate::{HANDSHAKE_TIMEOUT, NetError};
use futures::StreamExt;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, Swarm};
use std::time::Duration;

/// Connections at once, admitted or not: with those in the transport's own handshake, the most
/// descriptors that others can make this process hold.
const CONNECTIONS_MAX: u32 = 256;

/// How long to listen for further interfaces after one is bound.
const SETTLE: Duration = Duration::from_millis(30);

#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    pub(crate) streams: libp2p_stream::Behaviour,
    pub(crate) limits: libp2p::connection_limits::Behaviour,
    pub(crate) mdns: Toggle<libp2p::mdns::tokio::Behaviour>,
}

pub(crate) fn build(config: &NetConfig) -> Result<Swarm<Behaviour>, NetError> {
    let transport = |e: &dyn std::fmt::Display| NetError::Transport(e.to_string());
    let mdns = config.mdns.then(|| {
        let settings = libp2p::mdns::Config {
            ttl: Duration::from_secs(15 * 60),
            query_interval: Duration::from_secs(45),
            enable_ipv6: false,
        };
        libp2p::mdns::tokio::Behaviour::new(settings, config.identity.peer_id())
            .inspect_err(|e| tracing::warn!("no discovery by mDNS here: {e}"))
            .ok()
    });
    let limits = libp2p::connection_limits::ConnectionLimits::default()
        .with_max_pending_incoming(Some(LOBBY_MAX as u32))
        .with_max_established_per_peer(Some(2))
        .with_max_established(Some(CONNECTIONS_MAX));
    let behaviour = Behaviour {
        streams: libp2p_stream::Behaviour::new(),
        limits: libp2p::connection_limits::Behaviour::new(limits),
        mdns: Toggle::from(mdns.flatten()),
    };
    let swarm = libp2p::SwarmBuilder::with_existing_identity(config.identity.0.clone())
        .with_tokio()
        .with_other_transport(crate::transport::build)
        .map_err(|e| transport(&e))?
        .with_behaviour(move |_| behaviour)
        .map_err(|e| transport(&e))?
        .with_swarm_config(|config| config)
        // Whoever opens a socket and says nothing keeps its place no longer than in the handshake.
        .with_connection_timeout(HANDSHAKE_TIMEOUT)
        .build();
    Ok(swarm)
}

/// Waits until every address is bound, so that a taken port is an error at the start. Also returns
/// what else happened meanwhile.
pub(crate) async fn listen(
    swarm: &mut Swarm<Behaviour>,
    addresses: &[Multiaddr],
) -> Result<(Vec<Multiaddr>, Vec<SwarmEvent<BehaviourEvent>>), NetError> {
    let (mut listening, mut early) = (Vec::new(), Vec::new());
    for address in addresses {
        let failed = |source| NetError::Listen { address: address.clone(), source };
        check_free(address).map_err(failed)?;
        let id = swarm
            .listen_on(address.clone())
            .map_err(|e| failed(std::io::Error::other(e.to_string())))?;
        let mut bound = false;
        loop {
            // A wildcard address is bound once for each interface, one event after another.
            let settle = if bound { SETTLE } else { HANDSHAKE_TIMEOUT };
            let Ok(event) = tokio::time::timeout(settle, swarm.select_next_some()).await else {
                if bound {
                    break;
                }
                return Err(failed(std::io::ErrorKind::TimedOut.into()));
            };
            match event {
                SwarmEvent::NewListenAddr { listener_id, address } if listener_id == id => {
                    listening.push(address);
                    bound = true;
                }
                SwarmEvent::ListenerClosed { listener_id, reason: Err(source), .. }
                | SwarmEvent::ListenerError { listener_id, error: source }
                    if listener_id == id =>
                {
                    return Err(failed(source));
                }
                event => early.push(event),
            }
        }
    }
    // Loopback last: it is of use on this machine only.
    listening.sort_by_key(|address| match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback(),
        _ => false,
    });
    Ok((listening, early))
}

/// libp2p shares its ports (SO_REUSEPORT), so a second coordinator would silently take half of the
/// first one's connections. A plain socket does not share: it tells whether the port is taken.
fn check_free(address: &Multiaddr) -> std::io::Result<()> {
    match crate::socket_address(address) {
        Some(socket) if socket.port() != 0 => std::net::TcpListener::bind(socket).map(drop),
        _ => Ok(()),
    }
}
