//! The CUDA backend: handwritten fp16 kernels, one CUDA graph from photos to people.
//!
//! ```text
//! plan -> schedule.rs (what runs together, where buffers live) -> lower.rs (each operation's launch: ops/, pose/)
//!      -> launches -> workspace.rs (memory for a batch, one graph per shape of input) -> people in pinned host memory
//! ```
//!
//! An operation is a folder of `ops/` or `pose/`, with kernel, parameters, limits, packing and launch side by side, and
//! a row in the table of `ops::of` or `pose::of`.
//!
//! Maps are stored in fp16 NHWC and summed in fp32. Class logits, boxes, and everything about survivors are fp32.
//! `ops/conv` chooses the convolution kernel for a shape. `gpu.rs` is the only interface between the executor and a
//! device, so that tests run the same code on the host, with the kernels under an emulator.

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
mod workspace;

#[cfg(test)]
mod emulator;
#[cfg(test)]
mod tests;

use self::constants::Constants;
use self::gpu::{Caps, Fetch, Gpu, GraphRecipe, STREAMS};
use self::launch::Launch;
use self::lower::{Lowering, WorkspaceAddresses};
use self::ops::conv::cache::Cache;
use self::ops::conv::{self, judge, measure, shape::Shape, tiles::Choice, tune};
use self::pose::frames::Layout;
use self::schedule::{Schedule, Storage};
use self::workspace::{ProgramKey, Workspace};
use super::cpu::pool::Pool;
use super::{Executor, Frame, Profiler, RunOptions, StageTimes, StepTime, Survivors};
use crate::backend::device::Kernels;
use crate::error::{Error, Result};
use crate::plan::{Extent, IMAGE, Op, Plan, View};
pub use device::{DeviceInfo, devices};
use half::f16;
pub use images::compiled_archs;
pub use ops::conv::trial::{serve as serve_trial, set_trial_program};
pub use ops::peak::tensor_peak;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// How a plan is prepared for a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Keep every buffer intact until the end of a run, for [`Executor::read`]. Takes more memory.
    pub keep_all: bool,
    /// Measure tiles for shapes that the user's cache does not have yet, once for each batch size. A batch size smaller
    /// than one measured before takes that one's tiles. If false, the built-in table is used.
    pub tune: bool,
    /// Independent convolutions share a launch.
    pub group: bool,
    /// The kernels to choose among.
    pub kernels: Kernels,
}

impl Default for Options {
    fn default() -> Self {
        Options { keep_all: false, tune: true, group: true, kernels: Kernels::Proven }
    }
}

/// Largest batch that runs as one program; longer lists of frames are split.
const MAX_BATCH: usize = 64;
/// Batch sizes kept ready in each stream.
const KEPT: usize = 2;

/// Executes a plan on a GPU.
pub struct CudaExecutor {
    // Programs use constants, so workspaces are declared, and dropped, before constants.
    workspaces: Vec<Workspace>,
    constants: Constants,
    plan: Plan,
    schedule: Schedule,
    gpu: Arc<dyn Gpu>,
    options: Options,
    cache: Cache,
    /// The largest batch for which choices were measured, or known.
    tuned: usize,
    /// Workspace of the last run, for `read`.
    last: usize,
    /// Resident input: number of images and options of the last batch that ran in stream 0, if the device still holds
    /// its photos. They are not all frames of a run if that took several batches, or if one frame ran again alone.
    resident: Option<(usize, RunOptions)>,
    /// Runs started and not finished, oldest first, each in its own stream.
    in_flight: VecDeque<InFlight>,
    /// Threads that copy photos to where the GPU fetches them.
    copiers: Pool,
}

/// A run that was started and not finished.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    images: usize,
    stream: usize,
    /// Its program; `None`: the frames are too many for one, and run in `finish`.
    key: Option<ProgramKey>,
}

/// Frames that are ready to run.
struct Prepared {
    /// Index of their workspace.
    index: usize,
    /// Bytes to upload.
    bytes: usize,
    /// Photos that are in the device's memory.
    fetches: Vec<Fetch>,
}

