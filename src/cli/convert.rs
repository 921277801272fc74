//! `rtmo-engine convert`

use super::options::ends_in;
use super::{Ended, Outcome, terminal};
use clap::Args;
use rtmo_engine::shown;
use rtmo_engine::weights;
use std::path::PathBuf;

/// Turn a published .pth file into .safetensors
///
/// Writes the model's tensors of a published .pth file (or of any other checkpoint) as .safetensors, under their
/// upstream names: smaller, faster to open, and safe to pass on. Metadata tell the architecture, and the source file
/// with its SHA-256. No Python is needed, and nothing in the file is executed.
#[derive(Args)]
#[command(after_help = "\
Example:
  rtmo-engine convert rtmo-s_8xb32-600e_body7-640x640-dac2bf74_20231211.pth weights/rtmo-s.safetensors")]
pub struct Convert {
    /// Checkpoint to read: .pth or .safetensors
    input: PathBuf,
    /// File to write, .safetensors
    output: PathBuf,
    /// Store matrices and convolutions as 16-bit floats: half the size, and keypoints move by hundredths of a pixel
    #[arg(long)]
    half: bool,
}

impl Convert {
    pub fn run(self) -> Ended {
        ends_in(&self.output, "safetensors", "the file to write")?;
        let conversion = weights::convert(&self.input, &self.output, self.half)?;
        terminal::print(&conversion)?;
        for warning in &conversion.warnings {
            terminal::complain("warning", format!("{}: {warning}", shown(&self.input)));
        }
        if conversion.genuine == Some(false) {
            terminal::complain("warning", "the source is not the file that its name says it is");
        }
        Ok(Outcome::Done)
    }
}
