//! How much memory a process takes, as Linux tells, and how it is given back.

/// Bytes in memory now; none where the system does not tell.
pub(crate) fn resident() -> Option<u64> {
    field(None, "VmRSS:")
}

/// The most bytes in memory so far, of a process of this machine or of this one.
pub(crate) fn peak_resident(process: Option<u32>) -> Option<u64> {
    field(process, "VmHWM:")
}

/// Starts this program again, with the same arguments, where the allocator would otherwise keep
/// what is freed; does nothing where that is done already, or not possible.
///
/// glibc raises the size from which a buffer is memory of its own, up to 32 MiB, with every large
/// buffer that is freed. Bands of pictures then lie in its heap, which has gaps: under a limit of
/// 256 MiB the coordinator was seen to take 318 MB instead of 160. The size can only be fixed
/// before the program starts, and the workers that it starts inherit it. Other C libraries ignore
/// the variable.
pub(crate) fn give_back_what_is_freed() {
    const NAME: &str = "GLIBC_TUNABLES";
    const VALUE: &str = "glibc.malloc.mmap_threshold=1048576:glibc.malloc.trim_threshold=1048576";
    #[cfg(target_os = "linux")]
    if std::env::var_os(NAME).is_none()
        && let Ok(program) = std::env::current_exe()
    {
        use std::os::unix::process::CommandExt;
        let mut again = std::process::Command::new(program);
        again.args(std::env::args_os().skip(1)).env(NAME, VALUE);
        // Only comes back when it fails; then this process goes on as it is. (Not inside the macro,
        // which leaves out what nobody reads.)
        let error = again.exec();
        tracing::debug!("cannot start again: {error}");
    }
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
