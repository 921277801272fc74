//! The CUDA backend: handwritten fp16 kernels, one CUDA graph from photos to people.
//!
//! ```text
//! plan -> schedule.rs (what runs together, where buffers live) -> lower.rs (each operation's launch: ops/, pose/)
//!      -> launches -> setup.rs (memory for a batch, one graph per shape of input) -> people in pinned host memory
//! ```
//!
//! An operation is a folder of `ops/` or `pose/`, with kernel, parameters, limits, packing and launch side by side, and a row in the
//! table of `ops::of` or `pose::of`.
//!
//! Maps are stored in fp16 NHWC and summed in fp32; predictions, boxes, and everything about survivors is fp32. The
//! kernels know operations, `ops/conv` which convolution kernel suits which shape. `gpu.rs` is all that
//! the executor needs of a device, so that tests run the same code on the host, with the kernels under an emulator.

mod constants;
mod device;
mod gpu;
mod graph;
mod images;
mod kernel_params;
mod launch;
mod lower;
mod ops;
mod pose;
mod schedule;
mod setup;

#[cfg(test)]
mod emulator;
#[cfg(test)]
mod tests;

use self::constants::Constants;
use self::gpu::{Gpu, LANES, Sequence};
use self::launch::Launch;
use self::lower::{Lowering, Place};
use self::ops::conv::cache::Cache;
use self::ops::conv::{self, measure, shape::Shape, tiles::Choice, tune};
use self::pose::frames::Layout;
use self::schedule::{Schedule, Storage};
use self::setup::{Key, Setup};
use super::{Executor, Frame, Profiler, RunOptions, StageTimes, StepTime, Survivors};
use crate::error::{Error, Result};
use crate::plan::{Op, Plan, View};
pub use device::{DeviceInfo, devices};
use half::f16;
pub use images::compiled_archs;
pub use ops::peak::tensor_peak;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// How a plan is prepared for a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Keep every buffer intact until the end of a run, for [`Executor::read`]. Takes more memory.
    pub keep_all: bool,
    /// Measure tiles for shapes that the user's cache does not know yet, once for batches of each size but such as follow a
    /// larger one, which take its tiles; otherwise the built-in table serves.
    pub tune: bool,
    /// Independent convolutions share a launch.
    pub group: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { keep_all: false, tune: true, group: true }
    }
}

/// Largest batch that runs as one program; longer lists of frames run in turns.
const MAX_BATCH: usize = 64;
/// Batch sizes kept ready in each lane.
const KEPT: usize = 2;
/// Executes a plan on a GPU.
pub struct CudaExecutor {
    // Programs use constants, and are dropped before them.
    setups: Vec<Setup>,
    constants: Constants,
    plan: Plan,
    schedule: Schedule,
    gpu: Arc<dyn Gpu>,
    options: Options,
    cache: Cache,
    /// The largest batch for which choices were measured, or known.
    tuned: usize,
    /// Setup of the last run, for `read`.
    last: usize,
    /// The last batch that ran from start to end in lane 0, if the device still holds its photos: its images, and what was
    /// asked for. Not all frames of a run, if they took several batches or one of them ran again alone.
    held: Option<(usize, RunOptions)>,
    /// Runs begun and not finished, oldest first, each in a lane of its own.
    flights: VecDeque<Flight>,
}

/// A run under way.
#[derive(Clone, Copy, Debug)]
struct Flight {
    images: usize,
    lane: usize,
    /// Its program; `None`: the frames are too many for one, and run when they are asked for.
    key: Option<Key>,
}

impl CudaExecutor {
    /// Prepares a plan for GPU `ordinal`: packs weights, chooses kernels, allocates memory for one image.
    ///
    /// # Errors
    /// If the plan breaks [`Plan::check`]; without a driver or that GPU, if the build carries no kernels for it, if a step
    /// is beyond the kernels, or if the memory does not suffice.
    pub fn new(plan: Plan, ordinal: usize, options: Options) -> Result<CudaExecutor> {
        plan.check().map_err(|what| Error::Usage(format!("a plan that cannot be executed: {what}")))?;
        let device = device::Device::open(ordinal)?;
        CudaExecutor::on(Arc::new(device::CudaGpu(device)), plan, options)
    }

