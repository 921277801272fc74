//! The CPU backend: handwritten SIMD kernels, a thread pool, one arena.
//!
//! ```text
//! plan -> prepare (choose kernels, pack weights) -> phases of items -> run: one parallel region, a barrier a phase
//!   pool, work_queue                                        threads; which thread computes which items
//!   ops, pose                                               operations, a file or folder each
//!     microkernel, activation, element, matrix, pack        products of matrices
//!     tile_unit, amx                                        products on AMX's tile registers
//!     math, prefetch                                        functions of vectors; hints to the caches
//!       simd                                                vectors, a file for each instruction set
//! ```

pub mod activation;
pub mod amx;
#[cfg(test)]
mod balance;
mod cores;
pub mod element;
pub mod isa;
pub mod math;
pub mod matrix;
pub mod memory;
pub mod microkernel;
pub mod ops;
pub mod pack;
pub mod peak;
pub mod phase;
pub mod pool;
pub mod pose;
mod prefetch;
pub mod prepare;
mod probe;
pub mod simd;
pub mod tile_unit;
mod work_queue;

pub use cores::cores;
pub use isa::Isa;

use super::{Executor, Frame, Precision, Profiler, RunOptions, StepTime, Survivors};
use crate::error::{Error, Result};
use crate::plan::{Extent, Plan, View};
use crate::plan::{KEYPOINTS, VISIBILITY};
use crate::pose::select::sigmoid;
use isa::with_isa;
use memory::{Block, Map};
use phase::{Context, Rows, Scratch, ScratchSize, State};
use pool::{Pool, Worker};
use pose::letterbox::NetworkInput;
use prepare::{GUARD, Phase, Prepared, prepare};
use std::cell::UnsafeCell;
use std::ops::Range;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use work_queue::WorkQueue;

/// How a plan is prepared for the CPU.
#[derive(Clone, Copy, Debug)]
pub struct CpuOptions {
    /// Threads; the caller of a run is one of them.
    pub threads: usize,
    /// Instruction set.
    pub isa: Isa,
    /// Arithmetic: fp32, or bf16 and bf16x3 with an [`Isa`] that has them.
    pub precision: Precision,
    /// Keep every map intact until the end of a run, so that [`Executor::read`] may look at it.
    pub keep_maps: bool,
}

impl CpuOptions {
    /// A thread for each of [`cores`], the instruction set of [`Isa::choose`], fp32.
    ///
    /// # Errors
    /// If `RTMO_ISA` names an instruction set that this CPU lacks.
    pub fn detect() -> Result<CpuOptions> {
        Ok(CpuOptions { threads: cores(), isa: Isa::choose()?, precision: Precision::Fp32, keep_maps: false })
    }
}

/// The CPU's name, as the system tells it.
pub fn name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    match model {
        Some((_, name)) => name.trim().to_string(),
        None => format!("unnamed {} CPU", std::env::consts::ARCH),
    }
}

/// A plan prepared for the CPU.
pub struct CpuExecutor {
    plan: Plan,
    options: CpuOptions,
    pool: Pool,
    phases: Vec<Phase>,
    queues: Vec<WorkQueue>,
    arena: Block,
    maps: Vec<Option<Map>>,
    input: Option<NetworkInput>,
    scratch: Vec<Mutex<Scratch>>,
    state: UnsafeCell<State>,
    heatmaps: Option<[usize; 2]>,
    /// Images of the last [`Executor::run`].
    batch: usize,
}

