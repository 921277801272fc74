//! Backends execute [`Plan`]s. They know operations, not RTMO.

pub mod cpu;
pub mod cuda;
pub mod device;
pub mod reference;

pub use device::{Device, Placement, Precision};

use crate::error::{Error, Result};
use crate::plan::{Op, Plan, View};
use crate::vision::{Letterbox, Photo};
use std::time::Duration;

/// One photo and how it is laid into the network input.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// The photo.
    pub photo: &'a Photo,
    /// Sampling geometry.
    pub letterbox: &'a Letterbox,
}

impl Frame<'_> {
    /// That the letterbox was made for this photo and for a network input of `input_size`, width and height, and that the
    /// photo is whole.
    ///
    /// # Errors
    /// [`Error::Usage`] if not.
    pub fn check(&self, input_size: (usize, usize)) -> Result<()> {
        let (wanted, made) = (input_size, self.letterbox.input_size());
        if made != wanted {
            return Err(Error::Usage(format!(
                "a letterbox for an input of {}x{} pixels: expected {}x{}",
                made.0, made.1, wanted.0, wanted.1
            )));
        }
        let (w, h) = (self.photo.width, self.photo.height);
        let (bytes, expected) = (self.photo.bgr.len(), self.letterbox.photo_size());
        if expected != (w, h) || w.checked_mul(h).and_then(|n| n.checked_mul(3)) != Some(bytes) {
            return Err(Error::Usage(format!(
                "a photo of {w}x{h} pixels in {bytes} bytes: its letterbox expects {}x{}, of three bytes each",
                expected.0, expected.1
            )));
        }
        Ok(())
    }
}

/// Which grids become people, see [`crate::plan::Op::Select`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SelectParams {
    /// A grid is a candidate if its score is strictly above this.
    pub score_thr: f32,
    /// A candidate is suppressed if its IoU with a better one is strictly above this.
    pub nms_thr: f32,
    /// At most this many, best first; `None`: all. Says nothing where `force` is given.
    pub max_people: Option<usize>,
    /// For latency studies: the best `n` grids survive, whatever their scores and overlaps.
    pub force: Option<usize>,
}

impl Default for SelectParams {
    /// mmpose's test configuration: 0.1 and 0.65, no cap.
    fn default() -> Self {
        SelectParams { score_thr: 0.1, nms_thr: 0.65, max_people: None, force: None }
    }
}

/// The people of one image, best first, in network-input pixels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Survivors {
    /// `sigmoid(cls)`.
    pub scores: Vec<f32>,
    /// `x1, y1, x2, y2`, not clamped.
    pub boxes: Vec<[f32; 4]>,
    /// Grid point `g` of each.
    pub priors: Vec<[f32; 2]>,
    /// `K` per person: x, y; never clamped.
    pub keypoints: Vec<[f32; 2]>,
    /// `K` per person: `sigmoid(out_kpt_vis)`.
    pub visibility: Vec<f32>,
    /// If asked for, `K * x bins` probabilities per person.
    pub heatmaps_x: Vec<f32>,
    /// If asked for, `K * y bins` probabilities per person.
    pub heatmaps_y: Vec<f32>,
}

/// What a run is asked to do besides the network itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RunOptions {
    /// Selection thresholds.
    pub select: SelectParams,
    /// Return the 1-D heatmaps too.
    pub heatmaps: bool,
}

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
        let select = plan.steps.iter().position(|s| matches!(s.op, Op::Select { .. }));
        for t in steps {
            match &plan.steps[t.step].op {
                Op::Letterbox { .. } => self.letterbox += t.time,
                Op::Select { .. } => self.select += t.time,
                _ if select.is_some_and(|select| t.step > select) => self.dcc += t.time,
                _ => self.network += t.time,
            }
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