    fn on(gpu: Arc<dyn Gpu>, plan: Plan, options: Options) -> Result<CudaExecutor> {
        let schedule = Schedule::new(&plan, options.keep_all, options.group)?;
        let cache = if options.tune { Cache::open(&gpu.identity()) } else { Cache::default() };
        let constants = Constants::new(&gpu);
        let mut executor = CudaExecutor {
            setups: vec![],
            constants,
            plan,
            schedule,
            gpu,
            options,
            cache,
            tuned: 0,
            last: 0,
            held: None,
            flights: VecDeque::new(),
        };
        executor.setup(1, 0)?;
        Ok(executor)
    }

    /// Index of a lane's setup for a batch size, if there is one.
    fn find(&self, images: usize, lane: usize) -> Option<usize> {
        self.setups.iter().position(|s| (s.images, s.lane) == (images, lane))
    }

    /// The same, made if need be. Nothing is under way in that lane.
    fn setup(&mut self, images: usize, lane: usize) -> Result<usize> {
        if let Some(i) = self.find(images, lane) {
            return Ok(i);
        }
        if self.setups.iter().filter(|s| s.lane == lane).count() >= KEPT {
            // the setup for single images stays; it also serves overflowing frames
            let other = self.setups.iter().position(|s| s.lane == lane && s.images != 1);
            self.setups.remove(other.expect("of two batch sizes one is not 1"));
        }
        self.setups.push(Setup::new(&self.gpu, &self.plan, &self.schedule, images, lane)?);
        let i = self.setups.len() - 1;
        if let Err(e) = self.lower(i) {
            self.setups.truncate(i);
            return Err(e);
        }
        Ok(i)
    }

    /// (Re)makes a setup's launches; addresses or tiles have changed. After a failure it has none.
    fn lower(&mut self, index: usize) -> Result<()> {
        let setup = &mut self.setups[index];
        setup.forget_launches();
        let (caps, images, place) = (self.gpu.caps(), setup.images, setup.place());
        // What the cache does not know is measured before weights are packed for it. But a batch after a larger one is likely
        // what was left of the photos: it runs with the choices of that, rather than wait for measurements.
        if self.options.tune && images > self.tuned {
            let shapes =
                self.schedule.groups.iter().filter_map(|group| conv::shapes(&self.plan, &group.steps));
            let unknown: Vec<Vec<Shape>> =
                shapes.filter(|s| self.cache.get(&caps, s, images).is_none()).collect();
            if !unknown.is_empty() {
                self.settle()?;
                let rivals = measure::tiles(&self.gpu, &mut self.cache, &unknown, images)?;
                // The first setup, which is for single images; with more of them neighbours matter less.
                if self.setups.len() == 1 {
                    self.refine(place, &rivals)?;
                }
            }
            self.tuned = images;
        }
        self.setups[index].launches = self.launches(place)?;
        Ok(())
    }

    /// Puts choices that were nearly as fast alone into the whole network, one after the other, and keeps what makes it faster:
    /// a kernel's time depends on the launches before and after it.
    fn refine(&mut self, place: Place, rivals: &measure::Rivals) -> Result<()> {
        let (caps, images) = (self.gpu.caps(), place.images);
        let launches = self.dense(place)?;
        // SAFETY: addresses are those of the setup whose place this is, and of constants, which stay until the end of this.
        let mut best = unsafe { measure::network(&self.gpu, launches) }?;
        for (shapes, choices) in rivals {
            for &(alone, choice) in choices {
                let Some(kept) = self.cache.get(&caps, shapes, images) else { continue };
                let kept_alone = self.cache.time(shapes, images);
                self.cache.insert(shapes, images, choice, alone);
                let launches = self.dense(place)?;
                // SAFETY: as above.
                let time = unsafe { measure::network(&self.gpu, launches) }?;
                if time.as_secs_f64() < best.as_secs_f64() * 0.998 {
                    best = time;
                } else {
                    self.cache.insert(shapes, images, kept, kept_alone);
                }
            }
        }
        self.cache.save();
        // weights packed for what was not kept
        self.constants = Constants::new(&self.gpu);
        Ok(())
    }

