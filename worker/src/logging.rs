//! Logs on stderr: warnings by default, more with `-v` or `RUST_LOG`.

use tracing_subscriber::EnvFilter;

/// Starts logging for this process. `verbosity` counts `-v`.
pub fn start(verbosity: u8) {
    // libp2p tells of every connection that a peer drops; that is our own log's business.
    let default = match verbosity {
        0 => "warn,libp2p=error,libp2p_swarm=error,libp2p_mdns=error",
        1 => "info,libp2p=warn,libp2p_swarm=warn",
        _ => "debug,libp2p=info,libp2p_swarm=info",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr())
        && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    // A second start in one process, as in tests, keeps the first.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .with_target(false)
        .try_init();
}
