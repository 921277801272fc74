//! The photo as the network's input: `letterbox.cu`.

mod params;

use self::params::LetterboxLaunch;
use crate::backend::cuda::launch::{Kernel, Launch};
use crate::backend::cuda::lower::Lowering;
use crate::backend::cuda::ops::conv::shape::stem;
use crate::backend::cuda::ops::{Operation, Supported, require};
use crate::backend::cuda::schedule::Storage;
use crate::error::Result;
use crate::plan::{Op, Plan, Pose};

pub struct Letterbox;

const KERNEL: Kernel = Kernel { file: "letterbox", name: "letterbox" };

impl Operation for Letterbox {
    fn supports(&self, plan: &Plan, op: &Op) -> Supported {
        let Op::Pose(Pose::Letterbox { dst }) = op else { unreachable!("see pose::of") };
        let (h, w) = plan.hw(*dst);
        require(h % 2 == 0 && w % 2 == 0 && dst.c == 3, || format!("an input of {w}x{h} pixels"))?;
        let readers = plan.steps.iter().filter(|s| s.op.reads().iter().any(|v| v.buffer == dst.buffer));
        for step in readers {
            let is_stem = matches!(&step.op, Op::Conv(c) if stem(c.kernel).is_some());
            require(is_stem, || format!("{} reads the photo, expected a 6x6 or 7x7 stem only", step.name))?;
        }
        Ok(())
    }

    fn storage(&self) -> Option<Storage> {
        Some(Storage::Cells)
    }

    fn launch(&self, cx: &mut Lowering<'_>, steps: &[usize]) -> Result<Launch> {
        let Op::Pose(Pose::Letterbox { dst }) = cx.op(steps[0]) else { unreachable!("see pose::of") };
        let ((in_w, in_h), images) = (cx.plan.input_size(), cx.workspace.images);
        let params = LetterboxLaunch {
            frames: cx.workspace.input,
            dst: cx.address(*dst),
            image: cx.image(),
            in_w: in_w as i32,
            in_h: in_h as i32,
            images: images as i32,
            reserved: 0,
        };
        // a thread a cell, 32 x 4 cells a block
        let grid = [(in_w / 2).div_ceil(32) as u32, (in_h / 2).div_ceil(4) as u32, images as u32];
        Ok(Launch::new(KERNEL, grid, 128, params, steps))
    }
}
