//! Times of the parts of a run.

use super::{Executor, Frame, RunOptions, Survivors};
use crate::error::Result;
use crate::plan::Plan;
use std::time::Duration;

/// How long one step took in one run.
#[derive(Clone, Debug)]
#[non_exhaustive]
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
#[non_exhaustive]
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

/// Timed runs. They take a little longer than [`Executor::run`] and return the same results.
pub trait Profiler: Executor {
    /// One frame, with the time of each step.
    ///
    /// # Errors
    /// As [`Executor::run`].
    fn run_timed(&mut self, frame: Frame<'_>, options: &RunOptions) -> Result<(Survivors, Vec<StepTime>)>;

    /// Frames, with the time of each stage: the sums of its steps, or on a GPU the device's own times.
    ///
    /// # Errors
    /// As [`Executor::run`].
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
}
