//! A linear map of survivors' grid cells, one a level: `survivor_linear.cu`.

mod params;

use self::params::{SURVIVOR_PITCH, SURVIVOR_TILE, SURVIVOR_WARPS, SurvivorLinearLaunch};
use super::params::LEVELS;
use crate::backend::cuda::launch::{Kernel, Launch};
use crate::backend::cuda::lower::Lowering;
use crate::backend::cuda::ops::{Operation, Supported, aligned, require};
use crate::error::Result;
use crate::plan::{Op, Plan, Pose};

pub struct SurvivorLinear;

const KERNEL: Kernel = Kernel { file: "survivor_linear", name: "survivor_linear" };

/// Blocks that a multiprocessor holds, the launch bound of `survivor_linear.cu`.
const RESIDENT: u32 = 4;

/// Tiles of people at once, of `most`, with `blocks` blocks for each: as many as the GPU holds, for a block more would
/// begin when all others have ended.
fn at_once(sms: u32, blocks: u32, most: u32) -> u32 {
    (RESIDENT * sms / blocks).clamp(1, most.max(1))
}

impl Operation for SurvivorLinear {
    fn supports(&self, plan: &Plan, op: &Op) -> Supported {
        let Op::Pose(Pose::SurvivorLinear { src, .. }) = op else { unreachable!("see pose::of") };
        require(src.len() <= LEVELS, || format!("{} head levels, expected at most {LEVELS}", src.len()))?;
        for v in src {
            aligned(plan, *v)?;
            require(v.c.is_multiple_of(8) && v.c <= 1024, || format!("{} channels", v.c))?;
        }
        Ok(())
    }

    fn launch(&self, cx: &mut Lowering<'_>, steps: &[usize]) -> Result<Launch> {
        let plan = cx.plan;
        let Op::Pose(Pose::SurvivorLinear { src, weight, bias, dst }) = cx.op(steps[0]) else {
            unreachable!("see pose::of")
        };
        let cout = plan.tensors[weight[0].0].shape[0];
        let workspace = cx.workspace;
        let mut params = SurvivorLinearLaunch {
            dst: cx.address(*dst),
            survivors: workspace.survivors,
            counts: workspace.counts,
            image: cx.image(),
            cin: src[0].c as i32,
            cout: cout as i32,
            dst_pitch: cx.pitch(*dst),
            levels: src.len() as i32,
            capacity: workspace.capacity as i32,
            images: workspace.images as i32,
            ..SurvivorLinearLaunch::default()
        };
        for i in 0..src.len() {
            params.src[i] = cx.address(src[i]);
            params.src_pitch[i] = cx.pitch(src[i]);
            params.weight[i] = cx.constants.fragments(plan, weight[i])?;
            params.bias[i] = cx.constants.floats(plan, bias[i], cout)?;
        }
        // the survivors' channels, later each warp's sums
        let rows = src[0].c.div_ceil(16) * SURVIVOR_TILE * 32;
        let sums = SURVIVOR_WARPS * SURVIVOR_TILE * SURVIVOR_PITCH * 4;
        let (tiles, depth) = (cout.div_ceil(16) as u32, workspace.images as u32);
        let sms = cx.constants.gpu.caps().sms;
        let at_once = at_once(sms, tiles * depth, workspace.capacity.div_ceil(SURVIVOR_TILE) as u32);
        let threads = SURVIVOR_WARPS as u32 * 32;
        let shared = rows.max(sums) as u32;
        Ok(Launch { shared, ..Launch::new(KERNEL, [tiles, depth, at_once], threads, params, steps) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_resident_together() {
        // RTMO-l on an H100: 552 blocks would not be.
        assert_eq!(at_once(132, 46, 263), 11);
        for sms in [1, 40, 132] {
            for blocks in 1..600 {
                for most in [1, 7, 300] {
                    let n = at_once(sms, blocks, most);
                    assert!(n == 1 || n * blocks <= RESIDENT * sms);
                    assert!(n == most || (n + 1) * blocks > RESIDENT * sms);
                }
            }
        }
        let bounds = format!("KERNEL(survivor_linear, SurvivorLinearLaunch, 128, {RESIDENT})");
        assert!(include_str!("survivor_linear.cu").contains(&bounds));
    }
}
