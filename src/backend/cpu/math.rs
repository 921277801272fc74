//! Functions of vectors: exp, SiLU, erf, GELU. Maximum errors are stated where each is defined, and
//! tested in `tests/simd.rs`.

use super::simd::Simd;

/// `e^x` for `x <= 88`, flushing to about 1e-38 below -87.3. Relative error under 3e-7. NaN gives NaN.
///
/// Cody and Waite: `x = n ln 2 + r`, `|r| <= ln 2 / 2`, `e^x = 2^n e^r`, with a polynomial of degree 6 for `e^r`.
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    // x as second operand: a NaN stays one.
    let x = s.max(s.splat(-87.3), s.min(s.splat(88.0), x));
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let r = s.neg_mul_add(n, s.splat(0.693_359_4), x);
    let r = s.neg_mul_add(n, s.splat(-2.121_944_4e-4), r);
    let mut p = s.splat(1.388_888_9e-3);
    p = s.mul_add(p, r, s.splat(8.333_333e-3));
    p = s.mul_add(p, r, s.splat(4.166_666_6e-2));
    p = s.mul_add(p, r, s.splat(1.666_666_7e-1));
    p = s.mul_add(p, r, s.splat(0.5));
    p = s.mul_add(p, r, s.splat(1.0));
    p = s.mul_add(p, r, s.splat(1.0));
    s.mul_pow2(p, n)
}

/// `x * sigmoid(x) = x / (1 + 2^t)`, `t = -x log2(e)`. Absolute error under 3e-7 * max(1, |x|), and under 1e-37 |x| below
/// x = -87.
///
/// It runs on every output of every layer, and is shorter than [`exp`]: it rounds `t` once, not twice, which loses accuracy only
/// where the result is tiny. `2^t = 2^n 2^r`, `|r| <= 1/2`, with a minimax polynomial for `2^r` (error 1e-7).
#[inline(always)]
#[allow(clippy::approx_constant)] // a fitted coefficient, not ln 2
pub fn silu<S: Simd>(s: S, x: S::V) -> S::V {
    // x as second operand: a NaN stays one.
    let bounded = s.max(s.splat(-87.3), s.min(s.splat(87.3), x));
    let (power, r) = s.split_exp2(bounded, s.splat(-std::f32::consts::LOG2_E));
    let mut p = s.splat(1.326_47e-3);
    p = s.mul_add(p, r, s.splat(9.671_51e-3));
    p = s.mul_add(p, r, s.splat(5.550_734e-2));
    p = s.mul_add(p, r, s.splat(2.402_224_2e-1));
    p = s.mul_add(p, r, s.splat(0.693_147));
    p = s.mul_add(p, r, s.splat(1.0));
    s.fast_div(x, s.mul_add(p, power, s.splat(1.0)))
}

/// Gaussian error function, absolute error under 7e-7: Abramowitz and Stegun 7.1.26 has 1.5e-7 in exact arithmetic.
#[inline(always)]
pub fn erf<S: Simd>(s: S, x: S::V) -> S::V {
    let a = s.copysign(x, s.splat(1.0));
    let t = s.div(s.splat(1.0), s.mul_add(a, s.splat(0.327_591_1), s.splat(1.0)));
    let mut p = s.splat(1.061_405_4);
    p = s.mul_add(p, t, s.splat(-1.453_152));
    p = s.mul_add(p, t, s.splat(1.421_413_7));
    p = s.mul_add(p, t, s.splat(-0.284_496_74));
    p = s.mul_add(p, t, s.splat(0.254_829_6));
    p = s.mul(p, t);
    let e = exp(s, s.sub(s.splat(0.0), s.mul(a, a)));
    s.copysign(s.neg_mul_add(p, e, s.splat(1.0)), x)
}

/// `x * Phi(x)`. Absolute error under 1e-6 for |x| <= 6.
#[inline(always)]
pub fn gelu<S: Simd>(s: S, x: S::V) -> S::V {
    let e = erf(s, s.mul(x, s.splat(std::f32::consts::FRAC_1_SQRT_2)));
    let half = s.mul(x, s.splat(0.5));
    s.mul_add(half, e, half)
}
