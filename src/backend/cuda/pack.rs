//! Constants in the order in which kernels read them.

use super::tiles::{Shape, Tile, window};
use crate::plan::Act;
use half::f16;

fn bytes(values: impl Iterator<Item = f32>) -> Vec<u8> {
    values.flat_map(|v| f16::from_f32(v).to_le_bytes()).collect()
}

/// fp16, in the given order.
pub(super) fn halves(values: &[f32]) -> Vec<u8> {
    bytes(values.iter().copied())
}

/// fp32, padded with zeros to `len` values.
pub(super) fn floats(values: &[f32], len: usize) -> Vec<u8> {
    let padding = std::iter::repeat_n(0.0f32, len.saturating_sub(values.len()));
    values.iter().copied().chain(padding).flat_map(f32::to_le_bytes).collect()
}

/// What weights and bias before an activation are multiplied by, see `silu_of_half` in `kernels/ptx.cuh`.
pub(super) fn conv_scale(act: Act) -> f32 {
    if act == Act::Silu { 0.5 } else { 1.0 }
}

/// A convolution's weights `[cout, k, k, cin / groups]` as `kernels/conv.cuh` wants them:
/// `[chunk][tap][cout_pad / 8][BK / 8][8 n][8 k]`; chunks count from each channel tile's window. Before a SiLU they are halved, which
/// in fp16 is exact for all but the tiniest.
pub(super) fn conv(weight: &[f32], shape: &Shape, tile: &Tile, chunks: usize) -> Vec<u8> {
    let taps = shape.kernel * shape.kernel;
    let per_group = if shape.group == 0 { shape.cin } else { shape.group };
    let cout_pad = shape.cout.next_multiple_of(tile.bn);
    let scale = conv_scale(shape.act);
    let mut packed = vec![f16::ZERO; chunks * taps * cout_pad * tile.bk];
    for n in 0..shape.cout {
        let (first, _) = window(shape, n / tile.bn * tile.bn, tile.bn);
        let group = n.checked_div(shape.group).map_or(0, |g| g * shape.group);
        for tap in 0..taps {
            for k in 0..per_group {
                let at = group + k - first; // from the window's start
                let (chunk, c) = (at / tile.bk, at % tile.bk);
                let block = ((chunk * taps + tap) * (cout_pad / 8) + n / 8) * (tile.bk / 8) + c / 8;
                packed[block * 64 + n % 8 * 8 + c % 8] =
                    f16::from_f32(scale * weight[(n * taps + tap) * per_group + k]);
            }
        }
    }
    packed.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// The 6x6 stride-2 stem `[cout, 6, 6, 3]` as a 3x3 one `[cout, 3, 3, 16]` over 2x2 pixel cells (`letterbox.cu`).
pub(super) fn stem(weight: &[f32], cout: usize) -> Vec<f32> {
    let mut out = vec![0.0; cout * 9 * 16];
    for n in 0..cout {
        for y in 0..6 {
            for x in 0..6 {
                for c in 0..3 {
                    let to = ((n * 3 + y / 2) * 3 + x / 2) * 16 + (y % 2 * 2 + x % 2) * 3 + c;
                    out[to] = weight[((n * 6 + y) * 6 + x) * 3 + c];
                }
            }
        }
    }
    out
}

/// A matrix `[rows, columns]` as mma fragments, see `kernels/fragments.cuh`:
/// `[row / 16][column / 16][lane][8]`, padded with zeros.
pub(super) fn fragments(matrix: &[f32], rows: usize, columns: usize) -> Vec<u8> {
    let at = |r: usize, c: usize| if r < rows && c < columns { matrix[r * columns + c] } else { 0.0 };
    let mut values = Vec::with_capacity(rows.next_multiple_of(16) * columns.next_multiple_of(16));
    for m in 0..rows.div_ceil(16) {
        for k in 0..columns.div_ceil(16) {
            for lane in 0..32 {
                for register in 0..4 {
                    for half in 0..2 {
                        let r = m * 16 + lane / 4 + 8 * (register % 2);
                        let c = k * 16 + 2 * (lane % 4) + 8 * (register / 2) + half;
                        values.push(at(r, c));
                    }
                }
            }
        }
    }
    bytes(values.into_iter())
}

/// What [`turning`] multiplies a matrix `[2 n, dim]` by: the power of two that makes the two rows of a frequency together at most 2^8
/// long, so that nothing in `kernels/dcc.cu` leaves fp16's range.
pub(super) fn turning_scale(matrix: &[f32], dim: usize) -> f32 {
    let n = matrix.len() / dim / 2;
    let square = |r: usize| matrix[r * dim..(r + 1) * dim].iter().map(|&v| f64::from(v).powi(2)).sum::<f64>();
    let longest = (0..n).map(|j| (square(j) + square(n + j)).sqrt()).fold(0.0, f64::max);
    if longest > 0.0 { (8.0 - longest.log2()).floor().clamp(-100.0, 100.0).exp2() as f32 } else { 1.0 }
}

/// The bin classifier's matrix `[2 n, dim]`, cosine rows and then sine rows of `n` frequencies, as `kernels/dcc.cu` wants it: scaled,
/// 8 frequencies' cosine rows alternating with the same ones' sine rows, every value the sum of two fp16 numbers; [`fragments`]
/// of the high parts and then of the low ones.
pub(super) fn turning(matrix: &[f32], dim: usize, scale: f32) -> Vec<u8> {
    let rows = matrix.len() / dim;
    let order = (0..rows).map(|r| r % 16 / 8 * (rows / 2) + r / 16 * 8 + r % 8);
    let scaled: Vec<f32> = order.flat_map(|r| &matrix[r * dim..(r + 1) * dim]).map(|&v| v * scale).collect();
    let low: Vec<f32> = scaled.iter().map(|&v| v - f16::from_f32(v).to_f32()).collect();
    [scaled, low].map(|part| fragments(&part, rows, dim)).concat()
}

/// `1 / (2 pi T_j)`, `T_j = temperature^(j / n)`, each as the sum of two f32: `n` high parts, then `n` low parts.
pub(super) fn frequencies(temperature: f32, n: usize) -> Vec<f32> {
    let exact = |j: usize| {
        let period = f64::from(temperature).powf(j as f64 / n as f64);
        1.0 / (std::f64::consts::TAU * period)
    };
    let high = (0..n).map(|j| exact(j) as f32);
    high.chain((0..n).map(|j| (exact(j) - f64::from(exact(j) as f32)) as f32)).collect()
}
