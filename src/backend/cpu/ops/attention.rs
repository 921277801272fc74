//! Multi-head self-attention over the pixels of a small map: `softmax(q k^T) v`, head by head.
//!
//! Keys and values are packed first, as the weights of two matrix products; then blocks of queries run both products
//! with the softmax between them in thread-local scratch.

use crate::backend::cpu::math;
use crate::backend::cpu::memory::Map;
use crate::backend::cpu::micro::{MAX_ROWS, Micros, Tile, max_rows};
use crate::backend::cpu::pack::{Panel, panels, tiles};
use crate::backend::cpu::prepare::Builder;
use crate::backend::cpu::simd::{Kernel, Simd};
use crate::backend::cpu::work::{Context, Scratch, ScratchSize, Work};
use crate::plan::{Plan, View};

/// Queries an item.
const QUERIES: usize = 24;

/// Extents and memory that both phases share.
#[derive(Clone)]
pub struct Layout {
    /// `[q, k, v]`.
    pub qkv: Map,
    /// Output.
    pub dst: Map,
    /// Heads.
    pub heads: usize,
    /// Arena element of the packed keys and values, [`Layout::packed_len`] values.
    pub packed: usize,
}

impl Layout {
    fn head_dim(&self) -> usize {
        self.dst.c / self.heads
    }

    /// Values of one head's packed keys, then of its packed values.
    fn head_lens<S: Simd>(&self) -> (usize, usize) {
        let (t, d) = (self.qkv.pixels(), self.head_dim());
        (d * t.next_multiple_of(S::LANES), t * d.next_multiple_of(S::LANES))
    }

    /// Values that the packed keys and values of all heads take.
    pub fn packed_len<S: Simd>(&self) -> usize {
        let (k, v) = self.head_lens::<S>();
        self.heads * (k + v)
    }
}

/// Packs keys and values, an item a head.
pub struct Pack<S> {
    /// Token.
    pub simd: S,
    /// Shared extents.
    pub layout: Layout,
}

impl<S: Simd> Work for Pack<S> {
    unsafe fn items(&self, _: &Context<'_>) -> usize {
        self.layout.heads
    }

    unsafe fn run(&self, item: usize, context: &Context<'_>, _: &mut Scratch) {
        let Layout { qkv, dst, .. } = self.layout;
        let (t, d) = (qkv.pixels(), self.layout.head_dim());
        let (k_len, v_len) = self.layout.head_lens::<S>();
        // SAFETY: reads stay inside qkv; the packed region has room for every head, and only this item writes its.
        unsafe {
            let src = context.base.add(qkv.offset).cast_const();
            let mut out = context.base.add(self.layout.packed + item * (k_len + v_len));
            for panel in panels::<S>(t) {
                let width = panel.vectors * S::LANES;
                for j in 0..width {
                    // Behind the last panel's channels there is no key, and perhaps no memory.
                    let key = src.wrapping_add((panel.c0 + j) * qkv.pitch + dst.c + item * d);
                    for k in 0..d {
                        *out.add(k * width + j) = if j < panel.c { *key.add(k) } else { 0.0 };
                    }
                }
                out = out.add(d * width);
            }
            for panel in panels::<S>(d) {
                let width = panel.vectors * S::LANES;
                for k in 0..t {
                    let value = src.add(k * qkv.pitch + 2 * dst.c + item * d + panel.c0);
                    for j in 0..width {
                        *out.add(k * width + j) = if j < panel.c { *value.add(j) } else { 0.0 };
                    }
                }
                out = out.add(t * width);
            }
        }
    }
}

/// Attends, an item a block of queries of one head.
pub struct Attend<S> {
    simd: S,
    layout: Layout,
    keys: Vec<Panel>,
    channels: Vec<Panel>,
    micros: Micros,
}

impl<S: Simd> Attend<S> {
    /// Prepares for a layout.
    pub fn new(simd: S, layout: Layout) -> Attend<S> {
        let keys = panels::<S>(layout.qkv.pixels());
        let channels = panels::<S>(layout.head_dim());
        let widest = keys.iter().chain(&channels).map(|p| p.vectors).max().unwrap_or(0);
        Attend { simd, layout, keys, channels, micros: Micros::new(simd, widest) }
    }

    fn blocks(&self) -> usize {
        self.layout.qkv.pixels().div_ceil(QUERIES)
    }

    /// Values from a query's scores to the next.
    fn score_pitch(&self) -> usize {
        self.layout.qkv.pixels().next_multiple_of(S::LANES) + 16
    }

    fn out_pitch(&self) -> usize {
        self.layout.head_dim().next_multiple_of(S::LANES)
    }
}

/// `p = exp(x - max x)` over `n` values of a row; returns `1 / sum p`.
struct Softmax {
    row: *mut f32,
    n: usize,
}

