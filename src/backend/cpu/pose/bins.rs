//! The Dynamic Coordinate Classifier: bins, dot products, softmax and integral of one survivor and axis at a time;
//! see [`crate::plan::BinDecode`] for the maths.
//!
//! The bins of an axis lie in pairs around the box centre: `x = c - g +- d_p` with `d_p = (p + 1/2) h`, or `p h` if their number
//! is odd. A keypoint's projection `r = W^T f` is first rotated to the centre: with `w_j = 1 / T_j`,
//!
//! ```text
//! a_j = r_j cos(w_j (c - g)) + s_j sin(w_j (c - g))      r_j, s_j: r's coefficients of cos and sin at frequency j
//! b_j = s_j cos(w_j (c - g)) - r_j sin(w_j (c - g))
//! even(d) = sum_j a_j cos(w_j d),   odd(d) = sum_j b_j sin(w_j d),   logit(c - g +- d) = even(d) +- odd(d),
//! ```
//!
//! which halves the number of codes and of products. Distances are equally spaced. A vector holds the codes of `LANES`
//! neighbouring pairs; rotated by `LANES h` it is the next vector. The first vector and the rotation are computed in f64. Then a
//! chain of at most 32 rotations in f32 errs by a few units in the last place.

use crate::backend::cpu::math;
use crate::backend::cpu::matrix::Matrix;
use crate::backend::cpu::microkernel::{MAX_ROWS, Microkernels, Tile, max_rows};
use crate::backend::cpu::pack::{Panel, panels, tiles};
use crate::backend::cpu::phase::{Context, Scratch, ScratchSize, Work};
use crate::backend::cpu::simd::{Kernel, Simd};
use crate::plan;

/// One axis, prepared.
pub struct Axis<S> {
    /// Bins.
    pub bins: usize,
    /// `W^T`: maps keypoint vectors onto the encodings.
    pub projection: Matrix<S>,
    panels: Vec<Panel>,
}

impl<S: Simd> Axis<S> {
    /// Prepares an axis whose `weight` is `[pe_dim, dim]`.
    pub fn new(simd: S, bins: usize, weight: &[f32], dim: usize) -> Axis<S> {
        Axis { bins, projection: Matrix::new(simd, weight, dim, None), panels: panels::<S>(bins.div_ceil(2)) }
    }

    /// Pairs of bins. If the number of bins is odd, the first pair is a single bin in the centre.
    fn pairs(&self) -> usize {
        self.bins.div_ceil(2)
    }

    fn pitch(&self) -> usize {
        self.pairs().next_multiple_of(S::LANES)
    }
}

/// A prepared classifier; an item is an axis of a survivor.
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
    microkernels: Microkernels,
}

impl<S: Simd> BinDecode<S> {
    /// Prepares a step with the prepared axes x and y.
    pub fn new(simd: S, op: &plan::BinDecode, axes: [Axis<S>; 2]) -> BinDecode<S> {
        let half = op.pe_dim / 2;
        let frequency = |j| f64::from(op.temperature).powf(-(j as f64) / half as f64);
        let widest = axes.iter().flat_map(|a| &a.panels).map(|p| p.vectors).max().unwrap_or(0);
        let microkernels = Microkernels::new(simd, widest);
        BinDecode {
            simd,
            src: (op.src.buffer.0, op.src.c0),
            dst: (op.dst.buffer.0, op.dst.c0),
            tokens: op.tokens,
            dim: op.dim,
            padding: op.padding.into(),
            frequencies: (0..half).map(frequency).collect(),
            axes,
            microkernels,
        }
    }
}

/// `cos(w_j d_p)` and `sin(w_j d_p)` of all pairs of an axis, packed as the weights of two products:
/// `[panel][2 * frequencies][panel width]`.
struct Encode<'a> {
    frequencies: &'a [f64],
    panels: &'a [Panel],
    /// The first distance is 0, not half a bin.
    centred: bool,
    step: f64,
    out: &'a mut [f32],
}

