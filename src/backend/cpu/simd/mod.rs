//! Vectors: one small trait, one file for each instruction set.
//!
//! Kernels are written once, generic over [`Simd`], and marked `#[inline(always)]`. [`Simd::vectorize`] calls them from a
//! function that is compiled with the instruction set's features, and they inline into it. A value of an implementing type, a
//! token, exists only where the CPU has the instructions. So a function that has a token may use them.
//!
//! What `max` and `min` give if an operand is NaN:
//!
//! | | `a` is NaN | `b` is NaN | instruction |
//! |---|---|---|---|
//! | plain Rust | `b` | NaN | `if a > b { a } else { b }` |
//! | AVX2 | `b` | NaN | `vmaxps` returns its second operand |
//! | AVX-512 | `b` | NaN | `vmaxps` returns its second operand |
//! | NEON | NaN | NaN | `fmax` |
//!
//! So a value whose NaN must survive is the second operand. [`Simd::max_or_nan`] passes NaN on from both.

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
#[cfg(target_arch = "aarch64")]
pub mod neon;
pub mod portable;

/// A computation that is compiled once per instruction set.
pub trait Kernel {
    /// Result.
    type Output;
    /// The body; implementations must be `#[inline(always)]`.
    fn call<S: Simd>(self, simd: S) -> Self::Output;
}

