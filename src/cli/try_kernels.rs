//! `rtmo-engine try-kernels`, which the program starts itself: see `--kernels all`.

use super::{Ended, Outcome};
use clap::Args;
use rtmo_engine::backend::cuda;

/// Try GPU kernels for another process
///
/// Reads lines of launches and kernels, as the file of measured tiles has them, and says of each whether it is good. Ends with
/// the input.
#[derive(Args)]
pub struct TryKernels {
    /// Number of the GPU
    ordinal: usize,
}

impl TryKernels {
    pub fn run(self) -> Ended {
        cuda::serve_trial(self.ordinal, std::io::stdin().lock(), std::io::stdout().lock())?;
        Ok(Outcome::Done)
    }
}

/// Names this program as the one that tries kernels.
pub fn register() {
    if let Ok(program) = std::env::current_exe() {
        cuda::set_trial_program(program);
    }
}
