//! Weights in the order in which the microkernel reads them.

use super::element::Element;
use super::memory::Block;
use super::simd::Simd;

/// Output channels of one column of tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Panel {
    /// First output channel.
    pub c0: usize,
    /// Output channels; the last vector may be partly padding.
    pub c: usize,
    /// Vectors.
    pub vectors: usize,
}

/// Splits `channels` into panels of nearly equal numbers of vectors, at most the instruction set's [`Simd::PANEL`] or one more.
pub fn panels<S: Simd>(channels: usize) -> Vec<Panel> {
    panels_for::<S>(channels, 1)
}

/// As [`panels`], at least one for each of `ranges`, while there are so many vectors.
pub fn panels_for<S: Simd>(channels: usize, ranges: usize) -> Vec<Panel> {
    let vectors = channels.div_ceil(S::LANES);
    // With panels of two, an odd vector over makes one panel of three. Wider panels are split evenly.
    let widest = if S::PANEL == 2 { vectors / 2 } else { vectors.div_ceil(S::PANEL) }.max(1);
    let count = widest.max(ranges.min(vectors));
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

/// Index of the weight of value `k` of a sum and lane `j` in packed weights of `width` lanes.
#[inline(always)]
pub fn place<T: Element>(k: usize, j: usize, width: usize) -> usize {
    (k / T::GROUP * width + j) * T::GROUP + k % T::GROUP
}

/// Packs `w(out, k)` for `panels` as `[panel][segment][depth / GROUP][vectors * LANES][GROUP]`, padding with zeros; `k`
/// counts the `depth` values of all segments. Returns the block of `T` and each panel's first value.
pub fn pack<S: Simd, T: Element>(
    panels: &[Panel],
    (segments, depth): (usize, usize),
    w: impl Fn(usize, usize) -> f32,
) -> (Block, Vec<usize>) {
    let padded = depth.next_multiple_of(T::GROUP);
    let mut starts = Vec::with_capacity(panels.len());
    let mut len = 0;
    for p in panels {
        starts.push(len);
        len += segments * padded * p.vectors * S::LANES;
    }
    let mut block = Block::zeroed_of::<T>(len);
    let values = block.cast_mut::<T>();
    for (p, &start) in panels.iter().zip(&starts) {
        let width = p.vectors * S::LANES;
        for segment in 0..segments {
            for k in 0..depth {
                for j in 0..p.c {
                    values[start + place::<T>(segment * padded + k, j, width)] =
                        T::round(w(p.c0 + j, segment * depth + k));
                }
            }
        }
    }
    (block, starts)
}

/// Splits `n` rows into tiles of nearly equal height, at most `max` rows; calls `f(first, rows)` for each.
#[inline(always)]
pub fn tiles(n: usize, max: usize, mut f: impl FnMut(usize, usize)) {
    let count = n.div_ceil(max);
    let (height, taller) = (n / count.max(1), n % count.max(1));
    let mut first = 0;
    for i in 0..count {
        let rows = height + usize::from(i < taller);
        f(first, rows);
        first += rows;
    }
}
