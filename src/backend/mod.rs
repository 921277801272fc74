//! Backends execute [`Plan`]s. They know operations, not RTMO.

pub mod cpu;
pub mod cuda;
pub mod device;
mod profile;
pub mod reference;

pub use device::{Device, Placement, Precision};
pub use profile::{Profiler, StageTimes, StepTime};

use crate::error::Result;
use crate::plan::{Plan, View};
pub use crate::pose::{Frame, RunOptions, SelectParams, Survivors};

/// A plan that a backend has prepared: weights packed, kernels chosen, memory allocated.
pub trait Executor: Send {
    /// Photos to people. One entry a frame, in order.
    ///
    /// # Errors
    /// Device failures; never because of what the photos show.
    fn run(&mut self, frames: &[Frame<'_>], options: &RunOptions) -> Result<Vec<Survivors>>;

    /// Runs that can be under way at once; 1 where nothing is gained by it.
    fn ahead(&self) -> usize {
        1
    }

    /// Begins a run, and returns without waiting for its end where [`Executor::ahead`] is above 1. Until all are finished
    /// nothing but `start` and `finish` may be asked of the executor.
    ///
    /// # Errors
    /// Where that is above 1: as `run`; if `ahead` runs are under way.
    fn start(&mut self, _frames: &[Frame<'_>], _options: &RunOptions) -> Result<()> {
        Ok(())
    }

    /// Ends the oldest run that was begun. It takes the same frames and options again, and returns what `run` does.
    ///
    /// # Errors
    /// As `run`; where `ahead` is above 1, if no run is under way, or if it has another number of frames, and then it can
    /// still be finished.
    fn finish(&mut self, frames: &[Frame<'_>], options: &RunOptions) -> Result<Vec<Survivors>> {
        self.run(frames, options)
    }

    /// As [`Executor::run`] for the frames and options of the call before, whose photos a GPU still holds in its memory:
    /// nothing is uploaded.
    ///
    /// # Errors
    /// As `run`.
    fn run_again(&mut self, frames: &[Frame<'_>], options: &RunOptions) -> Result<Vec<Survivors>> {
        self.run(frames, options)
    }

    /// What measures where the time of a run goes.
    fn profiler(&mut self) -> &mut dyn Profiler;

    /// Kernel launches of a run, where a run is made of such.
    fn launches(&self) -> Option<usize> {
        None
    }

    /// Bytes of a device's own memory that it holds, with all constants, maps and photos; without the driver's context and the
    /// kernels' code. None on a CPU.
    fn device_memory(&self) -> Option<usize> {
        None
    }

    /// Values of a map view after the last run, `[h, w, c]`, of image `image` of the batch. Only sensible for
    /// executors prepared with all buffers kept; on a CPU the last image's are.
    ///
    /// # Errors
    /// If the view holds no map of this plan, or the image's are not kept.
    fn read(&mut self, view: View, image: usize) -> Result<Vec<f32>>;

    /// The plan; its tensors' data may have been dropped.
    fn plan(&self) -> &Plan;

    /// One line for people: backend, ISA or device, threads, precision.
    fn describe(&self) -> String;
}
