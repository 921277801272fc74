//! The minimal filtering algorithms, one dimension at a time: their matrices and their transforms.
//!
//! Their interpolation points are such that rounding errors are smaller than with the usual `+-1`, `+-2`, at the same cost. In f32, a sum
//! over 128 channels is off by 1.7 times as much as the plain sum with patches of four outputs, by 3.3 times as much with five and
//! stride 1. In bf16, [`F33`] has 2.9 times and [`F43Stride2`] 2.5 times the error of the plain sum on inputs without correlation, 1.3
//! times on inputs that vary slowly; larger patches have more.

use crate::backend::cpu::simd::Simd;

/// Upper bound of [`Scheme::WINDOW`] and [`Scheme::POINTS`].
pub const MAX: usize = 11;

/// Upper bound of [`Scheme::OUT`].
pub const MAX_OUT: usize = 5;

/// `1 / sqrt(2)`.
const P: f64 = std::f64::consts::FRAC_1_SQRT_2;
/// `sqrt(2)`.
const Q: f64 = std::f64::consts::SQRT_2;

/// The points of [`F33`].
const D: f64 = 0.4;
const E: f64 = 1.3;

/// Squares of the points of [`F53`].
const A2: f64 = 0.3 * 0.3;
const B2: f64 = 0.85 * 0.85;
const C2: f64 = 1.7 * 1.7;

/// An algorithm for three-tap filters: `OUT` outputs from `WINDOW` inputs with `POINTS` products.
pub trait Scheme: Send + Sync + 'static {
    /// Inputs from an output to the next.
    const STRIDE: usize;
    /// Outputs.
    const OUT: usize;
    /// Inputs.
    const WINDOW: usize;
    /// Products.
    const POINTS: usize;
    /// Products with different weights.
    const DISTINCT: usize;
    /// Patches of a block, at most. Larger blocks read the layer's weights less often, which gains nothing from here on, and need more
    /// memory for what they transform.
    const BLOCK: usize;
    /// Vector operations of [`Scheme::input`] and of [`Scheme::output`].
    const OPERATIONS: (usize, usize);

    /// `G`, `[DISTINCT][3]`.
    fn filter() -> Vec<[f64; 3]>;

    /// Row of `G` whose weight multiplies `point`.
    fn weight_of(point: usize) -> usize;

    /// `B^T d`: reads the first `WINDOW` values, returns the first `POINTS`. The others are arbitrary.
    fn input<S: Simd>(s: S, d: &[S::V; MAX]) -> [S::V; MAX];

    /// `A^T m`: reads the first `POINTS` values, returns the first `OUT`. The others are arbitrary.
    fn output<S: Simd>(s: S, m: &[S::V; MAX]) -> [S::V; MAX_OUT];
}

/// Stride 1, `F(3, 3)`: 5 products where the plain sum has 9. Its points `+-0.4`, `+-1.3` and infinity are those of the smallest
/// error in bf16 that a search found.
pub struct F33;

impl Scheme for F33 {
    const STRIDE: usize = 1;
    const OUT: usize = 3;
    const WINDOW: usize = 5;
    const POINTS: usize = 5;
    const DISTINCT: usize = 5;
    const BLOCK: usize = 72;
    const OPERATIONS: (usize, usize) = (10, 8);

    fn filter() -> Vec<[f64; 3]> {
        finite(&[D, -D, E, -E]).chain([[0.0, 0.0, 1.0]]).collect()
    }

    fn weight_of(point: usize) -> usize {
        point
    }

    // Rows of +-p, with q the other one: (x +- p)(x^2 - q^2), the even and the odd powers apart; of infinity: (x^2 - D^2)(x^2 - E^2).
    #[inline(always)]
    fn input<S: Simd>(s: S, d: &[S::V; MAX]) -> [S::V; MAX] {
        let pair = |p: f64, q: f64| {
            let (p, q2) = (s.splat(p as f32), s.splat((q * q) as f32));
            let (even, odd) = (s.neg_mul_add(q2, d[0], d[2]), s.neg_mul_add(q2, d[1], d[3]));
            (s.mul_add(p, even, odd), s.neg_mul_add(p, even, odd))
        };
        let mut out = *d;
        (out[0], out[1]) = pair(D, E);
        (out[2], out[3]) = pair(E, D);
        let high = s.neg_mul_add(s.splat((D * D + E * E) as f32), d[2], d[4]);
        out[4] = s.mul_add(s.splat((D * D * E * E) as f32), d[0], high);
        out
    }

