//! Memory that kernels see: aligned blocks, resolved maps, per-thread scratch.

use crate::plan::{Arena, Extent, Plan, View};

/// A block of f32 values aligned to a cache line.
#[derive(Default)]
pub struct Block {
    lines: Vec<Line>,
    len: usize,
}

#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([f32; 16]);

impl Block {
    /// `len` zeros.
    pub fn zeroed(len: usize) -> Block {
        Block { lines: vec![Line([0.0; 16]); len.div_ceil(16)], len }
    }

    /// First value.
    pub fn as_ptr(&self) -> *const f32 {
        self.lines.as_ptr().cast()
    }

    /// First value, for writing.
    pub fn as_mut_ptr(&mut self) -> *mut f32 {
        self.lines.as_mut_ptr().cast()
    }

    /// Makes room for `len` values; contents are kept, new ones are zero.
    pub fn grow(&mut self, len: usize) {
        if len > self.len {
            self.lines.resize(len.div_ceil(16), Line([0.0; 16]));
            self.len = len;
        }
    }
}

impl std::ops::Deref for Block {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        // SAFETY: `lines` holds at least `len` initialised f32 values, contiguous since Line is 64 bytes of them.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len) }
    }
}

impl std::ops::DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `deref`, and the borrow is unique.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr(), self.len) }
    }
}

/// A view of a feature map resolved to arena elements.
#[derive(Clone, Copy, Debug)]
pub struct Map {
    /// Element of channel `c0` of pixel (0, 0).
    pub offset: usize,
    /// Elements from a pixel to the next.
    pub pitch: usize,
    /// Rows.
    pub h: usize,
    /// Columns.
    pub w: usize,
    /// Channels.
    pub c: usize,
}

impl Map {
    /// Resolves `view`.
    ///
    /// # Panics
    /// If it is not a map in the arena.
    pub fn new(plan: &Plan, arena: &Arena, view: View) -> Map {
        let buffer = plan.buffer_of(view);
        let Extent::Map { h, w } = buffer.extent else { panic!("{} is not a map", buffer.name) };
        let offset = Plan::offset(arena, view.buffer) + view.c0;
        Map { offset, pitch: buffer.c, h, w, c: view.c }
    }

    /// Pixels.
    pub fn pixels(&self) -> usize {
        self.h * self.w
    }
}
