//! The CPU backend: handwritten SIMD kernels, a thread pool, one arena.

pub mod direct;
pub mod epilogue;
pub mod math;
pub mod memory;
pub mod micro;
pub mod pack;
pub mod pool;
pub mod simd;
pub mod winograd;
pub mod work;
