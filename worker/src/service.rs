//! What a service manager wants to hear of a worker: that it is ready, and that its loop runs.

use std::path::PathBuf;

/// Where the service of a package keeps its state.
#[cfg(target_os = "linux")]
const STATE: &str = "/var/lib/tilehive";

/// Tells systemd that the worker is ready. Elsewhere nobody listens.
pub(crate) fn ready() {
    #[cfg(target_os = "linux")]
    tell(&[sd_notify::NotifyState::Ready]);
}

/// Tells systemd that the drive loop runs; a worker that does not say so is started anew.
pub(crate) fn alive() {
    #[cfg(target_os = "linux")]
    tell(&[sd_notify::NotifyState::Watchdog]);
}

/// Tells systemd that the worker is about to end.
pub(crate) fn stopping() {
    #[cfg(target_os = "linux")]
    tell(&[sd_notify::NotifyState::Stopping]);
}

#[cfg(target_os = "linux")]
fn tell(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!("systemd does not hear: {error}");
    }
}

/// The state folder where nobody gives one: the service's for root, so that `sudo tilehive-worker join`
/// joins the device that the service runs on; the user's own for others.
pub(crate) fn state_folder() -> Option<PathBuf> {
    #[cfg(target_os = "linux")]
    if is_root() && std::path::Path::new(STATE).is_dir() {
        return Some(STATE.into());
    }
    Some(dirs::data_local_dir()?.join("tilehive"))
}

/// Whether whoever keeps their state there is started by systemd, as soon as a token is there.
pub(crate) fn is_service(state: &std::path::Path) -> bool {
    #[cfg(target_os = "linux")]
    return state == std::path::Path::new(STATE)
        && std::path::Path::new("/run/systemd/system").is_dir();
    #[cfg(not(target_os = "linux"))]
    {
        let _ = state;
        false
    }
}

/// Its folder in `/proc` belongs to whom a process acts for.
#[cfg(target_os = "linux")]
fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}
