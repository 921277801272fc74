//! Element types of the matrix kernels: f32, or bf16 in pairs. Both add in f32.

use super::math;
use super::simd::{Kernel, Simd};
use bytemuck::Pod;
use half::bf16;

/// A type of operands of the microkernel, with the type of its sums.
pub trait Element: Pod + Send + Sync {
    /// A vector of sums.
    type Accumulator<S: Simd>: Copy;

    /// Neighbouring values of `k` that one instruction multiplies; packed weights keep them together.
    const GROUP: usize;

    /// Whether maps hold this type, so that kernels may read them in place. If not, they are converted first.
    const IN_PLACE: bool;

    /// The nearest number, ties to even.
    fn round(x: f32) -> Self;

    /// Writes the first `n <= LANES` lanes, rounded.
    ///
    /// # Safety
    /// `p .. p + n` must be writable.
    unsafe fn store<S: Simd>(s: S, p: *mut Self, v: S::V, n: usize);

    /// SiLU with the accuracy that the type can represent (bf16: a relative error of 2e-4; rounding to bf16 makes 4e-3).
    fn silu<S: Simd>(s: S, x: S::V) -> S::V;

    /// Sums that start with these values.
    fn accumulator<S: Simd>(s: S, start: S::V) -> Self::Accumulator<S>;

    /// Rank-1 update for `GROUP` values of `k` at once: `acc[r][j] += a[r][k] * b[j]`. `b[j]` holds `GROUP` weights for each lane.
    ///
    /// # Safety
    /// `GROUP` values from `a[r] + k` on, and `NV` vectors of `GROUP` weights a lane from `b` on must be readable.
    unsafe fn rank1_update<S: Simd, const MR: usize, const NV: usize>(
        s: S,
        acc: &mut [[Self::Accumulator<S>; NV]; MR],
        a: &[*const Self; MR],
        k: usize,
        b: *const Self,
    );

    /// The sums in f32.
    fn sums<S: Simd>(s: S, acc: Self::Accumulator<S>) -> S::V;
}

impl Element for f32 {
    type Accumulator<S: Simd> = S::V;
    const GROUP: usize = 1;
    const IN_PLACE: bool = true;

    fn round(x: f32) -> f32 {
        x
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, p: *mut f32, v: S::V, n: usize) {
        // SAFETY: contract of this function.
        unsafe { if n == S::LANES { s.store(p, v) } else { s.store_first(p, v, n) } }
    }

    #[inline(always)]
    fn silu<S: Simd>(s: S, x: S::V) -> S::V {
        math::silu(s, x)
    }

    #[inline(always)]
    fn accumulator<S: Simd>(_: S, start: S::V) -> S::V {
        start
    }

    #[inline(always)]
    unsafe fn rank1_update<S: Simd, const MR: usize, const NV: usize>(
        s: S,
        acc: &mut [[S::V; NV]; MR],
        a: &[*const f32; MR],
        k: usize,
        b: *const f32,
    ) {
        // SAFETY: contract of this function.
        unsafe {
            let w: [S::V; NV] = std::array::from_fn(|j| s.load(b.add(j * S::LANES)));
            for (row, a) in acc.iter_mut().zip(a) {
                let x = s.splat(*a.add(k));
                for (sum, w) in row.iter_mut().zip(&w) {
                    *sum = s.mul_add(x, *w, *sum);
                }
            }
        }
    }

    #[inline(always)]
    fn sums<S: Simd>(_: S, acc: S::V) -> S::V {
        acc
    }
}

impl Element for bf16 {
    type Accumulator<S: Simd> = S::V;
    const GROUP: usize = 2;
    const IN_PLACE: bool = false;

    fn round(x: f32) -> bf16 {
        bf16::from_f32(x)
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, p: *mut bf16, v: S::V, n: usize) {
        // SAFETY: contract of this function; a bf16 is its 16 bits.
        unsafe { s.store_bf16(p.cast(), v, n) }
    }

    #[inline(always)]
    fn silu<S: Simd>(s: S, x: S::V) -> S::V {
        s.silu_approx(x)
    }

    #[inline(always)]
    fn accumulator<S: Simd>(_: S, start: S::V) -> S::V {
        start
    }

    #[inline(always)]
    unsafe fn rank1_update<S: Simd, const MR: usize, const NV: usize>(
        s: S,
        acc: &mut [[S::V; NV]; MR],
        a: &[*const bf16; MR],
        k: usize,
        b: *const bf16,
    ) {
        // SAFETY: contract of this function; a bf16 is its 16 bits, and little-endian machines read the first of two
        // as the low half.
        unsafe {
            for (row, a) in acc.iter_mut().zip(a) {
                let pair = u32::from_le(a.add(k).cast::<u32>().read_unaligned());
                for (j, sum) in row.iter_mut().enumerate() {
                    *sum = s.dot_bf16(*sum, pair, b.add(2 * j * S::LANES).cast());
                }
            }
        }
    }

    #[inline(always)]
    fn sums<S: Simd>(_: S, acc: S::V) -> S::V {
        acc
    }
}

