//! Weights in the order in which the micro-kernel reads them.

use super::memory::Block;
use super::simd::Simd;

/// Output channels that one micro-kernel column handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Panel {
    /// First output channel.
    pub c0: usize,
    /// Output channels; the last vector may be partly padding.
    pub c: usize,
    /// Vectors.
    pub vectors: usize,
}

/// Splits `channels` into panels of nearly equal numbers of vectors, as wide as the instruction set likes best.
pub fn panels<S: Simd>(channels: usize) -> Vec<Panel> {
    let vectors = channels.div_ceil(S::LANES);
    // Two-vector panels leave an odd one over, which makes one panel of three; wider ones are cut evenly.
    let count = if S::PANEL == 2 { vectors / 2 } else { vectors.div_ceil(S::PANEL) }.max(1);
    let mut v0 = 0;
    (0..count)
        .map(|i| {
            let v1 = vectors * (i + 1) / count;
            let c0 = v0 * S::LANES;
            let panel = Panel { c0, c: (v1 * S::LANES).min(channels) - c0, vectors: v1 - v0 };
            v0 = v1;
            panel
        })
        .collect()
}

/// Packs `w(out, k)` for `panels` as `[panel][depth][vectors * LANES]`, padding with zeros. Returns the block and each
/// panel's first value.
pub fn pack<S: Simd>(panels: &[Panel], depth: usize, w: impl Fn(usize, usize) -> f32) -> (Block, Vec<usize>) {
    let mut starts = Vec::with_capacity(panels.len());
    let mut len = 0;
    for p in panels {
        starts.push(len);
        len += depth * p.vectors * S::LANES;
    }
    let mut block = Block::zeroed(len);
    for (p, &start) in panels.iter().zip(&starts) {
        let width = p.vectors * S::LANES;
        for k in 0..depth {
            for j in 0..p.c {
                block[start + k * width + j] = w(p.c0 + j, k);
            }
        }
    }
    (block, starts)
}

/// Cuts `n` rows into tiles of at most `max` rows of nearly equal height; calls `f(first, rows)`.
#[inline(always)]
pub fn tiles(n: usize, max: usize, mut f: impl FnMut(usize, usize)) {
    let count = n.div_ceil(max);
    let mut first = 0;
    for i in 0..count {
        let end = n * (i + 1) / count;
        f(first, end - first);
        first = end;
    }
}
