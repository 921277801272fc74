//! From a schedule to launches: what an operation is given to make its launch.

use super::constants::Constants;
use super::launch::Launch;
use super::ops::conv::{self, shape::Shape, tiles::Choice};
use super::pose;
use super::schedule::{Schedule, Storage, beyond};
use crate::error::Result;
use crate::plan::{Op, Plan, View};

/// Device addresses of a [`Workspace`](super::workspace::Workspace)'s memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct WorkspaceAddresses {
    pub images: usize,
    /// Survivors an image can have.
    pub capacity: usize,
    /// `images` times the schedule's `image` halves.
    pub arena: u64,
    /// `images * capacity` times the schedule's `row` floats.
    pub rows: u64,
    /// Frames, tables and photos.
    pub input: u64,
    pub survivors: u64,
    pub counts: u64,
    /// `images * slots` boxes of four floats.
    pub boxes: u64,
    /// `images * slots` sort keys of eight bytes.
    pub keys: u64,
    pub host_counts: u64,
    pub host_rows: u64,
    /// `[images, capacity, K, bins]` of x and y, or 0.
    pub heat: [u64; 2],
}

/// Makes launches.
pub(super) struct Lowering<'a> {
    pub plan: &'a Plan,
    pub schedule: &'a Schedule,
    pub constants: &'a mut Constants,
    pub workspace: WorkspaceAddresses,
    /// Chooses the tile of a launch of convolutions.
    pub choose: &'a mut dyn FnMut(&[Shape]) -> Choice,
}

impl<'a> Lowering<'a> {
    /// All launches of a run, in order: the schedule's groups, then `collect`, which writes the people to the host.
    ///
    /// # Errors
    /// If constants do not fit into device memory, or a kernel does not fit into the GPU's shared memory.
    pub fn launches(&mut self) -> Result<Vec<Launch>> {
        let schedule = self.schedule;
        let mut launches = Vec::with_capacity(schedule.groups.len() + 1);
        for group in &schedule.groups {
            launches.push(group.operation(self.plan).launch(self, &group.steps)?);
        }
        launches.extend(pose::collect::launch(self));
        conv::prefetch(&mut launches, self.constants.bytes);
        let limit = self.constants.gpu.caps().shared;
        for l in &launches {
            if l.shared > limit {
                let names: Vec<&str> = l.steps.iter().map(|&s| self.plan.steps[s].name.as_str()).collect();
                let (kernel, needs) = (l.kernel.name, l.shared);
                let why =
                    format!("kernel {kernel} needs {needs} bytes of shared memory, this GPU has {limit}");
                return Err(beyond(self.plan, &names.join(", "), &why));
            }
        }
        Ok(launches)
    }

    /// What a step does.
    pub fn op(&self, step: usize) -> &'a Op {
        &self.plan.steps[step].op
    }

    /// Elements from one pixel, or survivor, to the next.
    pub fn pitch(&self, view: View) -> i32 {
        self.schedule.storage[view.buffer.0].pitch() as i32
    }

    /// Address of a view's first channel, in the first pixel of the first image.
    pub fn address(&self, view: View) -> u64 {
        let offset = self.schedule.offsets[view.buffer.0];
        let WorkspaceAddresses { arena, rows, images, capacity, .. } = self.workspace;
        match self.schedule.storage[view.buffer.0] {
            Storage::Half { .. } => arena + ((offset + view.c0) * 2) as u64,
            Storage::Float { .. } => arena + (offset * 2 + view.c0 * 4) as u64,
            Storage::Cells => arena + (offset * 2) as u64,
            Storage::Rows { .. } => rows + ((offset * images * capacity + view.c0) * 4) as u64,
        }
    }

    /// Halves from one image's maps to the next one's.
    pub fn image(&self) -> i64 {
        self.schedule.image as i64
    }
}
