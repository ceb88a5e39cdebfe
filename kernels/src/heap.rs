//! The memory that the allocator keeps of what was freed.

/// Gives freed memory that lies between what is in use back to the system.
///
/// glibc does so by itself only at the end of its heaps, and pieces of many sizes leave gaps. Takes
/// milliseconds, and one page fault for every page that is used again: for once a minute, not for once a
/// task. Does nothing with other C libraries.
#[allow(unsafe_code)]
pub(crate) fn give_back_freed() {
    // Safety: it has no preconditions, and touches nothing that is in use.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0);
    }
}
