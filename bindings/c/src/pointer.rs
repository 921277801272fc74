//! Pointers from C: what can be checked is checked here, before anything is dereferenced.

use crate::status::{Outcome, argument};
use std::ffi::{CStr, c_char};
use std::mem::MaybeUninit;

/// No structure of options will ever be larger; what claims to be is not initialised.
const MAX_OPTIONS: usize = 4096;

fn check<T>(pointer: *const T, what: &str) -> Outcome<()> {
    if pointer.is_null() {
        return argument(format!("{what} is NULL"));
    }
    if !pointer.is_aligned() {
        let to = align_of::<T>();
        return argument(format!("{what} {pointer:p} is misaligned: expected a multiple of {to}"));
    }
    Ok(())
}

/// A handle or a structure.
///
/// # Safety
/// `pointer` is NULL, or leads to a `T` that nothing writes to for `'a`.
pub unsafe fn borrow<'a, T>(pointer: *const T, what: &str) -> Outcome<&'a T> {
    check(pointer, what)?;
    // SAFETY: not NULL and aligned, as checked; the caller's promise covers the rest.
    Ok(unsafe { &*pointer })
}

/// A handle or a structure that is changed.
///
/// # Safety
/// `pointer` is NULL, or leads to a `T` that nothing else uses for `'a`.
pub unsafe fn borrow_mut<'a, T>(pointer: *mut T, what: &str) -> Outcome<&'a mut T> {
    check(pointer, what)?;
    // SAFETY: not NULL and aligned, as checked; the caller's promise covers the rest.
    Ok(unsafe { &mut *pointer })
}

/// Puts a value where the caller wants it.
///
/// # Safety
/// `pointer` is NULL, or leads to memory for a `T`, which may be uninitialised.
pub unsafe fn put<T>(pointer: *mut T, what: &str, value: T) -> Outcome<()> {
    check(pointer, what)?;
    // SAFETY: not NULL and aligned, as checked; the caller promises that a `T` may be written there.
    unsafe { pointer.write(value) };
    Ok(())
}

/// An array of `count` elements.
///
/// # Safety
/// `pointer` is NULL, or leads to `count` values that nothing writes to for `'a`.
pub unsafe fn array<'a, T>(pointer: *const T, count: usize, what: &str) -> Outcome<&'a [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    check(pointer, what)?;
    let bytes = count.checked_mul(size_of::<T>()).filter(|&bytes| bytes <= isize::MAX as usize);
    if bytes.and_then(|bytes| pointer.addr().checked_add(bytes)).is_none() {
        return argument(format!("{what}: {count} elements are more than memory has"));
    }
    // SAFETY: not NULL and aligned, and its bytes neither exceed isize::MAX nor wrap around, as checked; the caller's promise
    // covers the rest.
    Ok(unsafe { std::slice::from_raw_parts(pointer, count) })
}

/// A text in UTF-8.
///
/// # Safety
/// `pointer` is NULL, or leads to bytes that end with a NUL and that nothing writes to for `'a`.
pub unsafe fn text<'a>(pointer: *const c_char, what: &str) -> Outcome<&'a str> {
    check(pointer, what)?;
    // SAFETY: not NULL, as checked; the caller promises the NUL at its end.
    match unsafe { CStr::from_ptr(pointer) }.to_str() {
        Ok(text) => Ok(text),
        Err(error) => argument(format!("{what} is not UTF-8 from byte {} on", error.valid_up_to())),
    }
}

/// A text that may be left out: NULL or empty.
///
/// # Safety
/// As [`text`].
pub unsafe fn optional_text<'a>(pointer: *const c_char, what: &str) -> Outcome<Option<&'a str>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise is the same.
    let text = unsafe { text(pointer, what) }?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// A structure that begins with its own size, `struct_size`, so that it can grow.
///
/// # Safety
/// It is `repr(C)`, begins with a `usize`, has no padding that matters, and every pattern of bits is a value of it, zeros too.
pub unsafe trait Growing: Copy {
    /// Its size in the first version of the interface.
    const FIRST: usize;
}

/// Reads options. NULL: all zeros, which are the defaults. Of a larger structure, from a newer header, what this library does
/// not know must be zero.
///
/// # Safety
/// `pointer` is NULL, or leads to as many bytes as its first field says, initialised.
pub unsafe fn options<T: Growing>(pointer: *const T, what: &str) -> Outcome<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    if !pointer.is_null() {
        // SAFETY: the caller's promise is the same.
        let size = unsafe { struct_size(pointer, what) }?;
        // SAFETY: the caller promises `size` bytes there.
        let bytes = unsafe { array(pointer.cast::<u8>(), size, what) }?;
        let known = size.min(size_of::<T>());
        if let Some(at) = bytes[known..].iter().position(|&byte| byte != 0) {
            return argument(format!(
                "{what}: byte {} is set, which this version of the library ({} bytes) does not know",
                known + at,
                size_of::<T>()
            ));
        }
        // SAFETY: `known` is at most the size of either side, and `value` is this function's own.
        unsafe { value.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), known) };
    }
    // SAFETY: all its bytes are initialised, and every pattern of them is a `T`, as Growing says.
    Ok(unsafe { value.assume_init() })
}

/// Fills a structure of results as far as the caller's version of it reaches.
///
/// # Safety
/// `pointer` is NULL, or leads to a structure of the size that its first field says, which nothing else uses.
pub unsafe fn fill<T: Growing>(pointer: *mut T, what: &str, value: &T) -> Outcome<()> {
    // SAFETY: the caller's promise is the same.
    let size = unsafe { struct_size(pointer, what) }?;
    let first = size_of::<usize>();
    let len = size.min(size_of::<T>()) - first;
    // SAFETY: the caller promises `size` bytes there, of which the first ones stay; `value` has at least `len` more, too.
    unsafe {
        let to = pointer.cast::<u8>().add(first);
        to.copy_from_nonoverlapping(std::ptr::from_ref(value).cast::<u8>().add(first), len);
    }
    Ok(())
}

/// # Safety
/// `pointer` is NULL, or leads to a `usize`.
unsafe fn struct_size<T: Growing>(pointer: *const T, what: &str) -> Outcome<usize> {
    check(pointer, what)?;
    // SAFETY: not NULL and aligned, as checked; a Growing begins with a usize.
    let size = unsafe { pointer.cast::<usize>().read() };
    if (T::FIRST..=MAX_OPTIONS).contains(&size) {
        return Ok(size);
    }
    argument(format!("{what}: struct_size {size}: expected sizeof of the structure, {}", size_of::<T>()))
}

/// Gives a value to the caller, who frees it later.
pub fn give<T>(value: T) -> *mut T {
    Box::into_raw(Box::new(value))
}

/// Takes a handle back and drops it; NULL is nothing to drop.
///
/// # Safety
/// `pointer` is NULL, or is from [`give`] and is not used any more.
pub unsafe fn take<T>(pointer: *mut T, what: &str) -> Outcome<()> {
    if pointer.is_null() {
        return Ok(());
    }
    check(pointer, what)?;
    // SAFETY: it is from `give`, which made it of a Box, and the caller uses it no more.
    drop(unsafe { Box::from_raw(pointer) });
    Ok(())
}
