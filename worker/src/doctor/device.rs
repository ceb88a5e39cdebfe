//! This device itself: versions, files, clock, memory, disk, heat, Wi-Fi.

use super::Check;
use crate::health;
use net::Identity;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

/// The first second of 2025: no device that runs this has an earlier date.
const NO_CLOCK_UNIX_S: u64 = 1_735_689_600;

const MEMORY_BYTES_LOW: u64 = 100_000_000;
const DISK_BYTES_LOW: u64 = 500_000_000;
const DISK_BYTES_NONE: u64 = 20_000_000;

/// Where processors of small boards begin to slow down.
const HOT_MC: i32 = 80_000;

/// What every device has: `private` are the names of files in the state folder that others must
/// not read.
pub fn checks(state: &Path, private: &[&str]) -> Vec<Check> {
    let mut checks = vec![
        Check::ok(
            "version",
            format!(
                "{}, protocol {}, also {}",
                env!("CARGO_PKG_VERSION"),
                protocol::VERSION,
                protocol::LAST_VERSION
            ),
        ),
        folder(state),
    ];
    checks.extend(private.iter().filter_map(|name| privacy(&state.join(name))));
    checks.push(clock(net::now_unix_s()));
    let health = health::read(Path::new("/"));
    checks.push(memory(health.free_bytes));
    checks.push(disk(state));
    checks.push(heat(&health));
    checks.extend(radios(Path::new("/"), power_save));
    checks
}

/// The key of a file, which is made when it is first needed.
pub fn key(path: &Path) -> Check {
    match Identity::load(path) {
        Ok(Some(identity)) => Check::ok("key", identity.peer_id().to_string()),
        Ok(None) => Check::ok("key", "none yet; it is made when it is first needed"),
        Err(error) => Check::failed(
            "key",
            error.to_string(),
            "put back a copy, or delete it: then this device has a new identity",
        ),
    }
}

fn folder(state: &Path) -> Check {
    let written = std::fs::create_dir_all(state).and_then(|()| {
        let file = tempfile::NamedTempFile::new_in(state)?;
        std::io::Write::write_all(&mut file.as_file(), b"tilehive")
    });
    let shown = state.display();
    match written {
        Ok(()) => Check::ok("state folder", format!("{shown} can be written")),
        Err(error) => Check::failed(
            "state folder",
            format!("{shown} cannot be written: {error}"),
            "give another folder with --state, or make this one belong to the user who runs this",
        ),
    }
}

/// None where all is well or there is no file.
#[cfg(unix)]
fn privacy(path: &Path) -> Option<Check> {
    let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().ok()?.permissions());
    let open = mode & 0o077 != 0;
    open.then(|| {
        let finding = format!("{} has mode {:o}: others can read it", path.display(), mode & 0o777);
        Check::warning("file modes", finding, format!("chmod 600 {}", path.display()))
    })
}

#[cfg(not(unix))]
fn privacy(_: &Path) -> Option<Check> {
    None
}