/// Rounds a filter's weights to bf16 so that their sum changes as little as possible: then a constant input gives the same
/// result as before. It starts with the nearest bf16 of each weight. Then it rounds single weights the other way while that
/// brings the sum closer, first those that lie nearest the middle of two bf16 numbers.
///
/// For the network input, whose neighbouring pixels are alike and far from zero. There plain rounding errors of the weights do
/// not cancel, and the layer's error would be three times as large.
pub fn round_keeping_sum(weights: &mut [&mut f32]) {
    let exact: Vec<f64> = weights.iter().map(|w| f64::from(**w)).collect();
    let rounded: Vec<bf16> = weights.iter().map(|w| bf16::from_f32(**w)).collect();
    let error = |i: usize, r: bf16| r.to_f64() - exact[i];
    let mut sum: f64 = rounded.iter().enumerate().map(|(i, &r)| error(i, r)).sum();
    let up = sum < 0.0;
    // The next bf16 number below or above: the bits are a sign and a magnitude.
    let flip =
        |r: bf16| bf16::from_bits(if (r > bf16::ZERO) == up { r.to_bits() + 1 } else { r.to_bits() - 1 });
    let wrong = |&i: &usize| rounded[i] != bf16::ZERO && error(i, rounded[i]) * sum > 0.0;
    let mut order: Vec<usize> = (0..weights.len()).filter(wrong).collect();
    let ratio = |i: usize| (error(i, flip(rounded[i])) / error(i, rounded[i])).abs();
    order.sort_by(|&a, &b| ratio(a).total_cmp(&ratio(b)));
    for (w, r) in weights.iter_mut().zip(&rounded) {
        **w = r.to_f32();
    }
    for i in order {
        let moved = sum + (flip(rounded[i]).to_f64() - rounded[i].to_f64());
        if moved.abs() < sum.abs() {
            *weights[i] = flip(rounded[i]).to_f32();
            sum = moved;
        }
    }
}

/// Converts part of a map to elements: pixels from `src` on, to `out`, `pitch` values apart.
pub struct Convert<T> {
    /// First pixel.
    pub(super) src: *const f32,
    /// Values from a row of the map to the next.
    pub(super) row: usize,
    /// Values from a pixel to the next.
    pub(super) pixel: usize,
    /// Rows of pixels.
    pub(super) rows: usize,
    /// Pixels a row.
    pub(super) columns: usize,
    /// Channels of a pixel.
    pub(super) c: usize,
    /// Room for all pixels, and one group behind them.
    pub(super) out: *mut T,
    /// Values from a pixel of `out` to the next.
    pub(super) pitch: usize,
}