    /// Launches with what the cache or else the built-in table chooses.
    fn launches(&mut self, place: Place) -> Result<Vec<Launch>> {
        let (caps, images) = (self.gpu.caps(), place.images);
        let cache = &self.cache;
        let mut choose = |shapes: &[Shape]| -> Choice {
            cache.near(&caps, shapes, images).unwrap_or_else(|| tune::built_in(&caps, shapes, images))
        };
        let (plan, schedule, constants) = (&self.plan, &self.schedule, &mut self.constants);
        Lowering { plan, schedule, constants, place, choose: &mut choose }.launches()
    }

    /// Those of the network itself, which need neither photos nor people.
    fn dense(&mut self, place: Place) -> Result<Vec<Launch>> {
        let mut launches = self.launches(place)?;
        let pose = |step: &usize| matches!(self.plan.steps[*step].op, Op::Pose(_));
        launches.retain(|l| !l.steps.is_empty() && !l.steps.iter().any(pose));
        Ok(launches)
    }

    /// Waits until the GPU has nothing to do; what is under way can still be finished.
    fn settle(&mut self) -> Result<()> {
        for Flight { images, lane, key } in self.flights.clone() {
            if let (Some(key), Some(index)) = (key, self.find(images, lane)) {
                self.setups[index].program(&self.gpu, &self.plan, key)?.wait()?;
            }
        }
        Ok(())
    }

    /// # Errors
    /// While runs are under way.
    fn idle(&self) -> Result<()> {
        match self.flights.len() {
            0 => Ok(()),
            n => Err(Error::Usage(format!("{n} runs are under way: finish them first"))),
        }
    }

