//! What a multiprocessor of an H100 holds, and what a block of each kernel takes of it.

use crate::backend::cuda::launch::Launch;
use std::collections::HashMap;

/// Multiprocessors.
pub const SMS: usize = 132;

/// What a multiprocessor has, or blocks take: registers, bytes of shared memory, threads, blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room([usize; 4]);

/// Compute capability 9.0, by the CUDA programming guide.
const ALL: Room = Room([65536, 228 << 10, 2048, 32]);

impl Room {
    /// Of a block. Registers are given to warps 256 at a time; the system takes 1 KB of shared memory a block.
    pub fn of_block(registers: usize, shared: usize, threads: usize) -> Room {
        let warps = threads.div_ceil(32);
        let shared = (shared + 1024).next_multiple_of(128);
        Room([warps * (registers * 32).next_multiple_of(256), shared, warps * 32, 1])
    }

    /// Blocks of kind `other` that find room beside `n` of this one.
    fn beside(self, n: usize, other: Room) -> usize {
        let of = |i: usize| ALL.0[i].saturating_sub(n * self.0[i]) / other.0[i].max(1);
        (0..4).map(of).min().unwrap_or(0)
    }

    /// Blocks that a multiprocessor holds.
    pub fn most(self) -> usize {
        self.beside(0, self)
    }
}

/// Registers a thread, by kernel: of `tools/sass.tsv`, which `tools/sass.py` holds against the compiler.
pub struct Registers(HashMap<String, usize>);

impl Registers {
    pub fn read() -> Registers {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/sass.tsv");
        let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let row = |line: &str| {
            let mut cells = line.split('\t');
            Some((cells.next()?.to_string(), cells.next()?.parse().ok()?))
        };
        Registers(text.lines().filter_map(row).collect())
    }

    /// # Panics
    /// For a kernel that the table does not have.
    pub fn block(&self, launch: &Launch) -> Room {
        let name = launch.kernel.name;
        let registers = self.0.get(name);
        let registers = *registers.unwrap_or_else(|| panic!("{name} is not in tools/sass.tsv: renew it"));
        Room::of_block(registers, launch.shared as usize, launch.threads as usize)
    }
}

/// A launch's blocks, and the room that one takes.
#[derive(Clone, Copy, Debug)]
pub struct Blocks {
    pub count: usize,
    pub room: Room,
}

impl Blocks {
    /// Rounds of blocks, each as many as the GPU holds.
    pub fn waves(self) -> usize {
        self.count.div_ceil(SMS * self.room.most())
    }

    /// Whether all blocks of `next` find room beside as many of these as the GPU holds, which are dealt evenly, so that
    /// `next` can do what it does before its wait meanwhile. That a quarter of a multiprocessor has registers of its own,
    /// which may leave less, is left out.
    pub fn overlaps(self, next: Blocks) -> bool {
        let here = self.count.min(SMS * self.room.most());
        let (each, more) = (here / SMS, here % SMS);
        let free = |n: usize| self.room.beside(n, next.room);
        more * free(each + 1) + (SMS - more) * free(each) >= next.count
    }
}
