//! What is freed is given back to the system, so that a process takes what it holds.

/// With less memory than this for maps and weights, what the allocator would keep counts.
const LITTLE_MEMORY_MB: u64 = 512;

const NAME: &str = "GLIBC_TUNABLES";

/// From how many bytes on a buffer is memory of its own, in a process that cuts and gathers, and in one
/// that computes.
const OWN_BYTES: u32 = 64 << 10;
const OWN_BYTES_COMPUTING: u32 = 1 << 20;

/// Makes this process give back what it frees: a coordinator, which may be to compute.
pub fn give_back(computes: bool) {
    start_again(if computes { OWN_BYTES_COMPUTING } else { OWN_BYTES });
}

/// As [`give_back`], for a worker that has little memory.
pub(crate) fn give_back_if_little(memory_mb: Option<u64>) {
    if memory_mb.is_some_and(|mb| mb < LITTLE_MEMORY_MB) {
        give_back(true);
    }
}

/// Starts this program again, with the same arguments, where the allocator would otherwise keep
/// what is freed; does nothing where that is done already, or not possible.
///
/// glibc raises the size from which a buffer is memory of its own, up to 32 MiB, with every large
/// buffer that is freed. Pieces, maps and weights then lie in its heaps, which have gaps: a
/// coordinator of four devices grew from 100 to 340 MB in 360 frames, a worker with a limit of 64 MB
/// took 124 MB and takes 87. With 1 MiB for that size a coordinator still grew by 24 MB within an
/// hour: of a heap of 40 MB it used 14. Memory of its own costs new pages for every buffer: up to 9 %
/// of a frame where that is computed, and where it is cut and gathered 70.3 ms of processor time a frame
/// in place of 69.5 (`docs/results/soak.md`). And glibc makes a heap for a thread that waits for
/// another's, up to eight for each core; two are enough for threads that compute nothing. All that can
/// only be fixed before the program starts. Other C libraries ignore the variable.
fn start_again(own_bytes: u32) {
    #[cfg(target_os = "linux")]
    if std::env::var_os(NAME).is_none()
        && let Ok(program) = std::env::current_exe()
    {
        use std::os::unix::process::CommandExt;
        let value = format!(
            "glibc.malloc.mmap_threshold={own_bytes}:glibc.malloc.trim_threshold=1048576:\
             glibc.malloc.arena_max=2"
        );
        let mut again = std::process::Command::new(program);
        again.args(std::env::args_os().skip(1)).env(NAME, value);
        // Only comes back when it fails; then this process goes on as it is. (Not inside the macro,
        // which leaves out what nobody reads.)
        let error = again.exec();
        tracing::debug!("cannot start again: {error}");
    }
}