fn clock(now_unix_s: u64) -> Check {
    let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(now_unix_s);
    let shown = humantime::format_rfc3339_seconds(time).to_string();
    match now_unix_s {
        ..NO_CLOCK_UNIX_S => Check::failed(
            "clock",
            format!("it says {shown}: it was never set"),
            "connect the device to a time server (timedatectl set-ntp true), or set it with date",
        ),
        _ => Check::ok("clock", shown),
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{} MB free", bytes / 1_000_000)
}

fn memory(free_bytes: Option<u64>) -> Check {
    match free_bytes {
        None => Check::ok("memory", "this system does not tell"),
        Some(free) if free < MEMORY_BYTES_LOW => Check::warning(
            "memory",
            megabytes(free),
            "end other programs, or limit this one with `tilehive-worker run --memory-mb`",
        ),
        Some(free) => Check::ok("memory", megabytes(free)),
    }
}

#[cfg(unix)]
fn disk(state: &Path) -> Check {
    // A folder that could not be made has been told of; its parents tell of the disk.
    let there = state.ancestors().find(|folder| folder.exists()).unwrap_or(state);
    let Ok(volume) = rustix::fs::statvfs(there) else {
        return Check::ok("disk", "this system does not tell");
    };
    let free = volume.f_bavail.saturating_mul(volume.f_frsize);
    let cure = "delete what is not needed, or give a folder on another disk with --state";
    match free {
        ..DISK_BYTES_NONE => Check::failed("disk", megabytes(free), cure),
        DISK_BYTES_NONE..DISK_BYTES_LOW => Check::warning("disk", megabytes(free), cure),
        _ => Check::ok("disk", megabytes(free)),
    }
}

#[cfg(not(unix))]
fn disk(_: &Path) -> Check {
    Check::ok("disk", "this system does not tell")
}

fn heat(health: &protocol::Health) -> Check {
    let celsius = health.temperature_mc.map(|mc| format!("{} C", mc / 1000));
    let shown = celsius.unwrap_or_else(|| "no sensor that can be read".into());
    let flags = health.throttled.unwrap_or(0);
    if flags & 1 != 0 {
        return Check::warning(
            "heat",
            format!("{shown}; the supply voltage is too low, so the processor is slowed down"),
            "use the power supply made for this board, and a short cable",
        );
    }
    if health.is_throttled() || health.temperature_mc.is_some_and(|mc| mc >= HOT_MC) {
        let slow = if health.is_throttled() { "; the processor is slowed down" } else { "" };
        let cure = "give it air, a heat sink or a fan";
        return Check::warning("heat", format!("{shown}{slow}"), cure);
    }
    if flags >> 16 & 0b1111 != 0 {
        let cure = "look again while it computes: heat or a weak power supply";
        return Check::warning("heat", format!("{shown}; slowed down since it was started"), cure);
    }
    Check::ok("heat", shown)
}

/// Each Wi-Fi interface: power-save lets words wait for up to a tenth of a second.
fn radios(root: &Path, power_save: impl Fn(&str) -> Option<bool>) -> Vec<Check> {
    let names = network_interfaces(root);
    let wireless = names.iter().filter(|name| is_wireless(root, name));
    let radio = |name: &String| match power_save(name) {
        Some(false) => Check::ok("Wi-Fi", format!("{name}: power-save is off")),
        Some(true) => Check::warning(
            "Wi-Fi",
            format!("{name}: power-save is on, so what comes in waits"),
            format!("sudo iw dev {name} set power_save off"),
        ),
        None => Check::warning(
            "Wi-Fi",
            format!("{name}: whether power-save is on cannot be told"),
            "install iw (sudo apt install iw) and ask again",
        ),
    };
    wireless.map(radio).collect()
}

fn network_interfaces(root: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(root.join("sys/class/net")).into_iter().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// Whether Linux says that an interface is a radio.
pub(super) fn is_wireless(root: &Path, name: &str) -> bool {
    let folder = root.join("sys/class/net").join(name);
    ["wireless", "phy80211"].iter().any(|entry| folder.join(entry).exists())
}

fn power_save(name: &str) -> Option<bool> {
    let output = Command::new("iw").args(["dev", name, "get", "power_save"]).output().ok()?;
    match String::from_utf8_lossy(&output.stdout).trim() {
        "Power save: on" => Some(true),
        "Power save: off" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{Failed, Ok, Warning};
    use super::*;
    use protocol::Health;

    #[test]
    fn a_clock_that_was_never_set_fails() {
        assert_eq!(clock(0).verdict, Failed);
        assert!(clock(0).finding.contains("1970"));
        assert_eq!(clock(NO_CLOCK_UNIX_S).verdict, Ok);
    }

    #[test]
    fn heat_and_voltage_have_their_own_cures() {
        let at = |temperature_mc, throttled| {
            heat(&Health { temperature_mc, throttled, ..Health::default() })
        };
        assert_eq!(at(Some(45_000), Some(0)).verdict, Ok);
        assert_eq!(at(None, None).verdict, Ok);
        assert!(at(Some(82_000), None).cure.unwrap().contains("fan"));
        assert!(at(Some(60_000), Some(0x50005)).cure.unwrap().contains("power supply"));
        assert!(at(Some(60_000), Some(0x40000)).finding.contains("since it was started"));
    }

    #[test]
    fn radios_are_found_and_asked() {
        let root = tempfile::tempdir().unwrap();
        for folder in ["eth0", "wlan0/phy80211", "wlan1/wireless"] {
            std::fs::create_dir_all(root.path().join("sys/class/net").join(folder)).unwrap();
        }
        let found = radios(root.path(), |name| (name == "wlan0").then_some(true));
        assert_eq!(found.len(), 2, "not the wired one");
        assert!(found[0].cure.as_ref().unwrap().contains("wlan0 set power_save off"));
        assert!(found[1].finding.contains("cannot be told"));
        assert_eq!(found.iter().filter(|c| c.verdict == Warning).count(), 2);
    }

    #[test]
    fn a_folder_that_cannot_be_is_named() {
        let folder_ = tempfile::tempdir().unwrap();
        let file = folder_.path().join("file");
        std::fs::write(&file, "").unwrap();
        let below = file.join("state");
        let check = folder(&below);
        assert_eq!(check.verdict, Failed);
        assert!(check.finding.contains("file/state") && check.cure.unwrap().contains("--state"));
        assert_eq!(folder(folder_.path()).verdict, Ok);
    }
}
