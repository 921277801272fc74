//! What `torch.save` writes: the zip archive, and the older stream of pickles.

#![no_main]

mod common;

use common::writer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: common::plant("torch", writer::seeds()),
    |file: &[u8]| common::digest(file)
);
