//! The Dynamic Coordinate Classifier: bins, dot products, softmax and integral of one survivor and axis at a time;
//! see [`crate::plan::BinDecode`] for the maths.
//!
//! The bins of an axis are equally spaced, `x_i = x_0 + i h`, so the code of a bin is the rotation of an earlier
//! one: with `w_j = 1 / T_j`,
//!
//! ```text
//! cos(w (x + n h)) = cos(w x) cos(w n h) - sin(w x) sin(w n h)      and likewise for sin.
//! ```
//!
//! A vector holds `LANES` neighbouring bins; the next vector is it, rotated by `LANES h`. Starting points and rotations
//! are computed in f64, so a chain of at most 64 rotations stays within a few units of f32 rounding.

use super::math;
use super::matrix::Matrix;
use super::micro::{MAX_ROWS, Micros, Tile, max_rows};
use super::pack::{Panel, panels, tiles};
use super::simd::{Kernel, Simd};
use super::work::{Context, Scratch, ScratchSize, Work};
use crate::plan;

/// One axis, prepared.
pub struct Axis<S> {
    /// Bins.
    pub bins: usize,
    /// Rotates keypoint vectors onto the encodings.
    pub rotate: Matrix<S>,
    panels: Vec<Panel>,
}

impl<S: Simd> Axis<S> {
    /// Prepares an axis whose `weight` is `[pe_dim, dim]`.
    pub fn new(simd: S, bins: usize, weight: &[f32], dim: usize) -> Axis<S> {
        Axis { bins, rotate: Matrix::new(simd, weight, dim, None), panels: panels::<S>(bins) }
    }

    fn pitch(&self) -> usize {
        self.bins.next_multiple_of(S::LANES)
    }
}

/// A prepared classifier; an item an axis of a survivor.
pub struct BinDecode<S> {
    simd: S,
    /// Buffer and first channel.
    src: (usize, usize),
    dst: (usize, usize),
    tokens: usize,
    dim: usize,
    padding: f64,
    frequencies: Vec<f64>,
    axes: [Axis<S>; 2],
    micros: Micros,
}

impl<S: Simd> BinDecode<S> {
    /// Prepares a step, whose axes, x and y, are prepared already.
    pub fn new(simd: S, op: &plan::BinDecode, axes: [Axis<S>; 2]) -> BinDecode<S> {
        let half = op.pe_dim / 2;
        let frequency = |j| f64::from(op.temperature).powf(-(j as f64) / half as f64);
        let widest = axes.iter().flat_map(|a| &a.panels).map(|p| p.vectors).max().unwrap_or(0);
        let micros = Micros::new(simd, widest);
        BinDecode {
            simd,
            src: (op.src.buffer.0, op.src.c0),
            dst: (op.dst.buffer.0, op.dst.c0),
            tokens: op.tokens,
            dim: op.dim,
            padding: op.padding.into(),
            frequencies: (0..half).map(frequency).collect(),
            axes,
            micros,
        }
    }
}

/// `PE` of all bins of an axis, packed as the weights of a product: `[panel][2 * frequencies][panel width]`.
struct Encode<'a> {
    frequencies: &'a [f64],
    panels: &'a [Panel],
    first: f64,
    step: f64,
    out: *mut f32,
}

impl Kernel for Encode<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let half = self.frequencies.len();
        for (j, &w) in self.frequencies.iter().enumerate() {
            // LANES codes by rotating in f64, then whole vectors by rotating in f32.
            let (mut cos, mut sin) = ([0f32; 16], [0f32; 16]);
            let (step_sin, step_cos) = (w * self.step).sin_cos();
            let (mut y, mut x) = (w * self.first).sin_cos();
            for lane in 0..S::LANES {
                (cos[lane], sin[lane]) = (x as f32, y as f32);
                (x, y) = (x * step_cos - y * step_sin, y * step_cos + x * step_sin);
            }
            let (turn_sin, turn_cos) = (w * self.step * S::LANES as f64).sin_cos();
            let (turn_sin, turn_cos) = (s.splat(turn_sin as f32), s.splat(turn_cos as f32));
            // SAFETY: LANES <= 16; `out` has 2 * half rows of every panel's width.
            unsafe {
                let (mut x, mut y) = (s.load(cos.as_ptr()), s.load(sin.as_ptr()));
                let mut at = self.out;
                for panel in self.panels {
                    let width = panel.vectors * S::LANES;
                    for v in 0..panel.vectors {
                        s.store(at.add(j * width + v * S::LANES), x);
                        s.store(at.add((half + j) * width + v * S::LANES), y);
                        (x, y) = (
                            s.neg_mul_add(y, turn_sin, s.mul(x, turn_cos)),
                            s.mul_add(x, turn_sin, s.mul(y, turn_cos)),
                        );
                    }
                    at = at.add(2 * half * width);
                }
            }
        }
    }
}

/// Softmax and expectation of one row of logits; leaves the probabilities in it.
struct Expect {
    row: *mut f32,
    bins: usize,
}

