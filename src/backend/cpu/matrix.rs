//! A packed matrix: `out = x w^T + bias` for rows anywhere in memory.

use super::memory::Block;
use super::microkernel::{MAX_ROWS, Microkernels, Tile, max_rows};
use super::pack::{Panel, pack, panels, tiles};
use super::simd::Simd;
use std::ops::Range;

/// An `[out, depth]` matrix packed for instruction set `S`.
pub struct Matrix<S> {
    depth: usize,
    panels: Vec<Panel>,
    starts: Vec<usize>,
    weights: Block,
    bias: Option<Block>,
    microkernels: Microkernels,
    simd: std::marker::PhantomData<S>,
}

impl<S: Simd> Matrix<S> {
    /// Packs the row-major `weight`, `[out, depth]`, and `bias`, `[out]`.
    pub fn new(simd: S, weight: &[f32], depth: usize, bias: Option<&[f32]>) -> Matrix<S> {
        let out = weight.len() / depth;
        let panels = panels::<S>(out);
        let (weights, starts) = pack::<S, f32>(&panels, (1, depth), |j, k| weight[j * depth + k]);
        let bias = bias.map(|bias| {
            let mut block = Block::zeroed(out.next_multiple_of(S::LANES));
            block[..out].copy_from_slice(bias);
            block
        });
        let widest = panels.iter().map(|p| p.vectors).max().unwrap_or(0);
        Matrix {
            depth,
            panels,
            starts,
            weights,
            bias,
            microkernels: Microkernels::new(simd, widest),
            simd: Default::default(),
        }
    }

    /// Number of panels; items may compute ranges of them.
    pub fn panels(&self) -> usize {
        self.panels.len()
    }

    /// Values that `multiply` writes a row: the outputs, rounded up to whole vectors.
    pub fn width(&self) -> usize {
        self.panels.last().map_or(0, |p| p.c0 + p.vectors * S::LANES)
    }

    /// `out[r * pitch + j]` for `r < n`, and the outputs of `range` of the panels.
    ///
    /// # Safety
    /// `row(r)` must be readable for `depth` values, `out + r * pitch` writable for [`Matrix::width`] values.
    pub unsafe fn multiply(
        &self,
        row: impl Fn(usize) -> *const f32,
        n: usize,
        range: Range<usize>,
        out: *mut f32,
        pitch: usize,
    ) {
        for index in range {
            let panel = self.panels[index];
            tiles(n, max_rows::<S>(panel.vectors), |first, height| {
                let mut rows = [std::ptr::null(); MAX_ROWS];
                for (r, p) in rows[..height].iter_mut().enumerate() {
                    *p = row(first + r);
                }
                // SAFETY: packed for every panel; `out` by contract.
                unsafe {
                    let weights = self.weights.as_ptr().add(self.starts[index]);
                    self.microkernels.get(height, panel.vectors)(&Tile {
                        rows: rows.as_ptr(),
                        shift: 0,
                        segments: 1,
                        depth: self.depth,
                        weights,
                        later: weights,
                        init: self.bias.as_ref().map_or(std::ptr::null(), |b| b.as_ptr().add(panel.c0)),
                        addends: std::ptr::null(),
                        out: out.add(first * pitch + panel.c0),
                        pitch,
                    });
                }
            });
        }
    }
}
