//! LayerNorm over the channels of each pixel: `layer_norm.cu`.

mod params;

use self::params::{LAYER_NORM_CHANNELS, LayerNormLaunch};
use super::{Operation, Supported, aligned, require};
use crate::backend::cuda::launch::{Kernel, Launch};
use crate::backend::cuda::lower::Lowering;
use crate::error::Result;
use crate::plan::{Op, Plan};

pub struct LayerNorm;

const KERNEL: Kernel = Kernel { file: "layer_norm", name: "layer_norm" };

impl Operation for LayerNorm {
    fn supports(&self, plan: &Plan, op: &Op) -> Supported {
        let Op::LayerNorm { src, dst, .. } = op else { unreachable!("see ops::of") };
        aligned(plan, *src)?;
        aligned(plan, *dst)?;
        let most = LAYER_NORM_CHANNELS;
        require(src.c % 8 == 0 && src.c <= most, || format!("{} channels, expected 8, 16, .. {most}", src.c))
    }

    fn launch(&self, cx: &mut Lowering<'_>, steps: &[usize]) -> Result<Launch> {
        let plan = cx.plan;
        let Op::LayerNorm { src, dst, gamma, beta, eps } = cx.op(steps[0]) else {
            unreachable!("see ops::of")
        };
        let pixels = plan.buffer_of(*src).extent.pixels();
        let params = LayerNormLaunch {
            src: cx.address(*src),
            dst: cx.address(*dst),
            gamma: cx.constants.floats(plan, *gamma, src.c)?,
            beta: cx.constants.floats(plan, *beta, src.c)?,
            image: cx.image(),
            src_pitch: cx.pitch(*src),
            dst_pitch: cx.pitch(*dst),
            pixels: pixels as i32,
            c: src.c as i32,
            images: cx.workspace.images as i32,
            eps: *eps,
        };
        // a warp a pixel
        let grid = [pixels.div_ceil(4) as u32, cx.workspace.images as u32, 1];
        Ok(Launch::new(KERNEL, grid, 128, params, steps))
    }
}