impl Kernel for Expect {
    /// Expected bin index.
    type Output = f32;
    #[inline(always)]
    fn call<S: Simd>(self, s: S) -> f32 {
        let n = self.bins;
        // SAFETY: the row is padded to whole vectors.
        unsafe {
            for i in n..n.next_multiple_of(S::LANES) {
                *self.row.add(i) = f32::NEG_INFINITY;
            }
            let mut max = s.splat(f32::NEG_INFINITY);
            for i in (0..n).step_by(S::LANES) {
                max = s.max(max, s.load(self.row.add(i)));
            }
            let max = s.splat(s.reduce_max(max));
            let lanes: [f32; 16] = std::array::from_fn(|i| i as f32);
            let mut index = s.load(lanes.as_ptr());
            let (mut sum, mut moment) = (s.splat(0.0), s.splat(0.0));
            for i in (0..n).step_by(S::LANES) {
                let mut p = math::exp(s, s.sub(s.load(self.row.add(i)), max));
                if i + S::LANES > n {
                    // exp flushes to a tiny number, not to zero: padding must not count.
                    let mut lanes = [0f32; 16];
                    s.store(lanes.as_mut_ptr(), p);
                    lanes[n - i..].fill(0.0);
                    p = s.load(lanes.as_ptr());
                }
                s.store(self.row.add(i), p);
                sum = s.add(sum, p);
                moment = s.mul_add(p, index, moment);
                index = s.add(index, s.splat(S::LANES as f32));
            }
            let sum = s.reduce_add(sum);
            let scale = s.splat(1.0 / sum);
            for i in (0..n).step_by(S::LANES) {
                s.store(self.row.add(i), s.mul(s.load(self.row.add(i)), scale));
            }
            s.reduce_add(moment) / sum
        }
    }
}

impl<S: Simd> Work for BinDecode<S> {
    unsafe fn items(&self, context: &Context<'_>) -> usize {
        // SAFETY: selection is an earlier phase.
        2 * unsafe { context.state() }.survivors.len()
    }

    fn scratch(&self) -> ScratchSize {
        let largest = |a: &Axis<S>| {
            a.pitch() * (2 * self.frequencies.len() + self.tokens) + self.tokens * a.rotate.width()
        };
        ScratchSize { values: self.axes.iter().map(largest).max().unwrap_or(0), rows: 0 }
    }

    unsafe fn run(&self, item: usize, context: &Context<'_>, scratch: &mut Scratch) {
        let (person, dimension) = (item / 2, item % 2);
        let axis = &self.axes[dimension];
        let (tokens, depth) = (self.tokens, 2 * self.frequencies.len());
        // SAFETY: selection is complete and rows are reserved; scratch is laid out as `scratch` counts it; the two
        // axes of a survivor write different values.
        unsafe {
            let state = context.state();
            let survivor = &state.survivors[person];
            let f = state.rows[self.src.0].row(person).add(self.src.1).cast_const();
            let out = state.rows[self.dst.0].row(person).add(self.dst.1);
            let (center, size) = (f64::from(survivor.center[dimension]), f64::from(survivor.size[dimension]));
            let grid = f64::from(survivor.prior[dimension]);
            // A single bin lies at the first place.
            let step = size * self.padding / (axis.bins - 1).max(1) as f64;
            let first = center - grid - 0.5 * size * self.padding;

            let codes = scratch.values.as_mut_ptr();
            let rotated = codes.add(depth * axis.pitch());
            let logits = rotated.add(tokens * axis.rotate.width());
            self.simd.vectorize(Encode {
                frequencies: &self.frequencies,
                panels: &axis.panels,
                first,
                step,
                out: codes,
            });
            let width = axis.rotate.width();
            axis.rotate.multiply(|t| f.add(t * self.dim), tokens, 0..axis.rotate.panels(), rotated, width);
            let mut weights = codes.cast_const();
            for panel in &axis.panels {
                tiles(tokens, max_rows::<S>(panel.vectors), |t0, height| {
                    let mut rows = [std::ptr::null(); MAX_ROWS];
                    for (r, p) in rows[..height].iter_mut().enumerate() {
                        *p = rotated.add((t0 + r) * width).cast_const();
                    }
                    self.micros.get(height, panel.vectors)(&Tile {
                        rows: rows.as_ptr(),
                        shift: 0,
                        segments: 1,
                        depth,
                        weights,
                        init: std::ptr::null(),
                        addends: std::ptr::null(),
                        out: logits.add(t0 * axis.pitch() + panel.c0),
                        pitch: axis.pitch(),
                    });
                });
                weights = weights.add(depth * panel.vectors * S::LANES);
            }
            for t in 0..tokens {
                let row = logits.add(t * axis.pitch());
                let index = self.simd.vectorize(Expect { row, bins: axis.bins });
                *out.add(2 * t + dimension) = (grid + first + f64::from(index) * step) as f32;
                if context.options.heatmaps {
                    let start = tokens * dimension * self.axes[0].bins + t * axis.bins;
                    std::ptr::copy_nonoverlapping(row, state.heatmaps.row(person).add(start), axis.bins);
                }
            }
        }
    }
}
