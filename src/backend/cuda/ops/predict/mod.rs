//! 1x1 convolutions with few outputs, kept in fp32: `predict.cu`.

mod params;

use self::params::{PREDICT_STEPS, PredictLaunch, PredictStep};
use super::{Operation, Supported, aligned, require};
use crate::backend::cuda::launch::{Kernel, Launch};
use crate::backend::cuda::lower::Lowering;
use crate::error::Result;
use crate::plan::{Act, Conv, DType, Op, Plan, PreAdd};

pub struct Predict;

const KERNEL: Kernel = Kernel { file: "predict", name: "predict" };

/// Whether a convolution belongs here: its output stays in f32.
pub fn is(plan: &Plan, c: &Conv) -> bool {
    plan.buffer_of(c.dst).dtype == DType::F32
}

impl Operation for Predict {
    fn supports(&self, plan: &Plan, op: &Op) -> Supported {
        let Op::Conv(c) = op else { unreachable!("see ops::of") };
        aligned(plan, c.src)?;
        require(c.src.c.is_multiple_of(8), || {
            format!("{} input channels, expected a multiple of 8", c.src.c)
        })?;
        let whole = c.dst.c0 == 0 && c.dst.c == plan.buffer_of(c.dst).c;
        let plain = (c.kernel, c.stride, c.groups) == (1, 1, 1) && c.act == Act::None;
        let alone = c.pre_add == PreAdd::None && c.post_add.is_none();
        require(plain && alone && whole && c.dst.c <= 4, || {
            format!("{} output channels in f32, expected a plain 1x1 with up to 4", c.dst.c)
        })
    }

    fn most(&self) -> usize {
        PREDICT_STEPS
    }

    fn together(&self, plan: &Plan, _: &Op, other: &Op) -> bool {
        matches!(other, Op::Conv(c) if is(plan, c))
    }

    fn launch(&self, cx: &mut Lowering<'_>, steps: &[usize]) -> Result<Launch> {
        let plan = cx.plan;
        let images = cx.workspace.images;
        let mut params = PredictLaunch {
            image: cx.image(),
            steps: steps.len() as i32,
            images: images as i32,
            ..PredictLaunch::default()
        };
        let mut blocks = 0;
        for (&step, slot) in steps.iter().zip(&mut params.step) {
            let Op::Conv(c) = cx.op(step) else { unreachable!("see ops::of") };
            let pixels = plan.buffer_of(c.src).extent.pixels();
            *slot = PredictStep {
                src: cx.address(c.src),
                weight: cx.constants.halves(plan, c.weight)?,
                bias: cx.constants.floats(plan, c.bias, c.dst.c)?,
                dst: cx.address(c.dst),
                src_pitch: cx.pitch(c.src),
                dst_pitch: cx.pitch(c.dst),
                pixels: pixels as i32,
                cin: c.src.c as i32,
                cout: c.dst.c as i32,
                first_block: blocks,
            };
            blocks += pixels.div_ceil(32) as i32;
        }
        Ok(Launch::new(KERNEL, [blocks as u32, images as u32, 1], 256, params, steps))
    }
}
