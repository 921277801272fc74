//! The demonstration model: small, part of the program, for a first look without a download.

use super::Checkpoint;
use crate::engine::Compat;
use crate::error::{Error, Result};

/// Name of a small model for a first look, which is part of the program (feature `demo-model`).
pub const DEMO: &str = "rtmo-n-demo";

/// Its score threshold. In the pictures of examples/ people score 0.64 and more, its duplicates at most 0.41.
pub const DEMO_SCORE_THR: f32 = 0.5;

/// The demonstration model, which is part of the program where it was built from the repository.
///
/// # Errors
/// [`Error::Usage`] if it is not.
pub fn demo() -> Result<Checkpoint> {
    #[cfg(demo_model)]
    let file: Option<&[u8]> =
        Some(include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/weights/rtmo-n-demo.safetensors")));
    #[cfg(not(demo_model))]
    let file: Option<&[u8]> = None;
    match file {
        Some(file) => Checkpoint::from_bytes("rtmo-n-demo in the program", file),
        None => Err(Error::Usage(format!("{DEMO}: this program was built without the demonstration model"))),
    }
}

/// Whether these are the demonstration model's weights, by their metadata.
pub fn is_demo(checkpoint: &Checkpoint) -> bool {
    checkpoint.metadata().get("purpose").is_some_and(|purpose| purpose == "demonstration")
}

/// The score that people must exceed, if that is not `compat`'s own: what was asked for, or the demonstration model's.
pub fn score_thr(checkpoint: &Checkpoint, asked: Option<f32>, compat: Compat) -> Option<f32> {
    let raised = is_demo(checkpoint) && compat.score_thr() < DEMO_SCORE_THR;
    asked.or(raised.then_some(DEMO_SCORE_THR))
}
