//! Multi-head self-attention over the pixels of a map: `attention.cu`.

mod params;

use self::params::{ATTENTION_CHUNK, ATTENTION_QUERIES, ATTENTION_SLICES, AttentionLaunch, HEAD_DIM};
use super::{Operation, Supported, aligned, require};
use crate::backend::cuda::launch::{Kernel, Launch};
use crate::backend::cuda::lower::Lowering;
use crate::error::Result;
use crate::plan::{Op, Plan};

pub struct Attention;

const KERNEL: Kernel = Kernel { file: "attention", name: "attention" };

impl Operation for Attention {
    fn supports(&self, plan: &Plan, op: &Op) -> Supported {
        let Op::Attention { qkv, dst, heads } = op else { unreachable!("see ops::of") };
        aligned(plan, *qkv)?;
        aligned(plan, *dst)?;
        require(dst.c == heads * HEAD_DIM, || {
            format!("{} channels in {heads} heads, expected {HEAD_DIM} each", dst.c)
        })
    }

    fn launch(&self, cx: &mut Lowering<'_>, steps: &[usize]) -> Result<Launch> {
        let Op::Attention { qkv, dst, heads } = cx.op(steps[0]) else { unreachable!("see ops::of") };
        let (h, w) = cx.plan.hw(*qkv);
        let tokens = h * w;
        let params = AttentionLaunch {
            qkv: cx.address(*qkv),
            dst: cx.address(*dst),
            image: cx.image(),
            qkv_pitch: cx.pitch(*qkv),
            dst_pitch: cx.pitch(*dst),
            tokens: tokens as i32,
            heads: *heads as i32,
            images: cx.workspace.images as i32,
            reserved: 0,
        };
        // queries, keys and values in planes of 8 channels; over them, later, each slice's sums of the queries
        let planes = HEAD_DIM / 8;
        let slots = tokens.next_multiple_of(16).min(ATTENTION_CHUNK) | 1;
        let loads = planes * (ATTENTION_QUERIES | 1) * 16 + 2 * planes * slots * 16;
        let sums = ATTENTION_SLICES * ATTENTION_QUERIES * (HEAD_DIM + 4) * 4;
        let grid = [tokens.div_ceil(ATTENTION_QUERIES) as u32, *heads as u32, cx.workspace.images as u32];
        let shared = loads.max(sums) as u32;
        Ok(Launch { shared, ..Launch::new(KERNEL, grid, 256, params, steps) })
    }
}
