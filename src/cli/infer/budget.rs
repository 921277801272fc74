//! How much memory the photos of a run may take together.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Bytes that all photos together may take, from the beginning of decoding to the end of drawing. One photo may take more,
/// if it is alone. Photos get their shares in the order of the list, so that none waits for one behind it.
pub struct Budget {
    most: usize,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    used: usize,
    /// The place in the list of the photo that gets the next share.
    turn: usize,
    closed: bool,
}

/// A photo's bytes; given back when it is dropped.
pub struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    /// 1 GB; where batches are large, room for 8 megapixels a photo of them.
    pub fn of_batch(photos: usize) -> Arc<Budget> {
        Budget::new((1 << 30).max(photos * (24 << 20)))
    }

    pub fn new(most: usize) -> Arc<Budget> {
        let state = State { used: 0, turn: 0, closed: false };
        Arc::new(Budget { most, state: Mutex::new(state), changed: Condvar::new() })
    }

    /// Waits for a photo's turn. What `need` does, the photos behind it wait for: it tells how many bytes the photo takes.
    /// `full` is called before this one has to wait for them. `None` when the run has ended.
    pub fn share<T>(
        self: &Arc<Budget>,
        index: usize,
        need: impl FnOnce() -> (T, usize),
        full: impl FnOnce(),
    ) -> Option<(T, Share)> {
        let state = self.wait_while(self.lock(), |state| state.turn < index);
        if state.closed {
            return None;
        }
        drop(state);
        let (opened, bytes) = need();
        let fits = |state: &State| state.used == 0 || state.used.saturating_add(bytes) <= self.most;
        let mut state = self.lock();
        if !fits(&state) {
            drop(state);
            full();
            state = self.wait_while(self.lock(), |state| !fits(state));
        }
        if state.closed {
            return None;
        }
        state.used = state.used.saturating_add(bytes);
        state.turn = index + 1;
        self.changed.notify_all();
        Some((opened, Share { budget: self.clone(), bytes }))
    }

    /// Ends all waiting.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while<'a>(
        &self,
        state: MutexGuard<'a, State>,
        wait: impl Fn(&State) -> bool,
    ) -> MutexGuard<'a, State> {
        let wait = |state: &mut State| !state.closed && wait(state);
        self.changed.wait_while(state, wait).unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Gives all but `bytes` back.
    pub fn shrink_to(&mut self, bytes: usize) {
        let spare = self.bytes.saturating_sub(bytes);
        self.bytes -= spare;
        self.budget.lock().used -= spare;
        self.budget.changed.notify_all();
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::thread;

    #[test]
    fn shares_stay_within_the_budget_and_come_in_order() {
        let (budget, order, held) = (Budget::new(100), Mutex::new(Vec::new()), AtomicUsize::new(0));
        let (order, held) = (&order, &held);
        thread::scope(|scope| {
            // The last threads begin first.
            for i in (0..20).rev() {
                let budget = budget.clone();
                scope.spawn(move || {
                    // The eighth is larger than the budget, and then alone.
                    let bytes = if i == 7 { 150 } else { 30 };
                    let need = || {
                        order.lock().unwrap().push(i);
                        ((), bytes)
                    };
                    let (_, share) = budget.share(i, need, || ()).unwrap();
                    let now = held.fetch_add(bytes, SeqCst) + bytes;
                    assert!(now <= 100 || now == 150, "{now}");
                    thread::yield_now();
                    held.fetch_sub(bytes, SeqCst);
                    drop(share);
                });
            }
        });
        assert_eq!(*order.lock().unwrap(), (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn a_closed_budget_lets_nobody_wait() {
        let budget = Budget::new(10);
        let (_, share) = budget.share(0, || ((), 10), || ()).unwrap();
        let full = AtomicUsize::new(0);
        thread::scope(|scope| {
            let first = scope.spawn(|| budget.share(1, || ((), 1), || budget.close()).is_none());
            let second =
                scope.spawn(|| budget.share(2, || ((), 1), || _ = full.fetch_add(1, SeqCst)).is_none());
            assert!(first.join().unwrap() && second.join().unwrap());
        });
        assert_eq!(full.load(SeqCst), 0);
        drop(share);
    }
}
