//! An ONNX file, whose graph is followed from its outputs back.

#![no_main]

mod common;

use libfuzzer_sys::fuzz_target;

/// A small network, as torch exports mmpose's own modules.
const TINY: &[u8] = include_bytes!("../../../tests/data/onnx/tiny.onnx");

fuzz_target!(
    init: common::plant("onnx", vec![TINY.to_vec()]),
    |file: &[u8]| common::digest(file)
);