impl Kernel for Softmax {
    type Output = f32;
    #[inline(always)]
    fn call<S: Simd>(self, s: S) -> f32 {
        let whole = self.n / S::LANES * S::LANES;
        // SAFETY: the row has `n` values and its pitch rounds them up to whole vectors.
        unsafe {
            for i in self.n..self.n.next_multiple_of(S::LANES) {
                *self.row.add(i) = f32::NEG_INFINITY;
            }
            let mut max = s.splat(f32::NEG_INFINITY);
            for i in (0..self.n).step_by(S::LANES) {
                max = s.max(max, s.load(self.row.add(i)));
            }
            let max = s.splat(s.reduce_max(max));
            let mut sum = s.splat(0.0);
            for i in (0..whole).step_by(S::LANES) {
                let p = math::exp(s, s.sub(s.load(self.row.add(i)), max));
                sum = s.add(sum, p);
                s.store(self.row.add(i), p);
            }
            let mut tail = 0.0;
            if whole < self.n {
                let p = math::exp(s, s.sub(s.load(self.row.add(whole)), max));
                s.store(self.row.add(whole), p);
                tail = (whole..self.n).map(|i| *self.row.add(i)).sum();
            }
            1.0 / (s.reduce_add(sum) + tail)
        }
    }
}

impl<S: Simd> Work for Attend<S> {
    unsafe fn items(&self, _: &Context<'_>) -> usize {
        self.layout.heads * self.blocks()
    }

    fn scratch(&self) -> ScratchSize {
        ScratchSize { values: QUERIES * (self.score_pitch() + self.out_pitch()), rows: 0 }
    }

    unsafe fn run(&self, item: usize, context: &Context<'_>, scratch: &mut Scratch) {
        let Layout { qkv, dst, .. } = self.layout;
        let (t, d) = (qkv.pixels(), self.layout.head_dim());
        let (head, block) = (item / self.blocks(), item % self.blocks());
        let (q0, q1) = (t * block / self.blocks(), t * (block + 1) / self.blocks());
        let (k_len, v_len) = self.layout.head_lens::<S>();
        let (score_pitch, out_pitch) = (self.score_pitch(), self.out_pitch());
        let scores = scratch.values.as_mut_ptr();
        // SAFETY: scratch holds QUERIES rows of scores and of results; all else lies inside the maps and the packed
        // region, which the phase before filled.
        unsafe {
            let results = scores.add(QUERIES * score_pitch);
            let packed = context.base.add(self.layout.packed + head * (k_len + v_len)).cast_const();
            let product = |panels: &[Panel],
                           mut weights: *const f32,
                           depth: usize,
                           row: &dyn Fn(usize) -> *const f32,
                           out: *mut f32,
                           pitch: usize| {
                for panel in panels {
                    tiles(q1 - q0, max_rows::<S>(panel.vectors), |first, height| {
                        let mut rows = [std::ptr::null(); MAX_ROWS];
                        for (r, p) in rows[..height].iter_mut().enumerate() {
                            *p = row(first + r);
                        }
                        self.micros.get(height, panel.vectors)(&Tile {
                            rows: rows.as_ptr(),
                            shift: 0,
                            segments: 1,
                            depth,
                            weights,
                            init: std::ptr::null(),
                            addends: std::ptr::null(),
                            out: out.add(first * pitch + panel.c0),
                            pitch,
                        });
                    });
                    weights = weights.add(depth * panel.vectors * S::LANES);
                }
            };
            let query =
                |r: usize| context.base.add(qkv.offset + (q0 + r) * qkv.pitch + head * d).cast_const();
            product(&self.keys, packed, d, &query, scores, score_pitch);
            let mut scale = [0.0; QUERIES];
            for (r, scale) in scale[..q1 - q0].iter_mut().enumerate() {
                *scale = self.simd.vectorize(Softmax { row: scores.add(r * score_pitch), n: t });
            }
            let weights = |r: usize| scores.add(r * score_pitch).cast_const();
            product(&self.channels, packed.add(k_len), t, &weights, results, out_pitch);
            for (r, scale) in scale[..q1 - q0].iter().enumerate() {
                let out = context.base.add(dst.offset + (q0 + r) * dst.pitch + head * d);
                for c in 0..d {
                    *out.add(c) = *results.add(r * out_pitch + c) * scale;
                }
            }
        }
    }
}

/// Adds the step's two phases.
pub(in crate::backend::cpu) fn prepare<S: Simd>(
    builder: &mut Builder<'_, S>,
    plan: &Plan,
    step: usize,
    (qkv, dst): (View, View),
    heads: usize,
) {
    let simd = builder.simd;
    let mut layout = Layout { qkv: builder.map(plan, qkv), dst: builder.map(plan, dst), heads, packed: 0 };
    layout.packed = builder.reserve(layout.packed_len::<S>());
    builder.push(step, "pack", Pack { simd, layout: layout.clone() });
    builder.push(step, "attend", Attend::new(simd, layout));
}
