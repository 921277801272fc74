//! AVX-512F: 32 registers of 16 lanes; bf16 dot products where the CPU has AVX512-BF16.

use super::{Kernel, Simd};
use std::arch::x86_64::*;

/// Proof that the CPU has AVX-512 F, BW, DQ and VL.
#[derive(Clone, Copy, Debug)]
pub struct Avx512(());

impl Avx512 {
    /// The token, if this CPU has the instructions.
    pub fn new() -> Option<Avx512> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("fma");
        has.then_some(Avx512(()))
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
fn with_features<K: Kernel>(token: Avx512, kernel: K) -> K::Output {
    kernel.call(token)
}

/// Minimax polynomial for `2^r`, `|r| <= 1/2`, lowest power first.
const CUBIC: [f32; 4] = [0.999_928_07, 0.693_261, 0.242_611_14, 0.055_171_67];

macro_rules! avx512_arithmetic {
    () => {
        type V = __m512;
        const LANES: usize = 16;
        const REGISTERS: usize = 32;
        const PANEL: usize = 4;

        #[inline(always)]
        fn splat(self, x: f32) -> __m512 {
            // SAFETY: token.
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(self, p: *const f32) -> __m512 {
            // SAFETY: token; readable by contract.
            unsafe { _mm512_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32, v: __m512) {
            // SAFETY: token; writable by contract.
            unsafe { _mm512_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn load_first(self, p: *const f32, n: usize) -> __m512 {
            // SAFETY: token; masked lanes are not accessed.
            unsafe { _mm512_maskz_loadu_ps(((1u32 << n) - 1) as u16, p) }
        }
        #[inline(always)]
        unsafe fn store_first(self, p: *mut f32, v: __m512, n: usize) {
            // SAFETY: token; masked lanes are not accessed.
            unsafe { _mm512_mask_storeu_ps(p, ((1u32 << n) - 1) as u16, v) }
        }
        #[inline(always)]
        fn add(self, a: __m512, b: __m512) -> __m512 {
            // SAFETY: token.
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        fn sub(self, a: __m512, b: __m512) -> __m512 {
            // SAFETY: token.
            unsafe { _mm512_sub_ps(a, b) }
        }
        #[inline(always)]
        fn mul(self, a: __m512, b: __m512) -> __m512 {
            // SAFETY: token.
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        fn div(self, a: __m512, b: __m512) -> __m512 {
            // SAFETY: token.
            unsafe { _mm512_div_ps(a, b) }
        }
        #[inline(always)]
        fn fast_div(self, a: __m512, b: __m512) -> __m512 {
            // One Newton step doubles the estimate's 14 bits, and takes less time than a division.
            // SAFETY: token.
            unsafe {
                let r = _mm512_rcp14_ps(b);
                _mm512_mul_ps(_mm512_mul_ps(a, r), _mm512_fnmadd_ps(b, r, _mm512_set1_ps(2.0)))
            }
        }
        #[inline(always)]
        fn silu_approx(self, x: __m512) -> __m512 {
            // As `silu`, with a cubic for 2^r (error 7.5e-5) and an estimated reciprocal (6e-5). x needs no bounds: beyond
            // f32's range `scalef` gives 0 or infinity, d is 1 or infinity, and the reciprocals of both are exact.
            let t = self.mul(x, self.splat(-std::f32::consts::LOG2_E));
            let n = self.round(t);
            let r = self.sub(t, n);
            let mut p = self.splat(CUBIC[3]);
            for c in [CUBIC[2], CUBIC[1], CUBIC[0]] {
                p = self.mul_add(p, r, self.splat(c));
            }
            let d = self.add(self.mul_pow2(p, n), self.splat(1.0));
            // SAFETY: token.
            unsafe { _mm512_mul_ps(x, _mm512_rcp14_ps(d)) }
        }
        #[inline(always)]
        fn max(self, a: __m512, b: __m512) -> __m512 {
            // SAFETY: token.
            unsafe { _mm512_max_ps(a, b) }
        }
        #[inline(always)]
        fn max_or_nan(self, a: __m512, b: __m512) -> __m512 {
            // SAFETY: token. `_mm512_max_ps` gives `b` if either is NaN.
            unsafe { _mm512_mask_mov_ps(_mm512_max_ps(a, b), _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a), a) }
        }
        #[inline(always)]
        fn min(self, a: __m512, b: __m512) -> __m512 {
            // SAFETY: token.
            unsafe { _mm512_min_ps(a, b) }
        }
        #[inline(always)]
        fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: token.
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        fn neg_mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: token.
            unsafe { _mm512_fnmadd_ps(a, b, c) }
        }
        #[inline(always)]
        fn mul_pow2(self, a: __m512, n: __m512) -> __m512 {
            // SAFETY: token.
            unsafe { _mm512_scalef_ps(a, n) }
        }
        #[inline(always)]
        fn round(self, a: __m512) -> __m512 {
            // SAFETY: token.
            unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
        }
        #[inline(always)]
        fn copysign(self, a: __m512, sign: __m512) -> __m512 {
            // SAFETY: token.
            unsafe {
                let bit = _mm512_set1_ps(-0.0);
                _mm512_or_ps(_mm512_andnot_ps(bit, a), _mm512_and_ps(bit, sign))
            }
        }
        #[inline(always)]
        fn reduce_add(self, v: __m512) -> f32 {
            // SAFETY: token.
            unsafe { _mm512_reduce_add_ps(v) }
        }
        #[inline(always)]
        fn reduce_max(self, v: __m512) -> f32 {
            // SAFETY: token.
            unsafe { _mm512_reduce_max_ps(v) }
        }
        #[inline(always)]
        unsafe fn load_bf16(self, p: *const u16) -> __m512 {
            // SAFETY: token; readable by contract.
            unsafe {
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(
                    p.cast(),
                ))))
            }
        }
    };
}

// SAFETY: 16 lanes; memory is accessed by whole vectors or under masks; a token exists only if the CPU has the instructions
// (`Avx512::new`). "Token" in the blocks above means the last of these.
unsafe impl Simd for Avx512 {
    avx512_arithmetic!();
    type F32 = Avx512;

    unsafe fn assume() -> Self {
        Avx512(())
    }
    fn f32(self) -> Avx512 {
        self
    }
    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: the token proves the features.
        unsafe { with_features(self, kernel) }
    }
}

/// Proof that the CPU has AVX512-BF16 besides what [`Avx512`] proves.
#[derive(Clone, Copy, Debug)]
pub struct Avx512Bf16(());

impl Avx512Bf16 {
    /// The token, if this CPU has the instructions.
    pub fn new() -> Option<Avx512Bf16> {
        (Avx512::new().is_some() && is_x86_feature_detected!("avx512bf16")).then_some(Avx512Bf16(()))
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
fn with_bf16_features<K: Kernel>(token: Avx512Bf16, kernel: K) -> K::Output {
    kernel.call(token)
}

// SAFETY: as of `Avx512`, with `Avx512Bf16::new`.
unsafe impl Simd for Avx512Bf16 {
    avx512_arithmetic!();
    const BF16: bool = true;
    type F32 = Avx512;

    unsafe fn assume() -> Self {
        Avx512Bf16(())
    }
    fn f32(self) -> Avx512 {
        Avx512(())
    }
    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: the token proves the features.
        unsafe { with_bf16_features(self, kernel) }
    }
    #[inline(always)]
    unsafe fn dot_bf16(self, acc: __m512, pair: u32, b: *const u16) -> __m512 {
        // SAFETY: token; 2 * LANES values are readable by contract; __m512i and __m512bh are both 64 plain bytes.
        unsafe {
            let a: __m512bh = std::mem::transmute(_mm512_set1_epi32(pair as i32));
            let b: __m512bh = std::mem::transmute(_mm512_loadu_si512(b.cast()));
            _mm512_dpbf16_ps(acc, a, b)
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u16, v: __m512, n: usize) {
        // SAFETY: token; the mask keeps to the n writable values; __m256bh and __m256i are both 32 plain bytes.
        unsafe {
            let rounded: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(v));
            _mm256_mask_storeu_epi16(p.cast(), ((1u32 << n) - 1) as u16, rounded);
        }
    }
}