impl Kernel for Encode<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let half = self.frequencies.len();
        for (j, &w) in self.frequencies.iter().enumerate() {
            // The first LANES codes in f64: rotating the first 1, 2, 4, .. gives as many more. Then whole vectors in f32.
            let (half_sin, half_cos) = (0.5 * w * self.step).sin_cos();
            let doubled = |sin: f64, cos: f64| (2.0 * sin * cos, 1.0 - 2.0 * sin * sin);
            let (mut rotate_sin, mut rotate_cos) = doubled(half_sin, half_cos);
            let (mut cos, mut sin) = ([1f64; 16], [0f64; 16]);
            if !self.centred {
                (cos[0], sin[0]) = (half_cos, half_sin);
            }
            let mut n = 1;
            while n < S::LANES {
                for i in 0..n {
                    cos[n + i] = cos[i] * rotate_cos - sin[i] * rotate_sin;
                    sin[n + i] = sin[i] * rotate_cos + cos[i] * rotate_sin;
                }
                (rotate_sin, rotate_cos) = doubled(rotate_sin, rotate_cos);
                n *= 2;
            }
            let (cos, sin) = (cos.map(|v| v as f32), sin.map(|v| v as f32));
            let (rotate_sin, rotate_cos) = (s.splat(rotate_sin as f32), s.splat(rotate_cos as f32));
            let (mut x, mut y) = (s.load_slice(&cos), s.load_slice(&sin));
            let mut first = 0;
            for panel in self.panels {
                let width = panel.vectors * S::LANES;
                let next = first + 2 * half * width;
                let (cosines, sines) = self.out[first..next].split_at_mut(half * width);
                let cosines = cosines[j * width..][..width].chunks_exact_mut(S::LANES);
                let sines = sines[j * width..][..width].chunks_exact_mut(S::LANES);
                for (cosines, sines) in cosines.zip(sines) {
                    s.store_slice(cosines, x);
                    s.store_slice(sines, y);
                    (x, y) = (
                        s.neg_mul_add(y, rotate_sin, s.mul(x, rotate_cos)),
                        s.mul_add(x, rotate_sin, s.mul(y, rotate_cos)),
                    );
                }
                first = next;
            }
        }
    }
}

/// Softmax and expectation of one keypoint's logits. Writes the probabilities of the bins to the right of the centre to `even`,
/// of those to its left to `odd`. Both are rows of whole vectors.
struct Expect<'a> {
    even: &'a mut [f32],
    odd: &'a mut [f32],
    bins: usize,
}

impl Kernel for Expect<'_> {
    /// Expected position relative to the centre, in bin widths.
    type Output = f32;
    #[inline(always)]
    fn call<S: Simd>(self, s: S) -> f32 {
        let Expect { even, odd, bins } = self;
        let (n, single) = (bins.div_ceil(2), bins % 2);
        // Lanes without a bin in the vector at i: padding, and on the left side (1) the place of a single bin in the centre,
        // which is on the right side.
        let absent = |side: usize, i: usize| {
            (0..(single * side).saturating_sub(i)).chain(n.saturating_sub(i).min(S::LANES)..S::LANES)
        };
        let mut max = s.splat(f32::NEG_INFINITY);
        let vectors = even.chunks_exact_mut(S::LANES).zip(odd.chunks_exact_mut(S::LANES));
        for ((even, odd), i) in vectors.zip((0..n).step_by(S::LANES)) {
            let (e, o) = (s.load_slice(even), s.load_slice(odd));
            let sides = [s.add(e, o), s.sub(e, o)];
            for (side, (row, logits)) in [even, odd].into_iter().zip(sides).enumerate() {
                s.store_slice(row, logits);
                for lane in absent(side, i) {
                    row[lane] = f32::NEG_INFINITY;
                }
                max = s.max(max, s.load_slice(row));
            }
        }
        let max = s.splat(s.reduce_max(max));
        let lanes: [f32; 16] = std::array::from_fn(|i| i as f32 + 0.5 * (1 - single) as f32);
        let mut distance = s.load_slice(&lanes);
        let (mut sum, mut moment) = (s.splat(0.0), s.splat(0.0));
        let vectors = even.chunks_exact_mut(S::LANES).zip(odd.chunks_exact_mut(S::LANES));
        for ((even, odd), i) in vectors.zip((0..n).step_by(S::LANES)) {
            for (side, row) in [&mut *even, &mut *odd].into_iter().enumerate() {
                let p = math::exp(s, s.sub(s.load_slice(row), max));
                s.store_slice(row, p);
                // `exp` gives 1e-38 of minus infinity, not 0, which a lane without a bin must have.
                for lane in absent(side, i) {
                    row[lane] = 0.0;
                }
            }
            let (right, left) = (s.load_slice(even), s.load_slice(odd));
            sum = s.add(sum, s.add(right, left));
            moment = s.mul_add(s.sub(right, left), distance, moment);
            distance = s.add(distance, s.splat(S::LANES as f32));
        }
        let sum = s.reduce_add(sum);
        let scale = s.splat(1.0 / sum);
        for p in even.chunks_exact_mut(S::LANES).chain(odd.chunks_exact_mut(S::LANES)) {
            s.store_slice(p, s.mul(s.load_slice(p), scale));
        }
        s.reduce_add(moment) / sum
    }
}

/// Rotates keypoint vectors `[r, s]` to `[a, b]`.
struct Centre<'a> {
    cos: &'a [f32],
    sin: &'a [f32],
    /// `[r, s]`.
    vector: &'a mut [f32],
}

