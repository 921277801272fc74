//! Where each buffer lives: lifetimes in step order, and offsets in one arena.

use super::{BufferId, Extent, Plan};

/// First and last step (inclusive) that touch a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// Step that first writes it.
    pub first: usize,
    /// Step that last writes or reads it.
    pub last: usize,
}

impl Lifetime {
    fn overlaps(self, other: Lifetime) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Offsets of all map buffers in one block of memory. Survivor rows are not part of it.
#[derive(Clone, Debug)]
pub struct Arena {
    /// Per buffer, the offset in elements; `None` for survivor rows and for buffers that no step touches.
    pub offsets: Vec<Option<usize>>,
    /// Elements in all.
    pub len: usize,
}

impl Arena {
    /// The offset of a map buffer, in elements.
    ///
    /// # Panics
    /// If the buffer has no place in the arena: it holds survivor rows, or no step touches it.
    pub fn offset(&self, buffer: BufferId) -> usize {
        self.offsets[buffer.0].expect("buffer is a map that some step touches")
    }
}

impl Plan {
    /// Lifetime of every buffer; `None` if no step touches it.
    pub fn lifetimes(&self) -> Vec<Option<Lifetime>> {
        let each: Vec<[usize; 1]> = (0..self.steps.len()).map(|step| [step]).collect();
        self.lifetimes_in(each.iter().map(|step| step.as_slice()))
    }

    /// The same, where steps run in groups: a lifetime counts groups.
    pub(crate) fn lifetimes_in<'a>(
        &self,
        groups: impl Iterator<Item = &'a [usize]>,
    ) -> Vec<Option<Lifetime>> {
        let mut lives: Vec<Option<Lifetime>> = vec![None; self.buffers.len()];
        for (at, group) in groups.enumerate() {
            for &step in group {
                let op = &self.steps[step].op;
                for view in op.reads().into_iter().chain(op.writes()) {
                    lives[view.buffer.0].get_or_insert(Lifetime { first: at, last: at }).last = at;
                }
            }
        }
        lives
    }

    /// Places every map in one arena. Buffers whose lifetimes overlap never share memory; buffers are placed
    /// largest first at the lowest free offset. Offsets are multiples of `align` elements; every map is followed by
    /// at least `guard` unused elements. With `keep_all` every buffer stays intact until the end.
    pub fn arena(&self, align: usize, guard: usize, keep_all: bool) -> Arena {
        let lives = self.lifetimes();
        let end = self.steps.len();
        let mut order: Vec<(usize, Lifetime, usize)> = Vec::new();
        for (i, buffer) in self.buffers.iter().enumerate() {
            if let (Extent::Map { h, w }, Some(mut life)) = (buffer.extent, lives[i]) {
                if keep_all {
                    life = Lifetime { first: 0, last: end };
                }
                order.push((i, life, (h * w * buffer.c + guard).next_multiple_of(align)));
            }
        }
        let mut offsets = vec![None; self.buffers.len()];
        let (places, len) = place(&order.iter().map(|o| (o.1, o.2)).collect::<Vec<_>>());
        for ((i, _, _), at) in order.iter().zip(places) {
            offsets[*i] = Some(at);
        }
        Arena { offsets, len }
    }
}

/// Offsets of blocks of the given lifetimes and lengths, and the total length. Blocks whose lifetimes overlap never
/// share memory. The largest block is placed first, each at the lowest free offset.
pub(crate) fn place(blocks: &[(Lifetime, usize)]) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..blocks.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(blocks[i].1), i));
    let mut offsets = vec![0; blocks.len()];
    let mut placed: Vec<(usize, usize, Lifetime)> = Vec::new();
    let mut total = 0;
    for i in order {
        let (life, len) = blocks[i];
        let mut busy: Vec<(usize, usize)> =
            placed.iter().filter(|p| p.2.overlaps(life)).map(|p| (p.0, p.1)).collect();
        busy.sort_unstable();
        let mut at = 0;
        for (start, stop) in busy {
            if at + len <= start {
                break;
            }
            at = at.max(stop);
        }
        placed.push((at, at + len, life));
        offsets[i] = at;
        total = total.max(at + len);
    }
    (offsets, total)
}

#[cfg(test)]
mod tests {
    use crate::plan::{Op, Plan};

    #[test]
    fn buffers_alive_together_never_share_memory() {
        let mut plan = Plan::default();
        let views: Vec<_> =
            (0..12).map(|i| plan.map(format!("m{i}"), 4 + i % 3, 5, 8 + 8 * (i % 4))).collect();
        for i in 0..11 {
            plan.push("pool", Op::PoolPyramid { src: views[i], dst: views[i + 1], window: 5 });
            if i >= 4 {
                plan.push("late", Op::PoolPyramid { src: views[i - 4], dst: views[i + 1], window: 5 });
            }
        }
        let lives = plan.lifetimes();
        for keep_all in [false, true] {
            let arena = plan.arena(16, 3, keep_all);
            let span = |i: usize| {
                let b = &plan.buffers[i];
                let at = arena.offsets[i].unwrap();
                (at, at + b.extent.pixels() * b.c + 3)
            };
            for i in 0..12 {
                assert_eq!(span(i).0 % 16, 0);
                assert!(span(i).1 <= arena.len);
                for j in 0..i {
                    let (a, b) = (lives[i].unwrap(), lives[j].unwrap());
                    let together = keep_all || (a.first <= b.last && b.first <= a.last);
                    let apart = span(i).1 <= span(j).0 || span(j).1 <= span(i).0;
                    assert!(apart || !together, "m{i} {a:?} and m{j} {b:?} overlap in memory");
                }
            }
            if !keep_all {
                let sum: usize = (0..12).map(|i| span(i).1 - span(i).0).sum();
                assert!(arena.len < sum, "nothing was shared");
            }
        }
    }
}
