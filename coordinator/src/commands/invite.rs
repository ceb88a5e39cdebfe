//! `tilehive cluster`: the cluster's key, and invitations into it.

use super::{key_file, register};
use crate::cli::{ClusterCommand, Context, TokenArguments};
use crate::failure::Failure;
use crate::say::say;
use crate::table;
use anyhow::anyhow;
use net::{
    Admission, Identity, Invitation, InvitationId, Multiaddr, NetConfig, Register, Role, Terms,
    Token,
};

pub(crate) async fn run(context: &Context, command: ClusterCommand) -> Result<(), Failure> {
    match command {
        ClusterCommand::Init(arguments) => init(context, arguments).await,
        ClusterCommand::Token(arguments) => token(context, arguments).await,
        ClusterCommand::Tokens { json } => tokens(context, json),
        ClusterCommand::Revoke { id, json } => revoke(context, id, json),
    }
}

async fn init(context: &Context, arguments: TokenArguments) -> Result<(), Failure> {
    let known = register(context).read().map_err(Failure::bad_input)?;
    if !known.invitations.is_empty() || !known.members.is_empty() {
        let (folder, members) = (context.state.display(), known.present().count());
        let error = anyhow!("there is a cluster in {folder} already, with {members} members");
        return Err(Failure::bad_input(error).hint(
            "`tilehive cluster token` invites another device; --state makes a second cluster elsewhere",
        ));
    }
    let made = invite(context, &arguments).await?;
    let folder = context.state.display();
    eprintln!("The cluster is made; its key and its members are kept in {folder}.\n");
    tell(&made, &arguments);
    eprintln!(
        "Here, when they are started:\n\n  \
         tilehive devices                              who is there\n  \
         tilehive run MODEL.onnx PHOTO.png -o OUT.png  uses whoever is there\n"
    );
    print(&made, &arguments)
}

/// `tilehive cluster token`.
pub(crate) async fn token(context: &Context, arguments: TokenArguments) -> Result<(), Failure> {
    let made = invite(context, &arguments).await?;
    tell(&made, &arguments);
    print(&made, &arguments)
}

struct Made {
    token: Token,
    invitation: Invitation,
}

async fn invite(context: &Context, arguments: &TokenArguments) -> Result<Made, Failure> {
    let identity = Identity::load_or_create(&key_file(context)).map_err(Failure::bad_input)?;
    let addresses = addresses(&identity, &arguments.listen).await?;
    let lifetime_s = arguments.expires.0.map(|d| d.as_secs());
    let terms = Terms { label: arguments.label.clone(), lifetime_s };
    let invitation = register(context).invite(&terms).map_err(Failure::bad_input)?;
    let token = Token::new(identity.peer_id(), addresses, &invitation);
    Ok(Made { token, invitation })
}

/// Where a coordinator that listens there can be reached.
async fn addresses(identity: &Identity, listen: &Multiaddr) -> Result<Vec<Multiaddr>, Failure> {
    // Only a socket knows the addresses of all interfaces; where the port is taken by a running
    // coordinator, any other port tells the same interfaces.
    let role = Role::Coordinator(Register::in_memory());
    let mut config = NetConfig::new(identity.clone(), role, vec![listen.clone()]);
    config.mdns = false;
    if let Ok(net) = net::start(config.clone()).await {
        return Ok(net.listening);
    }
    let port = listen.iter().last();
    config.listen = vec!["/ip4/0.0.0.0/tcp/0".parse()?];
    let net = net::start(config).await?;
    let with_port = |mut address: Multiaddr| {
        address.pop();
        port.clone().into_iter().for_each(|p| address.push(p));
        address
    };
    Ok(net.listening.into_iter().map(with_port).collect())
}

/// What to do with a token, for people.
fn tell(made: &Made, arguments: &TokenArguments) {
    let within = match arguments.expires.0 {
        Some(lifetime) => format!(" within {}", table::span(lifetime.as_secs())),
        None => String::new(),
    };
    let Made { token, invitation } = made;
    eprintln!(
        "On each device{within}, run:\n\n  tilehive-worker join {token}\n  tilehive-worker\n\n\
         Where the worker is a service, `sudo tilehive-worker join ...` is all.\n"
    );
    eprintln!(
        "Whoever has this line can join; `tilehive cluster revoke {}` ends that.\n",
        invitation.id
    );
}