    // Row i: the i-th powers of the points; infinity counts for the last.
    #[inline(always)]
    fn output<S: Simd>(s: S, m: &[S::V; MAX]) -> [S::V; MAX_OUT] {
        let (sum, diff) = (s.add(m[0], m[1]), s.sub(m[0], m[1]));
        let (sum2, diff2) = (s.add(m[2], m[3]), s.sub(m[2], m[3]));
        let [d, e] = [D, E].map(|p| s.splat(p as f32));
        let [d2, e2] = [D, E].map(|p| s.splat((p * p) as f32));
        [
            s.add(sum, sum2),
            s.mul_add(d, diff, s.mul(e, diff2)),
            s.mul_add(d2, sum, s.mul_add(e2, sum2, m[4])),
            m[0],
            m[0],
        ]
    }
}

/// Stride 1, `F(4, 3)` (Lavin and Gray, arXiv 1509.09308): 6 products where the plain sum has 12.
pub struct F43;

impl Scheme for F43 {
    const STRIDE: usize = 1;
    const OUT: usize = 4;
    const WINDOW: usize = 6;
    const POINTS: usize = 6;
    const DISTINCT: usize = 6;
    const BLOCK: usize = 48;
    const OPERATIONS: (usize, usize) = (12, 12);

    fn filter() -> Vec<[f64; 3]> {
        finite(&[0.0, P, -P, Q, -Q]).chain([[0.0, 0.0, 1.0]]).collect()
    }

    fn weight_of(point: usize) -> usize {
        point
    }

    // Row of a finite point: the coefficients of prod over the other finite points (x - p'); of infinity: of all.
    #[inline(always)]
    fn input<S: Simd>(s: S, d: &[S::V; MAX]) -> [S::V; MAX] {
        let (half, two, p, q) = (s.splat(0.5), s.splat(2.0), s.splat(P as f32), s.splat(Q as f32));
        let five_halves = s.splat(2.5);
        // (x^2 - 1/2)(x^2 - 2) = x^4 - 5/2 x^2 + 1, and the same times x for infinity.
        let zero = s.neg_mul_add(five_halves, d[2], s.add(d[0], d[4]));
        let infinity = s.neg_mul_add(five_halves, d[3], s.add(d[1], d[5]));
        let (even, odd) = (s.neg_mul_add(two, d[2], d[4]), s.neg_mul_add(two, d[1], d[3]));
        let (even2, odd2) = (s.neg_mul_add(half, d[2], d[4]), s.neg_mul_add(half, d[1], d[3]));
        let mut out = *d;
        out[0] = zero;
        out[1] = s.mul_add(p, odd, even);
        out[2] = s.neg_mul_add(p, odd, even);
        out[3] = s.mul_add(q, odd2, even2);
        out[4] = s.neg_mul_add(q, odd2, even2);
        out[5] = infinity;
        out
    }

    // Row i: the i-th powers of the points; infinity counts for the last.
    #[inline(always)]
    fn output<S: Simd>(s: S, m: &[S::V; MAX]) -> [S::V; MAX_OUT] {
        let (p, q) = (s.splat(P as f32), s.splat(Q as f32));
        let (half, two) = (s.splat(0.5), s.splat(2.0));
        let (p3, q3) = (s.splat((P * P * P) as f32), s.splat((Q * Q * Q) as f32));
        let (sum, diff) = (s.add(m[1], m[2]), s.sub(m[1], m[2]));
        let (sum2, diff2) = (s.add(m[3], m[4]), s.sub(m[3], m[4]));
        [
            s.add(m[0], s.add(sum, sum2)),
            s.mul_add(p, diff, s.mul(q, diff2)),
            s.mul_add(half, sum, s.mul(two, sum2)),
            s.mul_add(p3, diff, s.mul_add(q3, diff2, m[5])),
            m[0],
        ]
    }
}

/// Stride 1, `F(5, 3)`: 7 products where the plain sum has 15. Its points `+-0.3`, `+-0.85`, `+-1.7` and infinity are those of
/// the smallest error that a search found, twice that of [`F43`].
pub struct F53;

impl Scheme for F53 {
    const STRIDE: usize = 1;
    const OUT: usize = 5;
    const WINDOW: usize = 7;
    const POINTS: usize = 7;
    const DISTINCT: usize = 7;
    const BLOCK: usize = 48;
    const OPERATIONS: (usize, usize) = (21, 21);

    fn filter() -> Vec<[f64; 3]> {
        finite(&[A2, B2, C2].map(f64::sqrt).map(|p| [p, -p]).concat()).chain([[0.0, 0.0, 1.0]]).collect()
    }

    fn weight_of(point: usize) -> usize {
        point
    }

