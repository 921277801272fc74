//! Algorithm selection: which algorithm and which element type a convolution gets.
//!
//! In fp32 a 3x3 layer takes `F(4, 3)` or `F(5, 3)`, unless too large a part of its patches lies outside the map. `F(5, 3)` has 13 %
//! fewer products, and 36 % more transformed weights: it gains on large maps, and on small ones only where weights are few.
//!
//! In bf16 a layer takes bf16 elements only if that saves 5 % of its time. Times are estimated in vector multiply-adds of f32,
//! with figures of Zen 4 (twice as many products a second as in f32) and Zen 5 (248 GFLOP/s of f32 a core, 20 GB/s of weights
//! from memory):
//!
//! - A 1x1 layer always gains. Its products take half the time. Converting 16 input values takes two instructions, and all
//!   output channels use them.
//! - A 3x3 layer of stride 1 has 25 products for each 81 by `F(3, 3)`, which in bf16 take the time of 1.4 for each 9 in f32; `F(4, 3)`
//!   has 2.25 in f32, and longer transforms. Grouped layers of few channels, whose sums are short, may keep f32 and its accuracy.
//! - With stride 2, bf16 takes the same patches of four as f32.
//! - The first layer, over cells of pixels, is computed in f32.
//!
//! That is for vectors. A tile unit computes sixteen times as many products a second as vectors of f32: with one, every layer
//! that may be rounded runs on it, and none needs an algorithm with fewer products.

use super::direct::Shape;
use super::winograd::Partition;
use super::winograd::scheme::{F33, F43, F43Stride2, F53, F53Stride2, Scheme};
use crate::backend::cpu::element::Element;
use crate::backend::cpu::memory::Map;
use half::bf16;

/// An algorithm. `F33` is for bf16 only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// The plain sum of all products.
    Direct,
    /// [`F43`].
    F43,
    /// [`F53`].
    F53,
    /// [`F43Stride2`].
    F43Stride2,
    /// [`F53Stride2`].
    F53Stride2,
    /// [`F33`].
    F33,
}

/// Time of a vector dot product of bf16 pairs, in vector multiply-adds of f32: from measured GFLOP/s, two multiply-adds a pair.
const PAIRS: f64 = 2.0 * 230.0 / 458.0;

/// Time to read a byte of weights, in vector multiply-adds of f32.
const BYTE: f64 = 248.0 / 32.0 / 20.0;

/// Time of a tile beyond its products, in vector multiply-adds of f32: some 30 cycles.
const TILE: f64 = 60.0;

/// Time of a tile for each tap of a filter, whose rows lie apart.
const TAP: f64 = 15.0;

/// Rows of most tiles.
const ROWS: f64 = 6.0;

/// How much faster bf16 must be to be worth its rounding.
const GAIN: f64 = 1.05;

/// A convolution between two maps, for vectors of some lanes.
pub struct Layer<'a> {
    /// Input.
    pub src: &'a Map,
    /// Output.
    pub dst: &'a Map,
    /// Shape.
    pub shape: Shape,
    /// Lanes of a vector.
    pub lanes: usize,
    /// Vectors of a panel, at most.
    pub panel: usize,
}

