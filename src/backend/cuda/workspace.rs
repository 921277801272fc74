//! Memory and programs for one batch size.

use super::gpu::{Fetch, Gpu, GraphRecipe, HostMemory, Memory, Program, Purpose, Upload};
use super::launch::Launch;
use super::lower::WorkspaceAddresses;
use super::pose::bin_decode::forget_heatmaps;
use super::pose::collect::fields;
use super::pose::frames::SURVIVOR_BYTES;
use super::pose::params::{Count, Frame, PERSON_FLOATS};
use super::pose::select::cells;
use super::schedule::Schedule;
use crate::backend::{RunOptions, Survivors};
use crate::error::Result;
use crate::plan::{Op, Plan};
use std::sync::Arc;

/// Survivors that each image of a batch has room for. A frame with more runs again alone, with room for all grid cells.
const BATCH_CAPACITY: usize = 256;
/// Programs kept for each batch size.
const KEPT: usize = 8;

/// Memory and programs for batches of one size in one stream.
pub(super) struct Workspace {
    // Programs use the memory below, so they are declared, and dropped, before it.
    pub programs: Vec<(ProgramKey, Box<dyn Program>)>,
    pub images: usize,
    /// Index of the stream in which its programs run.
    pub stream: usize,
    pub capacity: usize,
    pub arena: Memory,
    pub rows: Memory,
    pub survivors: Memory,
    pub counts: Memory,
    pub boxes: Memory,
    pub keys: Memory,
    pub heat: Option<[Memory; 2]>,
    pub input: Memory,
    pub staging: HostMemory,
    pub host_counts: HostMemory,
    pub host_rows: HostMemory,
    /// Empty: still to be made.
    pub launches: Vec<Launch>,
}

/// What a program depends on besides its workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProgramKey {
    pub heatmaps: bool,
    /// Stages are timed. The first one is the upload of this many bytes.
    pub staged: Option<usize>,
}

impl Workspace {
    /// Allocates memory; launches are still to be made.
    pub fn new(
        gpu: &Arc<dyn Gpu>,
        plan: &Plan,
        schedule: &Schedule,
        images: usize,
        stream: usize,
    ) -> Result<Workspace> {
        let (cells, slots) = cells(plan);
        let capacity = if images == 1 { cells } else { cells.min(BATCH_CAPACITY) }.max(1);
        let working = |bytes: usize| Memory::new(gpu, bytes, Purpose::Working);
        let people = images * capacity;
        let (w, h) = plan.input_size();
        let input_bytes = images * (size_of::<Frame>() + w * h * 3 + 64 * (w + h));
        // Kernels read survivors before they know how many there are.
        let survivors = working(people * SURVIVOR_BYTES)?;
        survivors.write(0, &vec![0; people * SURVIVOR_BYTES])?;
        Ok(Workspace {
            programs: vec![],
            images,
            stream,
            capacity,
            arena: working(images * schedule.image * 2)?,
            rows: working(people * schedule.row * 4)?,
            survivors,
            counts: working(images * size_of::<Count>())?,
            boxes: working(images * slots * 16)?,
            keys: working(images * slots * 8)?,
            heat: None,
            input: working(input_bytes)?,
            staging: HostMemory::new(gpu, input_bytes)?,
            host_counts: HostMemory::new(gpu, images * size_of::<Count>())?,
            host_rows: HostMemory::new(gpu, people * fields(plan) * 4)?,
            launches: vec![],
        })
    }

    /// Bytes of device memory allocated.
    pub fn allocated(&self) -> usize {
        let Workspace { arena, rows, survivors, counts, boxes, keys, heat, input, .. } = self;
        let fixed = [arena, rows, survivors, counts, boxes, keys, input];
        fixed.into_iter().chain(heat.iter().flatten()).map(|memory| memory.bytes).sum()
    }

    /// Drops launches and programs, since they hold addresses that are no longer valid. An empty `launches` makes the
    /// next run lower the plan again, also if a step in between fails.
    pub fn forget_launches(&mut self) {
        self.programs.clear();
        self.launches.clear();
    }

