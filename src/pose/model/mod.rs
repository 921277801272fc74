//! RTMO (arXiv 2312.07526): a checkpoint becomes a [`Plan`].
//!
//! ```text
//! image -> backbone (CSPDarknet) -> C3 C4 C5 -> neck (hybrid encoder, projector) -> (P3) P4 P5
//!       -> head (class logits, boxes, pose features) -> select -> dcc (keypoint vectors, GAU, bins) -> people
//! ```
//!
//! Layers are rewritten on the way, exactly (`fold.rs`): batch norms and RepVGG branches are folded, linear layers
//! that follow each other are one, concats are channel slices, and whatever only survivors need is computed for them
//! only.

mod backbone;
mod config;
mod dcc;
mod fold;
mod head;
mod neck;
mod net;
mod random;

pub use config::{Config, Dcc, Head, Neck, Stage, Variant};
pub use dcc::BOX_PADDING;
pub use random::{noise_image, random, random_tensors};

use crate::error::{Error, Result};
use crate::plan::{Op, Plan, Pose};
use crate::weights::Checkpoint;
use net::Net;

/// The largest network input on either side, in pixels.
const MAX_INPUT: usize = 8192;

/// The network of a checkpoint for one input size, `(width, height)` in pixels, both multiples of 32.
///
/// # Errors
/// As [`Config::read`]; a tensor with values that are no weights (negative variances, results beyond f32); an input
/// size that the strides do not divide, or that is out of range.
pub fn build(checkpoint: &Checkpoint, input: (usize, usize)) -> Result<Plan> {
    let (w, h) = input;
    if [w, h].into_iter().any(|n| n == 0 || n % 32 != 0 || n > MAX_INPUT) {
        let what =
            format!("input size {w}x{h}: expected width and height to be multiples of 32, up to {MAX_INPUT}");
        return Err(Error::Usage(what));
    }
    let config = Config::read(checkpoint)?;
    let mut net = Net::new(checkpoint);
    let image = net.plan.letterbox(w, h);
    let features = backbone::backbone(&mut net, &config, image)?;
    let maps = neck::neck(&mut net, &config, features)?;
    let dense = head::head(&mut net, &config, &maps)?;
    net.plan.push("select", Op::Pose(Pose::Select { levels: dense.levels }));
    dcc::dcc(&mut net, &config, dense.pose)?;

    checkpoint.release();
    debug_assert_eq!(net.plan.check(), Ok(()));
    debug_assert!(config.tensors().iter().all(|(name, _)| net.tensors_read().contains(name)));
    Ok(net.plan)
}
