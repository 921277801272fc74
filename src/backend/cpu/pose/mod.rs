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
use crate::plan::{Conv, GridLevel, Op, Plan, Pose, View};
use bins::BinDecode;
use gau::Gau;
use letterbox::{Layout, Letterboxed, NetworkInput};
use select::{Level, Select};
use survivor_linear::SurvivorLinear;

impl<S: Simd> Builder<'_, S> {
    /// Makes room for the network input, in the layout that its reader computes fastest from.
    fn network_input(&mut self, plan: &Plan, view: View) -> NetworkInput {
        let reader = plan.steps.iter().find_map(|step| match &step.op {
            Op::Conv(conv) if conv.src.buffer == view.buffer => Some(conv),
            _ => None,
        });
        let (h, w) = plan.hw(view);
        // A tile unit is faster than Winograd's algorithm in f32.
        let cells = matches!(reader, Some(Conv { kernel: 6, stride: 2, pad: 2, groups: 1, .. }))
            && (h % 2, w % 2) == (0, 0);
        let (layout, h, w, c) = if cells && self.unit.is_none() {
            (Layout::Cells, h / 2, w / 2, 12)
        } else {
            // With the reader's padding as a border, the reader takes whole rows of taps as segments.
            let border = reader.map_or(0, |conv| conv.pad);
            (Layout::Bordered { border }, h + 2 * border, w + 2 * border, 3)
        };
        NetworkInput { view, map: Map { offset: self.reserve(h * w * c), pitch: c, h, w, c }, layout }
    }

    /// Prepares one of these operations.
    pub(super) fn pose(&mut self, plan: &mut Plan, step: usize, pose: Pose) {
        let simd = self.simd.f32();
        match pose {
            Pose::Letterbox { dst } => {
                let input = self.network_input(plan, dst);
                self.input = Some(input);
                self.push(step, "letterbox", Letterboxed(input));
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