impl CudaExecutor {
    /// Prepares a plan for GPU `ordinal`: packs weights, chooses kernels, allocates memory for one image.
    ///
    /// # Errors
    /// If the plan breaks [`Plan::check`]; without a driver or that GPU, if the build carries no kernels for it, if a
    /// step is beyond the kernels, or if the memory does not suffice.
    pub fn new(plan: Plan, ordinal: usize, options: Options) -> Result<CudaExecutor> {
        plan.check().map_err(|what| Error::Usage(format!("a plan that cannot be executed: {what}")))?;
        let device = device::Device::open(ordinal, options.kernels)?;
        CudaExecutor::on(Arc::new(device::CudaGpu(device)), plan, options)
    }

    fn on(gpu: Arc<dyn Gpu>, plan: Plan, options: Options) -> Result<CudaExecutor> {
        let schedule = Schedule::new(&plan, options.keep_all, options.group)?;
        let cache = if options.tune { Cache::open(&gpu.identity()) } else { Cache::default() };
        let constants = Constants::new(&gpu);
        let mut executor = CudaExecutor {
            workspaces: vec![],
            constants,
            plan,
            schedule,
            gpu,
            options,
            cache,
            tuned: 0,
            last: 0,
            resident: None,
            in_flight: VecDeque::new(),
            copiers: copiers(),
        };
        executor.workspace(1, 0)?;
        Ok(executor)
    }

    /// Index of a stream's workspace for a batch size, if there is one.
    fn find(&self, images: usize, stream: usize) -> Option<usize> {
        self.workspaces.iter().position(|s| (s.images, s.stream) == (images, stream))
    }

    /// As `find`; makes the workspace if there is none. No run may be in flight in that stream.
    fn workspace(&mut self, images: usize, stream: usize) -> Result<usize> {
        if let Some(i) = self.find(images, stream) {
            return Ok(i);
        }
        if self.workspaces.iter().filter(|s| s.stream == stream).count() >= KEPT {
            // the workspace for single images stays; it also serves overflowing frames
            let other = self.workspaces.iter().position(|s| s.stream == stream && s.images != 1);
            self.workspaces.remove(other.expect("of two batch sizes one is not 1"));
        }
        self.workspaces.push(Workspace::new(&self.gpu, &self.plan, &self.schedule, images, stream)?);
        let i = self.workspaces.len() - 1;
        if let Err(e) = self.lower(i) {
            self.workspaces.truncate(i);
            return Err(e);
        }
        Ok(i)
    }

    /// Makes a workspace's launches again, after addresses or tiles have changed. After a failure it has none.
    fn lower(&mut self, index: usize) -> Result<()> {
        let workspace = &mut self.workspaces[index];
        workspace.forget_launches();
        let (caps, images, addresses) = (self.gpu.caps(), workspace.images, workspace.addresses());
        // Shapes that the cache does not have are measured before weights are packed for their tiles. A batch smaller
        // than an earlier one is likely the rest of the photos: it takes the earlier one's choices and is not measured.
        if self.options.tune && images > self.tuned {
            let shapes =
                self.schedule.groups.iter().filter_map(|group| conv::shapes(&self.plan, &group.steps));
            let unknown: Vec<Vec<Shape>> =
                shapes.filter(|s| self.cache.get(&caps, s, images).is_none()).collect();
            if !unknown.is_empty() {
                self.synchronize()?;
                let runners_up = measure::tiles(&self.gpu, &mut self.cache, &unknown, images)?;
                // Only for single images: in larger batches a launch's neighbours matter less.
                if self.workspaces.len() == 1 {
                    self.refine(addresses, &runners_up)?;
                }
                self.confirm(index);
            }
            self.tuned = images;
        }
        self.workspaces[index].launches = self.launches(addresses)?;
        Ok(())
    }

