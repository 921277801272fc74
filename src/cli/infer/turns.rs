//! Who computes when: the engine, or the threads that decode and draw photos.
//!
//! Where the engine has a thread for every CPU, its threads wait for each other many times a run. One that lost its CPU to a
//! decoder for some milliseconds would make all of them wait. So the others work between the engine's runs, on all CPUs.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Turns of the engine and of the others, or none: then all work at any time.
#[derive(Default)]
pub struct Turns(Option<RwLock<()>>);

impl Turns {
    /// Turns, if the engine needs all CPUs.
    pub fn new(needed: bool) -> Turns {
        Turns(needed.then(RwLock::default))
    }

    /// The engine's turn, until this is dropped. It begins when the others have finished what they are at.
    pub fn engine(&self) -> Option<RwLockWriteGuard<'_, ()>> {
        self.0.as_ref().map(|turns| turns.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// A turn that the others share. Whoever has it waits for nothing that the engine gives.
    pub fn others(&self) -> Option<RwLockReadGuard<'_, ()>> {
        self.0.as_ref().map(|turns| turns.read().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    #[test]
    fn the_engine_works_alone_and_the_others_together() {
        let (turns, at_work) = (Turns::new(true), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let _turn = turns.others();
                        at_work.fetch_add(1, Ordering::SeqCst);
                        thread::yield_now();
                        at_work.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
            for _ in 0..200 {
                let _turn = turns.engine();
                assert_eq!(at_work.load(Ordering::SeqCst), 0, "others during the engine's turn");
            }
        });
        // Two that hold a turn do not wait for each other.
        let (_first, _second) = (turns.others(), turns.others());
    }

    #[test]
    fn without_turns_none_waits() {
        let turns = Turns::default();
        let (_engine, _other) = (turns.engine(), turns.others());
    }
}