impl Kernel for Centre<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, _: S) {
        let (r, s) = self.vector.split_at_mut(self.cos.len());
        for ((r, s), (cos, sin)) in r.iter_mut().zip(s).zip(self.cos.iter().zip(self.sin)) {
            (*r, *s) = (*r * cos + *s * sin, *s * cos - *r * sin);
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
            a.pitch() * 2 * (self.frequencies.len() + self.tokens)
                + self.tokens * a.projection.width()
                + 2 * self.frequencies.len()
        };
        ScratchSize { values: self.axes.iter().map(largest).max().unwrap_or(0), rows: 0 }
    }

    unsafe fn run(&self, item: usize, context: &Context<'_>, scratch: &mut Scratch) {
        let (person, dimension) = (item / 2, item % 2);
        let axis = &self.axes[dimension];
        let (tokens, half) = (self.tokens, self.frequencies.len());
        // SAFETY: selection is complete.
        let state = unsafe { context.state() };
        let survivor = &state.survivors[person];
        // SAFETY: rows are reserved for every survivor, and the input is complete.
        let f = unsafe {
            let row = state.rows[self.src.0].row(person).add(self.src.1);
            std::slice::from_raw_parts(row, tokens * self.dim)
        };
        let (centre, size) = (f64::from(survivor.center[dimension]), f64::from(survivor.size[dimension]));
        let from_grid = centre - f64::from(survivor.prior[dimension]);
        // A single bin is where the first of several would be.
        let step = size * self.padding / (axis.bins - 1).max(1) as f64;
        let centre = if axis.bins == 1 { centre - 0.5 * size * self.padding } else { centre };

        let (pitch, width) = (axis.pitch(), axis.projection.width());
        let (codes, rest) = scratch.values.split_at_mut(2 * half * pitch);
        let (projected, rest) = rest.split_at_mut(tokens * width);
        let (even, rest) = rest.split_at_mut(tokens * pitch);
        let (odd, rest) = rest.split_at_mut(tokens * pitch);
        let (cos, rest) = rest.split_at_mut(half);
        let sin = &mut rest[..half];
        self.simd.vectorize(Encode {
            frequencies: &self.frequencies,
            panels: &axis.panels,
            centred: !axis.bins.is_multiple_of(2),
            step,
            out: codes,
        });
        for ((w, cos), sin) in self.frequencies.iter().zip(&mut *cos).zip(&mut *sin) {
            let (y, x) = (w * from_grid).sin_cos();
            (*cos, *sin) = (x as f32, y as f32);
        }
        let row = |t: usize| f[t * self.dim..][..self.dim].as_ptr();
        let panels = 0..axis.projection.panels();
        // SAFETY: rows hold `dim` values, `projected` one of `width` for each token.
        unsafe { axis.projection.multiply(row, tokens, panels, projected.as_mut_ptr(), width) };
        for vector in projected.chunks_exact_mut(width) {
            self.simd.vectorize(Centre { cos, sin, vector: &mut vector[..2 * half] });
        }
        let mut weights = &*codes;
        for panel in &axis.panels {
            for (part, logits) in [&mut *even, &mut *odd].into_iter().enumerate() {
                let (panel_weights, rest) = weights.split_at(half * panel.vectors * S::LANES);
                weights = rest;
                tiles(tokens, max_rows::<S>(panel.vectors), |t0, height| {
                    let mut rows = [std::ptr::null(); MAX_ROWS];
                    for (r, p) in rows[..height].iter_mut().enumerate() {
                        *p = projected[(t0 + r) * width + part * half..][..half].as_ptr();
                    }
                    let out = logits[t0 * pitch + panel.c0..].as_mut_ptr();
                    // SAFETY: rows hold `half` values, the weights a panel of them; every token has `pitch` logits, which
                    // no panel exceeds.
                    unsafe {
                        self.microkernels.get(height, panel.vectors)(&Tile {
                            rows: rows.as_ptr(),
                            shift: 0,
                            segments: 1,
                            depth: half,
                            weights: panel_weights.as_ptr(),
                            later: panel_weights.as_ptr(),
                            init: std::ptr::null(),
                            addends: std::ptr::null(),
                            out,
                            pitch,
                        });
                    }
                });
            }
        }
        let logits = even.chunks_exact_mut(pitch).zip(odd.chunks_exact_mut(pitch));
        for (t, (even, odd)) in logits.enumerate() {
            let distance = self.simd.vectorize(Expect { even, odd, bins: axis.bins });
            // SAFETY: rows are reserved for every survivor; only this item writes this dimension of its keypoints. No
            // reference is made, since another item writes between these values.
            unsafe {
                let row = state.rows[self.dst.0].row(person).add(self.dst.1);
                *row.add(2 * t + dimension) = (centre + f64::from(distance) * step) as f32;
            }
            if context.options.heatmaps {
                let start = tokens * dimension * self.axes[0].bins + t * axis.bins;
                // SAFETY: reserved by selection; only this item writes its axis.
                let heat = unsafe {
                    std::slice::from_raw_parts_mut(state.heatmaps.row(person).add(start), axis.bins)
                };
                // A single bin in the centre is the first of `even` only.
                heat[axis.bins / 2..].copy_from_slice(&even[..axis.pairs()]);
                let left = heat[..axis.bins / 2].iter_mut().rev();
                left.zip(&odd[axis.bins % 2..]).for_each(|(heat, p)| *heat = *p);
            }
        }
    }
}
