//! The operations, one folder each: kernel (`.cu`), parameters (`params.rs`, of which the build makes the
//! kernel's header), limits, packing and launch (`mod.rs`). Here is what they have in common, and the table of them.

pub mod attention;
pub mod conv;
pub mod layer_norm;
pub mod max_pool;
pub mod pack;
pub mod peak;
pub mod pool_pyramid;
pub mod predict;

use super::launch::Launch;
use super::lower::Lowering;
use super::pose;
use super::schedule::Storage;
use crate::error::Result;
use crate::plan::{DType, Op, Plan, View};

/// `Ok`, or why the kernels cannot do a step.
pub type Supported = std::result::Result<(), String>;

/// An operation of the backend.
pub trait Operation: Sync {
    /// Whether the kernels can do this step.
    fn supports(&self, plan: &Plan, op: &Op) -> Supported;

    /// How the step's output is stored, if not as its buffer's number format says.
    fn storage(&self) -> Option<Storage> {
        None
    }

    /// Steps that one launch can execute, if they go [`together`](Operation::together).
    fn most(&self) -> usize {
        1
    }

    /// Whether a launch that begins with the first step may execute the second, too, if they are independent.
    fn together(&self, _plan: &Plan, _first: &Op, _other: &Op) -> bool {
        false
    }

    /// The launch that executes these steps.
    ///
    /// # Errors
    /// If constants do not fit into device memory.
    fn launch(&self, lowering: &mut Lowering<'_>, steps: &[usize]) -> Result<Launch>;
}

/// The operation of a step: one row each.
pub fn of(plan: &Plan, op: &Op) -> &'static dyn Operation {
    match op {
        Op::Conv(c) if predict::is(plan, c) => &predict::Predict,
        Op::Conv(_) => &conv::Convolution,
        Op::PoolPyramid { .. } => &pool_pyramid::PoolPyramid,
        Op::MaxPool { .. } => &max_pool::MaxPool,
        Op::Attention { .. } => &attention::Attention,
        Op::LayerNorm { .. } => &layer_norm::LayerNorm,
        Op::Pose(pose) => pose::of(pose),
    }
}

/// An error with the reason `why` unless `ok`.
pub fn require(ok: bool, why: impl FnOnce() -> String) -> Supported {
    if ok { Ok(()) } else { Err(why()) }
}

/// Kernels move 8 channels of fp16, 16 bytes, at a time: a view starts at a multiple of that.
pub fn aligned(plan: &Plan, v: View) -> Supported {
    let buffer = plan.buffer_of(v);
    require(buffer.dtype == DType::Working, || format!("{} is kept in f32", buffer.name))?;
    require(v.c0.is_multiple_of(8), || {
        let (from, to) = (v.c0, v.c0 + v.c);
        format!("channels {from}..{to} of {} do not start at a multiple of 8", buffer.name)
    })
}
