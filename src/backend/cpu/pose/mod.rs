//! The operations that only a pose network has: the photo to the network input, and the head's maps to people.

pub mod bins;
pub mod gau;
pub mod letterbox;
pub mod select;
pub mod survivor_linear;

use super::matrix::Matrix;
use super::memory::{Block, Map};
use super::prepare::Builder;
use super::simd::Simd;
use crate::plan::{GridLevel, Op, Plan, Pose};
use bins::BinDecode;
use gau::Gau;
use letterbox::Input;
use select::{Level, Select};
use survivor_linear::SurvivorLinear;

impl<S: Simd> Builder<'_, S> {
    /// Prepares one of these operations.
    pub(super) fn pose(&mut self, plan: &mut Plan, step: usize, pose: Pose) {
        let simd = self.simd.f32();
        match pose {
            Pose::Letterbox { dst } => {
                // With a border of zeros as wide as its reader's padding, the reader takes whole rows of taps as segments.
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
            Pose::Select { levels } => {
                let level = |l: &GridLevel| Level {
                    cls: self.map(plan, l.cls),
                    bbox: self.map(plan, l.bbox),
                    stride: l.stride,
                };
                let levels = levels.iter().map(level).collect();
                self.push(step, "select", Select { levels });
            }
            Pose::SurvivorLinear { src, weight, bias, dst } => {
                let mut levels = Vec::new();
                for ((src, weight), bias) in src.into_iter().zip(weight).zip(bias) {
                    let (weight, bias) = (self.take(plan, weight), self.take(plan, bias));
                    levels.push((self.map(plan, src), Matrix::new(simd, &weight, src.c, Some(&bias))));
                }
                self.push(step, "rows", SurvivorLinear { levels, dst: dst.buffer.0, c0: dst.c0 });
            }
            Pose::Gau(g) => {
                let mut take = |id| Block::from_slice(&self.take(plan, id));
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
            Pose::BinDecode(d) => {
                let axes = [d.x, d.y]
                    .map(|axis| bins::Axis::new(simd, axis.bins, &self.take(plan, axis.weight), d.dim));
                self.push(step, "bins", BinDecode::new(simd, &d, axes));
            }
        }
    }
}