impl<T: Element> Kernel for Convert<T> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Convert { src, row, pixel, rows, mut columns, mut c, out, mut pitch } = self;
        if pixel == c && pitch == c {
            (columns, c, pitch) = (1, columns * c, columns * c);
        }
        let whole = c / S::LANES * S::LANES;
        // SAFETY: made only by `Direct::source`: the pixels lie inside a map, `out` has room for them, with `pitch`
        // values each and a group behind the last.
        unsafe {
            for y in 0..rows {
                for x in 0..columns {
                    let from = src.add(y * row + x * pixel);
                    let to = out.add((y * columns + x) * pitch);
                    for k in (0..whole).step_by(S::LANES) {
                        T::store(s, to.add(k), s.load(from.add(k)), S::LANES);
                    }
                    if whole < c {
                        let n = c - whole;
                        T::store(s, to.add(whole), s.load_first(from.add(whole), n), n);
                    }
                    for k in c..pitch {
                        *to.add(k) = T::zeroed();
                    }
                }
            }
            let end = out.add(rows * columns * pitch);
            for k in 0..T::GROUP {
                *end.add(k) = T::zeroed();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::isa::{Isa, with_isa};
    use crate::backend::cpu::simd::Kernel;

    /// `dot_bf16` of one vector.
    struct Dot<'a>(f32, [bf16; 2], &'a [bf16]);

    impl Kernel for Dot<'_> {
        type Output = Vec<f32>;
        #[inline(always)]
        fn call<S: Simd>(self, s: S) -> Vec<f32> {
            let Dot(acc, [a0, a1], b) = self;
            let pair = u32::from(a0.to_bits()) | u32::from(a1.to_bits()) << 16;
            let mut out = vec![0.0; 16];
            // SAFETY: the tests pass 32 weights; LANES <= 16.
            unsafe { s.store(out.as_mut_ptr(), s.dot_bf16(s.splat(acc), pair, b.as_ptr().cast())) };
            out.truncate(S::LANES);
            out
        }
    }

    /// `store_bf16` of one vector.
    struct Store<'a>(&'a [f32], usize);

    impl Kernel for Store<'_> {
        type Output = Vec<u16>;
        #[inline(always)]
        fn call<S: Simd>(self, s: S) -> Vec<u16> {
            let mut out = vec![0xdead; 17];
            // SAFETY: the tests pass 16 values, and n <= 16.
            unsafe { s.store_bf16(out.as_mut_ptr(), s.load(self.0.as_ptr()), self.1.min(S::LANES)) };
            out
        }
    }

    #[test]
    fn dot_products_of_pairs() {
        let b: Vec<bf16> = (0..32).map(|i| bf16::from_f32((i as f32 - 13.0) * 0.375)).collect();
        let a = [bf16::from_f32(1.171875), bf16::from_f32(-313.0)];
        for isa in Isa::all() {
            let got = with_isa!(isa, s => s.vectorize(Dot(0.7, a, &b)));
            for (i, got) in got.into_iter().enumerate() {
                // The second product is added first. Products are exact, sums are rounded.
                let odd = 0.7 + a[1].to_f32() * b[2 * i + 1].to_f32();
                assert_eq!(got, odd + a[0].to_f32() * b[2 * i].to_f32(), "{} lane {i}", isa.name());
            }
        }
    }

    #[test]
    fn dot_products_keep_infinity_and_nan() {
        let one = bf16::ONE;
        let mut b = vec![one; 32];
        (b[2], b[5]) = (bf16::INFINITY, bf16::NAN);
        for isa in Isa::all() {
            let got = with_isa!(isa, s => s.vectorize(Dot(1.0, [one, one], &b)));
            assert_eq!((got[0], got[1]), (3.0, f32::INFINITY), "{}", isa.name());
            assert!(got[2].is_nan(), "{}", isa.name());
        }
    }

    #[test]
    fn stores_round_to_nearest_even() {
        let bits = |b: u32| f32::from_bits(b);
        let cases = [
            (1.0, 0x3f80),
            (-2.5, 0xc020),
            (0.0, 0),
            (-0.0, 0x8000),
            // Below, at and above the middle of 0x3f80 and 0x3f81; the middle of 0x3f81 and 0x3f82.
            (bits(0x3f80_7fff), 0x3f80),
            (bits(0x3f80_8000), 0x3f80),
            (bits(0x3f80_8001), 0x3f81),
            (bits(0x3f81_8000), 0x3f82),
            // Into the next binade, and beyond the largest.
            (bits(0x3fff_ffff), 0x4000),
            (f32::MAX, 0x7f80),
            (f32::INFINITY, 0x7f80),
            (f32::NEG_INFINITY, 0xff80),
            (255.0, 0x437f),
            (bits(0x0080_0000), 0x0080),
            (1e-3, 0x3a83),
        ];
        let mut values = cases.map(|c| c.0).to_vec();
        values.push(f32::NAN);
        for isa in Isa::all() {
            for shift in 0..16 {
                values.rotate_left(1);
                let got = with_isa!(isa, s => s.vectorize(Store(&values, 16)));
                let lanes = got.iter().position(|&v| v == 0xdead).expect("memory behind the vector");
                for (i, got) in got[..lanes].iter().enumerate() {
                    let case = (i + shift + 1) % 16;
                    match cases.get(case) {
                        Some((value, expected)) => assert_eq!(got, expected, "{}: {value:e}", isa.name()),
                        None => assert!(bf16::from_bits(*got).is_nan(), "{}: {got:x}", isa.name()),
                    }
                }
            }
            for n in 0..=16 {
                let got = with_isa!(isa, s => s.vectorize(Store(&values, n)));
                let lanes = with_isa!(isa, s => lanes(s));
                assert!(got[n.min(lanes)..].iter().all(|&v| v == 0xdead), "{}: first {n}", isa.name());
            }
        }
    }

    fn lanes<S: Simd>(_: S) -> usize {
        S::LANES
    }

    #[test]
    fn the_instruction_sets_that_say_so_have_bf16() {
        fn has<S: Simd>(_: S) -> bool {
            S::BF16
        }
        for isa in Isa::all() {
            assert_eq!(with_isa!(isa, s => has(s)), isa.bf16(), "{}", isa.name());
        }
    }

    #[test]
    fn sums_survive_rounding() {
        for n in [1, 2, 9, 36, 1000] {
            let exact: Vec<f32> = (0..n).map(|i| ((i * 7919 % 1009) as f32 - 400.5) * 1.234e-4).collect();
            let mut kept = exact.clone();
            round_keeping_sum(&mut kept.iter_mut().collect::<Vec<_>>());
            let (mut error, mut plain, mut largest) = (0.0, 0.0, 0f64);
            for (w, k) in exact.iter().zip(&kept) {
                let ulp = f64::from(w.abs()) / 128.0;
                assert_eq!(bf16::from_f32(*k).to_f32(), *k);
                assert!((f64::from(*k) - f64::from(*w)).abs() <= ulp, "{w} became {k}");
                error += f64::from(*k) - f64::from(*w);
                plain += bf16::from_f32(*w).to_f64() - f64::from(*w);
                largest = largest.max(ulp);
            }
            assert!(error.abs() <= f64::abs(plain), "{n} weights: {error:e}, plainly {plain:e}");
            assert!(n < 9 || error.abs() < largest, "{n} weights: {error:e} of {largest:e}");
        }
    }
}
