//! How much memory a process takes, as Linux tells.

/// Bytes in memory now; none where the system does not tell.
pub(crate) fn resident() -> Option<u64> {
    field(None, "VmRSS:")
}

/// The most bytes in memory so far, of a process of this machine or of this one.
pub(crate) fn peak_resident(process: Option<u32>) -> Option<u64> {
    field(process, "VmHWM:")
}

fn field(process: Option<u32>, name: &str) -> Option<u64> {
    let process = process.map_or("self".into(), |id| id.to_string());
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_at_least_what_is_there() {
        let held = vec![1u8; 8 << 20];
        let (now, peak) = (resident().unwrap(), peak_resident(None).unwrap());
        assert!(peak >= now && now > held.len() as u64, "{now} {peak}");
        assert_eq!(peak_resident(Some(u32::MAX)), None);
    }
}