    /// Runs frames in a lane where nothing is under way, in batches.
    fn run_in(&mut self, lane: usize, frames: &[Frame<'_>], options: &RunOptions) -> Result<Vec<Survivors>> {
        let mut all = Vec::with_capacity(frames.len());
        for batch in frames.chunks(MAX_BATCH) {
            let found = self.run_batch(lane, batch, options)?;
            all.extend(self.complete(lane, found, batch, options)?);
        }
        Ok(all)
    }

    /// Runs frames that fit into one batch; `None` for an image whose survivors did not fit.
    fn run_batch(
        &mut self,
        lane: usize,
        frames: &[Frame<'_>],
        options: &RunOptions,
    ) -> Result<Vec<Option<Survivors>>> {
        let (index, bytes) = self.prepare(lane, frames, options)?;
        self.run_program(index, options, bytes)?;
        if lane == 0 {
            self.held = Some((frames.len(), *options));
        }
        self.setups[index].results(&self.plan, options)
    }

    /// Runs a setup's program after an upload of so many bytes; waits for its end.
    fn run_program(&mut self, index: usize, options: &RunOptions, bytes: usize) -> Result<()> {
        let key = Key { heatmaps: options.heatmaps, staged: None };
        let setup = &mut self.setups[index];
        setup.start(&self.gpu, &self.plan, key, bytes)?;
        setup.program(&self.gpu, &self.plan, key)?.wait()
    }

    /// Runs those frames again, alone, whose survivors did not fit.
    fn complete(
        &mut self,
        lane: usize,
        found: Vec<Option<Survivors>>,
        frames: &[Frame<'_>],
        options: &RunOptions,
    ) -> Result<Vec<Survivors>> {
        let each = |(people, frame): (Option<Survivors>, &Frame<'_>)| -> Result<Survivors> {
            let people = match people {
                Some(people) => Some(people),
                None => self.run_batch(lane, std::slice::from_ref(frame), options)?.pop().flatten(),
            };
            people.ok_or_else(|| Error::Device("more survivors than grid cells".into()))
        };
        found.into_iter().zip(frames).map(each).collect()
    }

    /// Writes the frames where a lane's program will look for them; returns the setup's index and how many bytes to upload.
    fn prepare(&mut self, lane: usize, frames: &[Frame<'_>], options: &RunOptions) -> Result<(usize, usize)> {
        let layout = Layout::new(frames, self.plan.input_size())?;
        self.held = None;
        let index = self.setup(frames.len(), lane)?;
        let setup = &mut self.setups[index];
        setup.make_room(&self.gpu, layout.bytes)?;
        if options.heatmaps {
            setup.make_heatmaps(&self.gpu, &self.plan)?;
        }
        // memory has moved, now or in a run before that failed halfway
        if setup.launches.is_empty() {
            self.lower(index)?;
        }
        let setup = &mut self.setups[index];
        layout.write(frames, &options.select, setup.staging.write());
        self.last = index;
        Ok((index, layout.bytes))
    }
}

impl Executor for CudaExecutor {
    fn run(&mut self, frames: &[Frame<'_>], options: &RunOptions) -> Result<Vec<Survivors>> {
        self.idle()?;
        self.run_in(0, frames, options)
    }

    fn queue_depth(&self) -> usize {
        LANES
    }

    fn start(&mut self, frames: &[Frame<'_>], options: &RunOptions) -> Result<()> {
        if self.flights.len() >= LANES {
            return Err(Error::Usage(format!("{LANES} runs are under way: finish one first")));
        }
        // Of two lanes, the one that the run before is not in. A caller that finishes each run before the next starts
        // never needs memory for the other.
        let lane = self.flights.back().map_or(0, |flight| (flight.lane + 1) % LANES);
        let mut flight = Flight { images: frames.len(), lane, key: None };
        if (1..=MAX_BATCH).contains(&frames.len()) {
            let (index, bytes) = self.prepare(lane, frames, options)?;
            let key = Key { heatmaps: options.heatmaps, staged: None };
            self.setups[index].start(&self.gpu, &self.plan, key, bytes)?;
            flight.key = Some(key);
        }
        self.flights.push_back(flight);
        Ok(())
    }

    fn finish(&mut self, frames: &[Frame<'_>], options: &RunOptions) -> Result<Vec<Survivors>> {
        let flight = self.flights.front().ok_or_else(|| Error::Usage("no run is under way".into()))?;
        let Flight { images, lane, key } = *flight;
        if images != frames.len() {
            let got = frames.len();
            return Err(Error::Usage(format!("a run of {images} frames was started, finished with {got}")));
        }
        self.flights.pop_front();
        let (Some(key), Some(index)) = (key, self.find(images, lane)) else {
            return self.run_in(lane, frames, options);
        };
        self.setups[index].program(&self.gpu, &self.plan, key)?.wait()?;
        self.last = index;
        let found = self.setups[index].results(&self.plan, options)?;
        self.complete(lane, found, frames, options)
    }

    fn run_again(&mut self, frames: &[Frame<'_>], options: &RunOptions) -> Result<Vec<Survivors>> {
        self.idle()?;
        if self.held != Some((frames.len(), *options)) {
            return self.run(frames, options);
        }
        let index = self.setup(frames.len(), 0)?;
        self.run_program(index, options, 0)?;
        self.last = index;
        match self.setups[index].results(&self.plan, options)?.into_iter().collect() {
            Some(people) => Ok(people),
            None => self.run(frames, options),
        }
    }

    fn profiler(&mut self) -> &mut dyn Profiler {
        self
    }

    fn launches(&self) -> Option<usize> {
        self.setups.first().map(|setup| setup.launches.len())
    }

    fn device_memory(&self) -> Option<usize> {
        Some(self.constants.held() + self.setups.iter().map(Setup::held).sum::<usize>())
    }

    fn read(&mut self, view: View, image: usize) -> Result<Vec<f32>> {
        let setup = &self.setups[self.last.min(self.setups.len() - 1)];
        let buffer = self.plan.buffers.get(view.buffer.0).filter(|b| view.c0 + view.c <= b.c);
        let buffer = buffer.ok_or_else(|| Error::Usage(format!("view {view:?} is not of this plan")))?;
        if image >= setup.images {
            let n = setup.images;
            return Err(Error::Usage(format!("image {image} of a batch of {n}")));
        }
        let pixels = buffer.extent.pixels();
        let offset = self.schedule.offsets[view.buffer.0] * 2 + image * self.schedule.image * 2;
        let load = |bytes: usize| -> Result<Vec<u8>> {
            let mut data = vec![0; bytes];
            setup.arena.read(offset, &mut data)?;
            Ok(data)
        };
        let half = |b: &[u8]| f16::from_le_bytes([b[0], b[1]]).to_f32();
        let take = |values: Vec<f32>, pitch: usize| -> Vec<f32> {
            values.chunks_exact(pitch).flat_map(|p| &p[view.c0..view.c0 + view.c]).copied().collect()
        };
        match self.schedule.storage[view.buffer.0] {
            Storage::Half { pitch } => {
                Ok(take(load(pixels * pitch * 2)?.chunks_exact(2).map(half).collect(), pitch))
            }
            Storage::Float { pitch } => {
                let float = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                Ok(take(load(pixels * pitch * 4)?.chunks_exact(4).map(float).collect(), pitch))
            }
            Storage::Cells => {
                let data: Vec<f32> = load(pixels * 8)?.chunks_exact(2).map(half).collect();
                let (w, h) = self.plan.input_size();
                let at = |y: usize, x: usize, c: usize| {
                    data[(y / 2 * (w / 2) + x / 2) * 16 + (y % 2 * 2 + x % 2) * 3 + c]
                };
                let values = (0..h).flat_map(|y| (0..w).flat_map(move |x| (0..3).map(move |c| (y, x, c))));
                Ok(take(values.map(|(y, x, c)| at(y, x, c)).collect(), 3))
            }
            Storage::Rows { .. } => {
                Err(Error::Usage(format!("{} holds survivor rows, not a map", buffer.name)))
            }
        }
    }

    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn describe(&self) -> String {
        let launches = self.setups.first().map_or(0, |s| s.launches.len());
        format!("{}, fp16, {launches} launches a run", self.gpu.describe())
    }
}

impl Profiler for CudaExecutor {
    fn run_staged(
        &mut self,
        frames: &[Frame<'_>],
        options: &RunOptions,
    ) -> Result<(Vec<Survivors>, StageTimes)> {
        self.idle()?;
        let (mut times, mut all) = (StageTimes::default(), Vec::with_capacity(frames.len()));
        for batch in frames.chunks(MAX_BATCH) {
            let (index, bytes) = self.prepare(0, batch, options)?;
            let key = Key { heatmaps: options.heatmaps, staged: Some(bytes) };
            let stages = self.setups[index].program(&self.gpu, &self.plan, key)?.run_staged()?;
            let into = [
                &mut times.upload,
                &mut times.letterbox,
                &mut times.network,
                &mut times.select,
                &mut times.dcc,
                &mut times.download,
            ];
            into.into_iter().zip(stages).for_each(|(sum, time)| *sum += time);
            // a frame with more people than fit runs again, which is not timed
            let found = self.setups[index].results(&self.plan, options)?;
            all.extend(self.complete(0, found, batch, options)?);
        }
        Ok((all, times))
    }

    fn run_timed(&mut self, frame: Frame<'_>, options: &RunOptions) -> Result<(Survivors, Vec<StepTime>)> {
        self.idle()?;
        let (index, bytes) = self.prepare(0, &[frame], options)?;
        let key = Key { heatmaps: options.heatmaps, staged: None };
        let setup = &self.setups[index];
        let upload = Some(setup.upload(bytes));
        let sequence = Sequence { upload, ..setup.sequence(key, &self.plan) };
        let launches: Vec<(Vec<usize>, &'static str)> =
            sequence.launches.iter().map(|l| (l.steps.clone(), l.kernel.name)).collect();
        // SAFETY: addresses are those of the setup and of constants, which stay as they are until the program is dropped, at
        // the end of the line.
        let times = unsafe { self.gpu.compile(sequence) }?.run_timed()?;
        let people = self.setups[index].results(&self.plan, options)?.pop().flatten();
        let people = people.ok_or_else(|| Error::Device("more survivors than grid cells".into()))?;
        // A launch of several steps counts for the first; the others show the kernel they went with, and no time.
        let mut steps = Vec::new();
        for ((of, kernel), time) in launches.into_iter().zip(times) {
            for (i, step) in of.iter().enumerate() {
                let time = if i == 0 { time } else { Duration::ZERO };
                let with = if i == 0 { String::new() } else { format!(" (with step {})", of[0]) };
                steps.push(StepTime { step: *step, kernel: format!("{kernel}{with}"), time });
            }
        }
        steps.sort_by_key(|s| s.step);
        Ok((people, steps))
    }
}
