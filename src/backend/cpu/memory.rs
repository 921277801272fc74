//! Memory that kernels see: aligned blocks, resolved maps, per-thread scratch.

use crate::plan::{Arena, Extent, Plan, View};
use bytemuck::Pod;
use memmap2::MmapMut;
use std::ptr::NonNull;

/// A block of f32 values aligned to a cache line.
///
/// Large blocks have a memory mapping of their own, in huge pages where the system grants them. With pages of 4 KiB, reading
/// megabytes of weights and maps would miss the TLB on every page.
#[derive(Default)]
pub struct Block {
    memory: Memory,
    len: usize,
}

#[derive(Default)]
enum Memory {
    #[default]
    Empty,
    Lines(Vec<Line>),
    Mapped(MmapMut),
}

#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([f32; 16]);

/// Values from which a block has a mapping of its own: 1 MiB.
const MAPPED: usize = 1 << 18;

impl Block {
    /// `len` zeros.
    pub fn zeroed(len: usize) -> Block {
        let mapped = if len >= MAPPED { Block::mapped(len) } else { None };
        mapped
            .unwrap_or_else(|| Block { memory: Memory::Lines(vec![Line([0.0; 16]); len.div_ceil(16)]), len })
    }

    /// `len` zeros in memory of their own.
    fn mapped(len: usize) -> Option<Block> {
        let map = MmapMut::map_anon(len.checked_mul(size_of::<f32>())?).ok()?;
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage); // may fail; then it is slower
        Some(Block { memory: Memory::Mapped(map), len })
    }

    /// `len` zeros, if the system has the memory.
    pub fn try_zeroed(len: usize) -> Option<Block> {
        if len < MAPPED { Some(Block::zeroed(len)) } else { Block::mapped(len) }
    }

    /// Room for `len` zeros of another type.
    pub fn zeroed_of<T: Pod>(len: usize) -> Block {
        Block::zeroed((len * size_of::<T>()).div_ceil(size_of::<f32>()))
    }

    /// As values of another type.
    pub fn cast<T: Pod>(&self) -> &[T] {
        bytemuck::cast_slice(self)
    }

    /// As values of another type, for writing.
    pub fn cast_mut<T: Pod>(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(self)
    }

    /// A copy of `values`.
    pub fn from_slice(values: &[f32]) -> Block {
        let mut block = Block::zeroed(values.len());
        block.copy_from_slice(values);
        block
    }

    /// First value.
    pub fn as_ptr(&self) -> *const f32 {
        match &self.memory {
            Memory::Empty => NonNull::<Line>::dangling().as_ptr().cast(),
            Memory::Lines(lines) => lines.as_ptr().cast(),
            Memory::Mapped(map) => map.as_ptr().cast(),
        }
    }

    /// First value, for writing.
    pub fn as_mut_ptr(&mut self) -> *mut f32 {
        match &mut self.memory {
            Memory::Empty => NonNull::<Line>::dangling().as_ptr().cast(),
            Memory::Lines(lines) => lines.as_mut_ptr().cast(),
            Memory::Mapped(map) => map.as_mut_ptr().cast(),
        }
    }

    /// How many values it holds. The slice's `len` would make a reference to values that other threads may be writing.
    pub fn values(&self) -> usize {
        self.len
    }

    /// Makes room for `len` values; contents are kept, new ones are zero.
    pub fn grow(&mut self, len: usize) {
        if len > self.len {
            let mut larger = Block::zeroed(len.max(self.len * 2));
            larger[..self.len].copy_from_slice(self);
            *self = larger;
        }
    }
}

impl std::ops::Deref for Block {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        // SAFETY: the memory holds at least `len` initialised f32 values, aligned to a line or a page.
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
        let offset = arena.offset(view.buffer) + view.c0;
        Map { offset, pitch: buffer.c, h, w, c: view.c }
    }

    /// Pixels.
    pub fn pixels(&self) -> usize {
        self.h * self.w
    }

    /// The channels `c0 .. c0 + c` of the map.
    ///
    /// # Panics
    /// If it has fewer.
    #[inline(always)]
    pub fn channels(&self, c0: usize, c: usize) -> Map {
        assert!(c0 + c <= self.c, "channels of the map");
        Map { offset: self.offset + c0, c, ..*self }
    }

    /// The channels of a pixel.
    ///
    /// # Safety
    /// `base` must be the arena that the view was resolved in, and no one may write these channels while the slice lives.
    ///
    /// # Panics
    /// If the map has no such pixel.
    #[inline(always)]
    pub unsafe fn pixel<'a>(&self, base: *const f32, pixel: usize) -> &'a [f32] {
        assert!(pixel < self.pixels(), "a pixel of the map");
        // SAFETY: the view lies inside the arena, the pixel inside the view.
        unsafe { std::slice::from_raw_parts(base.add(self.offset + pixel * self.pitch), self.c) }
    }

    /// The channels of a pixel, to be written.
    ///
    /// # Safety
    /// `base` must be the arena that the view was resolved in, and no one else may read or write these channels while the
    /// slice lives.
    ///
    /// # Panics
    /// If the map has no such pixel.
    #[inline(always)]
    pub unsafe fn pixel_mut<'a>(&self, base: *mut f32, pixel: usize) -> &'a mut [f32] {
        assert!(pixel < self.pixels(), "a pixel of the map");
        // SAFETY: the view lies inside the arena, the pixel inside the view.
        unsafe { std::slice::from_raw_parts_mut(base.add(self.offset + pixel * self.pitch), self.c) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_no_machine_has_is_refused() {
        for len in [usize::MAX, usize::MAX / 8, 1 << 60] {
            assert!(Block::try_zeroed(len).is_none(), "{len} values");
        }
        for len in [0, 1, 17, MAPPED - 1, MAPPED + 1] {
            let block = Block::try_zeroed(len).expect("a few megabytes");
            assert!(block.len() == len && block.values() == len && block.iter().all(|&v| v == 0.0));
        }
    }
}