    /// Tries choices that were nearly as fast alone in the whole network, one at a time, and keeps those that make it
    /// faster: a kernel's time depends on the launches before and after it.
    fn refine(&mut self, addresses: WorkspaceAddresses, runners_up: &measure::RunnersUp) -> Result<()> {
        let (caps, images) = (self.gpu.caps(), addresses.images);
        let launches = self.dense(addresses)?;
        // SAFETY: addresses are those of the workspace that these belong to, and of constants, which stay until the end
        // of this.
        let mut best = unsafe { measure::network(&self.gpu, launches) }?;
        for (shapes, choices) in runners_up {
            for &(alone, choice) in choices {
                let Some(kept) = self.cache.get(&caps, shapes, images) else { continue };
                let kept_alone = self.cache.time(shapes, images);
                self.cache.insert(shapes, images, choice, alone);
                let launches = self.dense(addresses)?;
                // SAFETY: as above.
                let time = unsafe { measure::network(&self.gpu, launches) };
                if time.as_ref().is_ok_and(|time| time.as_secs_f64() < best.as_secs_f64() * 0.998) {
                    best = time?;
                    continue;
                }
                self.cache.insert(shapes, images, kept, kept_alone);
                if let Err(error) = time {
                    self.cache.judge(shapes, images, &choice, judge::Verdict::Bad);
                    self.cache.save();
                    let launches = self.dense(addresses)?;
                    // SAFETY: as above. If the device is lost, loading ends here, and the next start knows why.
                    unsafe { measure::network(&self.gpu, launches) }.map_err(|_| error)?;
                }
            }
        }
        self.cache.save();
        // Drops weights that were packed for choices that were not kept.
        self.constants = Constants::new(&self.gpu);
        Ok(())
    }

    /// Compares the dense network under the choices of the cache with the same under `conv_mma` alone, once after
    /// measuring. Where they differ, finds the launches that make the difference, and gives them to `conv_mma`. Without
    /// memory for the weights of both, nothing is compared.
    fn confirm(&mut self, index: usize) {
        let (caps, images) = (self.gpu.caps(), self.workspaces[index].images);
        let convs = self.schedule.groups.iter().filter_map(|group| conv::shapes(&self.plan, &group.steps));
        let mut suspects: Vec<(Vec<Shape>, Choice)> = Vec::new();
        for shapes in convs {
            let choice = choice(&self.cache, &caps, &shapes, images);
            let reference = tune::fallback(&caps, &shapes, images);
            if choice != reference && suspects.iter().all(|s| s.0 != shapes) {
                suspects.push((shapes, choice));
            }
        }
        // Its own constants: those of the executor are in use, and hold nothing for `conv_mma` alone.
        let mut constants = Constants::new(&self.gpu);
        let Ok(want) = self.maps(index, &mut constants, &|_| None) else { return };
        if want.iter().flatten().any(|v| !v.is_finite()) {
            // Weights of such a size say nothing about kernels.
            return;
        }
        let found = judge::offenders(suspects.len(), |taken| {
            let chosen = |shapes: &[Shape]| {
                let at = suspects.iter().position(|s| s.0 == shapes)?;
                taken[at].then_some(suspects[at].1)
            };
            let got = self.maps(index, &mut constants, &chosen)?;
            Ok(got.iter().zip(&want).any(|(got, want)| far(got, want)))
        });
        let Ok(offenders) = found else { return };
        for &i in &offenders {
            let (shapes, choice) = &suspects[i];
            self.cache.judge(shapes, images, choice, judge::Verdict::Bad);
            self.cache.insert(shapes, images, tune::fallback(&caps, shapes, images), Duration::ZERO);
        }
        self.cache.save();
    }

