//! The Dynamic Coordinate Classifier: bins, dot products, softmax and integral of one survivor and axis at a time;
//! see [`crate::plan::BinDecode`] for the maths.
//!
//! The bins of an axis lie in pairs around the box centre, `x = c - g +- d_p` with `d_p = (p + 1/2) h` (`p h` where their number
//! is odd). So a keypoint's turned vector `r = W^T f` is first rotated to the centre: with `w_j = 1 / T_j`,
//!
//! ```text
//! a_j = r_j cos(w_j (c - g)) + s_j sin(w_j (c - g))      r_j, s_j: r's factors of cos and sin at frequency j
//! b_j = s_j cos(w_j (c - g)) - r_j sin(w_j (c - g))
//! even(d) = sum_j a_j cos(w_j d),   odd(d) = sum_j b_j sin(w_j d),   logit(c - g +- d) = even(d) +- odd(d),
//! ```
//!
//! which halves codes and products. The distances are equally spaced, so the code of one is the rotation of an earlier one's:
//! a vector holds `LANES` neighbouring pairs, and the next vector is it, rotated by `LANES h`. Starting points and rotations are
//! computed in f64, so a chain of at most 32 rotations stays within a few units of f32 rounding.

use crate::backend::cpu::math;
use crate::backend::cpu::matrix::Matrix;
use crate::backend::cpu::micro::{MAX_ROWS, Micros, Tile, max_rows};
use crate::backend::cpu::pack::{Panel, panels, tiles};
use crate::backend::cpu::simd::{Kernel, Simd};
use crate::backend::cpu::work::{Context, Scratch, ScratchSize, Work};
use crate::plan;

/// One axis, prepared.
pub struct Axis<S> {
    /// Bins.
    pub bins: usize,
    /// `W^T`: turns keypoint vectors onto the encodings.
    pub turn: Matrix<S>,
    panels: Vec<Panel>,
}

impl<S: Simd> Axis<S> {
    /// Prepares an axis whose `weight` is `[pe_dim, dim]`.
    pub fn new(simd: S, bins: usize, weight: &[f32], dim: usize) -> Axis<S> {
        Axis { bins, turn: Matrix::new(simd, weight, dim, None), panels: panels::<S>(bins.div_ceil(2)) }
    }

    /// Pairs of bins; of an odd number of bins, the first pair is one.
    fn pairs(&self) -> usize {
        self.bins.div_ceil(2)
    }

