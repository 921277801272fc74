//! A safetensors file: its header as text behind the right length, or the bytes as they come.

#![no_main]

mod common;

use common::writer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: common::plant("safetensors", writer::seeds().split_off(4)),
    |file: &[u8]| {
        common::digest(file);
        // A mutation rarely mends the length.
        if let Some(header) = file.get(8..) {
            let len = header.iter().rposition(|&byte| byte == b'}').map_or(header.len(), |at| at + 1);
            common::digest(&[&(len as u64).to_le_bytes(), header].concat());
        }
    }
);
