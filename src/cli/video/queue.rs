//! Frames between two threads.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A queue with an end. Where frames are live, the newest counts: a full queue drops its oldest, and counts it. Else the
/// thread that pushes waits.
pub struct Queue<T> {
    most: usize,
    live: bool,
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    items: VecDeque<T>,
    dropped: u64,
    /// No more will come.
    ended: bool,
    /// No more is wanted.
    closed: bool,
}

/// What [`Queue::pop`] found.
pub enum Popped<T> {
    Item(T),
    NotYet,
    Ended,
}

impl<T> Queue<T> {
    pub fn new(most: usize, live: bool) -> Queue<T> {
        let state = State { items: VecDeque::new(), dropped: 0, ended: false, closed: false };
        Queue { most, live, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// False when no more is wanted.
    pub fn push(&self, item: T) -> bool {
        let mut state = self.lock();
        if self.live {
            while state.items.len() >= self.most {
                state.items.pop_front();
                state.dropped += 1;
            }
        } else {
            let full = |state: &mut State<T>| !state.closed && state.items.len() >= self.most;
            state = self.changed.wait_while(state, full).unwrap_or_else(PoisonError::into_inner);
        }
        state.items.push_back(item);
        self.changed.notify_all();
        !state.closed
    }

    /// As [`Queue::push`], but waits no longer than `most`; then the item comes back.
    pub fn push_within(&self, item: T, most: Duration) -> Result<bool, T> {
        let full = |state: &mut State<T>| !state.closed && state.items.len() >= self.most;
        let waited = self.changed.wait_timeout_while(self.lock(), most, full);
        let (mut state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() && full(&mut state) {
            return Err(item);
        }
        state.items.push_back(item);
        self.changed.notify_all();
        Ok(!state.closed)
    }

    /// The oldest, if there is one within `most`.
    pub fn pop(&self, most: Duration) -> Popped<T> {
        let empty = |state: &mut State<T>| state.items.is_empty() && !state.ended;
        let waited = self.changed.wait_timeout_while(self.lock(), most, empty);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match state.items.pop_front() {
            Some(item) => {
                self.changed.notify_all();
                Popped::Item(item)
            }
            None if state.ended => Popped::Ended,
            None => Popped::NotYet,
        }
    }

    /// No more will be pushed.
    pub fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// No more will be popped.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.items.clear();
        self.changed.notify_all();
    }

    /// How many were dropped because newer ones came.
    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn drain(queue: &Queue<u32>) -> Vec<u32> {
        std::iter::from_fn(|| match queue.pop(Duration::from_secs(60)) {
            Popped::Item(item) => Some(item),
            Popped::NotYet | Popped::Ended => None,
        })
        .collect()
    }

    #[test]
    fn none_of_a_file_is_lost_and_a_live_source_gives_the_newest() {
        let file = Queue::new(2, false);
        thread::scope(|scope| {
            scope.spawn(|| {
                assert!((0..100).all(|i| file.push(i)));
                file.end();
            });
            assert_eq!(drain(&file), (0..100).collect::<Vec<_>>());
        });
        let live = Queue::new(2, true);
        assert!((0..100).all(|i| live.push(i)));
        live.end();
        assert_eq!((drain(&live), live.dropped()), (vec![98, 99], 98));
    }

    #[test]
    fn a_closed_queue_keeps_no_thread_waiting() {
        let queue = Queue::new(1, false);
        assert!(queue.push(0));
        thread::scope(|scope| {
            let pushed = scope.spawn(|| queue.push(1));
            queue.close();
            assert!(!pushed.join().unwrap());
        });
        assert!(matches!(Queue::<u32>::new(1, false).pop(Duration::ZERO), Popped::NotYet));
    }
}
