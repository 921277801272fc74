//! Max pooling with a stride: `max_pool.cu`.

mod params;

use self::params::MaxPoolLaunch;
use super::{Operation, Supported, aligned, require};
use crate::backend::cuda::launch::{Kernel, Launch};
use crate::backend::cuda::lower::Lowering;
use crate::error::Result;
use crate::plan::{Op, Plan};

pub struct MaxPool;

const KERNEL: Kernel = Kernel { file: "max_pool", name: "max_pool" };
const THREADS: u32 = 256;

impl Operation for MaxPool {
    fn supports(&self, plan: &Plan, op: &Op) -> Supported {
        let Op::MaxPool { src, dst, .. } = op else { unreachable!("see ops::of") };
        aligned(plan, *src)?;
        aligned(plan, *dst)?;
        require(src.c.is_multiple_of(8), || format!("{} channels, expected a multiple of 8", src.c))
    }

    fn launch(&self, cx: &mut Lowering<'_>, steps: &[usize]) -> Result<Launch> {
        let Op::MaxPool { src, dst, window, stride, pad } = cx.op(steps[0]) else {
            unreachable!("see ops::of")
        };
        let ((h, w), (oh, ow)) = (cx.plan.hw(*src), cx.plan.hw(*dst));
        let params = MaxPoolLaunch {
            src: cx.address(*src),
            dst: cx.address(*dst),
            image: cx.image(),
            src_pitch: cx.pitch(*src),
            dst_pitch: cx.pitch(*dst),
            h: h as i32,
            w: w as i32,
            oh: oh as i32,
            ow: ow as i32,
            c: src.c as i32,
            window: *window as i32,
            stride: *stride as i32,
            pad: *pad as i32,
            images: cx.workspace.images as i32,
            reserved: 0,
        };
        // a thread takes 8 channels of an output pixel
        let threads = oh * ow * (src.c / 8);
        let grid = [threads.div_ceil(THREADS as usize) as u32, cx.workspace.images as u32, 1];
        Ok(Launch::new(KERNEL, grid, THREADS, params, steps))
    }
}
