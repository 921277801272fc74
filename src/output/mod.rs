//! People to files: JSON lines, COCO results, pictures. Files appear when they are whole.

mod coco;
#[cfg(feature = "codecs")]
pub mod draw;
mod json;
mod python_json;

pub use coco::{CocoWriter, ImageIds};
pub use json::write_json_line;
#[cfg(feature = "eval")]
pub(crate) use python_json::PythonJson;

/// Coordinates are written to 1/1000 pixel: shorter, and far below any model's accuracy.
fn rounded(v: impl Into<f64>) -> f64 {
    (v.into() * 1000.0).round() / 1000.0 + 0.0
}