    /// Runs the dense network in a workspace on made-up pixels, with `chosen` or else `conv_mma` for each launch; the
    /// maps that people are found by, of the first image and of the last one.
    fn maps(
        &self,
        index: usize,
        constants: &mut Constants,
        chosen: &dyn Fn(&[Shape]) -> Option<Choice>,
    ) -> Result<Vec<Vec<f32>>> {
        let workspace = &self.workspaces[index];
        let (caps, images, addresses) = (self.gpu.caps(), workspace.images, workspace.addresses());
        let mut choose = |shapes: &[Shape]| -> Choice {
            chosen(shapes).unwrap_or_else(|| tune::fallback(&caps, shapes, images))
        };
        let (plan, schedule) = (&self.plan, &self.schedule);
        let mut lowering = Lowering { plan, schedule, constants, workspace: addresses, choose: &mut choose };
        let mut launches = lowering.launches()?;
        launches.retain(|launch| self.is_dense(launch));
        // What a kernel does not write is NaN.
        workspace.arena.fill(0xFF)?;
        if let Some(input) = plan.input(IMAGE).filter(|v| schedule.storage[v.buffer.0] == Storage::Cells) {
            let at = schedule.offsets[input.buffer.0] * 2;
            for image in 0..images {
                workspace.arena.write(at + image * schedule.image * 2, &pixels(plan.input_size(), image))?;
            }
        }
        // SAFETY: addresses are those of the workspace and of `constants`; the program ends here.
        unsafe { self.gpu.compile(GraphRecipe { launches, ..GraphRecipe::default() }) }?.run()?;
        let people = plan.steps.iter().filter(|s| matches!(s.op, Op::Pose(_)));
        let mut views: Vec<View> = people.flat_map(|s| s.op.reads()).collect();
        views.retain(|v| matches!(plan.buffer_of(*v).extent, Extent::Map { .. }));
        let last = (images > 1).then_some(images - 1);
        let of =
            |v: &View| [Some(0), last].into_iter().flatten().map(|i| self.values(workspace, *v, i)).collect();
        views
            .iter()
            .map(of)
            .collect::<Result<Vec<Vec<Vec<f32>>>>>()
            .map(|all| all.into_iter().flatten().collect())
    }

    /// Launches with the choices of the cache, or else of the built-in table.
    fn launches(&mut self, addresses: WorkspaceAddresses) -> Result<Vec<Launch>> {
        let (caps, images, cache) = (self.gpu.caps(), addresses.images, &self.cache);
        let mut choose = |shapes: &[Shape]| choice(cache, &caps, shapes, images);
        let (plan, schedule, constants) = (&self.plan, &self.schedule, &mut self.constants);
        Lowering { plan, schedule, constants, workspace: addresses, choose: &mut choose }.launches()
    }

    /// Launches of the dense network under the choices of the cache.
    fn dense(&mut self, addresses: WorkspaceAddresses) -> Result<Vec<Launch>> {
        let mut launches = self.launches(addresses)?;
        launches.retain(|launch| self.is_dense(launch));
        Ok(launches)
    }

    /// Whether a launch is of the dense network, which needs neither photos nor people.
    fn is_dense(&self, launch: &Launch) -> bool {
        let pose = |step: &usize| matches!(self.plan.steps[*step].op, Op::Pose(_));
        !launch.steps.is_empty() && !launch.steps.iter().any(pose)
    }

    /// Waits until the GPU is idle. Runs in flight can still be finished.
    fn synchronize(&mut self) -> Result<()> {
        for InFlight { images, stream, key } in self.in_flight.clone() {
            if let (Some(key), Some(index)) = (key, self.find(images, stream)) {
                self.workspaces[index].program(&self.gpu, &self.plan, key)?.wait()?;
            }
        }
        Ok(())
    }

    /// # Errors
    /// While runs are in flight.
    fn idle(&self) -> Result<()> {
        match self.in_flight.len() {
            0 => Ok(()),
            n => Err(Error::Usage(format!("{n} runs are in flight: finish them first"))),
        }
    }

