//! The pickle within a zip archive that is whole, so that damage goes where programs hide.

#![no_main]

mod common;

use common::writer::{self, pth};
use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: common::plant("pickle", writer::pickles()),
    |pickle: &[u8]| common::digest(&pth(pickle, &[("0", &[0; 48]), ("1", &[0; 6]), ("2", &[0; 8])]))
);
