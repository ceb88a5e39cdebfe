//! Interfaces, and whether multicast passes: a question by mDNS on each, and who answers.

use super::{Check, device};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;
use tokio::net::UdpSocket;

/// Where mDNS is spoken.
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const PORT: u16 = 5353;

/// How long to listen: devices answer within a second, and may wait for one more.
const PATIENCE: Duration = Duration::from_secs(3);

/// Who is here? A question for libp2p's peers and one for services of any kind.
const QUESTION: &[u8] = b"\0\0\0\0\0\x02\0\0\0\0\0\0\
    \x04_p2p\x04_udp\x05local\0\0\x0c\0\x01\
    \x09_services\x07_dns-sd\x04_udp\x05local\0\0\x0c\0\x01";

#[derive(Clone, Debug)]
struct Interface {
    name: String,
    address: Ipv4Addr,
    mask: Ipv4Addr,
}

impl Interface {
    fn is_neighbour(&self, other: Ipv4Addr) -> bool {
        let net = |address: Ipv4Addr| u32::from(address) & u32::from(self.mask);
        net(self.address) == net(other)
    }
}

/// Looks at the interfaces, and listens for a few seconds.
pub async fn checks() -> Vec<Check> {
    let interfaces = interfaces();
    if interfaces.is_empty() {
        return vec![Check::failed(
            "network",
            "no interface has an IPv4 address, loopback aside",
            "plug in the cable or join the Wi-Fi; `ip address` shows what there is",
        )];
    }
    let mut checks: Vec<Check> = interfaces
        .iter()
        .map(|i| {
            let kind = if device::is_wireless(Path::new("/"), &i.name) { " (Wi-Fi)" } else { "" };
            Check::ok("network", format!("{}{kind} has {}", i.name, i.address))
        })
        .collect();
    match listen(&interfaces).await {
        Ok(heard) => checks.extend(interfaces.iter().map(|i| judge(i, &heard))),
        Err(error) => checks.push(Check::warning(
            "multicast",
            format!("mDNS cannot be spoken here: {error}"),
            "end the program that keeps UDP port 5353 for itself; until then devices find each other \
             by the addresses in the token",
        )),
    }
    checks
}

fn interfaces() -> Vec<Interface> {
    let all = if_addrs::get_if_addrs().unwrap_or_default();
    let usable = all.into_iter().filter(|i| !i.is_loopback()).filter_map(|i| match i.addr {
        if_addrs::IfAddr::V4(v4) => {
            Some(Interface { name: i.name, address: v4.ip, mask: v4.netmask })
        }
        if_addrs::IfAddr::V6(_) => None,
    });
    // More are containers' bridges, whose number has no bound.
    usable.take(8).collect()
}

/// What was heard: ourselves by the address we sent from, and others.
#[derive(Debug, Default)]
struct Heard {
    from: BTreeSet<Ipv4Addr>,
    unsent: Vec<(Ipv4Addr, String)>,
}

async fn listen(interfaces: &[Interface]) -> std::io::Result<Heard> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    // The port is shared with whatever else speaks mDNS here.
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    socket.set_multicast_loop_v4(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)).into())?;
    let mut heard = Heard::default();
    let to = SocketAddr::from((GROUP, PORT)).into();
    for interface in interfaces {
        let sent = socket
            .join_multicast_v4(&GROUP, &interface.address)
            .and_then(|()| socket.set_multicast_if_v4(&interface.address))
            .and_then(|()| socket.send_to(QUESTION, &to));
        if let Err(error) = sent {
            heard.unsent.push((interface.address, error.to_string()));
        }
    }
    let socket = UdpSocket::from_std(socket.into())?;
    let listening = async {
        let mut packet = [0; 9000];
        loop {
            if let Ok((_, SocketAddr::V4(from))) = socket.recv_from(&mut packet).await {
                heard.from.insert(*from.ip());
            }
        }
    };
    let _: Result<(), _> = tokio::time::timeout(PATIENCE, listening).await;
    Ok(heard)
}

fn judge(interface: &Interface, heard: &Heard) -> Check {
    let Interface { name, address, .. } = interface;
    let without = "devices find the coordinator by the addresses in the token all the same";
    if let Some((_, error)) = heard.unsent.iter().find(|(unsent, _)| unsent == address) {
        let finding = format!("{name}: cannot be sent: {error}");
        let cure = format!("look at the firewall and the routes of {name}; {without}");
        return Check::warning("multicast", finding, cure);
    }
    let others = heard.from.iter().filter(|o| *o != address && interface.is_neighbour(**o)).count();
    if others > 0 {
        let finding =
            format!("{name}: heard {others} other device{}", if others == 1 { "" } else { "s" });
        return Check::ok("multicast", finding);
    }
    let finding = match heard.from.contains(address) {
        true => format!("{name}: heard itself and nobody else"),
        false => format!("{name}: heard nothing, not even itself"),
    };
    let cure = format!(
        "if others speak mDNS there, the firewall or the access point holds it back; {without}"
    );
    Check::warning("multicast", finding, cure)
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn what_was_heard_is_judged_by_interface() {
        let eth = Interface {
            name: "eth0".into(),
            address: Ipv4Addr::new(192, 168, 1, 7),
            mask: Ipv4Addr::new(255, 255, 255, 0),
        };
        let heard = |from: &[[u8; 4]]| Heard {
            from: from.iter().map(|&a| a.into()).collect(),
            unsent: Vec::new(),
        };
        let alone = judge(&eth, &heard(&[[192, 168, 1, 7], [10, 0, 0, 2]]));
        assert!(alone.verdict == Verdict::Warning && alone.finding.contains("itself and nobody"));
        assert!(judge(&eth, &heard(&[])).finding.contains("not even itself"));
        let company = judge(&eth, &heard(&[[192, 168, 1, 7], [192, 168, 1, 9]]));
        assert!(company.verdict == Verdict::Ok && company.finding.ends_with("1 other device"));
        let unsent = vec![(eth.address, "no route".to_owned())];
        let mute = judge(&eth, &Heard { unsent, ..heard(&[[192, 168, 1, 9]]) });
        assert!(mute.finding.contains("no route"));
    }
}
