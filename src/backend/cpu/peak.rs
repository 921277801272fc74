//! Measures how many multiply-adds a second this machine can do at most, to compare kernels with.

use super::isa::{Isa, with_isa};
use super::pool::Pool;
use super::simd::{Kernel, Simd};
use super::tile_unit::TileUnit;
use std::hint::black_box;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Independent chains of multiply-adds. More than latency times throughput on x86-64 (5 cycles, 2 a cycle), three quarters of it
/// on big ARM cores (4 and 4), and few enough for 16 registers.
const CHAINS: usize = 12;

/// Vector multiply-adds of a chain between two readings of the clock.
const LENGTH: usize = 20_000;

/// `CHAINS * LENGTH` vector multiply-adds on registers.
struct Chains;

impl Kernel for Chains {
    type Output = u64;

    /// Floating-point operations done.
    #[inline(always)]
    fn call<S: Simd>(self, s: S) -> u64 {
        // x <- x / 2 + 1 tends to 2: never a denormal, never an overflow.
        let (half, one) = (s.splat(black_box(0.5)), s.splat(black_box(1.0)));
        let mut chains = [s.splat(black_box(3.0)); CHAINS];
        for _ in 0..LENGTH {
            for x in &mut chains {
                *x = s.mul_add(*x, half, one);
            }
        }
        black_box(chains.iter().map(|&x| s.reduce_add(x)).sum::<f32>());
        (2 * CHAINS * LENGTH * S::LANES) as u64
    }
}

/// `CHAINS * LENGTH` vector dot products of bf16 pairs on registers.
struct Pairs;

impl Kernel for Pairs {
    type Output = u64;

    /// Floating-point operations done.
    #[inline(always)]
    fn call<S: Simd>(self, s: S) -> u64 {
        // x <- x + 1 / 2 - 1 / 2: never a denormal, never an overflow.
        let (pair, weights) = (black_box(0xbf80_3f80), black_box([0x3f00; 32]));
        let mut chains = [s.splat(black_box(3.0)); CHAINS];
        for _ in 0..LENGTH {
            for x in &mut chains {
                // SAFETY: 2 * LANES <= 32.
                *x = unsafe { s.dot_bf16(*x, pair, weights.as_ptr()) };
            }
        }
        black_box(chains.iter().map(|&x| s.reduce_add(x)).sum::<f32>());
        (4 * CHAINS * LENGTH * S::LANES) as u64
    }
}

/// Measured peak of f32 multiply-adds, in floating-point operations a second (two a multiply-add), of `threads` threads
/// together: each runs for a good 10 ms, five times, and the best of the five counts.
///
/// # Panics
/// If this CPU lacks the instruction set, or the system refuses to start the threads.
pub fn fma_peak(isa: Isa, threads: usize) -> f64 {
    peak(threads, || with_isa!(isa, simd => simd.vectorize(Chains)))
}

/// As [`fma_peak`], of dot products of bf16 pairs (four operations a pair), or of tile products with an instruction set that has
/// tiles. Slow where plain Rust stands in for them.
///
/// # Panics
/// As [`fma_peak`].
pub fn bf16_peak(isa: Isa, threads: usize) -> f64 {
    match isa.tile_unit() {
        Some(unit) => peak(threads, || unit.exercise()),
        None => peak(threads, || with_isa!(isa, simd => simd.vectorize(Pairs))),
    }
}

/// `work` returns how many operations it did.
fn peak(threads: usize, work: impl Fn() -> u64 + Sync) -> f64 {
    let mut pool = Pool::new(threads).expect("the system starts as many threads");
    let round = |pool: &mut Pool| {
        let rate = Mutex::new(0.0);
        pool.run(&|worker| {
            worker.barrier();
            let (start, mut flops) = (Instant::now(), 0);
            while start.elapsed() < Duration::from_millis(10) {
                flops += work();
            }
            let own = flops as f64 / start.elapsed().as_secs_f64();
            *rate.lock().expect("no thread panics while it holds the lock") += own;
        });
        rate.into_inner().expect("no thread panics while it holds the lock")
    };
    (0..5).map(|_| round(&mut pool)).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_a_rate() {
        for isa in Isa::all() {
            for peak in [fma_peak(isa, 1), bf16_peak(isa, 1)] {
                // Between a thousandth of a slow core and a thousand fast ones.
                assert!(peak > 1e6 && peak < 1e15, "{}: {peak:e}", isa.name());
            }
        }
    }
}
