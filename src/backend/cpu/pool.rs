//! A persistent team of threads for parallel regions of microseconds.
//!
//! A whole run of a plan is one parallel region; [`Worker::barrier`] separates the phases inside it. A waiting thread spins
//! first: a dispatch to spinning threads takes a fraction of a microsecond. Then it yields its time slice, so that a machine
//! with fewer free cores than threads still makes progress. Between regions it finally sleeps.

use std::cell::UnsafeCell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

/// Spins before the first yield: about 50 us where a pause takes 40 cycles.
const SPINS: usize = 4_000;
/// Yields after the spins, before a worker without a region sleeps.
const YIELDS: usize = 200;

type Job = *const (dyn Fn(&Worker<'_>) + Sync);

struct Shared {
    threads: usize,
    /// Number of regions begun. When it changes, `job` is new.
    region: AtomicUsize,
    job: UnsafeCell<Option<Job>>,
    /// Workers still inside the region.
    busy: AtomicUsize,
    asleep: Vec<AtomicBool>,
    stop: AtomicBool,
    failed: AtomicBool,
    arrived: AtomicUsize,
    generation: AtomicUsize,
}

// SAFETY: `job` is written by the caller of `run` only while no worker is in a region (`busy` is 0), and read by
// workers only after they saw the `region` that was stored (Release) after the write.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer in `job` is not dereferenced outside a region.
unsafe impl Send for Shared {}

/// A thread's place in its team.
pub struct Worker<'a> {
    /// `0 .. threads`.
    pub index: usize,
    shared: &'a Shared,
}

impl Worker<'_> {
    /// Returns when every thread of the team has called it.
    ///
    /// # Panics
    /// If another thread of the team panicked, so that no thread waits for it for ever.
    pub fn barrier(&self) {
        let shared = self.shared;
        if shared.threads == 1 {
            return;
        }
        let generation = shared.generation.load(Ordering::Relaxed);
        if shared.arrived.fetch_add(1, Ordering::AcqRel) + 1 == shared.threads {
            shared.arrived.store(0, Ordering::Relaxed);
            shared.generation.store(generation.wrapping_add(1), Ordering::Release);
            return;
        }
        let mut waited = 0;
        while shared.generation.load(Ordering::Acquire) == generation {
            if shared.failed.load(Ordering::Relaxed) {
                panic!("another thread of the pool panicked");
            }
            pause(&mut waited);
        }
    }
}

/// One step of a wait: spin, then yield.
fn pause(waited: &mut usize) {
    *waited += 1;
    if *waited < SPINS {
        std::hint::spin_loop();
    } else {
        thread::yield_now();
    }
}

