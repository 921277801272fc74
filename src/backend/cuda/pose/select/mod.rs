//! From grid cells to people: `select.cu`.

mod params;

use self::params::SelectLaunch;
use super::params::LEVELS;
use crate::backend::cuda::launch::{Kernel, Launch};
use crate::backend::cuda::lower::Lowering;
use crate::backend::cuda::ops::{Operation, Supported, require};
use crate::error::Result;
use crate::plan::{Op, Plan, Pose};

pub struct Select;

const KERNEL: Kernel = Kernel { file: "select", name: "select_people" };

/// Grid cells that one block sorts: each of its 512 threads keeps a bit for 64 of them.
const MAX_CELLS: usize = 32768;
/// Candidates that are sorted in shared memory: a key and a box for each fit into the 64 KiB that every GPU has.
const NEAR: usize = 2048;

/// Grid cells of all levels, and sort slots for them.
pub fn cells(plan: &Plan) -> (usize, usize) {
    let levels = plan.grid_levels().unwrap_or_default();
    let cells: usize = levels.iter().map(|l| plan.buffer_of(l.cls).extent.pixels()).sum();
    (cells, cells.next_power_of_two().max(2))
}

impl Operation for Select {
    fn supports(&self, plan: &Plan, op: &Op) -> Supported {
        let Op::Pose(Pose::Select { levels }) = op else { unreachable!("see pose::of") };
        require(levels.len() <= LEVELS, || {
            format!("{} head levels, expected at most {LEVELS}", levels.len())
        })?;
        let cells: usize = levels.iter().map(|l| plan.buffer_of(l.cls).extent.pixels()).sum();
        require(cells <= MAX_CELLS, || format!("{cells} grid cells, expected at most {MAX_CELLS}"))
    }

    fn launch(&self, cx: &mut Lowering<'_>, steps: &[usize]) -> Result<Launch> {
        let Op::Pose(Pose::Select { levels }) = cx.op(steps[0]) else { unreachable!("see pose::of") };
        let (_, slots) = cells(cx.plan);
        let near = slots.min(NEAR);
        let workspace = cx.workspace;
        let mut params = SelectLaunch {
            frames: workspace.input,
            survivors: workspace.survivors,
            counts: workspace.counts,
            boxes: workspace.boxes,
            keys: workspace.keys,
            image: cx.image(),
            levels: levels.len() as i32,
            capacity: workspace.capacity as i32,
            images: workspace.images as i32,
            slots: slots as i32,
            near: near as i32,
            ..SelectLaunch::default()
        };
        for (i, level) in levels.iter().enumerate() {
            let (h, w) = cx.plan.hw(level.cls);
            params.cls[i] = cx.address(level.cls);
            params.bbox[i] = cx.address(level.bbox);
            params.cls_pitch[i] = cx.pitch(level.cls);
            params.bbox_pitch[i] = cx.pitch(level.bbox);
            params.w[i] = w as i32;
            params.cells[i] = (h * w) as i32;
            params.stride[i] = level.stride as i32;
        }
        let shared = (near * (16 + 8) + 16) as u32; // boxes, keys, counts
        Ok(Launch { shared, ..Launch::new(KERNEL, [workspace.images as u32, 1, 1], 512, params, steps) })
    }
}
