//! rtmo-engine: fast and faithful inference for RTMO, the one-stage real-time multi-person pose model
//! (arXiv 2312.07526).
//!
//! ```text
//! photo -> vision (decode, letterbox) -> [plan: backbone, neck, head] -> select (threshold, NMS)
//!       -> [plan: DCC on survivors] -> people -> output (JSON, COCO, drawing)
//! ```

pub mod atomic_file;
pub mod backend;
pub mod engine;
pub mod error;
mod heap;
pub mod output;
#[doc(hidden)]
pub mod parity;
pub mod plan;
pub mod pose;
pub mod vision;
pub mod weights;

pub use engine::{Compat, Detections, Engine, EngineOptions, Timings};
pub use error::{Error, Result};
pub use pose::{Keypoint, Person};
pub use vision::{ChannelOrder, Image, Photo};
