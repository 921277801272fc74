//! Who does which items of a phase.
//!
//! Each thread has a share of consecutive items, so that it finds what it wrote a step before in its own caches, and
//! takes them in order. Who is done with its own takes from the end of another's.

use std::sync::atomic::{AtomicU64, Ordering};

/// What was taken of one thread's share, on a cache line of its own: items from the front in the low half, from the back
/// in the high half.
#[repr(align(64))]
#[derive(Default)]
struct Taken(AtomicU64);

/// From which end of a share an item is taken.
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
        // A look first, so that shares that are used up are only read.
        let (front, back) = Taken::split(self.0.load(Ordering::Relaxed));
        if front + back >= len {
            return None;
        }
        let one = match end {
            End::Front => 1,
            End::Back => 1 << 32,
        };
        // The first `len` to add get one each; who comes later finds the sum too large.
        let (front, back) = Taken::split(self.0.fetch_add(one, Ordering::Relaxed));
        (front + back < len).then(|| match end {
            End::Front => front,
            End::Back => len - 1 - back,
        })
    }
}

/// The items of one phase.
pub struct Shares(Vec<Taken>);

impl Shares {
    /// One share a thread; none taken.
    pub fn new(threads: usize) -> Shares {
        Shares((0..threads).map(|_| Taken::default()).collect())
    }

    /// Forgets what was taken.
    pub fn reset(&self) {
        for taken in &self.0 {
            taken.0.store(0, Ordering::Relaxed);
        }
    }

    /// The items of `0 .. items` that `thread` gets. Together, all threads get each item once.
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
                let shares = Shares::new(threads);
                for round in 0..3 {
                    shares.reset();
                    let shares = &shares;
                    let mut taken: Vec<usize> = thread::scope(|scope| {
                        let all: Vec<_> = (0..threads)
                            .map(|t| scope.spawn(move || shares.of(t, items).collect::<Vec<_>>()))
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
        let shares = Shares::new(2);
        assert_eq!(shares.of(1, 7).collect::<Vec<_>>(), [3, 4, 5, 6, 2, 1, 0]);
        assert_eq!(shares.of(0, 7).next(), None);
    }
}
