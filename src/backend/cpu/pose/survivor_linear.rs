//! The linear maps of the survivors' grid cells.

use crate::backend::cpu::matrix::Matrix;
use crate::backend::cpu::memory::Map;
use crate::backend::cpu::phase::{Context, Scratch, Work};
use crate::backend::cpu::simd::Simd;

/// Linear maps of the survivors' cells; an item is a panel of a level.
pub struct SurvivorLinear<S> {
    /// The map and the packed matrix of each level.
    pub levels: Vec<(Map, Matrix<S>)>,
    /// Buffer of the rows written.
    pub dst: usize,
    /// First channel written.
    pub c0: usize,
}

impl<S: Simd> Work for SurvivorLinear<S> {
    unsafe fn items(&self, _: &Context<'_>) -> usize {
        self.levels.iter().map(|(_, m)| m.panels()).sum()
    }

    unsafe fn run(&self, mut item: usize, context: &Context<'_>, _: &mut Scratch) {
        let mut level = 0;
        while item >= self.levels[level].1.panels() {
            item -= self.levels[level].1.panels();
            level += 1;
        }
        let (map, matrix) = &self.levels[level];
        // SAFETY: selection is complete; rows were reserved for every survivor and are padded to whole vectors; the
        // items write disjoint panels of a level's rows.
        unsafe {
            let state = context.state();
            let rows = &state.rows[self.dst];
            for (i, survivor) in state.survivors.iter().enumerate() {
                if survivor.level == level {
                    let cell = context.base.add(map.offset + survivor.index * map.pitch).cast_const();
                    matrix.multiply(|_| cell, 1, item..item + 1, rows.row(i).add(self.c0), rows.pitch);
                }
            }
        }
    }
}
