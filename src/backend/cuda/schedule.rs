//! From steps to launches: what runs together, and where every buffer lives.

use super::ops::{self, Operation};
use super::pose;
use crate::error::{Error, Result};
use crate::plan::{DType, Extent, Lifetime, Plan, View, place};

/// Steps that one launch executes: indices into the plan, at least one, all of the same operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub steps: Vec<usize>,
}

impl Group {
    pub fn operation(&self, plan: &Plan) -> &'static dyn Operation {
        ops::of(plan, &plan.steps[self.steps[0]].op)
    }
}

/// How a buffer is stored on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Storage {
    /// fp16 pixels, `pitch` halves each.
    Half { pitch: usize },
    /// fp32 pixels, `pitch` floats each: predictions.
    Float { pitch: usize },
    /// The network input as 2x2 cells of 16 halves.
    Cells,
    /// fp32 rows of survivors, `pitch` floats each.
    Rows { pitch: usize },
}

impl Storage {
    /// Elements from one pixel, cell or survivor to the next.
    pub fn pitch(self) -> usize {
        match self {
            Storage::Half { pitch } | Storage::Float { pitch } | Storage::Rows { pitch } => pitch,
            Storage::Cells => ops::conv::shape::CELL,
        }
    }
}

/// The order of a plan on the device.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    pub groups: Vec<Group>,
    /// By buffer.
    pub storage: Vec<Storage>,
    /// By buffer: offset in one image's memory, in halves; of survivor rows, in floats a survivor.
    pub offsets: Vec<usize>,
    /// Halves an image.
    pub image: usize,
    /// Floats a survivor.
    pub row: usize,
}

/// A launch takes steps from at most this many places after its first.
const LOOK_AHEAD: usize = 12;

/// Whether `later` must wait for `earlier`.
fn depends(plan: &Plan, later: usize, earlier: usize) -> bool {
    let (a, b) = (&plan.steps[earlier].op, &plan.steps[later].op);
    if a.fixes_rows() || b.fixes_rows() {
        return true;
    }
    let (read, written) = (b.reads(), a.writes());
    let hits = |w: View, views: &[View]| views.iter().any(|v| w.overlaps(*v));
    written.is_some_and(|w| hits(w, &read) || hits(w, b.writes().as_slice()))
        || b.writes().is_some_and(|w| hits(w, &a.reads()))
}

impl Schedule {
    /// Checks that the kernels support every step, and groups the steps into launches. `keep_all`: no buffers share
    /// memory;
    /// `group`: independent steps share launches, where their operation has a kernel for that.
    ///
    /// # Errors
    /// A step that is beyond the kernels, by name and with the reason; steps after the selection in an order that the
    /// kernels do not expect.
    pub fn new(plan: &Plan, keep_all: bool, group: bool) -> Result<Schedule> {
        for step in &plan.steps {
            let supported = ops::of(plan, &step.op).supports(plan, &step.op);
            supported.map_err(|why| beyond(plan, &step.name, &why))?;
        }
        let groups = groups(plan, if group { LOOK_AHEAD } else { 0 });
        // Plans without outputs are parts of networks, for tests.
        if !plan.outputs.is_empty() {
            let last = plan.steps.last().map_or("", |s| &s.name);
            pose::ends_in_order(plan, &groups).map_err(|why| beyond(plan, last, &why))?;
        }
        let storage = storage(plan);
        let lives = plan.lifetimes_in(groups.iter().map(|g| g.steps.as_slice()));
        let mut offsets = vec![0; plan.buffers.len()];
        let (mut blocks, mut placed, mut row) = (Vec::new(), Vec::new(), 0);
        for (i, buffer) in plan.buffers.iter().enumerate() {
            let Some(mut life) = lives[i] else { continue };
            if keep_all {
                life = Lifetime { first: 0, last: groups.len() };
            }
            let pixels = buffer.extent.pixels();
            let halves = match storage[i] {
                Storage::Half { pitch } => pixels * pitch,
                Storage::Float { pitch } => pixels * pitch * 2,
                Storage::Cells => pixels / 4 * storage[i].pitch(),
                Storage::Rows { pitch } => {
                    offsets[i] = row;
                    row += pitch;
                    continue;
                }
            };
            blocks.push((life, halves.next_multiple_of(128)));
            placed.push(i);
        }
        let (places, image) = place(&blocks);
        for (i, at) in placed.into_iter().zip(places) {
            offsets[i] = at;
        }
        Ok(Schedule { groups, storage, offsets, image, row })
    }
}

fn storage(plan: &Plan) -> Vec<Storage> {
    let usual = plan.buffers.iter().map(|b| match b.extent {
        Extent::Map { .. } if b.dtype == DType::F32 => Storage::Float { pitch: b.c },
        Extent::Map { .. } => Storage::Half { pitch: b.c.next_multiple_of(8) },
        Extent::Rows => Storage::Rows { pitch: b.c.next_multiple_of(4) },
    });
    let mut storage: Vec<Storage> = usual.collect();
    for step in &plan.steps {
        if let (Some(dst), Some(special)) = (step.op.writes(), ops::of(plan, &step.op).storage()) {
            storage[dst.buffer.0] = special;
        }
    }
    storage
}

fn groups(plan: &Plan, look_ahead: usize) -> Vec<Group> {
    let n = plan.steps.len();
    let mut done = vec![false; n];
    let mut groups = Vec::new();
    for i in 0..n {
        if done[i] {
            continue;
        }
        done[i] = true;
        let first = &plan.steps[i].op;
        let operation = ops::of(plan, first);
        let mut steps = vec![i];
        for j in i + 1..n.min(i + 1 + look_ahead) {
            if steps.len() >= operation.most() {
                break;
            }
            if done[j] || !operation.together(plan, first, &plan.steps[j].op) {
                continue;
            }
            // All steps before `j` that it depends on must be in an earlier launch.
            if (0..j).all(|k| (done[k] && !steps.contains(&k)) || !depends(plan, j, k)) {
                steps.push(j);
                done[j] = true;
            }
        }
        groups.push(Group { steps });
    }
    groups
}

/// The error for a step that the kernels cannot do.
pub(super) fn beyond(plan: &Plan, step: &str, why: &str) -> Error {
    let (w, h) = plan.input_size();
    Error::Usage(format!(
        "step {step}: not possible on CUDA: {why} (with an input of {w}x{h} pixels; --device cpu has no such limits)"
    ))
}
