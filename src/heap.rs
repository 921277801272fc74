//! The C library's heap.

/// Gives pages that hold nothing any more back to the system. Preparing a network leaves tens of megabytes of them, which
/// glibc would keep.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim has no preconditions and touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}