impl Layer<'_> {
    /// The algorithm with f32 elements.
    pub fn f32(&self) -> Algorithm {
        let larger = match self.patches_of_four() {
            Algorithm::F43 => Algorithm::F53,
            Algorithm::F43Stride2 => Algorithm::F53Stride2,
            other => other,
        };
        if self.cost::<f32>(larger) < self.cost::<f32>(self.patches_of_four()) {
            larger
        } else {
            self.patches_of_four()
        }
    }

    /// The algorithm with f32 elements among those of four outputs.
    fn patches_of_four(&self) -> Algorithm {
        // Outputs computed, those of patches that lie partly outside the map included, for each output needed.
        let covered = self.dst.h.next_multiple_of(4) * self.dst.w.next_multiple_of(4);
        let waste = covered as f64 / self.dst.pixels() as f64;
        match self.three_by_three() {
            Some(1) if waste < 2.5 => Algorithm::F43,
            Some(2) if waste < 1.4 => Algorithm::F43Stride2,
            _ => Algorithm::Direct,
        }
    }

    /// The algorithm with bf16 elements, if that gains enough over f32.
    pub fn bf16(&self) -> Option<Algorithm> {
        // Of a group with an odd number of channels the last pair would have a channel of the next group, which may be a NaN.
        let pairs = self.shape.groups == 1 || (self.src.c / self.shape.groups).is_multiple_of(2);
        let winograd = match self.three_by_three().filter(|_| pairs) {
            Some(1) => Some(Algorithm::F33),
            Some(2) => Some(Algorithm::F43Stride2),
            _ => None,
        };
        let all = std::iter::once(Algorithm::Direct).chain(winograd).map(|a| (a, self.cost::<bf16>(a)));
        let (best, cost) = all.min_by(|a, b| a.1.total_cmp(&b.1))?;
        // Not with patches of five: among bf16 layers they took 8 % more time than estimated.
        (GAIN * cost < self.cost::<f32>(self.patches_of_four())).then_some(best)
    }

    /// The stride of a 3x3 layer that Winograd's algorithms can compute and that has enough channels a group for them to gain.
    fn three_by_three(&self) -> Option<usize> {
        let Shape { kernel: 3, stride: stride @ (1 | 2), pad: 1, groups } = self.shape else {
            return None;
        };
        (self.src.c / groups >= 8).then_some(stride)
    }

    /// Time of an algorithm with elements `T`, in vector multiply-adds of f32.
    fn cost<T: Element>(&self, algorithm: Algorithm) -> f64 {
        match algorithm {
            Algorithm::Direct => self.direct::<T>(),
            Algorithm::F43 => self.winograd::<F43, T>(),
            Algorithm::F53 => self.winograd::<F53, T>(),
            Algorithm::F43Stride2 => self.winograd::<F43Stride2, T>(),
            Algorithm::F53Stride2 => self.winograd::<F53Stride2, T>(),
            Algorithm::F33 => self.winograd::<F33, T>(),
        }
    }

    fn direct<T: Element>(&self) -> f64 {
        let Shape { kernel, groups, .. } = self.shape;
        let (cin, cout) = (self.src.c / groups, self.dst.c / groups);
        let taps = kernel * kernel;
        let vectors = cout.div_ceil(self.lanes) * groups;
        let sums = self.dst.pixels() * taps * cin.div_ceil(T::GROUP) * vectors;
        // Blocks of 3x3 layers share input rows, and each block converts them.
        let overlap = if kernel > 1 { 1.5 } else { 1.0 };
        let converted = self.src.pixels() as f64 * overlap * self.vectors(self.src.c) * (1.0 + store::<T>());
        sums as f64 * multiply::<T>()
            + self.tiles(self.dst.pixels(), taps)
            + if T::IN_PLACE { 0.0 } else { converted }
            + (taps * cin * self.dst.c * size_of::<T>()) as f64 * BYTE
    }

    fn winograd<W: Scheme, T: Element>(&self) -> f64 {
        let patches = self.patches::<W>();
        patches as f64 * self.inputs::<W, T>() + self.outputs::<W, T>(patches)
    }

    fn patches<W: Scheme>(&self) -> usize {
        self.dst.h.div_ceil(W::OUT) * self.dst.w.div_ceil(W::OUT)
    }

    /// Time to transform a patch of the input.
    fn inputs<W: Scheme, T: Element>(&self) -> f64 {
        let operations = W::WINDOW * W::WINDOW + (W::WINDOW + W::POINTS) * W::OPERATIONS.0;
        (operations as f64 + (W::POINTS * W::POINTS) as f64 * store::<T>()) * self.vectors(self.src.c)
    }

    /// Time to read the weights, multiply, and transform the output of so many patches.
    fn outputs<W: Scheme, T: Element>(&self, patches: usize) -> f64 {
        let groups = self.shape.groups;
        let (cin, cout) = (self.src.c / groups, self.dst.c / groups);
        let positions = W::POINTS * W::POINTS;
        let sums = positions * cin.div_ceil(T::GROUP) * cout.div_ceil(self.lanes) * groups;
        let output = positions + (W::POINTS + W::OUT) * W::OPERATIONS.1 + W::OUT * W::OUT;
        let output = output as f64 * self.vectors(cout) * groups as f64;
        patches as f64 * (sums as f64 * multiply::<T>() + output)
            + self.tiles(patches * positions, 1)
            + (W::DISTINCT * W::DISTINCT * cin * self.dst.c * size_of::<T>()) as f64 * BYTE
    }

    /// How many patches a block and how many ranges of output channels keep `threads` busy.
    ///
    /// Up to four threads, a layer's weights are read once for each block, which is as large as [`Scheme::BLOCK`] says. Of maps of few
    /// patches one block is all, and each thread has its own output channels and reads only their weights. More threads take the cut of
    /// the least estimated time: small maps have too few patches for all, and threads that share a block all transform its input.
    pub fn cut<W: Scheme, T: Element>(&self, threads: usize) -> Partition {
        let patches = self.patches::<W>();
        let vectors = (self.dst.c / self.shape.groups).div_ceil(self.lanes) * self.shape.groups;
        if threads <= 4 {
            if patches <= 25 {
                return Partition { patches, ranges: threads.min(self.dst.c / 32).max(1) };
            }
            let blocks = patches.div_ceil(W::BLOCK).next_multiple_of(threads);
            return Partition { patches: patches.div_ceil(blocks), ranges: 1 };
        }
        let time = |cut: &Partition| {
            let items = patches.div_ceil(cut.patches) * cut.ranges;
            let item = cut.patches as f64 * self.inputs::<W, T>()
                + self.outputs::<W, T>(cut.patches) / cut.ranges as f64;
            items.div_ceil(threads) as f64 * item
        };
        (1..=vectors.min(threads))
            .flat_map(|ranges| (1..=patches.min(W::BLOCK)).map(move |patches| Partition { patches, ranges }))
            .min_by(|a, b| time(a).total_cmp(&time(b)))
            .unwrap_or(Partition { patches, ranges: 1 })
    }

    /// Time of the tiles of so many rows, of all panels, beyond their products.
    fn tiles(&self, rows: usize, taps: usize) -> f64 {
        let groups = self.shape.groups;
        let panels = (self.dst.c / groups).div_ceil(self.lanes).div_ceil(self.panel) * groups;
        rows as f64 / ROWS * panels as f64 * (TILE + TAP * (taps - 1) as f64)
    }

    fn vectors(&self, channels: usize) -> f64 {
        channels.div_ceil(self.lanes) as f64
    }
}

