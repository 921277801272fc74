//! Backends execute [`Plan`]s. They know operations, not RTMO.

pub mod cpu;
pub mod cuda;
pub mod device;
pub mod reference;

pub use device::{Device, Placement, Precision};

use crate::error::Result;
use crate::plan::{Plan, View};
pub use crate::pose::{Frame, RunOptions, SelectParams, Survivors};
use std::time::Duration;

/// How long one step took in one run.
#[derive(Clone, Debug)]
pub struct StepTime {
    /// Index of the step in the plan.
    pub step: usize,
    /// Kernels that executed it, e.g. `winograd s2`, or `pack + attend`.
    pub kernel: String,
    /// Wall-clock or device time.
    pub time: Duration,
}

/// How long the parts of a run took, summed over its frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageTimes {
    /// Photo from the host's memory to the device's; none on a CPU.
    pub upload: Duration,
    /// Photo to network input.
    pub letterbox: Duration,
    /// Steps up to the selection: what every grid needs.
    pub network: Duration,
    /// Threshold and NMS.
    pub select: Duration,
    /// Steps after it: what only survivors need.
    pub dcc: Duration,
    /// People from the device's memory to the host's; none on a CPU.
    pub download: Duration,
}

impl StageTimes {
    /// Adds the times of steps of `plan` to the stages that they belong to.
    pub fn add(&mut self, plan: &Plan, steps: &[StepTime]) {
        let selection = plan.selection();
        for t in steps {
            let stage = match &plan.steps[t.step].op {
                op if op.is_letterbox() => &mut self.letterbox,
                op if op.fixes_rows() => &mut self.select,
                _ if t.step > selection => &mut self.dcc,
                _ => &mut self.network,
            };
            *stage += t.time;
        }
    }
}

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

    /// As [`Executor::run`] for one frame, with the time of each step. Slower in total than `run`.
    ///
    /// # Errors
    /// As `run`.
    fn run_timed(&mut self, frame: Frame<'_>, options: &RunOptions) -> Result<(Survivors, Vec<StepTime>)>;

    /// As [`Executor::run`], with the time of each stage: on a GPU the device's own, and a little longer in total than
    /// `run`.
    ///
    /// # Errors
    /// As `run`.
    fn run_staged(
        &mut self,
        frames: &[Frame<'_>],
        options: &RunOptions,
    ) -> Result<(Vec<Survivors>, StageTimes)> {
        let mut times = StageTimes::default();
        let mut all = Vec::with_capacity(frames.len());
        for &frame in frames {
            let (survivors, steps) = self.run_timed(frame, options)?;
            times.add(self.plan(), &steps);
            all.push(survivors);
        }
        Ok((all, times))
    }

    /// As [`Executor::run`] for the frames and options of the call before, whose photos a GPU still holds in its memory:
    /// nothing is uploaded.
    ///
    /// # Errors
    /// As `run`.
    fn run_again(&mut self, frames: &[Frame<'_>], options: &RunOptions) -> Result<Vec<Survivors>> {
        self.run(frames, options)
    }

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
