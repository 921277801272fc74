//! Convolutions in bf16 on a tile unit: Intel's AMX, or plain Rust in its place.
//!
//! ```text
//! conv       a layer: blocks of 32 pixels by 32 channels, and the epilogue
//!   round    its input in bf16
//!   unit     a block's sum, in tile registers of 16 rows of 64 bytes
//! ```

pub mod conv;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod emulator;
mod round;
pub mod unit;
