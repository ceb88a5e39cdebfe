//! `tilehive doctor`: what is wrong with this coordinator, and the cure.

use super::{key_file, register};
use crate::cli::{Context, DoctorArguments};
use crate::failure::Failure;
use crate::say::say;
use anyhow::anyhow;
use net::{Answer, Identity, Intent, Multiaddr, NetConfig, Register, Role, Terms, Token};
use std::time::Duration;
use worker::doctor::{Check, Diagnosis, device, network};

/// How long whoever has the port may take to show its key.
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) async fn run(context: &Context, arguments: DoctorArguments) -> Result<(), Failure> {
    let mut checks = device::checks(&context.state, &["coordinator.key", "cluster.json"]);
    checks.push(device::key(&key_file(context)));
    checks.push(members(&register(context)));
    checks.extend(network::checks().await);
    checks.push(port(context, &arguments.listen).await);
    let diagnosis = Diagnosis::of(checks);
    match arguments.json {
        true => say!("{}", serde_json::to_string_pretty(&diagnosis)?),
        false => say!("{diagnosis}"),
    }
    match diagnosis.healthy {
        true => Ok(()),
        false => {
            let failed =
                diagnosis.checks.iter().filter(|c| c.verdict == worker::doctor::Verdict::Failed);
            let names: Vec<&str> = failed.map(|c| c.name.as_str()).collect();
            Err(Failure::run(anyhow!("failed: {}", names.join(", "))))
        }
    }
}

fn members(register: &Register) -> Check {
    match register.read() {
        Err(error) => {
            let cure = "until then no device can join, and no command knows its members";
            Check::failed("members", error.to_string(), cure)
        }
        Ok(known) => {
            let now = net::now_unix_s();
            let open = known.invitations.iter().filter(|i| i.is_open(now)).count();
            let members = known.present().count();
            let finding = format!("{members} members, {open} open invitations");
            match members + open {
                0 => Check::warning("members", finding, "`tilehive cluster token` invites devices"),
                _ => Check::ok("members", finding),
            }
        }
    }
}

/// Whether this coordinator can listen, or does already in another process.
async fn port(context: &Context, listen: &Multiaddr) -> Check {
    let free = match net::socket_address(listen) {
        Some(socket) => std::net::TcpListener::bind(socket).map(drop),
        None => Err(std::io::Error::other("no TCP address")),
    };
    let error = match free {
        Ok(()) => {
            let told = "free; `tilehive-worker doctor` on a device says whether it gets through";
            return Check::ok("port", format!("{listen} is {told}"));
        }
        Err(error) => error,
    };
    if error.kind() == std::io::ErrorKind::AddrInUse && is_ours(context, listen).await {
        return Check::ok("port", format!("{listen}: a run of this cluster listens there now"));
    }
    let cure = "end the program that has the port, or give another to every command with --listen, \
                and to devices with a new token";
    Check::failed("port", format!("{listen} cannot be had: {error}"), cure)
}

/// Whether this cluster's key answers on the port. Any answer of the handshake shows it.
async fn is_ours(context: &Context, listen: &Multiaddr) -> bool {
    let Ok(Some(identity)) = Identity::load(&key_file(context)) else { return false };
    let Some(socket) = net::socket_address(listen) else { return false };
    let here = format!("/ip4/127.0.0.1/tcp/{}", socket.port());
    let address = if socket.ip().is_unspecified() { here.parse().ok() } else { None };
    let Ok(invitation) = Register::in_memory().invite(&Terms::default()) else { return false };
    let address = address.unwrap_or_else(|| listen.clone());
    let token = Token::new(identity.peer_id(), vec![address], &invitation);
    let mut config = NetConfig::new(Identity::ephemeral(), Role::Worker(token), Vec::new());
    config.mdns = false;
    let answer = net::ask(config, Intent::Ask, PATIENCE).await;
    matches!(answer, Ok(Answer::Admitted { .. } | Answer::Refused(_)))
}