/// A team of threads; the caller of [`Pool::run`] is its first member.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A team of `threads`, at least one, the calling thread included.
    ///
    /// # Errors
    /// The system's own, if it refuses to start a thread; those started have ended then.
    pub fn new(threads: usize) -> io::Result<Pool> {
        let threads = threads.max(1);
        let shared = Arc::new(Shared {
            threads,
            region: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            busy: AtomicUsize::new(0),
            asleep: (0..threads).map(|_| AtomicBool::new(false)).collect(),
            stop: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            arrived: AtomicUsize::new(0),
            generation: AtomicUsize::new(0),
        });
        // A pool from the first worker on: if a later one cannot start, dropping the pool ends those before.
        let mut pool = Pool { shared, workers: Vec::with_capacity(threads - 1) };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let worker = thread::Builder::new().name(format!("rtmo-{index}"));
            pool.workers.push(worker.spawn(move || work(&shared, index))?);
        }
        Ok(pool)
    }

    /// Threads of the team.
    pub fn threads(&self) -> usize {
        self.shared.threads
    }

    /// Runs `job` once on every thread and returns when all are done.
    ///
    /// # Panics
    /// If `job` panics on any thread.
    pub fn run(&mut self, job: &(dyn Fn(&Worker<'_>) + Sync)) {
        let shared = &*self.shared;
        shared.failed.store(false, Ordering::Relaxed);
        shared.arrived.store(0, Ordering::Relaxed);
        shared.busy.store(shared.threads - 1, Ordering::Relaxed);
        // SAFETY: the lifetime is erased only for the duration of this call, which ends after all workers have left
        // the region; no worker reads `job` now, since the last region has ended and the next has not begun.
        unsafe {
            *shared.job.get() = Some(std::mem::transmute::<&(dyn Fn(&Worker<'_>) + Sync), Job>(job));
        }
        shared.region.fetch_add(1, Ordering::SeqCst);
        for (asleep, worker) in shared.asleep[1..].iter().zip(&self.workers) {
            if asleep.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        let result = catch_unwind(AssertUnwindSafe(|| job(&Worker { index: 0, shared })));
        if result.is_err() {
            shared.failed.store(true, Ordering::Relaxed);
        }
        let mut waited = 0;
        while shared.busy.load(Ordering::Acquire) != 0 {
            pause(&mut waited);
        }
        if let Err(panic) = result {
            resume_unwind(panic);
        }
        assert!(!shared.failed.load(Ordering::Relaxed), "a thread of the pool panicked");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.region.fetch_add(1, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            let _ = worker.join();
        }
    }
}

/// Body of a worker thread.
fn work(shared: &Shared, index: usize) {
    let mut seen = 0;
    loop {
        let mut waited = 0;
        while shared.region.load(Ordering::Acquire) == seen {
            if waited < SPINS + YIELDS {
                pause(&mut waited);
                continue;
            }
            // This thread stores `asleep`, then loads `region`; `run` stores `region`, then loads `asleep`. All four are
            // sequentially consistent, so at least one of the two sees the other's store, and no wake-up is lost.
            shared.asleep[index].store(true, Ordering::SeqCst);
            if shared.region.load(Ordering::SeqCst) == seen {
                thread::park();
            }
            shared.asleep[index].store(false, Ordering::SeqCst);
        }
        seen = shared.region.load(Ordering::Acquire);
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        // SAFETY: `region` changed, so `run` has stored a job, which it keeps alive until `busy` is 0.
        let job = unsafe { &*(*shared.job.get()).expect("a region has a job") };
        if catch_unwind(AssertUnwindSafe(|| job(&Worker { index, shared }))).is_err() {
            shared.failed.store(true, Ordering::Relaxed);
        }
        shared.busy.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn barriers_order_the_phases_of_a_region() {
        for threads in [1, 2, 3, 7] {
            let mut pool = Pool::new(threads).unwrap();
            let counters: Vec<AtomicUsize> = (0..50).map(|_| AtomicUsize::new(0)).collect();
            for round in 1..=20 {
                pool.run(&|worker| {
                    for (i, counter) in counters.iter().enumerate() {
                        counter.fetch_add(1, Ordering::Relaxed);
                        worker.barrier();
                        assert_eq!(counter.load(Ordering::Relaxed), round * threads, "phase {i}");
                    }
                });
            }
        }
    }

    #[test]
    fn workers_wake_from_sleep() {
        let mut pool = Pool::new(3).unwrap();
        for _ in 0..3 {
            thread::sleep(std::time::Duration::from_millis(20));
            let hits = AtomicUsize::new(0);
            pool.run(&|_| {
                hits.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(hits.load(Ordering::Relaxed), 3);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_leaves_the_pool_usable() {
        let mut pool = Pool::new(3).unwrap();
        for index in 0..3 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(&|worker| {
                    assert!(worker.index != index, "on purpose");
                    worker.barrier();
                });
            }));
            assert!(result.is_err());
        }
        let hits = AtomicUsize::new(0);
        pool.run(&|worker| {
            worker.barrier();
            hits.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(hits.load(Ordering::Relaxed), 3);
    }
}
