//! Checkpoints: reading, hostile files, writing, and where they are looked for.

mod download;
mod hostile;
mod memory;
mod mutate;
mod onnx;
mod read;
mod registry;
mod save;
mod writer;
