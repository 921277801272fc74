//! Plain Rust on arrays. With 4 lanes it is the fallback for any CPU. With 16 lanes it has the tiles of the AVX-512 kernels,
//! so that machines without those instructions can test their logic.

use super::{Kernel, Simd};

/// `N` lanes of ordinary arithmetic.
#[derive(Clone, Copy, Debug, Default)]
pub struct Portable<const N: usize>;

/// Lane-wise `f(a, b)`.
#[inline(always)]
fn zip<const N: usize>(a: [f32; N], b: [f32; N], f: impl Fn(f32, f32) -> f32) -> [f32; N] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

// SAFETY: N is 4 or 16; memory is accessed as arrays of N values; plain Rust runs on every CPU.
unsafe impl<const N: usize> Simd for Portable<N> {
    type F32 = Portable<N>;
    type V = [f32; N];
    const LANES: usize = N;
    const REGISTERS: usize = if N == 16 { 32 } else { 16 };
    const PANEL: usize = if N == 16 { 4 } else { 2 };
    const BF16: bool = N == 16;

    unsafe fn assume() -> Self {
        Portable
    }
    fn f32(self) -> Portable<N> {
        self
    }
    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.call(self)
    }
    #[inline(always)]
    fn splat(self, x: f32) -> [f32; N] {
        [x; N]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> [f32; N] {
        // SAFETY: readable by contract; arrays of f32 may be read unaligned to their size.
        unsafe { p.cast::<[f32; N]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: [f32; N]) {
        // SAFETY: writable by contract.
        unsafe { p.cast::<[f32; N]>().write_unaligned(v) }
    }
    #[inline(always)]
    fn add(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn max(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn max_or_nan(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        zip(a, b, |a, b| if a > b || a.is_nan() { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    // Two roundings: a fused operation would be a library call where the CPU lacks it.
    #[inline(always)]
    fn mul_add(self, a: [f32; N], b: [f32; N], c: [f32; N]) -> [f32; N] {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn neg_mul_add(self, a: [f32; N], b: [f32; N], c: [f32; N]) -> [f32; N] {
        std::array::from_fn(|i| c[i] - a[i] * b[i])
    }
    #[inline(always)]
    fn mul_pow2(self, a: [f32; N], n: [f32; N]) -> [f32; N] {
        zip(a, n, |a, n| a * f32::from_bits(((n as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    fn round(self, a: [f32; N]) -> [f32; N] {
        // Adding and subtracting 1.5 * 2^23 rounds to nearest-even for |x| < 2^22, and callers keep to that.
        const MAGIC: f32 = 12_582_912.0;
        a.map(|x| (x + MAGIC) - MAGIC)
    }
    #[inline(always)]
    fn copysign(self, a: [f32; N], sign: [f32; N]) -> [f32; N] {
        zip(a, sign, f32::copysign)
    }
}