    /// Makes room for `bytes` of frames. If the memory moves, launches are forgotten.
    pub fn make_room(&mut self, gpu: &Arc<dyn Gpu>, bytes: usize) -> Result<()> {
        if bytes <= self.input.bytes {
            return Ok(());
        }
        // Grows by half at least, so that photos of rising sizes move it only a few times.
        let bytes = bytes.max(self.input.bytes + self.input.bytes / 2).next_multiple_of(1 << 20);
        let input = Memory::new(gpu, bytes, Purpose::Working)?;
        let staging = HostMemory::new(gpu, bytes)?;
        self.forget_launches();
        (self.input, self.staging) = (input, staging);
        Ok(())
    }

    /// Makes room for heatmaps. If there was none, launches are forgotten.
    pub fn make_heatmaps(&mut self, gpu: &Arc<dyn Gpu>, plan: &Plan) -> Result<()> {
        if self.heat.is_some() {
            return Ok(());
        }
        let memory = |bins: usize| {
            let bytes = self.images * self.capacity * plan.keypoints() * bins * 4;
            Memory::new(gpu, bytes, Purpose::Working)
        };
        let [x, y] = bins(plan);
        let heat = [memory(x)?, memory(y)?];
        self.forget_launches();
        self.heat = Some(heat);
        Ok(())
    }

    /// Addresses for the launches.
    pub fn addresses(&self) -> WorkspaceAddresses {
        WorkspaceAddresses {
            images: self.images,
            capacity: self.capacity,
            arena: self.arena.address,
            rows: self.rows.address,
            input: self.input.address,
            survivors: self.survivors.address,
            counts: self.counts.address,
            boxes: self.boxes.address,
            keys: self.keys.address,
            host_counts: self.host_counts.device,
            host_rows: self.host_rows.device,
            heat: self.heat.as_ref().map_or([0; 2], |h| [h[0].address, h[1].address]),
        }
    }

    /// What a program does.
    pub fn recipe(&self, key: ProgramKey, plan: &Plan) -> GraphRecipe {
        let mut launches = self.launches.clone();
        if !key.heatmaps {
            launches.iter_mut().for_each(forget_heatmaps);
        }
        let marks = if key.staged.is_some() { stages(plan, &launches) } else { vec![] };
        let upload = key.staged.map(|bytes| self.upload(bytes));
        GraphRecipe { stream: self.stream, upload, launches, marks }
    }

    /// An upload of the first `bytes` of the staging memory.
    pub fn upload(&self, bytes: usize) -> Upload {
        assert!(bytes <= self.input.bytes, "{bytes} bytes of {}", self.input.bytes);
        Upload { from: self.staging.address(), to: self.input.address, bytes }
    }

    /// Starts a program, made if there is none yet, after an upload of `bytes` bytes and these copies of the caller's
    /// pictures; 0: the resident input is used again.
    ///
    /// # Safety
    /// The rows of the pictures are as [`DeviceImage::new`](crate::DeviceImage::new) has it until the program has been
    /// waited for, and go to places in this workspace's input.
    pub unsafe fn start(
        &mut self,
        gpu: &Arc<dyn Gpu>,
        plan: &Plan,
        key: ProgramKey,
        bytes: usize,
        fetches: &[Fetch],
    ) -> Result<()> {
        let upload = (bytes > 0).then(|| self.upload(bytes));
        let program = self.program(gpu, plan, key)?;
        // SAFETY: both blocks belong to this workspace, have `bytes` bytes, and move only after `forget_launches`; the
        // host's was zeroed when it was made. The executor writes there only while no run is in flight in the stream.
        // Pictures are the caller's promise.
        unsafe { program.start(upload, fetches) }
    }

