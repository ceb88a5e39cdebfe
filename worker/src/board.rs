//! What this device is and draws: its board's name as its system tells it, and watts as a person does.

use protocol::Power;
use std::path::Path;
use std::str::FromStr;

/// Longer names are cut: one goes to the coordinator, and into its tables.
const NAME_MAX: usize = 128;

/// What the system calls this device; `root` is `/` but for tests.
///
/// *Source*: the device tree of boards, `/proc/device-tree/model`; the firmware's tables (DMI) of others.
pub fn name(root: &Path) -> Option<String> {
    let read = |path: &str| {
        let bytes = std::fs::read(root.join(path)).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        // A device tree's text ends with a zero.
        let text: String = text.chars().filter(|c| !c.is_control()).take(NAME_MAX).collect();
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let dmi = |name: &str| read(&format!("sys/class/dmi/id/{name}"));
    let product = || {
        let vendor = dmi("sys_vendor").unwrap_or_default();
        Some(format!("{vendor} {}", dmi("product_name")?).trim().to_owned())
    };
    read("proc/device-tree/model").or_else(product)
}

/// Watts as they are given on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watts(pub Power);

impl FromStr for Watts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is not IDLE:ACTIVE, such as 1.6:5: two numbers of watts up to 100000, the \
                 second not below the first and above zero"
            )
        };
        let (idle, active) = text.split_once(':').ok_or_else(wrong)?;
        let milliwatts = |watts: &str| {
            let watts: f64 = watts.trim().parse().ok()?;
            (0.0..=100_000.0).contains(&watts).then_some((watts * 1e3).round() as u32)
        };
        let both = milliwatts(idle).zip(milliwatts(active));
        let sound = both.filter(|(idle, active)| idle <= active && *active > 0);
        let (idle_mw, active_mw) = sound.ok_or_else(wrong)?;
        Ok(Self(Power { idle_mw, active_mw }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boards_and_laptops_say_what_they_are() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert_eq!(name(root.path()), None);
        write("sys/class/dmi/id/sys_vendor", "LENOVO\n");
        write("sys/class/dmi/id/product_name", "20HRCTO1WW\n");
        assert_eq!(name(root.path()).unwrap(), "LENOVO 20HRCTO1WW");
        write("proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0");
        assert_eq!(name(root.path()).unwrap(), "Raspberry Pi 4 Model B Rev 1.4");
        write("proc/device-tree/model", &"x".repeat(1000));
        assert_eq!(name(root.path()).unwrap().len(), NAME_MAX);
    }

    #[test]
    fn watts_are_two_numbers_that_rise() {
        let power = |idle_mw, active_mw| Ok(Watts(Power { idle_mw, active_mw }));
        assert_eq!("1.6:5".parse::<Watts>(), power(1600, 5000));
        assert_eq!("0:41".parse::<Watts>(), power(0, 41_000));
        for wrong in ["", "5", "5:1", "0:0", "-1:2", "NaN:2", "1:inf", "1:2:3", "1:1e9"] {
            assert!(wrong.parse::<Watts>().is_err(), "{wrong}");
        }
    }
}