    // Rows of +-p, with q and r the other two: (x +- p)(x^2 - q^2)(x^2 - r^2), the even and the odd powers apart; of infinity:
    // (x^2 - a^2)(x^2 - b^2)(x^2 - c^2).
    #[inline(always)]
    fn input<S: Simd>(s: S, d: &[S::V; MAX]) -> [S::V; MAX] {
        let pair = |p2: f64, q2: f64, r2: f64| {
            let (sum, product) = (s.splat((q2 + r2) as f32), s.splat((q2 * r2) as f32));
            let even = s.mul_add(product, d[0], s.neg_mul_add(sum, d[2], d[4]));
            let odd = s.mul_add(product, d[1], s.neg_mul_add(sum, d[3], d[5]));
            let p = s.splat(p2.sqrt() as f32);
            (s.mul_add(p, even, odd), s.neg_mul_add(p, even, odd))
        };
        let mut out = *d;
        (out[0], out[1]) = pair(A2, B2, C2);
        (out[2], out[3]) = pair(B2, A2, C2);
        (out[4], out[5]) = pair(C2, A2, B2);
        let (sum, pairs) = (A2 + B2 + C2, A2 * B2 + A2 * C2 + B2 * C2);
        let high = s.neg_mul_add(s.splat(sum as f32), d[4], d[6]);
        let low = s.neg_mul_add(s.splat((A2 * B2 * C2) as f32), d[0], high);
        out[6] = s.mul_add(s.splat(pairs as f32), d[2], low);
        out
    }

    // Row i: the i-th powers of the points; infinity counts for the last.
    #[inline(always)]
    fn output<S: Simd>(s: S, m: &[S::V; MAX]) -> [S::V; MAX_OUT] {
        let (sums, diffs) = (
            [s.add(m[0], m[1]), s.add(m[2], m[3]), s.add(m[4], m[5])],
            [s.sub(m[0], m[1]), s.sub(m[2], m[3]), s.sub(m[4], m[5])],
        );
        let powers = |x: [S::V; 3], power: i32| {
            let [a, b, c] = [A2, B2, C2].map(|p2| s.splat(p2.sqrt().powi(power) as f32));
            s.mul_add(a, x[0], s.mul_add(b, x[1], s.mul(c, x[2])))
        };
        [
            s.add(sums[0], s.add(sums[1], sums[2])),
            powers(diffs, 1),
            powers(sums, 2),
            powers(diffs, 3),
            s.add(powers(sums, 4), m[6]),
        ]
    }
}

/// Stride 2: `y_i = w_0 x_2i + w_1 x_2i+1 + w_2 x_2i+2`. The even inputs have a filter of two taps, `(w_0, w_2)`, which
/// `F(4, 2)` computes with 5 products for 8, with the points of [`F33`]. The odd inputs have one tap: 4 products. In all 9, where the
/// plain sum has 12.
pub struct F43Stride2;

impl Scheme for F43Stride2 {
    const STRIDE: usize = 2;
    const OUT: usize = 4;
    const WINDOW: usize = 9;
    const POINTS: usize = 9;
    const DISTINCT: usize = 6;
    const BLOCK: usize = 48;
    const OPERATIONS: (usize, usize) = (10, 14);

    fn filter() -> Vec<[f64; 3]> {
        two_taps(&[D, -D, E, -E])
    }

    fn weight_of(point: usize) -> usize {
        point.min(5)
    }

    #[inline(always)]
    fn input<S: Simd>(s: S, d: &[S::V; MAX]) -> [S::V; MAX] {
        let mut out = F33::input(s, &even(d));
        for (out, value) in out[5..].iter_mut().zip(d.iter().skip(1).step_by(2)) {
            *out = *value;
        }
        out
    }

    #[inline(always)]
    fn output<S: Simd>(s: S, m: &[S::V; MAX]) -> [S::V; MAX_OUT] {
        let (sums, diffs) = ([s.add(m[0], m[1]), s.add(m[2], m[3])], [s.sub(m[0], m[1]), s.sub(m[2], m[3])]);
        let powers = |x: [S::V; 2], power: i32, more: S::V| {
            let [d, e] = [D, E].map(|p| s.splat(p.powi(power) as f32));
            s.mul_add(d, x[0], s.mul_add(e, x[1], more))
        };
        [
            s.add(m[5], s.add(sums[0], sums[1])),
            powers(diffs, 1, m[6]),
            powers(sums, 2, m[7]),
            powers(diffs, 3, s.add(m[4], m[8])),
            m[0],
        ]
    }
}

/// Stride 2, five outputs: `F(5, 2)` with 6 products on the even inputs, with the points of [`F43`], and 5 products on the odd ones.
/// In all 11, where the plain sum has 15.
pub struct F53Stride2;

