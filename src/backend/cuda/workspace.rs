//! Memory and programs for one batch size.

use super::gpu::{Gpu, HostMemory, Memory, Program, Purpose, Sequence, Upload};
use super::launch::Launch;
use super::lower::Place;
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

/// Survivors an image of a batch can have. A frame that has more runs again alone, where all grids fit.
const BATCH_CAPACITY: usize = 256;
/// Programs kept for each batch size.
const KEPT: usize = 8;

/// Everything that one batch of images needs while it is under way.
pub(super) struct Setup {
    // Programs use memory that follows them here, and are dropped before it.
    pub programs: Vec<(Key, Box<dyn Program>)>,
    pub images: usize,
    /// The queue in which its programs run.
    pub lane: usize,
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

/// What a program depends on besides its setup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub heatmaps: bool,
    /// Stages are timed, the first of them the upload of so many bytes.
    pub staged: Option<usize>,
}

impl Setup {
    /// Allocates memory; launches are still to be made.
    pub fn new(
        gpu: &Arc<dyn Gpu>,
        plan: &Plan,
        schedule: &Schedule,
        images: usize,
        lane: usize,
    ) -> Result<Setup> {
        let (cells, slots) = cells(plan);
        let capacity = if images == 1 { cells } else { cells.min(BATCH_CAPACITY) }.max(1);
        let working = |bytes: usize| Memory::new(gpu, bytes, Purpose::Working);
        let people = images * capacity;
        let (w, h) = plan.input_size();
        let input_bytes = images * (size_of::<Frame>() + w * h * 3 + 64 * (w + h));
        // kernels look at survivors before they know how many there are
        let survivors = working(people * SURVIVOR_BYTES)?;
        survivors.write(0, &vec![0; people * SURVIVOR_BYTES])?;
        Ok(Setup {
            programs: vec![],
            images,
            lane,
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
    pub fn held(&self) -> usize {
        let Setup { arena, rows, survivors, counts, boxes, keys, heat, input, .. } = self;
        let fixed = [arena, rows, survivors, counts, boxes, keys, input];
        fixed.into_iter().chain(heat.iter().flatten()).map(|memory| memory.bytes).sum()
    }

    /// Launches and programs go: they know addresses that are no longer right. Whoever wants to run makes new ones first,
    /// however what comes between may fail.
    pub fn forget_launches(&mut self) {
        self.programs.clear();
        self.launches.clear();
    }

    /// Makes room for `bytes` of frames; if that moves them, there are no launches after it.
    pub fn make_room(&mut self, gpu: &Arc<dyn Gpu>, bytes: usize) -> Result<()> {
        if bytes <= self.input.bytes {
            return Ok(());
        }
        // By half at least: few photos of rising sizes move it.
        let bytes = bytes.max(self.input.bytes + self.input.bytes / 2).next_multiple_of(1 << 20);
        let input = Memory::new(gpu, bytes, Purpose::Working)?;
        let staging = HostMemory::new(gpu, bytes)?;
        self.forget_launches();
        (self.input, self.staging) = (input, staging);
        Ok(())
    }

    /// Makes room for heatmaps; if there was none, there are no launches after it.
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

    /// Where the launches find their memory.
    pub fn place(&self) -> Place {
        Place {
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
    pub fn sequence(&self, key: Key, plan: &Plan) -> Sequence {
        let mut launches = self.launches.clone();
        if !key.heatmaps {
            launches.iter_mut().for_each(forget_heatmaps);
        }
        let marks = if key.staged.is_some() { stages(plan, &launches) } else { vec![] };
        let upload = key.staged.map(|bytes| self.upload(bytes));
        Sequence { lane: self.lane, upload, launches, marks }
    }

    /// The first bytes of what was written for a run.
    pub fn upload(&self, bytes: usize) -> Upload {
        assert!(bytes <= self.input.bytes, "{bytes} bytes of {}", self.input.bytes);
        Upload { from: self.staging.address(), to: self.input.address, bytes }
    }

    /// Lets a program begin, made if need be, after an upload of so many bytes; 0: what the device holds is used again.
    pub fn start(&mut self, gpu: &Arc<dyn Gpu>, plan: &Plan, key: Key, bytes: usize) -> Result<()> {
        let upload = (bytes > 0).then(|| self.upload(bytes));
        let program = self.program(gpu, plan, key)?;
        // SAFETY: both blocks are this setup's, are as large, and move only after `forget_launches`; the host's was zeroed when it
        // was made. The executor writes there only while nothing is under way in the lane.
        unsafe { program.start(upload) }
    }

    /// A program, made if need be.
    pub fn program(&mut self, gpu: &Arc<dyn Gpu>, plan: &Plan, key: Key) -> Result<&dyn Program> {
        // The one used last is last.
        match self.programs.iter().position(|p| p.0 == key) {
            Some(i) => self.programs[i..].rotate_left(1),
            None => {
                if self.programs.len() >= KEPT {
                    self.programs.remove(0);
                }
                // SAFETY: addresses are those of this setup's memory, which programs are dropped before, and move only after
                // `forget_launches`; and of constants, which the executor drops after its setups. It writes and reads
                // staging and results only while nothing is under way in the lane.
                let program = unsafe { gpu.compile(self.sequence(key, plan)) }?;
                self.programs.push((key, program));
            }
        }
        Ok(self.programs.last().expect("found or made").1.as_ref())
    }

    /// What the last run left in the host's memory; `None` for an image whose survivors did not fit.
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
            let mut s = Survivors::default();
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

/// Ends of the stages, as launches before them: upload, letterbox, network, select, DCC, download.
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