    /// The program of a key, made if there is none yet.
    pub fn program(&mut self, gpu: &Arc<dyn Gpu>, plan: &Plan, key: ProgramKey) -> Result<&dyn Program> {
        // Ordered by last use: the front one is dropped first.
        match self.programs.iter().position(|p| p.0 == key) {
            Some(i) => self.programs[i..].rotate_left(1),
            None => {
                if self.programs.len() >= KEPT {
                    self.programs.remove(0);
                }
                // SAFETY: addresses are those of this workspace's memory, which programs are dropped before, and move
                // only after
                // `forget_launches`; and of constants, which the executor drops after its workspaces. It writes and
                // reads staging and results only while no run is in flight in the stream.
                let program = unsafe { gpu.compile(self.recipe(key, plan)) }?;
                self.programs.push((key, program));
            }
        }
        Ok(self.programs.last().expect("found or made").1.as_ref())
    }

    /// The results of the last run, from the host's memory; `None` for an image whose survivors did not fit.
    pub fn results(&self, plan: &Plan, options: &RunOptions) -> Result<Vec<Option<Survivors>>> {
        let (k, fields) = (plan.keypoints(), fields(plan));
        let counts: &[Count] =
            bytemuck::cast_slice(&self.host_counts.read()[..self.images * size_of::<Count>()]);
        let rows: &[f32] =
            bytemuck::cast_slice(&self.host_rows.read()[..self.images * self.capacity * fields * 4]);
        let mut all = Vec::with_capacity(self.images);
        for (image, count) in counts.iter().enumerate() {
            if count.lost != 0 {
                all.push(None);
                continue;
            }
            let people = count.people as usize;
            let mut s = Survivors {
                not_finite: count.not_finite.max(0) as usize,
                scores: Vec::with_capacity(people),
                boxes: Vec::with_capacity(people),
                priors: Vec::with_capacity(people),
                keypoints: Vec::with_capacity(people * k),
                visibility: Vec::with_capacity(people * k),
                ..Survivors::default()
            };
            for row in rows[image * self.capacity * fields..].chunks_exact(fields).take(people) {
                s.scores.push(row[0]);
                s.boxes.push([row[1], row[2], row[3], row[4]]);
                s.priors.push([row[5], row[6]]);
                let (points, visible) = row[PERSON_FLOATS..].split_at(2 * k);
                s.keypoints.extend(points.chunks_exact(2).map(|p| [p[0], p[1]]));
                s.visibility.extend_from_slice(visible);
            }
            if let (true, Some(heat)) = (options.heatmaps, &self.heat) {
                let read = |axis: usize, n: usize| -> Result<Vec<f32>> {
                    let mut values = vec![0f32; people * k * n];
                    let from = image * self.capacity * k * n * 4;
                    heat[axis].read(from, bytemuck::cast_slice_mut(&mut values))?;
                    Ok(values)
                };
                let [x, y] = bins(plan);
                (s.heatmaps_x, s.heatmaps_y) = (read(0, x)?, read(1, y)?);
            }
            all.push(Some(s));
        }
        Ok(all)
    }
}

/// Bins of x and y.
fn bins(plan: &Plan) -> [usize; 2] {
    plan.bin_decode().map_or([0; 2], |b| [b.x.bins, b.y.bins])
}

/// Ends of the stages, each as the number of launches before it: upload, letterbox, network, select, DCC, download.
fn stages(plan: &Plan, launches: &[Launch]) -> Vec<usize> {
    let first =
        |matches: &dyn Fn(&Launch) -> bool| launches.iter().position(matches).unwrap_or(launches.len());
    let is = |launch: &Launch, of: fn(&Op) -> bool| launch.steps.iter().any(|&s| of(&plan.steps[s].op));
    let letterbox = |l: &Launch| is(l, Op::is_letterbox);
    let collect = first(&|l| l.steps.is_empty());
    let select = first(&|l| is(l, Op::fixes_rows)).min(collect);
    let network = first(&|l| !letterbox(l)).min(select);
    vec![0, network, select, (select + 1).min(collect), collect, launches.len()]
}
