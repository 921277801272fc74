//! The Gated Attention Unit over a person's keypoint tokens: `gau.cu`.

mod params;

use self::params::{GAU_BYTES, GauLaunch};
use super::params::MAX_TOKENS;
use crate::backend::cuda::launch::{Kernel, Launch};
use crate::backend::cuda::lower::Lowering;
use crate::backend::cuda::ops::{Operation, Supported, require};
use crate::error::Result;
use crate::plan::{Op, Plan, Pose};

pub struct GatedAttentionUnit;

const KERNEL: Kernel = Kernel { file: "gau", name: "gau" };

impl Operation for GatedAttentionUnit {
    fn supports(&self, _: &Plan, op: &Op) -> Supported {
        let Op::Pose(Pose::Gau(g)) = op else { unreachable!("see pose::of") };
        let (d, e, s) = (g.dim, g.expansion, g.key_dim);
        require((d, e, s) == (128, 256, 128), || {
            format!("d = {d}, e = {e}, s = {s}, expected 128, 256, 128")
        })?;
        require(g.src.c0 % 4 == 0 && g.dst.c0 % 4 == 0, || "rows that are not aligned".into())?;
        require(g.tokens <= MAX_TOKENS, || format!("{} keypoints, expected at most {MAX_TOKENS}", g.tokens))
    }

    fn launch(&self, cx: &mut Lowering<'_>, steps: &[usize]) -> Result<Launch> {
        let plan = cx.plan;
        let Op::Pose(Pose::Gau(g)) = cx.op(steps[0]) else { unreachable!("see pose::of") };
        let caps = cx.constants.gpu.caps();
        // the constants of u, v, q and k too, if there is room for them
        let weights = (2 * g.expansion + g.key_dim) * g.dim * 2;
        let constants = weights + 2 * g.tokens * g.key_dim * 4;
        let staged = GAU_BYTES + constants <= caps.shared as usize;
        let shared = (GAU_BYTES + if staged { constants } else { 0 }) as u32;
        let workspace = cx.workspace;
        let params = GauLaunch {
            src: cx.address(g.src),
            dst: cx.address(g.dst),
            uv: cx.constants.fragments(plan, g.uv)?,
            out: cx.constants.fragments(plan, g.out)?,
            q_gain: cx.constants.floats(plan, g.q_gain, g.key_dim)?,
            q_bias: cx.constants.floats(plan, g.q_bias, g.tokens * g.key_dim)?,
            k_gain: cx.constants.floats(plan, g.k_gain, g.key_dim)?,
            k_bias: cx.constants.floats(plan, g.k_bias, g.tokens * g.key_dim)?,
            residual_gain: cx.constants.floats(plan, g.residual_gain, g.dim)?,
            counts: workspace.counts,
            norm_gain: plan.tensors[g.norm_gain.0].data[0],
            tokens: g.tokens as i32,
            src_pitch: cx.pitch(g.src),
            dst_pitch: cx.pitch(g.dst),
            capacity: workspace.capacity as i32,
            images: workspace.images as i32,
            staged: i32::from(staged),
            reserved: 0,
        };
        let depth = workspace.images as u32;
        let grid = [(workspace.capacity as u32).min(caps.sms.div_ceil(depth).max(4)), depth, 1];
        Ok(Launch { shared, ..Launch::new(KERNEL, grid, 256, params, steps) })
    }
}
