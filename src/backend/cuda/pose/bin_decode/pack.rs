//! The bin classifier's matrices and frequencies as `bin_decode.cu` reads them.

use crate::backend::cuda::ops::pack::fragments;
use half::f16;

/// What [`rotation`] multiplies a matrix `[2 n, dim]` by: the power of two that makes the two rows of a frequency
/// together at most 2^8 long, so that nothing in `bin_decode.cu` leaves fp16's range.
pub fn rotation_scale(matrix: &[f32], dim: usize) -> f32 {
    let n = matrix.len() / dim / 2;
    let square = |r: usize| matrix[r * dim..(r + 1) * dim].iter().map(|&v| f64::from(v).powi(2)).sum::<f64>();
    let longest = (0..n).map(|j| (square(j) + square(n + j)).sqrt()).fold(0.0, f64::max);
    if longest > 0.0 { (8.0 - longest.log2()).floor().clamp(-100.0, 100.0).exp2() as f32 } else { 1.0 }
}

/// The bin classifier's matrix `[2 n, dim]`, cosine rows and then sine rows of `n` frequencies, as `bin_decode.cu`
/// wants it: scaled, 8 frequencies' cosine rows alternating with the same ones' sine rows, every value the sum of two
/// fp16 numbers; [`fragments`] of the high parts and then of the low ones.
pub fn rotation(matrix: &[f32], dim: usize, scale: f32) -> Vec<u8> {
    let rows = matrix.len() / dim;
    let order = (0..rows).map(|r| r % 16 / 8 * (rows / 2) + r / 16 * 8 + r % 8);
    let scaled: Vec<f32> = order.flat_map(|r| &matrix[r * dim..(r + 1) * dim]).map(|&v| v * scale).collect();
    let low: Vec<f32> = scaled.iter().map(|&v| v - f16::from_f32(v).to_f32()).collect();
    [scaled, low].map(|part| fragments(&part, rows, dim)).concat()
}

/// `1 / (2 pi T_j)`, `T_j = temperature^(j / n)`, each as the sum of two f32: `n` high parts, then `n` low parts.
pub fn frequencies(temperature: f32, n: usize) -> Vec<f32> {
    let exact = |j: usize| {
        let period = f64::from(temperature).powf(j as f64 / n as f64);
        1.0 / (std::f64::consts::TAU * period)
    };
    let high = (0..n).map(|j| exact(j) as f32);
    high.chain((0..n).map(|j| (exact(j) - f64::from(exact(j) as f32)) as f32)).collect()
}