    fn pitch(&self) -> usize {
        self.pairs().next_multiple_of(S::LANES)
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

/// `cos(w_j d_p)` and `sin(w_j d_p)` of all pairs of an axis, packed as the weights of two products:
/// `[panel][2 * frequencies][panel width]`.
struct Encode<'a> {
    frequencies: &'a [f64],
    panels: &'a [Panel],
    /// The first distance is 0, not half a bin.
    centred: bool,
    step: f64,
    out: *mut f32,
}

impl Kernel for Encode<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let half = self.frequencies.len();
        for (j, &w) in self.frequencies.iter().enumerate() {
            // LANES codes in f64, the first 1, 2, 4 .. rotated to the next as many, then whole vectors by rotating in f32.
            let (half_sin, half_cos) = (0.5 * w * self.step).sin_cos();
            let doubled = |sin: f64, cos: f64| (2.0 * sin * cos, 1.0 - 2.0 * sin * sin);
            let (mut turn_sin, mut turn_cos) = doubled(half_sin, half_cos);
            let (mut cos, mut sin) = ([1f64; 16], [0f64; 16]);
            if !self.centred {
                (cos[0], sin[0]) = (half_cos, half_sin);
            }
            let mut n = 1;
            while n < S::LANES {
                for i in 0..n {
                    cos[n + i] = cos[i] * turn_cos - sin[i] * turn_sin;
                    sin[n + i] = sin[i] * turn_cos + cos[i] * turn_sin;
                }
                (turn_sin, turn_cos) = doubled(turn_sin, turn_cos);
                n *= 2;
            }
            let (cos, sin) = (cos.map(|v| v as f32), sin.map(|v| v as f32));
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

/// Softmax and expectation of one keypoint's logits; leaves the probabilities of the bins to the right of the centre in `even`, of
/// those to its left in `odd`.
struct Expect {
    even: *mut f32,
    odd: *mut f32,
    bins: usize,
}

impl Kernel for Expect {
    /// Expected position relative to the centre, in bin widths.
    type Output = f32;
    #[inline(always)]
    fn call<S: Simd>(self, s: S) -> f32 {
        let (n, single) = (self.bins.div_ceil(2), self.bins % 2);
        // SAFETY: the rows are padded to whole vectors.
        unsafe {
            let load = |row: *mut f32, i: usize| s.load(row.add(i));
            // What is no bin in the vector at i: padding, and on the left side (1) the twin of a single bin in the centre.
            let absent = |side: usize, i: usize| (i..single * side).chain(n.max(i)..i + S::LANES);
            let mut max = s.splat(f32::NEG_INFINITY);
            for i in (0..n).step_by(S::LANES) {
                let (e, o) = (load(self.even, i), load(self.odd, i));
                let sides = [s.add(e, o), s.sub(e, o)];
                for (side, (row, logits)) in [self.even, self.odd].into_iter().zip(sides).enumerate() {
                    s.store(row.add(i), logits);
                    for p in absent(side, i) {
                        *row.add(p) = f32::NEG_INFINITY;
                    }
                    max = s.max(max, load(row, i));
                }
            }
            let max = s.splat(s.reduce_max(max));
            let lanes: [f32; 16] = std::array::from_fn(|i| i as f32 + 0.5 * (1 - single) as f32);
            let mut distance = s.load(lanes.as_ptr());
            let (mut sum, mut moment) = (s.splat(0.0), s.splat(0.0));
            for i in (0..n).step_by(S::LANES) {
                for (side, row) in [self.even, self.odd].into_iter().enumerate() {
                    let p = math::exp(s, s.sub(load(row, i), max));
                    s.store(row.add(i), p);
                    // exp flushes to a tiny number, not to zero: what is no bin must not count.
                    for p in absent(side, i) {
                        *row.add(p) = 0.0;
                    }
                }
                let (right, left) = (load(self.even, i), load(self.odd, i));
                sum = s.add(sum, s.add(right, left));
                moment = s.mul_add(s.sub(right, left), distance, moment);
                distance = s.add(distance, s.splat(S::LANES as f32));
            }
            let sum = s.reduce_add(sum);
            let scale = s.splat(1.0 / sum);
            for i in (0..n).step_by(S::LANES) {
                for row in [self.even, self.odd] {
                    s.store(row.add(i), s.mul(load(row, i), scale));
                }
            }
            s.reduce_add(moment) / sum
        }
    }
}

/// Rotates turned keypoint vectors `[r, s]` to `[a, b]`.
struct Centre<'a> {
    cos: &'a [f32],
    sin: &'a [f32],
    vector: *mut f32,
}

impl Kernel for Centre<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, _: S) {
        let half = self.cos.len();
        // SAFETY: the vector has `2 * half` values, which nobody else touches meanwhile.
        let (r, s) = unsafe { std::slice::from_raw_parts_mut(self.vector, 2 * half) }.split_at_mut(half);
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
                + self.tokens * a.turn.width()
                + 2 * self.frequencies.len()
        };
        ScratchSize { values: self.axes.iter().map(largest).max().unwrap_or(0), rows: 0 }
    }

    unsafe fn run(&self, item: usize, context: &Context<'_>, scratch: &mut Scratch) {
        let (person, dimension) = (item / 2, item % 2);
        let axis = &self.axes[dimension];
        let (tokens, half) = (self.tokens, self.frequencies.len());
        // SAFETY: selection is complete and rows are reserved; scratch is laid out as `scratch` counts it; the two
        // axes of a survivor write different values.
        unsafe {
            let state = context.state();
            let survivor = &state.survivors[person];
            let f = state.rows[self.src.0].row(person).add(self.src.1).cast_const();
            let out = state.rows[self.dst.0].row(person).add(self.dst.1);
            let (centre, size) = (f64::from(survivor.center[dimension]), f64::from(survivor.size[dimension]));
            let from_grid = centre - f64::from(survivor.prior[dimension]);
            // A single bin lies at the first place.
            let step = size * self.padding / (axis.bins - 1).max(1) as f64;
            let centre = if axis.bins == 1 { centre - 0.5 * size * self.padding } else { centre };

            let codes = scratch.values.as_mut_ptr();
            let turned = codes.add(2 * half * axis.pitch());
            let even = turned.add(tokens * axis.turn.width());
            let odd = even.add(tokens * axis.pitch());
            let middle = std::slice::from_raw_parts_mut(odd.add(tokens * axis.pitch()), 2 * half);
            self.simd.vectorize(Encode {
                frequencies: &self.frequencies,
                panels: &axis.panels,
                centred: !axis.bins.is_multiple_of(2),
                step,
                out: codes,
            });
            let (cos, sin) = middle.split_at_mut(half);
            for ((w, cos), sin) in self.frequencies.iter().zip(&mut *cos).zip(&mut *sin) {
                let (y, x) = (w * from_grid).sin_cos();
                (*cos, *sin) = (x as f32, y as f32);
            }
            let width = axis.turn.width();
            axis.turn.multiply(|t| f.add(t * self.dim), tokens, 0..axis.turn.panels(), turned, width);
            for t in 0..tokens {
                self.simd.vectorize(Centre { cos, sin, vector: turned.add(t * width) });
            }
            let mut weights = codes.cast_const();
            for panel in &axis.panels {
                for (part, logits) in [even, odd].into_iter().enumerate() {
                    tiles(tokens, max_rows::<S>(panel.vectors), |t0, height| {
                        let mut rows = [std::ptr::null(); MAX_ROWS];
                        for (r, p) in rows[..height].iter_mut().enumerate() {
                            *p = turned.add((t0 + r) * width + part * half).cast_const();
                        }
                        self.micros.get(height, panel.vectors)(&Tile {
                            rows: rows.as_ptr(),
                            shift: 0,
                            segments: 1,
                            depth: half,
                            weights,
                            init: std::ptr::null(),
                            addends: std::ptr::null(),
                            out: logits.add(t0 * axis.pitch() + panel.c0),
                            pitch: axis.pitch(),
                        });
                    });
                    weights = weights.add(half * panel.vectors * S::LANES);
                }
            }
            for t in 0..tokens {
                let (even, odd) = (even.add(t * axis.pitch()), odd.add(t * axis.pitch()));
                let distance = self.simd.vectorize(Expect { even, odd, bins: axis.bins });
                *out.add(2 * t + dimension) = (centre + f64::from(distance) * step) as f32;
                if context.options.heatmaps {
                    let start = tokens * dimension * self.axes[0].bins + t * axis.bins;
                    let heat = state.heatmaps.row(person).add(start);
                    let (right, left) = (axis.bins / 2, (axis.bins - 1) / 2);
                    for p in 0..axis.pairs() {
                        *heat.add(right + p) = *even.add(p);
                        if left - p != right + p {
                            *heat.add(left - p) = *odd.add(p);
                        }
                    }
                }
            }
        }
    }
}