impl CpuExecutor {
    /// Prepares a plan; drops its weights as they are packed.
    ///
    /// # Errors
    /// If this CPU lacks the instruction set; if the instruction set lacks the precision; if the plan fails
    /// [`Plan::check_steps`], on which the kernels' memory accesses rely; if the system lacks the memory or threads.
    ///
    /// # Panics
    /// If several steps read the network input, and the first of them wants it in a layout of its own.
    pub fn new(mut plan: Plan, mut options: CpuOptions) -> Result<CpuExecutor> {
        options.threads = options.threads.max(1);
        plan.check_steps().map_err(|what| Error::Usage(format!("a plan that cannot be executed: {what}")))?;
        if !options.isa.available() {
            return Err(Error::Device(format!("this CPU has no {}", options.isa.name())));
        }
        options.isa.check_precision(options.precision)?;
        let threads = options.threads;
        let arena = plan.arena(16, GUARD, options.keep_maps);
        let Prepared { phases, arena_len, input } =
            with_isa!(options.isa, simd => prepare(simd, &mut plan, &arena, &options));
        let maps = (0..plan.buffers.len())
            .map(|i| {
                let (buffer, offset) = (&plan.buffers[i], arena.offsets[i]?);
                let Extent::Map { h, w } = buffer.extent else { return None };
                Some(Map { offset, pitch: buffer.c, h, w, c: buffer.c })
            })
            .collect();
        let size = phases.iter().fold(ScratchSize::default(), |size, p| size.max(p.work.scratch()));
        let heatmaps = plan.bin_decode().map(|d| [d.tokens * d.x.bins, d.tokens * d.y.bins]);
        let rows = plan.buffers.iter().map(|b| match b.extent {
            Extent::Rows => Rows::new(b.c),
            Extent::Map { .. } => Rows::new(0),
        });
        let state = State {
            selection: Default::default(),
            survivors: Vec::new(),
            not_finite: 0,
            rows: rows.collect(),
            heatmaps: Rows::new(heatmaps.map_or(0, |h| h[0] + h[1])),
        };
        let pool = Pool::new(threads)
            .map_err(|why| Error::Device(format!("cannot start {threads} threads: {why}")))?;
        let arena = Block::try_zeroed(arena_len).ok_or_else(|| {
            let ((w, h), size) = (plan.input_size(), arena_len as f64 * 4e-9);
            Error::Device(format!(
                "an input of {w}x{h} pixels takes {size:.2} GB of memory, which is not free"
            ))
        })?;
        Ok(CpuExecutor {
            options,
            pool,
            queues: phases.iter().map(|_| WorkQueue::new(threads)).collect(),
            phases,
            arena,
            batch: 0,
            maps,
            input,
            scratch: (0..threads).map(|_| Mutex::new(Scratch::new(size))).collect(),
            state: UnsafeCell::new(state),
            heatmaps,
            plan,
        })
    }

    /// One image through some of the phases; `after(phase)` is called by the first thread after each phase's barrier.
    fn execute(
        &mut self,
        phases: Range<usize>,
        frame: Frame<'_>,
        options: &RunOptions,
        after: &(dyn Fn(usize) + Sync),
    ) {
        let context = Context { base: self.arena.as_mut_ptr(), options, frame, state: &self.state };
        let (queues, scratch) = (&self.queues[phases.clone()], &self.scratch);
        queues.iter().for_each(WorkQueue::reset);
        let first = phases.start;
        let phases = &self.phases[phases];
        let context = &context;
        self.pool.run(&|worker: &Worker<'_>| {
            let mut scratch = scratch[worker.index].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            for (index, (phase, queue)) in phases.iter().zip(queues).enumerate() {
                // SAFETY: the barrier completed all earlier phases.
                let items = unsafe { phase.work.items(context) };
                for item in queue.of(worker.index, items) {
                    // SAFETY: the arena and scratch were made for these phases; the queue hands each item to one thread;
                    // the barrier completes a phase before the next.
                    unsafe { phase.work.run(item, context, &mut scratch) };
                }
                worker.barrier();
                if worker.index == 0 {
                    after(first + index);
                }
            }
        });
    }

    /// The survivors of the last run.
    fn survivors(&mut self, options: &RunOptions) -> Survivors {
        let keypoints = self.plan.keypoints();
        let state = self.state.get_mut();
        let n = state.survivors.len();
        let values = |view: Option<View>| -> Vec<f32> {
            let Some(view) = view else { return Vec::new() };
            let rows = &state.rows[view.buffer.0];
            (0..n)
                .flat_map(|i| {
                    // SAFETY: rows were reserved for all survivors, with room for every channel.
                    unsafe { std::slice::from_raw_parts(rows.row(i).add(view.c0).cast_const(), view.c) }
                })
                .copied()
                .collect()
        };
        let xy = values(self.plan.output(KEYPOINTS));
        debug_assert_eq!(xy.len(), n * keypoints * 2);
        let (mut heatmaps_x, mut heatmaps_y) = (Vec::new(), Vec::new());
        if let (true, Some([x, y])) = (options.heatmaps, self.heatmaps) {
            for i in 0..n {
                // SAFETY: reserved by selection, written by the bins' phase.
                let row = unsafe { std::slice::from_raw_parts(state.heatmaps.row(i).cast_const(), x + y) };
                heatmaps_x.extend_from_slice(&row[..x]);
                heatmaps_y.extend_from_slice(&row[x..]);
            }
        }
        Survivors {
            scores: state.survivors.iter().map(|s| s.score).collect(),
            boxes: state.survivors.iter().map(|s| s.bbox).collect(),
            priors: state.survivors.iter().map(|s| s.prior).collect(),
            keypoints: xy.chunks_exact(2).map(|p| [p[0], p[1]]).collect(),
            visibility: values(self.plan.output(VISIBILITY)).into_iter().map(sigmoid).collect(),
            heatmaps_x,
            heatmaps_y,
            not_finite: state.not_finite,
        }
    }
}

