//! The photo, letterboxed into the network input.

use crate::backend::cpu::memory::Map;
use crate::backend::cpu::phase::{Context, Scratch, ScratchSize, Work};

/// Rows of the network input an item of [`Input`].
const INPUT_ROWS: usize = 8;

/// The photo, letterboxed, into a map with `border` zeros on each side.
pub struct Input {
    /// Map of the bordered input; three channels.
    pub dst: Map,
    /// Pixels of border.
    pub border: usize,
}

impl Work for Input {
    unsafe fn items(&self, _: &Context<'_>) -> usize {
        (self.dst.h - 2 * self.border).div_ceil(INPUT_ROWS)
    }

    fn scratch(&self) -> ScratchSize {
        ScratchSize { values: (self.dst.w * 3).div_ceil(4), rows: 0 }
    }

    unsafe fn run(&self, item: usize, context: &Context<'_>, scratch: &mut Scratch) {
        let (h, w) = (self.dst.h - 2 * self.border, self.dst.w - 2 * self.border);
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut scratch.values);
        for y in item * INPUT_ROWS..((item + 1) * INPUT_ROWS).min(h) {
            let row = &mut bytes[..w * 3];
            context.frame.letterbox.sample_row(context.frame.photo, y, row);
            let start = self.dst.offset + ((y + self.border) * self.dst.w + self.border) * 3;
            // SAFETY: the row lies inside the bordered input, and only this item writes it.
            let out = unsafe { std::slice::from_raw_parts_mut(context.base.add(start), w * 3) };
            for (value, &byte) in out.iter_mut().zip(&*row) {
                *value = f32::from(byte);
            }
        }
    }
}
