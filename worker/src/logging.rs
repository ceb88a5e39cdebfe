//! Logs on stderr: warnings by default, more with `-v` or `RUST_LOG`; lines for people, for journald
//! or for machines.

use clap::ValueEnum;
use std::fmt;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// What a line of the log looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// A line for people; under systemd without colours and times, which the journal has itself
    #[default]
    Text,
    /// An object of JSON a line
    Json,
}

/// What a person says of the log on the command line.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub struct LogArguments {
    /// More log: -v tells what happens, -vv tells all
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,

    /// What a line of the log looks like
    #[arg(
        long,
        value_name = "FORMAT",
        env = "TILEHIVE_LOG_FORMAT",
        global = true,
        default_value = "text"
    )]
    pub log_format: LogFormat,
}

/// Starts logging for this process.
pub fn start(log: LogArguments) {
    // libp2p tells of every connection that a peer drops; that is our own log's business.
    let default = match log.verbose {
        0 => "warn,libp2p=error,libp2p_swarm=error,libp2p_mdns=error",
        1 => "info,libp2p=warn,libp2p_swarm=warn",
        _ => "debug,libp2p=info,libp2p_swarm=info",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr())
        && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours);
    // A second start in one process, as in tests, keeps the first.
    let _ = match log.log_format {
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
        LogFormat::Text if to_journal() => lines
            .with_ansi(false)
            .event_format(Prioritised(
                Format::default().without_time().with_level(false).with_target(false),
            ))
            .try_init(),
        LogFormat::Text => lines.with_target(false).try_init(),
    };
}

/// Whether stderr is read by journald. The variable is inherited by processes whose stderr goes
/// elsewhere, so it says which file it means.
fn to_journal() -> bool {
    #[cfg(target_os = "linux")]
    {
        let means = std::env::var("JOURNAL_STREAM").unwrap_or_default();
        rustix::fs::fstat(std::io::stderr())
            .is_ok_and(|stat| means == format!("{}:{}", stat.st_dev, stat.st_ino))
    }
    #[cfg(not(target_os = "linux"))]
    false
}

/// A line that begins with its level as journald reads it (`man 3 sd-daemon`), so that
/// `journalctl -p warning` finds it.
struct Prioritised(Format<Full, ()>);

impl<S, N> FormatEvent<S, N> for Prioritised
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(writer, "<{priority}>")?;
        self.0.format_event(context, writer, event)
    }
}
