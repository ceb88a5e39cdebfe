//! What is freed is given back to the system, so that a process takes what it holds.

/// With less memory than this for maps and weights, what the allocator would keep counts.
const LITTLE_MEMORY_MB: u64 = 512;

const NAME: &str = "GLIBC_TUNABLES";
const VALUE: &str = "glibc.malloc.mmap_threshold=1048576:glibc.malloc.trim_threshold=1048576:\
     glibc.malloc.arena_max=2";

/// Starts this program again, with the same arguments, where the allocator would otherwise keep
/// what is freed; does nothing where that is done already, or not possible.
///
/// glibc raises the size from which a buffer is memory of its own, up to 32 MiB, with every large
/// buffer that is freed. Pieces, maps and weights then lie in its heaps, which have gaps: a
/// coordinator of four devices grew from 100 to 340 MB in 360 frames and stays at 100 with this, a
/// worker with a limit of 64 MB took 124 and takes 87. It costs new pages for every such buffer: up
/// to 9 % of a frame where it is computed, nothing that can be measured where it is only cut and
/// gathered. And it makes a heap of its own for a thread that waits for another's, up to eight for
/// each core, which then keeps its share of gaps: a coordinator that had been flat for 39 minutes grew
/// by 24 MB within thirteen, and was flat again. Two are enough for threads that compute nothing. So
/// this is for coordinators, and for workers that hold little. The size can only be fixed before the
/// program starts. Other C libraries ignore the variable.
pub fn give_back() {
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

/// As [`give_back`], for a worker that has little memory.
pub(crate) fn give_back_if_little(memory_mb: Option<u64>) {
    if memory_mb.is_some_and(|mb| mb < LITTLE_MEMORY_MB) {
        give_back();
    }
}
