//! From a plan to phases of work: kernels chosen, weights packed, maps resolved.

use super::CpuOptions;
use super::memory::Map;
use super::ops::{attention, layer_norm, max_pool, pool_pyramid};
use super::phase::Work;
use super::pose::letterbox::{Layout, NetworkInput};
use super::simd::Simd;
use super::tile_unit::Unit;
use crate::backend::Precision;
use crate::plan::{Arena, Op, Plan, TensorId, View};
use std::sync::Mutex;
use std::thread;

/// A phase, and the name of its kernel in tables.
pub struct Phase {
    /// Step of the plan that it belongs to.
    pub step: usize,
    /// Name of the kernel.
    pub kernel: &'static str,
    /// The work.
    pub work: Box<dyn Work>,
}

/// A prepared plan: phases in order, and how many values the arena takes.
pub struct Prepared {
    /// All phases of all steps.
    pub phases: Vec<Phase>,
    /// Values of the arena.
    pub arena_len: usize,
    /// The network input, if the plan has one.
    pub input: Option<NetworkInput>,
}

/// Values that kernels may read (never use) behind the last channel of a map.
pub const GUARD: usize = 16;

/// Chooses and packs kernels for every step. Weights are dropped from the plan as they are packed.
pub fn prepare<S: Simd>(simd: S, plan: &mut Plan, arena: &Arena, options: &CpuOptions) -> Prepared {
    let threads = options.threads;
    let mut builder = Builder {
        simd,
        arena,
        threads,
        precision: options.precision,
        unit: options.isa.tile_unit(),
        arena_len: arena.len,
        input: None,
        uses: uses(plan),
        jobs: vec![],
    };
    for step in 0..plan.steps.len() {
        builder.step(plan, step);
    }
    Prepared { phases: make(builder.jobs, threads), arena_len: builder.arena_len, input: builder.input }
}

/// Makes a phase's work, which may take time: it packs weights.
pub type Make = Box<dyn FnOnce() -> Box<dyn Work> + Send>;

/// A phase to be made: its step, its kernel's name, and its work.
type Job = (usize, &'static str, Make);

/// Makes the phases, each on one of `threads` threads.
fn make(jobs: Vec<Job>, threads: usize) -> Vec<Phase> {
    let queue = Mutex::new(jobs.into_iter().enumerate());
    let work = || {
        let mut made = Vec::new();
        loop {
            let next = queue.lock().expect("no thread panics while it holds the lock").next();
            let Some((place, (step, kernel, job))) = next else { return made };
            made.push((place, Phase { step, kernel, work: job() }));
        }
    };
    let mut made = thread::scope(|scope| {
        // Where the system starts no more threads, those that run do all the work.
        let start = |_| thread::Builder::new().spawn_scoped(scope, work).ok();
        let others: Vec<_> = (1..threads).map_while(start).collect();
        let mut made = work();
        for other in others {
            made.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        made
    });
    made.sort_by_key(|(place, _)| *place);
    made.into_iter().map(|(_, phase)| phase).collect()
}

/// How often each tensor is used.
fn uses(plan: &Plan) -> Vec<usize> {
    let mut uses = vec![0; plan.tensors.len()];
    for step in &plan.steps {
        for id in step.op.tensors() {
            uses[id.0] += 1;
        }
    }
    uses
}

pub(super) struct Builder<'a, S> {
    pub(super) simd: S,
    arena: &'a Arena,
    pub(super) threads: usize,
    pub(super) precision: Precision,
    /// Computes convolutions below fp32, if there is one.
    pub(super) unit: Option<Unit>,
    arena_len: usize,
    pub(super) input: Option<NetworkInput>,
    uses: Vec<usize>,
    jobs: Vec<Job>,
}

impl<S: Simd> Builder<'_, S> {
    /// A tensor's values, for the last time if no later step uses it.
    pub(super) fn take(&mut self, plan: &mut Plan, id: TensorId) -> Vec<f32> {
        self.uses[id.0] -= 1;
        let data = &mut plan.tensors[id.0].data;
        if self.uses[id.0] == 0 { std::mem::take(data) } else { data.clone() }
    }

    pub(super) fn push(&mut self, step: usize, kernel: &'static str, work: impl Work + 'static) {
        self.push_later(step, kernel, || work);
    }

    /// As `push`, for work that takes time to make.
    pub(super) fn push_later<W: Work + 'static>(
        &mut self,
        step: usize,
        kernel: &'static str,
        make: impl FnOnce() -> W + Send + 'static,
    ) {
        self.push_boxed(step, kernel, Box::new(|| Box::new(make())));
    }

    pub(super) fn push_boxed(&mut self, step: usize, kernel: &'static str, make: Make) {
        self.jobs.push((step, kernel, make));
    }

    pub(super) fn reserve(&mut self, len: usize) -> usize {
        let at = self.arena_len;
        self.arena_len += (len + GUARD).next_multiple_of(16);
        at
    }

    fn step(&mut self, plan: &mut Plan, step: usize) {
        match plan.steps[step].op.clone() {
            Op::Conv(conv) => self.conv(plan, step, &conv),
            Op::PoolPyramid { src, dst, window } => {
                pool_pyramid::prepare(self, plan, step, (src, dst), window);
            }
            Op::MaxPool { src, dst, window, stride, .. } => {
                max_pool::prepare(self, plan, step, (src, dst), (window, stride));
            }
            Op::Attention { qkv, dst, heads } => attention::prepare(self, plan, step, (qkv, dst), heads),
            Op::LayerNorm { src, dst, gamma, beta, eps } => {
                layer_norm::prepare(self, plan, step, (src, dst), (gamma, beta), eps);
            }
            Op::Pose(pose) => self.pose(plan, step, pose),
        }
    }

    /// A view of a map, resolved. The network input is a separate map with a border.
    pub(super) fn map(&self, plan: &Plan, view: View) -> Map {
        match self.input {
            Some(input) if view.buffer == input.view.buffer => {
                assert!(
                    input.layout == Layout::Bordered { border: 0 },
                    "a network input with another layout has one reader, which knows it"
                );
                input.map
            }
            _ => Map::new(plan, self.arena, view),
        }
    }
}