/// An instruction set: vectors of `LANES` f32 values.
///
/// # Safety
/// Implementations keep these promises, on which kernels rely for memory safety:
/// 1. `LANES` is at most 16 and divides 16.
/// 2. `load` and `load_first` read only the values that they are documented to; `store` and `store_first` write only those.
/// 3. A value of the type exists only where the CPU has the instructions.
pub unsafe trait Simd: Copy + Send + Sync + 'static {
    /// `LANES` values.
    type V: Copy;
    /// f32 values a vector.
    const LANES: usize;
    /// Vector registers that the matrix kernels may fill.
    const REGISTERS: usize;
    /// Widest panel, in vectors, of the matrix kernels.
    const PANEL: usize;
    /// Whether networks may be prepared in bf16: [`Simd::dot_bf16`] is an instruction, or emulates one for tests.
    const BF16: bool = false;
    /// The same vectors without bf16's instructions. Kernels of f32 are compiled for this type, so that a set with them and the
    /// one without share their code.
    type F32: Simd;

    /// The token, without asking the CPU.
    ///
    /// # Safety
    /// The CPU must have the instruction set.
    unsafe fn assume() -> Self;

    /// The token of [`Simd::F32`].
    fn f32(self) -> Self::F32;

    /// Runs `kernel` compiled for this instruction set.
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::V;
    /// # Safety
    /// `p .. p + LANES` must be readable.
    unsafe fn load(self, p: *const f32) -> Self::V;
    /// # Safety
    /// `p .. p + LANES` must be writable.
    unsafe fn store(self, p: *mut f32, v: Self::V);
    /// First `n < LANES` lanes from memory, the others zero.
    ///
    /// # Safety
    /// `p .. p + n` must be readable.
    #[inline(always)]
    unsafe fn load_first(self, p: *const f32, n: usize) -> Self::V {
        let mut lanes = [0.0; 16];
        for (i, lane) in lanes.iter_mut().enumerate().take(n.min(Self::LANES)) {
            // SAFETY: i < n, readable by the caller's promise.
            *lane = unsafe { *p.add(i) };
        }
        // SAFETY: LANES <= 16.
        unsafe { self.load(lanes.as_ptr()) }
    }
    /// Writes the first `n < LANES` lanes.
    ///
    /// # Safety
    /// `p .. p + n` must be writable.
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, v: Self::V, n: usize) {
        let mut lanes = [0.0; 16];
        // SAFETY: LANES <= 16; i < n is writable by the caller's promise.
        unsafe {
            self.store(lanes.as_mut_ptr(), v);
            for (i, lane) in lanes.iter().enumerate().take(n.min(Self::LANES)) {
                *p.add(i) = *lane;
            }
        }
    }
    /// The first `LANES` values of a slice; of a shorter one all, and zeros behind them.
    #[inline(always)]
    fn load_slice(self, x: &[f32]) -> Self::V {
        // SAFETY: the slice is readable for its length, and n < LANES for `load_first`.
        unsafe {
            if x.len() >= Self::LANES { self.load(x.as_ptr()) } else { self.load_first(x.as_ptr(), x.len()) }
        }
    }
    /// Writes the first `LANES` values of a slice; of a shorter one all.
    #[inline(always)]
    fn store_slice(self, out: &mut [f32], v: Self::V) {
        // SAFETY: the slice is writable for its length, and n < LANES for `store_first`.
        unsafe {
            if out.len() >= Self::LANES {
                self.store(out.as_mut_ptr(), v)
            } else {
                self.store_first(out.as_mut_ptr(), v, out.len())
            }
        }
    }
    /// `a + b`.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`.
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b` with a relative error of at most 2e-7 for normal `b` up to 2^126, the fastest way.
    #[inline(always)]
    fn fast_div(self, a: Self::V, b: Self::V) -> Self::V {
        self.div(a, b)
    }
    /// [`silu`](super::math::silu) with a relative error of at most 2e-4, the fastest way. For results that are rounded to bf16,
    /// which errs by up to 4e-3. An infinity may become NaN.
    #[inline(always)]
    fn silu_approx(self, x: Self::V) -> Self::V {
        super::math::silu(self, x)
    }
    /// Larger of each lane; NaN where `b` is NaN. Where only `a` is NaN it is `b` or NaN, see the module.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// Larger of each lane, NaN where either is NaN, as in PyTorch's `max_pool2d`.
    fn max_or_nan(self, a: Self::V, b: Self::V) -> Self::V;
    /// Smaller of each lane; NaN where `b` is NaN. Where only `a` is NaN it is `b` or NaN, see the module.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `c - a * b`.
    fn neg_mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a * 2^n`, where `n` holds integers in `-126 ..= 127`.
    fn mul_pow2(self, a: Self::V, n: Self::V) -> Self::V;
    /// `(2^n, a * b - n)`, where `n` is an integer nearest to `a * b`, which lies in `-126 ..= 126`.
    #[inline(always)]
    fn split_exp2(self, a: Self::V, b: Self::V) -> (Self::V, Self::V) {
        let t = self.mul(a, b);
        let n = self.round(t);
        (self.mul_pow2(self.splat(1.0), n), self.sub(t, n))
    }
    /// Nearest integer, ties to even.
    fn round(self, a: Self::V) -> Self::V;
    /// Magnitude of `a`, sign of `sign`.
    fn copysign(self, a: Self::V, sign: Self::V) -> Self::V;
    /// Sum of all lanes.
    #[inline(always)]
    fn reduce_add(self, v: Self::V) -> f32 {
        let mut lanes = [0.0f32; 16];
        // SAFETY: LANES <= 16.
        unsafe { self.store(lanes.as_mut_ptr(), v) };
        lanes[..Self::LANES].iter().sum()
    }
    /// Largest lane.
    #[inline(always)]
    fn reduce_max(self, v: Self::V) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; 16];
        // SAFETY: LANES <= 16.
        unsafe { self.store(lanes.as_mut_ptr(), v) };
        lanes[..Self::LANES].iter().copied().fold(f32::NEG_INFINITY, f32::max)
    }

    /// `acc[j] += a0 * b0[j] + a1 * b1[j]` over bf16 pairs: `pair` holds `a0` (low half) and `a1`, `b` points at
    /// `2 * LANES` bf16 values `b0[0], b1[0], b0[1], ...`. Products of two bf16 numbers are exact in f32. It adds the second
    /// product first and rounds each sum to the nearest f32, as `vdpbf16ps`; unlike that it keeps denormals.
    ///
    /// # Safety
    /// `b .. b + 2 * LANES` must be readable.
    #[inline(always)]
    unsafe fn dot_bf16(self, acc: Self::V, pair: u32, b: *const u16) -> Self::V {
        let (mut lo, mut hi) = ([0f32; 16], [0f32; 16]);
        for i in 0..Self::LANES {
            // SAFETY: 2 * i + 1 < 2 * LANES, readable by the caller's promise.
            let (b0, b1) = unsafe { (*b.add(2 * i), *b.add(2 * i + 1)) };
            lo[i] = f32::from_bits((b0 as u32) << 16);
            hi[i] = f32::from_bits((b1 as u32) << 16);
        }
        let (a0, a1) = (f32::from_bits(pair << 16), f32::from_bits(pair & 0xffff_0000));
        // SAFETY: LANES <= 16.
        unsafe {
            let acc = self.mul_add(self.splat(a1), self.load(hi.as_ptr()), acc);
            self.mul_add(self.splat(a0), self.load(lo.as_ptr()), acc)
        }
    }
    /// `LANES` bf16 values, widened.
    ///
    /// # Safety
    /// `p .. p + LANES` must be readable.
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u16) -> Self::V {
        let mut lanes = [0f32; 16];
        for (i, lane) in lanes.iter_mut().enumerate().take(Self::LANES) {
            // SAFETY: i < LANES.
            *lane = f32::from_bits((unsafe { *p.add(i) } as u32) << 16);
        }
        // SAFETY: LANES <= 16.
        unsafe { self.load(lanes.as_ptr()) }
    }
    /// Writes the first `n <= LANES` lanes rounded to nearest-even bf16.
    ///
    /// # Safety
    /// `p .. p + n` must be writable.
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u16, v: Self::V, n: usize) {
        let mut lanes = [0f32; 16];
        // SAFETY: LANES <= 16; i < n is writable.
        unsafe {
            self.store(lanes.as_mut_ptr(), v);
            for (i, lane) in lanes.iter().enumerate().take(n.min(Self::LANES)) {
                *p.add(i) = half::bf16::from_f32(*lane).to_bits();
            }
        }
    }
}
