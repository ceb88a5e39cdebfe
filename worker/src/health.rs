//! How this device is, as far as its system tells: memory, heat, throttling, battery, radio.
//!
//! *Source*: Linux' `/proc/meminfo`, `/sys/class/thermal`, `/sys/class/power_supply`, `/sys/class/net`, and the flags of
//! a Raspberry Pi's firmware. Elsewhere nothing is known.

use protocol::{Battery, Health};
use std::path::Path;

const THROTTLED: &str = "sys/devices/platform/soc/soc:firmware/get_throttled";

/// Reads what there is; `root` is `/` but for tests.
pub fn read(root: &Path) -> Health {
    let text = |path: &Path| std::fs::read_to_string(root.join(path)).ok();
    Health {
        free_bytes: text(Path::new("proc/meminfo")).as_deref().and_then(available),
        temperature_mc: hottest(root),
        throttled: text(Path::new(THROTTLED))
            .and_then(|flags| u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).ok()),
        battery: battery(root),
        wireless: wireless(root),
    }
}

/// Whether the interface that leads to the world is a wireless one; without a route to the world,
/// whether the only one that is up is.
fn wireless(root: &Path) -> Option<bool> {
    let is_wireless = |interface: &Path| {
        ["wireless", "phy80211"].iter().any(|name| interface.join(name).exists())
    };
    let interfaces = members(root, "net");
    let routes = std::fs::read_to_string(root.join("proc/net/route")).unwrap_or_default();
    let mut routes = routes.lines().map(|line| line.split_whitespace());
    let to_world = routes.find_map(|mut words| {
        let name = words.next()?;
        (words.next()? == "00000000").then(|| name.to_owned())
    });
    if let Some(name) = to_world {
        let interface = interfaces.iter().find(|i| i.ends_with(&name))?;
        return Some(is_wireless(interface));
    }
    let up = |i: &&std::path::PathBuf| word(i, "operstate").as_deref() == Some("up");
    match interfaces.iter().filter(up).collect::<Vec<_>>()[..] {
        [interface] => Some(is_wireless(interface)),
        _ => None,
    }
}

/// What programs may still take, by `/proc/meminfo`.
fn available(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kib.checked_mul(1024)
}

/// Folders of a class of devices, by name.
fn members(root: &Path, class: &str) -> Vec<std::path::PathBuf> {
    let Ok(folder) = std::fs::read_dir(root.join("sys/class").join(class)) else {
        return Vec::new();
    };
    let mut members: Vec<_> = folder.filter_map(|entry| Some(entry.ok()?.path())).collect();
    members.sort();
    members
}

fn word(folder: &Path, file: &str) -> Option<String> {
    Some(std::fs::read_to_string(folder.join(file)).ok()?.trim().to_owned())
}

/// The hottest sensor; what is no temperature of a thing that works is left out.
fn hottest(root: &Path) -> Option<i32> {
    let zones = members(root, "thermal");
    let all = zones.iter().filter_map(|zone| word(zone, "temp")?.parse::<i32>().ok());
    all.filter(|mc| (-40_000..150_000).contains(mc)).max()
}

fn battery(root: &Path) -> Option<Battery> {
    let supplies = members(root, "power_supply");
    supplies.iter().find_map(|supply| {
        if word(supply, "type")? != "Battery" || word(supply, "scope").as_deref() == Some("Device")
        {
            return None; // Mains, or the battery of a mouse.
        }
        let percent: u8 = word(supply, "capacity")?.parse().ok()?;
        let discharging = word(supply, "status")? == "Discharging";
        Some(Battery { percent: percent.min(100), discharging })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn a_raspberry_pi_says_how_hot_it_is_and_that_it_is_throttled() {
        let root = root(&[
            ("proc/meminfo", "MemTotal: 3884372 kB\nMemFree: 1 kB\nMemAvailable: 2000 kB\n"),
            ("sys/class/thermal/thermal_zone0/temp", "81234\n"),
            ("sys/class/thermal/thermal_zone1/temp", "-274000\n"),
            (THROTTLED, "50005\n"),
        ]);
        let health = read(root.path());
        assert_eq!(health.free_bytes, Some(2_048_000));
        assert_eq!(health.temperature_mc, Some(81_234));
        assert_eq!(health.throttled, Some(0x50005));
        assert!(health.is_throttled() && health.battery.is_none());
        let before = Health { throttled: Some(0x50000), ..health };
        assert!(!before.is_throttled(), "it was, but is no more");
    }

    #[test]
    fn a_laptop_has_a_battery_and_its_mouse_too() {
        let root = root(&[
            ("sys/class/power_supply/AC/type", "Mains\n"),
            ("sys/class/power_supply/hid-mouse/type", "Battery\n"),
            ("sys/class/power_supply/hid-mouse/scope", "Device\n"),
            ("sys/class/power_supply/hid-mouse/capacity", "5\n"),
            ("sys/class/power_supply/hid-mouse/status", "Discharging\n"),
            ("sys/class/power_supply/BAT0/type", "Battery\n"),
            ("sys/class/power_supply/BAT0/capacity", "73\n"),
            ("sys/class/power_supply/BAT0/status", "Discharging\n"),
        ]);
        let battery = read(root.path()).battery;
        assert_eq!(battery, Some(Battery { percent: 73, discharging: true }));
    }

    #[test]
    fn where_the_system_tells_nothing_nothing_is_known() {
        let root = root(&[("proc/meminfo", "garbage"), (THROTTLED, "?")]);
        assert_eq!(read(root.path()), Health::default());
    }

    #[test]
    fn what_leads_to_the_world_says_whether_it_is_wireless() {
        let route = "Iface Destination Gateway\neth0 0000A8C0 0\nwlan0 00000000 0101A8C0\n";
        let both = [("proc/net/route", route), ("sys/class/net/eth0/operstate", "up")];
        let radio = ("sys/class/net/wlan0/phy80211/name", "phy0");
        assert_eq!(read(root(&[both[0], both[1], radio]).path()).wireless, Some(true));
        let wired = route.replace("wlan0", "eth0");
        let files = [("proc/net/route", wired.as_str()), both[1], radio];
        assert_eq!(read(root(&files).path()).wireless, Some(false));
        assert_eq!(read(root(&[both[1]]).path()).wireless, Some(false), "the only one");
        assert_eq!(read(root(&[]).path()).wireless, None);
    }
}
