//! The Dynamic Coordinate Classifier: `bin_decode.cu`.

mod pack;
mod params;

use self::params::{BIN_DECODE_BYTES, BinDecodeLaunch};
use super::params::MAX_TOKENS;
use crate::backend::cuda::launch::{Kernel, Launch};
use crate::backend::cuda::lower::Lowering;
use crate::backend::cuda::ops::{Operation, Supported, pack::floats, require};
use crate::error::Result;
use crate::plan::{Op, Plan, Pose, TensorId};

pub struct BinDecode;

const KERNEL: Kernel = Kernel { file: "bin_decode", name: "bin_decode" };

/// Makes a bin decode launch write no heatmaps; leaves other launches as they are.
pub fn forget_heatmaps(launch: &mut Launch) {
    if let Some(params) = launch.params.get_mut::<BinDecodeLaunch>() {
        params.heat = [0; 2];
    }
}

/// Address of the bin classifier's matrix of an axis, and the scale of its logits.
fn matrix(cx: &mut Lowering<'_>, t: TensorId, dim: usize) -> Result<(u64, f32)> {
    let data = &cx.plan.tensors[t.0].data;
    let scale = pack::rotation_scale(data, dim);
    let packed = || pack::rotation(data, dim, scale);
    Ok((cx.constants.put(Some(t), "for bin_decode".into(), packed)?, 1.0 / scale))
}

impl Operation for BinDecode {
    fn supports(&self, _: &Plan, op: &Op) -> Supported {
        let Op::Pose(Pose::BinDecode(b)) = op else { unreachable!("see pose::of") };
        let (x, y) = (b.x.bins, b.y.bins);
        require(x.max(y) <= 256 && x.min(y) >= 2, || format!("{x} and {y} bins, expected 2 to 256"))?;
        let (d, pe) = (b.dim, b.pe_dim);
        require((d, pe) == (128, 128), || format!("d = {d} and {pe} encoding channels, expected 128"))?;
        require(b.src.c0 % 4 == 0, || "rows that are not aligned".into())?;
        require(b.tokens <= MAX_TOKENS, || format!("{} keypoints, expected at most {MAX_TOKENS}", b.tokens))
    }

    fn launch(&self, cx: &mut Lowering<'_>, steps: &[usize]) -> Result<Launch> {
        let Op::Pose(Pose::BinDecode(b)) = cx.op(steps[0]) else { unreachable!("see pose::of") };
        let caps = cx.constants.gpu.caps();
        let half = b.pe_dim / 2;
        let (x, y) = (matrix(cx, b.x.weight, b.dim)?, matrix(cx, b.y.weight, b.dim)?);
        let how = format!("{half} frequencies for a temperature of {}", b.temperature);
        let frequency =
            cx.constants.put(None, how, || floats(&pack::frequencies(b.temperature, half), 2 * half))?;
        // W too, if there is room for two blocks with it
        let weights = 2 * b.pe_dim * b.dim * 2;
        let staged = 2 * (BIN_DECODE_BYTES + weights) <= caps.shared as usize;
        let shared = (BIN_DECODE_BYTES + if staged { weights } else { 0 }) as u32;
        let workspace = cx.workspace;
        let params = BinDecodeLaunch {
            src: cx.address(b.src),
            dst: cx.address(b.dst),
            weight: [x.0, y.0],
            heat: workspace.heat,
            frequency,
            survivors: workspace.survivors,
            counts: workspace.counts,
            bins: [b.x.bins as i32, b.y.bins as i32],
            tokens: b.tokens as i32,
            src_pitch: cx.pitch(b.src),
            dst_pitch: cx.pitch(b.dst),
            capacity: workspace.capacity as i32,
            images: workspace.images as i32,
            width: [b.x.bins, b.y.bins].map(|bins| b.padding / (bins - 1) as f32),
            scale: [x.1, y.1],
            staged: i32::from(staged),
        };
        // an even number of blocks, since a block does one axis: of each person, all keypoints or groups of eight
        let depth = workspace.images as u32;
        let most = (2 * workspace.capacity * b.tokens.div_ceil(8)) as u32;
        let blocks = (2 * caps.sms).div_ceil(depth).next_multiple_of(2);
        let grid = [most.min(blocks.max(8)), depth, 1];
        Ok(Launch { shared, ..Launch::new(KERNEL, grid, 256, params, steps) })
    }
}