/// Time of one multiply-add instruction of the microkernel.
fn multiply<T: Element>() -> f64 {
    if T::GROUP == 2 { PAIRS } else { 1.0 }
}

/// Time to convert and store a vector. CPUs store one vector a cycle and multiply-add two.
fn store<T: Element>() -> f64 {
    if T::IN_PLACE { 2.0 } else { 3.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(size: usize, cin: usize, cout: usize, kernel: usize, stride: usize) -> Option<Algorithm> {
        choose_of_groups(size, cin, cout, (kernel, stride, 1))
    }

    fn choose_of_groups(
        size: usize,
        cin: usize,
        cout: usize,
        (kernel, stride, groups): (usize, usize, usize),
    ) -> Option<Algorithm> {
        let map = |side: usize, c: usize| Map { offset: 0, pitch: c, h: side, w: side, c };
        let shape = Shape { kernel, stride, pad: kernel / 2, groups };
        Layer { src: &map(size * stride, cin), dst: &map(size, cout), shape, lanes: 16, panel: 4 }.bf16()
    }

    #[test]
    fn bf16_where_it_gains() {
        // All 1x1 layers.
        for (size, c) in [(160, 64), (80, 64), (20, 256), (13, 16)] {
            assert_eq!(choose(size, c, c, 1, 1), Some(Algorithm::Direct));
        }
        assert_eq!(choose(160, 32, 64, 3, 2), Some(Algorithm::F43Stride2));
        assert_eq!(choose(20, 512, 512, 3, 2), Some(Algorithm::F43Stride2));
        for (size, c) in [(160, 32), (104, 24)] {
            assert_eq!(choose(size, c, c, 3, 1), Some(Algorithm::F33));
        }
        assert_eq!(choose(80, 128, 128, 3, 1), Some(Algorithm::F33));
        assert_eq!(choose(40, 256, 256, 3, 1), Some(Algorithm::F33));
        assert_eq!(choose(20, 512, 512, 3, 1), Some(Algorithm::F33));
        assert_eq!(choose(13, 96, 96, 3, 1), Some(Algorithm::F33));
        // Groups of 13 channels have no whole pairs.
        assert_eq!(choose_of_groups(26, 104, 104, (3, 1, 8)), None);
    }
}
