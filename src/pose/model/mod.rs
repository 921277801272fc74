//! RTMO (arXiv 2312.07526): a checkpoint becomes a [`Plan`].
//!
//! ```text
//! image -> backbone (CSPDarknet or ResNet) -> C3 C4 C5 -> neck (hybrid encoder, projector) -> (P3) P4 P5
//!       -> head (class logits, boxes, pose features) -> select -> dcc (keypoint vectors, GAU, bins) -> people
//! ```
//!
//! Layers are rewritten on the way, exactly (`fold.rs`): batch norms and RepVGG branches are folded, linear layers
//! that follow each other are one, concats are channel slices, and what only survivors need is computed for survivors
//! only.

mod config;
mod darknet;
mod dcc;
mod fold;
mod head;
mod limits;
mod neck;
mod net;
mod probe;
mod random;
mod resnet;
mod signal;
mod source;

pub use crate::variant::Variant;
pub use dcc::BOX_PADDING;
pub use random::{noise_image, random};
// For tests of unpublished networks.
#[doc(hidden)]
pub use {
    config::{Backbone, Config, Stage},
    darknet::Darknet,
    dcc::Dcc,
    head::Head,
    neck::Neck,
    random::random_tensors,
    resnet::ResNet,
};

use crate::error::{Error, Result};
use crate::plan::{Op, Plan, Pose};
use crate::weights::{self, Checkpoint};
use limits::INPUT;
use net::Net;
use signal::Signal;
use source::{Shapes, Source};

/// The network of a checkpoint for one input size, `(width, height)` in pixels, both multiples of 32; `None`: the size
/// that the file notes, else the one that its variant was trained for.
///
/// # Errors
/// A tensor that is missing, of the wrong shape, or that the network has no use for (those that serve training only are
/// let pass); shapes beyond what a file may ask for; constants of the method other than the published ones; a tensor
/// with values that are no weights (negative variances, results beyond f32); an input size that the strides do not
/// divide, or that is out of range.
pub fn build(checkpoint: &Checkpoint, input: impl Into<Option<(usize, usize)>>) -> Result<Plan> {
    let asked = input.into();
    if let Some((w, h)) = asked
        && [w, h].into_iter().any(|n| n == 0 || n % 32 != 0 || n > INPUT)
    {
        let what =
            format!("input size {w}x{h}: expected width and height to be multiples of 32, up to {INPUT}");
        return Err(Error::Usage(what));
    }
    let config = Config::read(checkpoint)?;
    let input = asked.map_or_else(|| weights::input_size(checkpoint), Ok)?;
    let mut shapes = Shapes::default();
    let outline = build_from(&config, &mut shapes, input)?;
    limits::check_memory(checkpoint.path(), &outline, &shapes, asked.is_some())?;
    let plan = build_from(&config, &mut &*checkpoint, input)?;
    checkpoint.release();
    debug_assert_eq!(plan.check(), Ok(()));
    Ok(plan)
}

/// Builds the network of a configuration for one input size: asks `source` for every tensor, and appends every step.
/// This is the only description of the network.
fn build_from(config: &Config, source: &mut dyn Source, (w, h): (usize, usize)) -> Result<Plan> {
    let mut net = Net::new(source);
    let image = net.plan.letterbox(w, h);
    net.holds(image, Signal::PIXELS);
    let features = config.backbone.append(&mut net, image)?;
    let maps = config.neck.append(&mut net, features, config.levels, config.head.projected)?;
    let dense = config.head.append(&mut net, &maps, config.strides())?;
    net.plan.push("select", Op::Pose(Pose::Select { levels: dense.levels }));
    config.dcc.append(&mut net, config.keypoints, config.head.vector, dense.pose)?;
    Ok(net.plan)
}
