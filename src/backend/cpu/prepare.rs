//! From a plan to phases of work: kernels chosen, weights packed, maps resolved.

use super::attention;
use super::bins::{self, BinDecode, block};
use super::direct::{self, Direct, Shape};
use super::epilogue::{Addend, Epilogue};
use super::gau::Gau;
use super::matrix::Matrix;
use super::memory::Map;
use super::pointwise::{Input, LayerNorm, PoolPyramid};
use super::simd::Simd;
use super::survivors::{Level, MAX_LEVELS, Select, SurvivorLinear};
use super::winograd::{self, Winograd};
use super::work::Work;
use crate::plan::{Arena, Conv, Op, Plan, PreAdd, TensorId, View};

/// A phase, and what the tables call its kernel.
pub struct Phase {
    /// Step of the plan that it belongs to.
    pub step: usize,
    /// Name of the kernel.
    pub kernel: &'static str,
    /// The work.
    pub work: Box<dyn Work>,
}

/// A prepared plan: phases in order, and how many values the arena takes.
pub struct Prepared {
    /// All phases of all steps.
    pub phases: Vec<Phase>,
    /// Values of the arena.
    pub arena_len: usize,
    /// The network input with its border, if the plan has one.
    pub input: Option<(View, Map, usize)>,
}

/// Values that kernels may read (never use) behind the last channel of a map.
pub const GUARD: usize = 16;

/// Chooses and packs kernels for every step. Weights are dropped from the plan as they are packed.
pub fn prepare<S: Simd>(simd: S, plan: &mut Plan, arena: &Arena, threads: usize) -> Prepared {
    let mut builder =
        Builder { simd, arena, threads, arena_len: arena.len, input: None, uses: uses(plan), phases: vec![] };
    for step in 0..plan.steps.len() {
        builder.step(plan, step);
    }
    Prepared { phases: builder.phases, arena_len: builder.arena_len, input: builder.input }
}

/// How often each tensor is used.
fn uses(plan: &Plan) -> Vec<usize> {
    let mut uses = vec![0; plan.tensors.len()];
    for step in &plan.steps {
        for id in step.op.tensors() {
            uses[id.0] += 1;
        }
    }
    uses
}

struct Builder<'a, S> {
    simd: S,
    arena: &'a Arena,
    threads: usize,
    arena_len: usize,
    input: Option<(View, Map, usize)>,
    uses: Vec<usize>,
    phases: Vec<Phase>,
}

