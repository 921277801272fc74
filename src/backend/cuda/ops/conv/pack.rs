//! Weights of convolutions in the order in which the kernels read them.

use super::activation::scale;
use super::shape::{CELL, Shape, Stem};
use super::tiles::{Tile, window};
use half::f16;

/// A convolution's weights `[cout, k, k, cin / groups]` as `conv.cuh` wants them:
/// `[chunk][tap][cout_pad / 8][BK / 8][8 n][8 k]`; chunks count from each channel tile's window. They are scaled
/// for the activation; a half of a number is exact in fp16 for all but the tiniest.
pub fn conv(weight: &[f32], shape: &Shape, tile: &Tile, chunks: usize) -> Vec<u8> {
    let taps = shape.kernel * shape.kernel;
    let per_group = if shape.group == 0 { shape.cin } else { shape.group };
    let cout_pad = shape.cout.next_multiple_of(tile.bn);
    let scale = scale(shape.act);
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

/// A first layer of stride 2, `[cout, k, k, 3]`, as one of stride 1 over the photo's cells, `[cout, cells, cells, 16]`:
/// cells as
/// `letterbox.cu` writes them. Taps that the layer does not have are zeros.
pub fn stem(weight: &[f32], cout: usize, stem: &Stem) -> Vec<f32> {
    let (k, cells) = (stem.kernel, stem.cells);
    let mut out = vec![0.0; cout * cells * cells * CELL];
    for n in 0..cout {
        for y in 0..k {
            for x in 0..k {
                for c in 0..3 {
                    let (cy, cx) = (y + stem.shift, x + stem.shift);
                    let cell = (n * cells + cy / 2) * cells + cx / 2;
                    out[cell * CELL + (cy % 2 * 2 + cx % 2) * 3 + c] = weight[((n * k + y) * k + x) * 3 + c];
                }
            }
        }
    }
    out
}
