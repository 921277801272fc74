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

mod config;
mod darknet;
mod dcc;
mod fold;
mod head;
mod neck;
mod net;
mod probe;
mod random;
mod signal;
mod source;

pub use config::{Config, Variant};
pub use darknet::{Darknet, Stage};
pub use dcc::{BOX_PADDING, Dcc};
pub use head::Head;
pub use neck::Neck;
pub use random::{noise_image, random, random_tensors};

use crate::error::{Error, Result};
use crate::plan::{Op, Plan, Pose};
use crate::weights::Checkpoint;
use net::Net;
use source::Source;

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
    let plan = tell(&config, &mut &*checkpoint, input)?;
    checkpoint.release();
    debug_assert_eq!(plan.check(), Ok(()));
    Ok(plan)
}

/// Tells the network of a configuration for one input size: every tensor that it takes from `source`, and every step
/// that it makes of them. All that is known about the network comes from here.
fn tell(config: &Config, source: &mut dyn Source, (w, h): (usize, usize)) -> Result<Plan> {
    let mut net = Net::new(source);
    let image = net.plan.letterbox(w, h);
    let features = config.backbone.tell(&mut net, image)?;
    let maps = config.neck.tell(&mut net, features, config.levels, config.head.projected)?;
    let dense = config.head.tell(&mut net, &maps, config.strides())?;
    net.plan.push("select", Op::Pose(Pose::Select { levels: dense.levels }));
    config.dcc.tell(&mut net, config.keypoints, config.head.vector, dense.pose)?;
    Ok(net.plan)
}