fn print(made: &Made, arguments: &TokenArguments) -> Result<(), Failure> {
    let Made { token, invitation } = made;
    if arguments.json {
        let report = serde_json::json!({
            "token": token.to_string(),
            "command": format!("tilehive-worker join {token}"),
            "coordinator": token.coordinator.to_string(),
            "addresses": token.addresses,
            "invitation": invitation.id,
            "label": invitation.label,
            "expires_unix_s": invitation.expires_unix_s,
        });
        say!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        eprintln!("The token alone:");
        say!("{token}");
    }
    Ok(())
}

fn tokens(context: &Context, json: bool) -> Result<(), Failure> {
    let known = register(context).read().map_err(Failure::bad_input)?;
    let now = net::now_unix_s();
    if json {
        let rows = known.invitations.iter().map(|i| row_as_json(&known, i, now));
        say!("{}", serde_json::to_string_pretty(&rows.collect::<Vec<_>>())?);
    } else if known.invitations.is_empty() {
        eprintln!("nobody was invited yet");
        eprintln!("hint: `tilehive cluster init` makes a cluster and its first invitation");
    } else {
        let rows = known.invitations.iter().map(|i| row(&known, i, now));
        say!("{}", table::words(&["invitation", "label", "age", "open", "used by"], rows));
    }
    Ok(())
}

fn used_by(known: &Admission, id: InvitationId) -> impl Iterator<Item = String> {
    known.members.iter().filter(move |m| m.invitation == id).map(|m| match m.removed {
        Some(_) => format!("{} (removed)", m.name),
        None => m.name.clone(),
    })
}

fn row(known: &Admission, invitation: &Invitation, now: u64) -> Vec<String> {
    let open = match invitation.expires_unix_s {
        _ if invitation.revoked => "revoked".into(),
        Some(end) if now >= end => "expired".into(),
        Some(end) => format!("for {}", table::span(end - now)),
        None => "until revoked".into(),
    };
    vec![
        invitation.id.to_string(),
        invitation.label.clone(),
        table::span(now.saturating_sub(invitation.created_unix_s)),
        open,
        used_by(known, invitation.id).collect::<Vec<_>>().join(", "),
    ]
}

fn row_as_json(known: &Admission, invitation: &Invitation, now: u64) -> serde_json::Value {
    serde_json::json!({
        "invitation": invitation.id,
        "label": invitation.label,
        "created_unix_s": invitation.created_unix_s,
        "expires_unix_s": invitation.expires_unix_s,
        "revoked": invitation.revoked,
        "open": invitation.is_open(now),
        "used_by": used_by(known, invitation.id).collect::<Vec<_>>(),
    })
}

fn revoke(context: &Context, id: InvitationId, json: bool) -> Result<(), Failure> {
    let now = net::now_unix_s();
    let revoked = register(context).change(|known| {
        let was_open = known.invitations.iter().any(|i| i.id == id && i.is_open(now));
        let found = known.revoke(id).is_some();
        (found, found.then(|| (was_open, used_by(known, id).collect::<Vec<_>>())))
    });
    let Some((was_open, stay)) = revoked.map_err(Failure::bad_input)? else {
        let error = anyhow!("there is no invitation {id}");
        return Err(Failure::bad_input(error).hint("`tilehive cluster tokens` lists them"));
    };
    if json {
        let report = serde_json::json!({ "invitation": id, "was_open": was_open, "used_by": stay });
        say!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    match was_open {
        true => say!("invitation {id} is revoked: nobody joins with it any more"),
        false => say!("invitation {id} was over already"),
    }
    if !stay.is_empty() {
        let who = stay.join(", ");
        eprintln!("who came with it stays: {who}; `tilehive devices remove NAME` sends one away");
    }
    Ok(())
}
