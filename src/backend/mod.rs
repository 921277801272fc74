//! Backends execute [`Plan`]s. They know operations: those of any network in `ops`, those of pose networks in `pose`.

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod device;
mod profile;
pub mod reference;

pub use device::{Device, Kernels, Placement, Precision};
pub use profile::{Profiler, StageTimes, StepTime};

use crate::error::Result;
use crate::plan::{Plan, View};
pub use crate::pose::{Frame, RunOptions, SelectParams, Survivors};

/// A plan that a backend has prepared: weights packed, kernels chosen, memory allocated.
///
/// The plan has named inputs and outputs of any kind. A run is special to pose networks: its input is photos, whose letterbox is
/// the plan's first step, and its result is the survivors of the plan's selection. So a GPU takes a photo and gives people in one
/// graph, with one wait.
pub trait Executor: Send {
    /// Photos to people. One entry a frame, in order.
    ///
    /// # Errors
    /// Device failures. The content of a photo never causes an error.
    fn run(&mut self, frames: &[Frame<'_>], options: &RunOptions) -> Result<Vec<Survivors>>;

    /// Runs that can be in flight at once: 2 on a GPU, where one uploads while the other computes, 1 on a CPU.
    fn queue_depth(&self) -> usize {
        1
    }

    /// Begins a run. Where [`Executor::queue_depth`] is above 1 it returns without waiting for the run's end. Until all
    /// runs are finished, only `start` and `finish` may be called.
    ///
    /// # Errors
    /// As `run`, and if `queue_depth` runs are in flight. With a `queue_depth` of 1 it never fails: `finish` does the
    /// whole run.
    fn start(&mut self, _frames: &[Frame<'_>], _options: &RunOptions) -> Result<()> {
        Ok(())
    }

    /// Waits for the oldest run in flight. Takes the same frames and options as its `start`, and returns what `run`
    /// does.
    ///
    /// # Errors
    /// As `run`. Where `queue_depth` is above 1, also if no run is in flight, or if the oldest has another number of
    /// frames; that run stays in flight.
    fn finish(&mut self, frames: &[Frame<'_>], options: &RunOptions) -> Result<Vec<Survivors>> {
        self.run(frames, options)
    }

    /// As [`Executor::run`] for the same frames and options as the call before. On a GPU these photos are still
    /// resident, and nothing is uploaded.
    ///
    /// # Errors
    /// As `run`.
    fn run_again(&mut self, frames: &[Frame<'_>], options: &RunOptions) -> Result<Vec<Survivors>> {
        self.run(frames, options)
    }

    /// Whether frames may be NV12; else the engine converts them first.
    fn takes_nv12(&self) -> bool {
        false
    }

    /// Whether frames of [`Executor::run`] may be pictures in the memory of a GPU.
    fn takes_device_images(&self) -> bool {
        false
    }

    /// The handle of the stream in which [`Executor::run`] reads such pictures.
    fn device_stream(&self) -> Option<u64> {
        None
    }

    /// Measures where the time of a run goes.
    fn profiler(&mut self) -> &mut dyn Profiler;

    /// Kernel launches of a run; `None` on a CPU.
    fn launches(&self) -> Option<usize> {
        None
    }

    /// Bytes of GPU memory that it holds: constants, maps and photos, without the driver's context and the kernels'
    /// code.
    /// `None` on a CPU.
    fn device_memory(&self) -> Option<usize> {
        None
    }

    /// Values of a map view after the last run, `[h, w, c]`, of image `image` of the batch. Meaningful only if the
    /// executor was prepared with all buffers kept. A CPU keeps those of the last image only.
    ///
    /// # Errors
    /// If the view holds no map of this plan, or the image's are not kept.
    fn read(&mut self, view: View, image: usize) -> Result<Vec<f32>>;

    /// The plan; its tensors' data may have been dropped.
    fn plan(&self) -> &Plan;

    /// One line for people: backend, ISA or device, threads, precision.
    fn describe(&self) -> String;
}