impl Executor for CpuExecutor {
    fn run(&mut self, frames: &[Frame<'_>], options: &RunOptions) -> Result<Vec<Survivors>> {
        let mut all = Vec::with_capacity(frames.len());
        for frame in frames {
            frame.check(self.plan.input_size())?;
        }
        self.batch = frames.len();
        for &frame in frames {
            self.execute(0..self.phases.len(), frame, options, &|_| ());
            all.push(self.survivors(options));
        }
        Ok(all)
    }

    fn profiler(&mut self) -> &mut dyn Profiler {
        self
    }

    /// Only the last image of a batch is kept.
    fn read(&mut self, view: View, image: usize) -> Result<Vec<f32>> {
        if image + 1 != self.batch {
            let what = format!("image {image} of a batch of {}: only the last one is kept", self.batch);
            return Err(Error::Usage(what));
        }
        self.plan.check_view(view).map_err(Error::Usage)?;
        let mut out = Vec::new();
        let mut push = |at: usize| out.extend_from_slice(&self.arena[at + view.c0..][..view.c]);
        match (self.input, self.maps[view.buffer.0]) {
            (Some(input), _) if input.view.buffer == view.buffer => {
                let (h, w) = input.size();
                (0..h * w).for_each(|i| push(input.pixel(i / w, i % w)));
            }
            (_, Some(map)) => (0..map.pixels()).for_each(|i| push(map.offset + i * map.pitch)),
            _ => {
                let name = &self.plan.buffer_of(view).name;
                return Err(Error::Usage(format!("'{name}' is not a feature map")));
            }
        }
        Ok(out)
    }

    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn describe(&self) -> String {
        let CpuOptions { isa, precision, .. } = self.options;
        let threads = match self.pool.threads() {
            1 => "1 thread".to_string(),
            n => format!("{n} threads"),
        };
        format!("CPU, {}, {threads}, {precision}", isa.name())
    }
}

impl Profiler for CpuExecutor {
    fn run_timed(&mut self, frame: Frame<'_>, options: &RunOptions) -> Result<(Survivors, Vec<StepTime>)> {
        frame.check(self.plan.input_size())?;
        self.batch = 1;
        let ends: Vec<Mutex<Option<Instant>>> = self.phases.iter().map(|_| Mutex::new(None)).collect();
        let start = Instant::now();
        self.execute(0..self.phases.len(), frame, options, &|phase| {
            *ends[phase].lock().expect("no thread panics while it holds the lock") = Some(Instant::now());
        });
        let mut times: Vec<StepTime> = Vec::new();
        let mut last = start;
        for (phase, end) in self.phases.iter().zip(&ends) {
            let end = end.lock().expect("no thread panics while it holds the lock").unwrap_or(last);
            let time = end - last;
            last = end;
            match times.last_mut() {
                Some(t) if t.step == phase.step => {
                    t.time += time;
                    t.kernel = format!("{} + {}", t.kernel, phase.kernel);
                }
                _ => times.push(StepTime { step: phase.step, kernel: phase.kernel.into(), time }),
            }
        }
        debug_assert!(times.iter().map(|t| t.time).sum::<Duration>() <= start.elapsed());
        Ok((self.survivors(options), times))
    }
}
