//! A work-stealing queue: which thread computes which items of a phase.
//!
//! Each thread owns a range of consecutive items and takes them in order. The same thread then has neighbouring pixels in
//! every phase, and finds the results of the phase before in its own caches. A thread without items left steals from the end
//! of another's range.

use std::sync::atomic::{AtomicU64, Ordering};

/// Items taken of one thread's range: from its front in the low half, from its back in the high half. Each has a cache line of
/// its own.
#[repr(align(64))]
#[derive(Default)]
struct Taken(AtomicU64);

/// The end of a range that an item is taken from.
#[derive(Clone, Copy)]
enum End {
    Front,
    Back,
}

impl Taken {
    fn split(taken: u64) -> (usize, usize) {
        ((taken & 0xffff_ffff) as usize, (taken >> 32) as usize)
    }

    /// The next of `len` items, or none if all are taken.
    fn take(&self, len: usize, end: End) -> Option<usize> {
        // A load first: adding to empty ranges would move their cache lines between cores.
        let (front, back) = Taken::split(self.0.load(Ordering::Relaxed));
        if front + back >= len {
            return None;
        }
        let one = match end {
            End::Front => 1,
            End::Back => 1 << 32,
        };
        // The first `len` additions get an item each. Later ones find a sum of `len` or more.
        let (front, back) = Taken::split(self.0.fetch_add(one, Ordering::Relaxed));
        (front + back < len).then(|| match end {
            End::Front => front,
            End::Back => len - 1 - back,
        })
    }
}

/// The items of one phase.
pub struct WorkQueue(Vec<Taken>);

impl WorkQueue {
    /// A range for each thread; no item is taken.
    pub fn new(threads: usize) -> WorkQueue {
        WorkQueue((0..threads).map(|_| Taken::default()).collect())
    }

    /// Makes all items available again.
    pub fn reset(&self) {
        for taken in &self.0 {
            taken.0.store(0, Ordering::Relaxed);
        }
    }

    /// The items of `0 .. items` that `thread` computes. All threads together get each item once.
    pub fn of(&self, thread: usize, items: usize) -> impl Iterator<Item = usize> {
        let threads = self.0.len();
        let start = move |owner: usize| items * owner / threads;
        let mut passed = 0;
        std::iter::from_fn(move || {
            while passed < threads {
                let owner = (thread + passed) % threads;
                let end = if passed == 0 { End::Front } else { End::Back };
                match self.0[owner].take(start(owner + 1) - start(owner), end) {
                    Some(item) => return Some(start(owner) + item),
                    None => passed += 1,
                }
            }
            None
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn each_item_once() {
        for threads in [1, 2, 3, 7] {
            for items in [0, 1, 2, 5, 6, 7, 8, 1000] {
                let queue = WorkQueue::new(threads);
                for round in 0..3 {
                    queue.reset();
                    let queue = &queue;
                    let mut taken: Vec<usize> = thread::scope(|scope| {
                        let all: Vec<_> = (0..threads)
                            .map(|t| scope.spawn(move || queue.of(t, items).collect::<Vec<_>>()))
                            .collect();
                        all.into_iter().flat_map(|t| t.join().expect("no thread panics")).collect()
                    });
                    taken.sort_unstable();
                    assert_eq!(taken, (0..items).collect::<Vec<_>>(), "{threads} threads, round {round}");
                }
            }
        }
    }

    #[test]
    fn own_items_first_and_in_order() {
        let queue = WorkQueue::new(2);
        assert_eq!(queue.of(1, 7).collect::<Vec<_>>(), [3, 4, 5, 6, 2, 1, 0]);
        assert_eq!(queue.of(0, 7).next(), None);
    }
}
