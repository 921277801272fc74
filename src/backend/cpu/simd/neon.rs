//! NEON on AArch64: 32 registers of 4 lanes.

use super::{Kernel, Simd};
use std::arch::aarch64::*;

/// Proof that the CPU has NEON, which every AArch64 CPU that Rust supports with `std` has.
#[derive(Clone, Copy, Debug)]
pub struct Neon(());

impl Neon {
    /// The token, if this CPU has the instructions.
    pub fn new() -> Option<Neon> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Neon(()))
    }
}

#[target_feature(enable = "neon")]
fn with_features<K: Kernel>(token: Neon, kernel: K) -> K::Output {
    kernel.call(token)
}

// SAFETY: 4 lanes; memory is accessed by whole vectors; a token exists only if the CPU has NEON (`Neon::new`). "Token" in the
// blocks below means the last of these.
unsafe impl Simd for Neon {
    type F32 = Neon;
    type V = float32x4_t;
    const LANES: usize = 4;
    // Of 32. With 24 sums (6 by 4) compilers spill registers; 28 makes tiles of 5 by 4, without spills.
    const REGISTERS: usize = 28;
    const PANEL: usize = 4;

    unsafe fn assume() -> Self {
        Neon(())
    }
    fn f32(self) -> Neon {
        self
    }
    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: the token proves the feature.
        unsafe { with_features(self, kernel) }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> float32x4_t {
        // SAFETY: token.
        unsafe { vdupq_n_f32(x) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> float32x4_t {
        // SAFETY: token; readable by contract.
        unsafe { vld1q_f32(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: float32x4_t) {
        // SAFETY: token; writable by contract.
        unsafe { vst1q_f32(p, v) }
    }
    #[inline(always)]
    fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: token.
        unsafe { vaddq_f32(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: token.
        unsafe { vsubq_f32(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: token.
        unsafe { vmulq_f32(a, b) }
    }
    #[inline(always)]
    fn div(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: token.
        unsafe { vdivq_f32(a, b) }
    }
    #[inline(always)]
    fn max(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: token.
        unsafe { vmaxq_f32(a, b) }
    }
    #[inline(always)]
    fn max_or_nan(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // `vmaxq_f32` gives NaN if either is NaN.
        self.max(a, b)
    }
    #[inline(always)]
    fn min(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: token.
        unsafe { vminq_f32(a, b) }
    }
    #[inline(always)]
    fn mul_add(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: token.
        unsafe { vfmaq_f32(c, a, b) }
    }
    #[inline(always)]
    fn neg_mul_add(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: token.
        unsafe { vfmsq_f32(c, a, b) }
    }
    #[inline(always)]
    fn mul_pow2(self, a: float32x4_t, n: float32x4_t) -> float32x4_t {
        // SAFETY: token. 2^n is built in the exponent field.
        unsafe {
            let e = vshlq_n_s32::<23>(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127)));
            vmulq_f32(a, vreinterpretq_f32_s32(e))
        }
    }
    #[inline(always)]
    fn round(self, a: float32x4_t) -> float32x4_t {
        // SAFETY: token.
        unsafe { vrndnq_f32(a) }
    }
    #[inline(always)]
    fn copysign(self, a: float32x4_t, sign: float32x4_t) -> float32x4_t {
        // SAFETY: token.
        unsafe { vbslq_f32(vdupq_n_u32(0x8000_0000), sign, a) }
    }
    #[inline(always)]
    fn reduce_add(self, v: float32x4_t) -> f32 {
        // SAFETY: token.
        unsafe { vaddvq_f32(v) }
    }
    #[inline(always)]
    fn reduce_max(self, v: float32x4_t) -> f32 {
        // SAFETY: token.
        unsafe { vmaxvq_f32(v) }
    }
}
