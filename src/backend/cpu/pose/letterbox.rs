//! The photo, letterboxed into the network input.

use crate::backend::cpu::memory::Map;
use crate::backend::cpu::phase::{Context, Scratch, ScratchSize, Work};
use crate::plan::View;

/// Rows of the network input an item of [`Letterboxed`].
const INPUT_ROWS: usize = 8;

/// How the pixels of the network input lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Row by row, three values each, with zeros around them: the padding of the convolution that reads them.
    Bordered {
        /// Pixels of zeros on each side.
        border: usize,
    },
    /// Cells of 2x2 pixels, `[h / 2][w / 2][2][2][3]` (space to depth). A convolution of 6x6 with stride 2 is one of 3x3 over
    /// their 12 channels.
    Cells,
}

/// The network input, which kernels keep apart from the other maps.
#[derive(Clone, Copy, Debug)]
pub struct NetworkInput {
    /// The plan's view of it.
    pub view: View,
    /// Where it lies: pixels and their border, or cells.
    pub map: Map,
    /// How.
    pub layout: Layout,
}

impl NetworkInput {
    /// Height and width, in pixels.
    pub fn size(&self) -> (usize, usize) {
        match self.layout {
            Layout::Bordered { border } => (self.map.h - 2 * border, self.map.w - 2 * border),
            Layout::Cells => (2 * self.map.h, 2 * self.map.w),
        }
    }

    /// Where the three values of a pixel lie in the arena.
    #[inline(always)]
    pub fn pixel(&self, y: usize, x: usize) -> usize {
        let Map { offset, pitch, w, .. } = self.map;
        match self.layout {
            Layout::Bordered { border } => offset + ((y + border) * w + x + border) * pitch,
            Layout::Cells => offset + (y / 2 * w + x / 2) * pitch + (y % 2 * 2 + x % 2) * 3,
        }
    }
}

/// Writes the letterboxed photo.
pub struct Letterboxed(pub NetworkInput);

impl Work for Letterboxed {
    unsafe fn items(&self, _: &Context<'_>) -> usize {
        self.0.size().0.div_ceil(INPUT_ROWS)
    }

    fn scratch(&self) -> ScratchSize {
        let (_, w) = self.0.size();
        ScratchSize { values: w * 3 + (w * 3).div_ceil(4), rows: 0 }
    }

    unsafe fn run(&self, item: usize, context: &Context<'_>, scratch: &mut Scratch) {
        let (h, w) = self.0.size();
        let (row, bytes) = scratch.values.split_at_mut(w * 3);
        let bytes = &mut bytemuck::cast_slice_mut(bytes)[..w * 3];
        for y in item * INPUT_ROWS..((item + 1) * INPUT_ROWS).min(h) {
            context.frame.letterbox.sample_row(context.frame.photo, y, bytes);
            for (value, &byte) in row.iter_mut().zip(&*bytes) {
                *value = f32::from(byte);
            }
            let at = |x: usize| context.base.wrapping_add(self.0.pixel(y, x));
            // SAFETY: the pixels lie inside the input, those of a row or of a cell's row one behind the other, and only this
            // item writes them.
            unsafe {
                match self.0.layout {
                    Layout::Bordered { .. } => at(0).copy_from_nonoverlapping(row.as_ptr(), w * 3),
                    Layout::Cells => {
                        for (cell, two) in row.as_chunks::<6>().0.iter().enumerate() {
                            at(2 * cell).cast::<[f32; 6]>().write_unaligned(*two);
                        }
                    }
                }
            }
        }
    }
}
