//! Selection of people from the head's maps.

use crate::backend::cpu::memory::Map;
use crate::backend::cpu::phase::{Context, Scratch, Work};
use crate::plan::MAX_LEVELS;
use crate::pose::select::{LevelMaps, select};

/// A head level, resolved.
pub struct Level {
    /// Class logits.
    pub cls: Map,
    /// Box regression.
    pub bbox: Map,
    /// Pixels a cell.
    pub stride: usize,
}

/// Threshold and NMS; reserves the survivors' rows. A single item.
pub struct Select {
    /// Head levels.
    pub levels: Vec<Level>,
}

impl Work for Select {
    unsafe fn items(&self, _: &Context<'_>) -> usize {
        1
    }

    unsafe fn run(&self, _: usize, context: &Context<'_>, _: &mut Scratch) {
        // SAFETY: selection is a single item of its own phase, so no other thread reads the state.
        let state = unsafe { &mut *context.state.get() };
        // SAFETY: the slice covers the map's pixels, up to the last one's channels.
        let values = |m: &Map| unsafe {
            let len = (m.pixels() - 1) * m.pitch + m.c;
            std::slice::from_raw_parts(context.base.add(m.offset).cast_const(), len)
        };
        let levels: [LevelMaps<'_>; MAX_LEVELS] = std::array::from_fn(|i| {
            // Unused places of the array repeat the last level; the slice below leaves them out.
            let level = &self.levels[i.min(self.levels.len() - 1)];
            LevelMaps {
                cls: values(&level.cls),
                bbox: values(&level.bbox),
                cls_pitch: level.cls.pitch,
                bbox_pitch: level.bbox.pitch,
                h: level.cls.h,
                w: level.cls.w,
                stride: level.stride,
            }
        });
        let levels = &levels[..self.levels.len()];
        state.survivors.clear();
        state.not_finite =
            select(levels, &context.options.select, &mut state.selection, &mut state.survivors);
        let n = state.survivors.len();
        for rows in &mut state.rows {
            rows.reserve(n);
        }
        if context.options.heatmaps {
            state.heatmaps.reserve(n);
        }
    }
}
