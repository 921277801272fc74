//! Convolutions in bf16 on a tile unit: Intel's AMX, or plain Rust in its place.
//!
//! ```text
//! conv       a layer: pixels converted to bf16, blocks of 32 pixels by 32 channels, the epilogue
//!   unit     a block's sum, in tile registers of 16 rows of 64 bytes
//! ```

pub mod conv;
pub mod unit;
