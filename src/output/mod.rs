//! People to files: JSON lines, COCO results, OpenPose's JSON, tables, arrays, pictures. Files appear when they are whole.
//!
//! `docs/formats.md` describes the formats. Each is a file here and a [`ResultSink`].

mod coco;
#[cfg(feature = "codecs")]
mod csv;
#[cfg(feature = "codecs")]
pub mod draw;
mod json;
#[cfg(feature = "codecs")]
mod npz;
#[cfg(feature = "codecs")]
mod openpose;
mod python_json;
mod sink;

pub use coco::{CocoResults, CocoWriter, ImageIds};
#[cfg(feature = "codecs")]
pub use csv::Csv;
pub use json::{JsonLines, write_json_line};
#[cfg(feature = "codecs")]
pub use npz::Npz;
#[cfg(feature = "codecs")]
pub use openpose::{JointOrder, OpenPose};
#[cfg(feature = "eval")]
pub(crate) use python_json::PythonJson;
pub use sink::{FrameInfo, Output, ResultSink};

/// Coordinates are written to 1/1000 pixel: shorter, and far below any model's accuracy.
fn rounded(v: impl Into<f64>) -> f64 {
    (v.into() * 1000.0).round() / 1000.0 + 0.0
}
