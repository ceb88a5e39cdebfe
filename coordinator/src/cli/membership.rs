//! Arguments of the commands about who belongs to the cluster.

use super::{ClusterArguments, default_listen};
use clap::{Args, Subcommand};
use net::{InvitationId, Multiaddr};
use std::time::Duration;

/// Commands about the cluster and its invitations.
#[derive(Subcommand, Debug)]
pub(crate) enum ClusterCommand {
    /// Make the cluster's key and a first invitation, and say what to do on each device
    Init(TokenArguments),
    /// Invite devices: print the line that lets them join
    Token(TokenArguments),
    /// List the invitations: how old, until when, who came with them
    Tokens {
        /// Print the list as JSON
        #[arg(long)]
        json: bool,
    },
    /// End an invitation; devices that came with it stay
    Revoke {
        /// The invitation, as `tilehive cluster tokens` names it
        #[arg(value_name = "ID")]
        id: InvitationId,
        /// Print the outcome as JSON
        #[arg(long)]
        json: bool,
    },
}

/// Arguments of `cluster init`, `cluster token` and `token`.
#[derive(Args, Debug)]
pub(crate) struct TokenArguments {
    /// How long devices may join with it, such as 30m, 24h or 7days, or never to leave it open until
    /// it is revoked
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = lifetime)]
    pub expires: Lifetime,

    /// A word to know it by, such as the room of the device
    #[arg(long, value_name = "WORD", default_value = "")]
    pub label: String,

    /// Where this coordinator listens
    #[arg(long, value_name = "MULTIADDR", default_value_t = default_listen())]
    pub listen: Multiaddr,

    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
}

/// How long something is open; none is for ever.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lifetime(pub Option<Duration>);

fn lifetime(text: &str) -> Result<Lifetime, String> {
    if text == "never" {
        return Ok(Lifetime(None));
    }
    match humantime::parse_duration(text) {
        Ok(duration) if duration.as_secs() > 0 => Ok(Lifetime(Some(duration))),
        Ok(_) => Err("at least 1s".into()),
        Err(error) => Err(format!("{error}; or never")),
    }
}

/// Arguments of `doctor`.
#[derive(Args, Debug)]
#[command(after_help = "Exit code 0 when nothing failed, 1 when something did.")]
pub(crate) struct DoctorArguments {
    /// Where this coordinator listens
    #[arg(long, value_name = "MULTIADDR", default_value_t = default_listen())]
    pub listen: Multiaddr,

    /// Print the checks as JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `devices`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct DevicesArguments {
    #[command(subcommand)]
    pub command: Option<DevicesCommand>,

    #[command(flatten)]
    pub cluster: ClusterArguments,

    /// Show the devices live until q is pressed: link, load, heat, what they do. Only what this
    /// process itself gives them to do; `tilehive run --watch` shows a run. Needs a terminal
    #[arg(long, conflicts_with_all = ["json", "expect"])]
    pub watch: bool,

    /// Print the list as JSON
    #[arg(long)]
    pub json: bool,
}

/// What else can be done with devices.
#[derive(Subcommand, Debug)]
pub(crate) enum DevicesCommand {
    /// Send a device away for good: it joins no run from now on, until it brings a new token
    #[command(after_help = "\
The invitation that the device came with ends too. A run that is under way keeps the device until it
ends or the device connects again: each run looks up its members when a device comes.")]
    Remove {
        /// Its name, its PeerId, or the end of that
        #[arg(value_name = "NAME|PEER")]
        device: String,
        /// Print the outcome as JSON
        #[arg(long)]
        json: bool,
    },
}
