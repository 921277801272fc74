//! The C interface: arguments checked, people as flat arrays. What C users see is `include/rtmo_engine.h`, which is made from
//! these files; `docs/c.md` explains it.
//!
//! Three rules hold in every exported function:
//!
//! 1. Nothing is dereferenced before `pointer.rs` has checked what can be checked: NULL, alignment, sizes.
//! 2. No panic crosses into C: the body runs in `status::guard`, or in `status::or`.
//! 3. A result that is returned by pointer is set to NULL before anything can fail.

mod engine;
mod image;
mod models;
mod people;
mod pointer;
mod status;
#[cfg(test)]
mod tests;
mod track;
mod weights;
mod words;

use std::ffi::c_char;

/// Version of this interface. It grows when a program that was compiled for an older one would no longer work.
pub const RTMO_ABI_VERSION: u32 = 1;

/// The library's RTMO_ABI_VERSION. A program should compare it with the header's before it calls anything else.
///
/// Never fails. May be called from any thread.
#[unsafe(no_mangle)]
pub extern "C" fn rtmo_abi_version() -> u32 {
    RTMO_ABI_VERSION
}

/// The library's version, such as "0.1.0". The text lives as long as the program.
///
/// Never fails. May be called from any thread.
#[unsafe(no_mangle)]
pub extern "C" fn rtmo_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}