impl Scheme for F53Stride2 {
    const STRIDE: usize = 2;
    const OUT: usize = 5;
    const WINDOW: usize = 11;
    const POINTS: usize = 11;
    const DISTINCT: usize = 7;
    const BLOCK: usize = 48;
    const OPERATIONS: (usize, usize) = (12, 20);

    fn filter() -> Vec<[f64; 3]> {
        two_taps(&[0.0, P, -P, Q, -Q])
    }

    fn weight_of(point: usize) -> usize {
        point.min(6)
    }

    #[inline(always)]
    fn input<S: Simd>(s: S, d: &[S::V; MAX]) -> [S::V; MAX] {
        let mut out = F43::input(s, &even(d));
        for (out, value) in out[6..].iter_mut().zip(d.iter().skip(1).step_by(2)) {
            *out = *value;
        }
        out
    }

    #[inline(always)]
    fn output<S: Simd>(s: S, m: &[S::V; MAX]) -> [S::V; MAX_OUT] {
        let (p, q) = (s.splat(P as f32), s.splat(Q as f32));
        let (half, two) = (s.splat(0.5), s.splat(2.0));
        let (p3, q3) = (s.splat((P * P * P) as f32), s.splat((Q * Q * Q) as f32));
        let (quarter, four) = (s.splat(0.25), s.splat(4.0));
        let (sum, diff) = (s.add(m[1], m[2]), s.sub(m[1], m[2]));
        let (sum2, diff2) = (s.add(m[3], m[4]), s.sub(m[3], m[4]));
        [
            s.add(s.add(m[0], m[6]), s.add(sum, sum2)),
            s.mul_add(p, diff, s.mul_add(q, diff2, m[7])),
            s.mul_add(half, sum, s.mul_add(two, sum2, m[8])),
            s.mul_add(p3, diff, s.mul_add(q3, diff2, m[9])),
            s.mul_add(quarter, sum, s.mul_add(four, sum2, s.add(m[5], m[10]))),
        ]
    }
}

/// Rows of `G` of finite points: `[1, p, p^2] / prod over the other points (p - p')`.
fn finite(points: &[f64]) -> impl Iterator<Item = [f64; 3]> {
    points.iter().enumerate().map(|(i, &p)| {
        let scale: f64 = points.iter().enumerate().filter(|&(j, _)| j != i).map(|(_, q)| p - q).product();
        [1.0 / scale, p / scale, p * p / scale]
    })
}

/// `G` of a scheme of stride 2: the even inputs' taps `w_0` and `w_2` at points and infinity, then the odd inputs' `w_1`.
fn two_taps(points: &[f64]) -> Vec<[f64; 3]> {
    let even = finite(points).map(|[one, p, _]| [one, 0.0, p]);
    even.chain([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]).collect()
}

/// The values at even places, from the first on. What follows them is arbitrary.
#[inline(always)]
fn even<V: Copy>(d: &[V; MAX]) -> [V; MAX] {
    let mut out = *d;
    for (out, value) in out.iter_mut().zip(d.iter().step_by(2)) {
        *out = *value;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::simd::portable::Portable;

    /// `A^T [(G w) * (B^T d)]` against the plain sum.
    fn check<T: Scheme>() {
        let w = [0.3, -1.7, 0.9];
        let d: [[f32; 4]; MAX] =
            std::array::from_fn(|i| std::array::from_fn(|lane| ((i * 7 + lane * 3) % 11) as f32 - 4.5));
        let s = Portable::<4>;
        let g: Vec<f32> =
            T::filter().iter().map(|row| (0..3).map(|k| row[k] * w[k]).sum::<f64>() as f32).collect();
        assert_eq!(g.len(), T::DISTINCT);
        let mut m = T::input(s, &d);
        for (point, m) in m.iter_mut().enumerate().take(T::POINTS) {
            *m = s.mul(*m, s.splat(g[T::weight_of(point)]));
        }
        let y = T::output(s, &m);
        for (i, y) in y.iter().enumerate().take(T::OUT) {
            for (lane, y) in y.iter().enumerate() {
                let want: f64 = (0..3).map(|k| w[k] * f64::from(d[i * T::STRIDE + k][lane])).sum();
                assert!(
                    (f64::from(*y) - want).abs() < 2e-5,
                    "{} output {i}: {y}, expected {want}",
                    std::any::type_name::<T>()
                );
            }
        }
    }

    #[test]
    fn transforms_reproduce_the_plain_sum() {
        check::<F43>();
        check::<F53>();
        check::<F53Stride2>();
        check::<F43Stride2>();
        check::<F33>();
    }
}