    /// Runs frames in batches, in a stream where no run is in flight.
    fn run_in(
        &mut self,
        stream: usize,
        frames: &[Frame<'_>],
        options: &RunOptions,
    ) -> Result<Vec<Survivors>> {
        let mut all = Vec::with_capacity(frames.len());
        for batch in frames.chunks(MAX_BATCH) {
            let found = self.run_batch(stream, batch, options)?;
            all.extend(self.complete(stream, found, batch, options)?);
        }
        Ok(all)
    }

    /// Runs frames that fit into one batch; `None` for an image whose survivors did not fit.
    fn run_batch(
        &mut self,
        stream: usize,
        frames: &[Frame<'_>],
        options: &RunOptions,
    ) -> Result<Vec<Option<Survivors>>> {
        let prepared = self.prepare(stream, frames, options)?;
        self.run_program(&prepared, options)?;
        let index = prepared.index;
        if stream == 0 {
            self.resident = Some((frames.len(), *options));
        }
        self.workspaces[index].results(&self.plan, options)
    }

    /// Brings frames to the device, runs a workspace's program, and waits for its end.
    fn run_program(&mut self, prepared: &Prepared, options: &RunOptions) -> Result<()> {
        let key = ProgramKey { heatmaps: options.heatmaps, staged: None };
        let workspace = &mut self.workspaces[prepared.index];
        // SAFETY: of pictures in the device's memory `DeviceImage::new` has the promise, for as long as the call of the engine
        // lasts, and the program is waited for here. `Layout` made their places for this workspace.
        unsafe { workspace.start(&self.gpu, &self.plan, key, prepared.bytes, &prepared.fetches) }?;
        workspace.program(&self.gpu, &self.plan, key)?.wait()
    }

    /// Runs each frame whose survivors did not fit (`None`) again, alone.
    fn complete(
        &mut self,
        stream: usize,
        found: Vec<Option<Survivors>>,
        frames: &[Frame<'_>],
        options: &RunOptions,
    ) -> Result<Vec<Survivors>> {
        let each = |(people, frame): (Option<Survivors>, &Frame<'_>)| -> Result<Survivors> {
            let people = match people {
                Some(people) => Some(people),
                None => self.run_batch(stream, std::slice::from_ref(frame), options)?.pop().flatten(),
            };
            people.ok_or_else(|| Error::Device("more survivors than grid cells".into()))
        };
        found.into_iter().zip(frames).map(each).collect()
    }

    /// Writes the frames to the staging memory of a stream's workspace.
    fn prepare(&mut self, stream: usize, frames: &[Frame<'_>], options: &RunOptions) -> Result<Prepared> {
        for image in frames.iter().filter_map(|frame| frame.device) {
            self.gpu.reaches(image.place().0)?;
        }
        let layout = Layout::new(frames, self.plan.input_size())?;
        self.resident = None;
        let index = self.workspace(frames.len(), stream)?;
        let workspace = &mut self.workspaces[index];
        workspace.make_room(&self.gpu, layout.bytes)?;
        if options.heatmaps {
            workspace.make_heatmaps(&self.gpu, &self.plan)?;
        }
        // Empty after memory has moved, now or in an earlier run that failed halfway.
        if workspace.launches.is_empty() {
            self.lower(index)?;
        }
        let workspace = &mut self.workspaces[index];
        layout.write(frames, &options.select, workspace.staging.write(), &mut self.copiers);
        self.last = index;
        let fetches = layout.fetches(frames, workspace.input.address);
        Ok(Prepared { index, bytes: layout.uploaded, fetches })
    }

    /// Values of a map view in a workspace, see [`Executor::read`].
    fn values(&self, workspace: &Workspace, view: View, image: usize) -> Result<Vec<f32>> {
        let buffer = self.plan.buffers.get(view.buffer.0).filter(|b| view.c0 + view.c <= b.c);
        let buffer = buffer.ok_or_else(|| Error::Usage(format!("view {view:?} is not of this plan")))?;
        if image >= workspace.images {
            let n = workspace.images;
            return Err(Error::Usage(format!("image {image} of a batch of {n}")));
        }
        let pixels = buffer.extent.pixels();
        let offset = self.schedule.offsets[view.buffer.0] * 2 + image * self.schedule.image * 2;
        let load = |bytes: usize| -> Result<Vec<u8>> {
            let mut data = vec![0; bytes];
            workspace.arena.read(offset, &mut data)?;
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
}

/// A few threads: more than four copy no faster, and other work needs some. One, if the system starts no others.
fn copiers() -> Pool {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(4);
    Pool::new(threads).or_else(|_| Pool::new(1)).expect("a team of the calling thread starts none")
}

/// The choice for a launch: of the cache, or else of the built-in table, unless it was found to be wrong.
fn choice(cache: &Cache, caps: &Caps, shapes: &[Shape], images: usize) -> Choice {
    cache.near(caps, shapes, images).unwrap_or_else(|| {
        let choice = tune::built_in(caps, shapes, images);
        if cache.forbids(shapes, images, &choice) { tune::fallback(caps, shapes, images) } else { choice }
    })
}

/// Whether maps of a network differ by more than rounding. Each of two ways to compute RTMO-l is some 6e-3 from f32
/// (`docs/cuda.md`); a wrong tile changes a map by more than its own size where it is read.
fn far(got: &[f32], want: &[f32]) -> bool {
    const ROUNDING: f64 = 2e-2;
    let sum = |of: &dyn Fn(f64, f64) -> f64| -> f64 {
        got.iter().zip(want).map(|(g, w)| of(f64::from(*g), f64::from(*w))).sum()
    };
    let relative = (sum(&|g, w| (g - w) * (g - w)) / sum(&|_, w| w * w).max(1e-30)).sqrt();
    // NaN is not within, either.
    let within = relative <= ROUNDING;
    !within
}

/// Made-up pixels as the letterbox writes them: cells of 2x2 pixels with three numbers each, and four zeros.
fn pixels((w, h): (usize, usize), image: usize) -> Vec<u8> {
    let mut state = image as u32 + 1;
    let mut value = |i: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Patches of about the same colour, and noise.
        let patch = (i / 16 / 8 * 37 + i % 3 * 50 + image * 11) % 160;
        let pixel = if i % 16 < 12 { patch as u32 + (state >> 24) / 4 } else { 0 };
        f16::from_f32(pixel as f32)
    };
    (0..w / 2 * (h / 2) * 16).flat_map(|i| value(i).to_le_bytes()).collect()
}

impl Executor for CudaExecutor {
    fn run(&mut self, frames: &[Frame<'_>], options: &RunOptions) -> Result<Vec<Survivors>> {
        self.idle()?;
        self.run_in(0, frames, options)
    }

    fn queue_depth(&self) -> usize {
        STREAMS
    }

    fn takes_nv12(&self) -> bool {
        true
    }

    fn takes_device_images(&self) -> bool {
        true
    }

    fn device_stream(&self) -> Option<u64> {
        self.gpu.stream(0)
    }

    fn start(&mut self, frames: &[Frame<'_>], options: &RunOptions) -> Result<()> {
        if self.in_flight.len() >= STREAMS {
            return Err(Error::Usage(format!("{STREAMS} runs are in flight: finish one first")));
        }
        // The stream that the previous run in flight does not use. A caller that finishes each run before the next one
        // starts uses stream 0 only, and needs no memory for the other.
        let stream = self.in_flight.back().map_or(0, |run| (run.stream + 1) % STREAMS);
        let mut run = InFlight { images: frames.len(), stream, key: None };
        if (1..=MAX_BATCH).contains(&frames.len()) {
            let Prepared { index, bytes, fetches } = self.prepare(stream, frames, options)?;
            if !fetches.is_empty() {
                return Err(Error::Usage("pictures in GPU memory cannot be submitted".into()));
            }
            let key = ProgramKey { heatmaps: options.heatmaps, staged: None };
            // SAFETY: there are no pictures in the device's memory.
            unsafe { self.workspaces[index].start(&self.gpu, &self.plan, key, bytes, &[]) }?;
            run.key = Some(key);
        }
        self.in_flight.push_back(run);
        Ok(())
    }

    fn finish(&mut self, frames: &[Frame<'_>], options: &RunOptions) -> Result<Vec<Survivors>> {
        let run = self.in_flight.front().ok_or_else(|| Error::Usage("no run is in flight".into()))?;
        let InFlight { images, stream, key } = *run;
        if images != frames.len() {
            let got = frames.len();
            return Err(Error::Usage(format!("a run of {images} frames was started, finished with {got}")));
        }
        self.in_flight.pop_front();
        let (Some(key), Some(index)) = (key, self.find(images, stream)) else {
            return self.run_in(stream, frames, options);
        };
        self.workspaces[index].program(&self.gpu, &self.plan, key)?.wait()?;
        self.last = index;
        let found = self.workspaces[index].results(&self.plan, options)?;
        self.complete(stream, found, frames, options)
    }

    fn run_again(&mut self, frames: &[Frame<'_>], options: &RunOptions) -> Result<Vec<Survivors>> {
        self.idle()?;
        if self.resident != Some((frames.len(), *options)) {
            return self.run(frames, options);
        }
        let index = self.workspace(frames.len(), 0)?;
        self.run_program(&Prepared { index, bytes: 0, fetches: Vec::new() }, options)?;
        self.last = index;
        match self.workspaces[index].results(&self.plan, options)?.into_iter().collect() {
            Some(people) => Ok(people),
            None => self.run(frames, options),
        }
    }

    fn profiler(&mut self) -> &mut dyn Profiler {
        self
    }

    fn launches(&self) -> Option<usize> {
        self.workspaces.first().map(|workspace| workspace.launches.len())
    }

    fn device_memory(&self) -> Option<usize> {
        Some(self.constants.allocated() + self.workspaces.iter().map(Workspace::allocated).sum::<usize>())
    }

    fn read(&mut self, view: View, image: usize) -> Result<Vec<f32>> {
        self.values(&self.workspaces[self.last.min(self.workspaces.len() - 1)], view, image)
    }

    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn describe(&self) -> String {
        let launches = self.workspaces.first().map_or(0, |s| s.launches.len());
        let left_out = match self.cache.forbidden() {
            0 => String::new(),
            n => format!(", {n} choices of kernels left out since they failed here"),
        };
        format!("{}, fp16, {launches} launches a run{left_out}", self.gpu.describe())
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
            let Prepared { index, bytes, .. } = self.prepare(0, batch, options)?;
            let key = ProgramKey { heatmaps: options.heatmaps, staged: Some(bytes) };
            let stages = self.workspaces[index].program(&self.gpu, &self.plan, key)?.run_staged()?;
            let into = [
                &mut times.upload,
                &mut times.letterbox,
                &mut times.network,
                &mut times.select,
                &mut times.dcc,
                &mut times.download,
            ];
            into.into_iter().zip(stages).for_each(|(sum, time)| *sum += time);
            // A frame whose people do not fit runs again. That is not timed.
            let found = self.workspaces[index].results(&self.plan, options)?;
            all.extend(self.complete(0, found, batch, options)?);
        }
        Ok((all, times))
    }

    fn run_timed(&mut self, frame: Frame<'_>, options: &RunOptions) -> Result<(Survivors, Vec<StepTime>)> {
        self.idle()?;
        let Prepared { index, bytes, .. } = self.prepare(0, &[frame], options)?;
        let key = ProgramKey { heatmaps: options.heatmaps, staged: None };
        let workspace = &self.workspaces[index];
        let upload = Some(workspace.upload(bytes));
        let recipe = GraphRecipe { upload, ..workspace.recipe(key, &self.plan) };
        let launches: Vec<(Vec<usize>, &'static str)> =
            recipe.launches.iter().map(|l| (l.steps.clone(), l.kernel.name)).collect();
        // SAFETY: addresses are those of the workspace and of constants, which stay as they are until the program is
        // dropped, at the end of the line.
        let times = unsafe { self.gpu.compile(recipe) }?.run_timed()?;
        let people = self.workspaces[index].results(&self.plan, options)?.pop().flatten();
        let people = people.ok_or_else(|| Error::Device("more survivors than grid cells".into()))?;
        // The time of a launch of several steps counts for the first; the others show the same kernel and no time.
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