impl<S: Simd> Builder<'_, S> {
    /// A tensor's values, for the last time if no later step uses it.
    fn take(&mut self, plan: &mut Plan, id: TensorId) -> Vec<f32> {
        self.uses[id.0] -= 1;
        let data = &mut plan.tensors[id.0].data;
        if self.uses[id.0] == 0 { std::mem::take(data) } else { data.clone() }
    }

    fn push(&mut self, step: usize, kernel: &'static str, work: impl Work + 'static) {
        self.phases.push(Phase { step, kernel, work: Box::new(work) });
    }

    fn reserve(&mut self, len: usize) -> usize {
        let at = self.arena_len;
        self.arena_len += (len + GUARD).next_multiple_of(16);
        at
    }

    fn step(&mut self, plan: &mut Plan, step: usize) {
        let simd = self.simd;
        match plan.steps[step].op.clone() {
            Op::Letterbox { dst } => {
                // A border of zeros, as wide as its reader pads, lets the reader take whole rows of taps at once.
                let border = plan.steps.iter().find_map(|s| match &s.op {
                    Op::Conv(c) if c.src.buffer == dst.buffer => Some(c.pad),
                    _ => None,
                });
                let border = border.unwrap_or(0);
                let (h, w) = plan.hw(dst);
                let (h, w) = (h + 2 * border, w + 2 * border);
                let offset = self.reserve(h * w * 3);
                let map = Map { offset, pitch: 3, h, w, c: 3 };
                self.input = Some((dst, map, border));
                self.push(step, "letterbox", Input { dst: map, border });
            }
            Op::Conv(conv) => self.conv(plan, step, &conv),
            Op::PoolPyramid { src, dst, window } => {
                let (src, dst) = (self.map(plan, src), self.map(plan, dst));
                self.push(step, "pool", PoolPyramid { simd, src, dst, window });
            }
            Op::Attention { qkv, dst, heads } => {
                let mut layout = attention::Layout {
                    qkv: self.map(plan, qkv),
                    dst: self.map(plan, dst),
                    heads,
                    packed: 0,
                };
                layout.packed = self.reserve(layout.packed_len::<S>());
                self.push(step, "pack", attention::Pack { simd, layout: layout.clone() });
                self.push(step, "attend", attention::Attend::new(simd, layout));
            }
            Op::LayerNorm { src, dst, gamma, beta, eps } => {
                let (src, dst) = (self.map(plan, src), self.map(plan, dst));
                let (gamma, beta) = (block(&self.take(plan, gamma)), block(&self.take(plan, beta)));
                self.push(step, "layer norm", LayerNorm { simd, src, dst, gamma, beta, eps });
            }
            Op::Select { levels } => {
                assert!(levels.len() <= MAX_LEVELS, "a head of {} levels", levels.len());
                let level = |l: &crate::plan::GridLevel| Level {
                    cls: self.map(plan, l.cls),
                    bbox: self.map(plan, l.bbox),
                    stride: l.stride,
                };
                let levels = levels.iter().map(level).collect();
                self.push(step, "select", Select { levels });
            }
            Op::SurvivorLinear { src, weight, bias, dst } => {
                let mut levels = Vec::new();
                for ((src, weight), bias) in src.into_iter().zip(weight).zip(bias) {
                    let (weight, bias) = (self.take(plan, weight), self.take(plan, bias));
                    levels.push((self.map(plan, src), Matrix::new(simd, &weight, src.c, Some(&bias))));
                }
                self.push(step, "rows", SurvivorLinear { levels, dst: dst.buffer.0, c0: dst.c0 });
            }
            Op::Gau(g) => {
                let mut take = |id| block(&self.take(plan, id));
                let (q, k) = ((take(g.q_gain), take(g.q_bias)), (take(g.k_gain), take(g.k_bias)));
                let (uv, out, norm) = (take(g.uv), take(g.out), take(g.norm_gain));
                let gau = Gau {
                    simd,
                    src: (g.src.buffer.0, g.src.c0),
                    dst: (g.dst.buffer.0, g.dst.c0),
                    tokens: g.tokens,
                    dim: g.dim,
                    expansion: g.expansion,
                    key_dim: g.key_dim,
                    norm_gain: norm[0],
                    uv: Matrix::new(simd, &uv, g.dim, None),
                    q,
                    k,
                    out: Matrix::new(simd, &out, g.expansion, None),
                    residual_gain: take(g.residual_gain),
                };
                self.push(step, "gau", gau);
            }
            Op::BinDecode(d) => {
                let axes = [d.x, d.y]
                    .map(|axis| bins::Axis::new(simd, axis.bins, &self.take(plan, axis.weight), d.dim));
                let (src, dst) = ((d.src.buffer.0, d.src.c0), (d.dst.buffer.0, d.dst.c0));
                let decode =
                    BinDecode::new(simd, src, dst, d.tokens, d.dim, d.pe_dim, d.temperature, d.padding, axes);
                self.push(step, "bins", decode);
            }
        }
    }

    /// A view of a map, resolved; the network input is a map of its own, with a border.
    fn map(&self, plan: &Plan, view: View) -> Map {
        match self.input {
            Some((input, map, border)) if view.buffer == input.buffer => {
                assert!(border == 0, "only the stem reads the network input");
                map
            }
            _ => Map::new(plan, self.arena, view),
        }
    }

    fn conv(&mut self, plan: &mut Plan, step: usize, conv: &Conv) {
        let (weight, bias) = (self.take(plan, conv.weight), self.take(plan, conv.bias));
        let pre = match conv.pre_add {
            PreAdd::None => Addend::None,
            PreAdd::Same(view) => Addend::Same(self.map(plan, view)),
            PreAdd::Upsampled(view) => Addend::Upsampled(self.map(plan, view)),
            PreAdd::Table(id) => Addend::Table(block(&self.take(plan, id))),
        };
        let dst = self.map(plan, conv.dst);
        let epilogue =
            Epilogue { dst, pre, act: conv.act, post: conv.post_add.map(|view| self.map(plan, view)) };
        let mut shape =
            Shape { kernel: conv.kernel, stride: conv.stride, pad: conv.pad, groups: conv.groups };
        let src = match self.input {
            // The border takes the padding's place.
            Some((input, map, border)) if input.buffer == conv.src.buffer && border == conv.pad => {
                shape.pad = 0;
                map
            }
            _ => self.map(plan, conv.src),
        };
        let simd = self.simd;
        let plain = shape == Shape { kernel: 3, stride: 1, pad: 1, groups: 1 };
        if plain && src.c.is_multiple_of(S::LANES) {
            let cut = self.winograd_cut(&src, &dst);
            self.push(step, "winograd", Winograd::new(simd, src, &weight, &bias, epilogue, cut));
        } else {
            let kernel = match (shape.kernel, shape.groups) {
                (1, _) => "1x1",
                (_, 1) => "direct",
                _ => "grouped",
            };
            let cut = self.direct_cut(&dst, weight.len());
            self.push(step, kernel, Direct::new(simd, src, shape, &weight, &bias, epilogue, cut));
        }
    }

    /// Blocks of patches whose transformed input stays in a core's second-level cache beside the weights that stream
    /// through it, an even share of them for each thread. Small maps are cut by output channels too, so that each
    /// thread reads only its part of the weights.
    fn winograd_cut(&self, src: &Map, dst: &Map) -> winograd::Cut {
        let patches = dst.h.div_ceil(4) * dst.w.div_ceil(4);
        let cached = (220 * 1024 / (36 * 4 * src.c)).clamp(12, 24);
        if patches <= 25 {
            return winograd::Cut {
                patches: if src.c > 256 { 25 } else { 13 },
                ranges: self.threads.min(dst.c / 32).max(1),
            };
        }
        let blocks = patches.div_ceil(cached).next_multiple_of(self.threads);
        winograd::Cut { patches: patches.div_ceil(blocks), ranges: 1 }
    }

    fn direct_cut(&self, dst: &Map, weights: usize) -> direct::Cut {
        let pixels = dst.pixels();
        // Weights beyond a quarter of a mebivalue: each thread takes its own output channels.
        let ranges = if weights > 1 << 18 { (2 * self.threads).min(dst.c / 32).max(1) } else { 1 };
        let blocks = pixels.div_ceil(96).next_multiple_of(self.threads);
        direct::Cut { pixels: pixels.div_ceil(blocks), ranges }
    }
}
