//! The spatial pyramid of max pools: `pool_pyramid.cu`.

mod params;

use self::params::PoolPyramidLaunch;
use super::{Operation, Supported, aligned, require};
use crate::backend::cuda::launch::{Kernel, Launch};
use crate::backend::cuda::lower::Lowering;
use crate::error::Result;
use crate::plan::{Op, Plan};

pub struct PoolPyramid;

const KERNEL: Kernel = Kernel { file: "pool_pyramid", name: "pool_pyramid" };

impl Operation for PoolPyramid {
    fn supports(&self, plan: &Plan, op: &Op) -> Supported {
        let Op::PoolPyramid { src, dst, window } = op else { unreachable!("see ops::of") };
        aligned(plan, *src)?;
        aligned(plan, *dst)?;
        require(src.c % 8 == 0 && window % 2 == 1, || format!("{} channels, window {window}", src.c))
    }

    fn launch(&self, cx: &mut Lowering<'_>, steps: &[usize]) -> Result<Launch> {
        let Op::PoolPyramid { src, dst, window } = cx.op(steps[0]) else { unreachable!("see ops::of") };
        let (h, w) = cx.plan.hw(*src);
        let params = PoolPyramidLaunch {
            src: cx.address(*src),
            dst: cx.address(*dst),
            image: cx.image(),
            src_pitch: cx.pitch(*src),
            dst_pitch: cx.pitch(*dst),
            h: h as i32,
            w: w as i32,
            c: src.c as i32,
            radius: (window / 2) as i32,
            images: cx.workspace.images as i32,
            reserved: 0,
        };
        let grid = [(src.c / 8) as u32, cx.workspace.images as u32, 1];
        // the map's 8 channels, and their maxima along rows
        let shared = (h * w * 2 * 16) as u32;
        Ok(Launch { shared, ..Launch::new(KERNEL, grid, 512, params, steps) })
    }
}
