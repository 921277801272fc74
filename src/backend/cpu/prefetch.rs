//! Prefetches. Networks are larger than caches, and a kernel's rows, weights and results are more streams than the hardware
//! prefetches on its own.

/// Bytes of a cache line on x86-64 and most AArch64 CPUs; some have longer lines, which get two prefetches.
pub const LINE: usize = 64;

/// Prefetches `bytes` from `p` on for reading. Any address is allowed: a prefetch never faults.
#[inline(always)]
pub fn read<T>(p: *const T, bytes: usize) {
    for at in (0..bytes).step_by(LINE) {
        line::<false>(p.cast::<i8>().wrapping_add(at));
    }
}

/// Prefetches `bytes` from `p` on for writing. Any address is allowed: a prefetch never faults.
#[inline(always)]
pub fn write<T>(p: *const T, bytes: usize) {
    for at in (0..bytes).step_by(LINE) {
        line::<true>(p.cast::<i8>().wrapping_add(at));
    }
}

/// Prefetches the line of `p` into L2, for reading in some thousand cycles. Any address is allowed.
#[inline(always)]
pub fn read_later<T>(p: *const T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: every x86-64 CPU has SSE's PREFETCHT1, which never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: every AArch64 CPU has PRFM, which never faults and changes neither memory nor flags.
    unsafe {
        std::arch::asm!("prfm pldl2keep, [{p}]", p = in(reg) p, options(nostack, readonly, preserves_flags));
    }
    #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
    let _ = p;
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(always)]
fn line<const WRITE: bool>(p: *const i8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // The same instruction for writing: PREFETCHW made RTMO-s 3 to 5 % slower on a Zen 3.
    // SAFETY: every x86-64 CPU has SSE's PREFETCHT0, which never faults.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(p) }
}

#[cfg(all(target_arch = "aarch64", not(miri)))]
#[inline(always)]
fn line<const WRITE: bool>(p: *const i8) {
    // SAFETY: every AArch64 CPU has PRFM, which never faults and changes neither memory nor flags.
    unsafe {
        if WRITE {
            std::arch::asm!("prfm pstl1keep, [{p}]", p = in(reg) p, options(nostack, readonly, preserves_flags));
        } else {
            std::arch::asm!("prfm pldl1keep, [{p}]", p = in(reg) p, options(nostack, readonly, preserves_flags));
        }
    }
}

#[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
#[inline(always)]
fn line<const WRITE: bool>(_: *const i8) {}
