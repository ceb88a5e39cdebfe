//! `tilehive token`.

use super::key_file;
use crate::cli::{Context, TokenArguments};
use crate::failure::Failure;
use crate::say::say;
use net::{Identity, NetConfig, Role, Token};

pub(crate) async fn run(context: &Context, arguments: TokenArguments) -> Result<(), Failure> {
    let identity = Identity::load_or_create(&key_file(context)).map_err(Failure::bad_input)?;
    // Only a socket knows the addresses of all interfaces; where the port is taken by a running
    // coordinator, any other port tells the same interfaces.
    let mut config =
        NetConfig::new(identity.clone(), Role::Coordinator, vec![arguments.listen.clone()]);
    config.mdns = false;
    let addresses = match net::start(config.clone()).await {
        Ok(net) => net.listening,
        Err(_) => {
            let port = arguments.listen.iter().last();
            config.listen = vec!["/ip4/0.0.0.0/tcp/0".parse()?];
            let net = net::start(config).await?;
            let with_port = |mut address: net::Multiaddr| {
                address.pop();
                port.clone().into_iter().for_each(|p| address.push(p));
                address
            };
            net.listening.into_iter().map(with_port).collect()
        }
    };
    let token = Token::of(&identity, addresses);
    eprintln!("On each device, run:\n\n  tilehive-worker --join {token}\n");
    eprintln!("Whoever has this line can join. The token alone:");
    say!("{token}");
    Ok(())
}
