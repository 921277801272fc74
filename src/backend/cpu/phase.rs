//! Phases: a prepared step is one or more of them, each of independent items that the threads compute in any order.

use super::memory::Block;
use crate::backend::{Frame, RunOptions};
use crate::pose::select::{Candidate, SelectScratch};
use std::cell::UnsafeCell;

/// Memory of one thread, reused by all steps.
#[derive(Default)]
pub struct Scratch {
    /// Values.
    pub values: Block,
    /// Row pointers of the microkernel's tiles.
    pub rows: Vec<*const f32>,
}

// SAFETY: the pointers are only used within one item, by the thread that wrote them.
unsafe impl Send for Scratch {}

/// How much scratch a phase needs.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScratchSize {
    /// f32 values.
    pub values: usize,
    /// Row pointers.
    pub rows: usize,
}

impl ScratchSize {
    /// The larger of each.
    pub fn max(self, other: ScratchSize) -> ScratchSize {
        ScratchSize { values: self.values.max(other.values), rows: self.rows.max(other.rows) }
    }
}

impl Scratch {
    /// Scratch of a given size.
    pub fn new(size: ScratchSize) -> Scratch {
        Scratch { values: Block::zeroed(size.values), rows: vec![std::ptr::null(); size.rows] }
    }
}

/// One row of values per survivor.
pub struct Rows {
    block: Block,
    ptr: *mut f32,
    /// Values from a row to the next: the channels, and padding to whole vectors.
    pub pitch: usize,
}

impl Rows {
    /// Rows of `channels` values; none yet.
    pub fn new(channels: usize) -> Rows {
        // Kernels may read a vector from the last channel on.
        let pitch = if channels == 0 { 0 } else { (channels + 16).next_multiple_of(16) };
        Rows { block: Block::default(), ptr: std::ptr::null_mut(), pitch }
    }

    /// Makes room for `n` rows.
    pub fn reserve(&mut self, n: usize) {
        self.block.grow(n * self.pitch);
        self.ptr = self.block.as_mut_ptr();
    }

    /// First value of row `i`, which must be below the last [`Rows::reserve`].
    #[inline(always)]
    pub fn row(&self, i: usize) -> *mut f32 {
        debug_assert!((i + 1) * self.pitch <= self.block.values());
        self.ptr.wrapping_add(i * self.pitch)
    }
}

/// The survivors, which selection fixes, and the rows that later steps add.
pub struct State {
    /// Memory of selection.
    pub selection: SelectScratch,
    /// The survivors, best first.
    pub survivors: Vec<Candidate>,
    /// Grids that selection left out because their numbers are not finite.
    pub not_finite: usize,
    /// By buffer of the plan; empty for maps.
    pub rows: Vec<Rows>,
    /// Per survivor `K * (x bins + y bins)` probabilities, if asked for.
    pub heatmaps: Rows,
}

// SAFETY: the pointers in `Rows` point into their own blocks.
unsafe impl Send for State {}
// SAFETY: shared access only reads the fields; rows are written through their pointers under `Work`'s contract, that
// items write disjoint values.
unsafe impl Sync for State {}

/// What all items of a run may access.
pub struct Context<'a> {
    /// The arena.
    pub base: *mut f32,
    /// The caller's options.
    pub options: &'a RunOptions,
    /// The photo and its geometry.
    pub frame: Frame<'a>,
    /// The survivors. Changed by selection only, which is a single item of its own phase.
    pub state: &'a UnsafeCell<State>,
}

// SAFETY: the arena is written under `Work`'s contract; `state` is changed by selection only, a single item of its own phase; the
// other fields may be shared, or the lines below do not compile.
unsafe impl Sync for Context<'_> {}

const _: fn() = || {
    fn shared<T: Sync>() {}
    shared::<(&RunOptions, Frame<'_>, State)>();
};

impl Context<'_> {
    /// The survivors.
    ///
    /// # Safety
    /// Not while selection runs.
    #[inline(always)]
    pub unsafe fn state(&self) -> &State {
        // SAFETY: only selection makes a unique reference, and it is not running.
        unsafe { &*self.state.get() }
    }
}

/// The work of a phase. All items may run at the same time; a barrier follows.
pub trait Work: Send + Sync {
    /// Number of items.
    ///
    /// # Safety
    /// All earlier phases must be complete, since the survivors may be read.
    unsafe fn items(&self, context: &Context<'_>) -> usize;

    /// Scratch that an item needs.
    fn scratch(&self) -> ScratchSize {
        ScratchSize::default()
    }

    /// Executes one item.
    ///
    /// # Safety
    /// `context.base` must be the arena that the step was prepared for; each item may run on one thread only; all
    /// earlier phases are complete; `scratch` is at least as large as [`Work::scratch`] says.
    unsafe fn run(&self, item: usize, context: &Context<'_>, scratch: &mut Scratch);
}
