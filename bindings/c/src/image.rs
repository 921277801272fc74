//! Pictures from C.

use crate::pointer::array;
use crate::status::{Outcome, argument};
use rtmo_engine::{ChannelOrder, Image};

/// Pixels of three bytes: blue, green, red, as OpenCV has them.
pub const RTMO_BGR: i32 = 1;
/// Pixels of three bytes: red, green, blue, as most others have them.
pub const RTMO_RGB: i32 = 2;

/// As the engine's own limit.
const MAX_SIDE: usize = 1 << 20;

/// A picture in memory of the caller's: `height` rows of `width` pixels of three bytes. It is read in place, and only during
/// a call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ImageView {
    /// The first byte of the upper left pixel. There must be `stride * (height - 1) + 3 * width` bytes.
    pub data: *const u8,
    /// Pixels a row, 1 to 1048576.
    pub width: i32,
    /// Rows, 1 to 1048576.
    pub height: i32,
    /// Bytes from one row to the next, at least `3 * width`. Pictures that are stored from the bottom up (negative strides) are
    /// not taken.
    pub stride: i64,
    /// RTMO_BGR or RTMO_RGB. The wrong one finds fewer people.
    pub format: i32,
}

/// A picture for the engine, checked.
///
/// # Safety
/// `view.data` is NULL, or leads to as many bytes as its documentation says, which nothing writes to for `'a`.
pub unsafe fn picture<'a>(view: &ImageView, what: &str) -> Outcome<Image<'a>> {
    let ImageView { data, width, height, stride, format } = *view;
    let order = match format {
        RTMO_BGR => ChannelOrder::Bgr,
        RTMO_RGB => ChannelOrder::Rgb,
        _ => return argument(format!("{what}: format {format}: expected RTMO_BGR (1) or RTMO_RGB (2)")),
    };
    let side = |side: i32| usize::try_from(side).ok().filter(|side| (1..=MAX_SIDE).contains(side));
    let (Some(w), Some(h)) = (side(width), side(height)) else {
        return argument(format!("{what}: {width}x{height} pixels: expected 1 to {MAX_SIDE} a side"));
    };
    let Some(stride) = usize::try_from(stride).ok().filter(|&stride| stride >= 3 * w) else {
        return argument(format!("{what}: stride {stride}: expected at least {} bytes", 3 * w));
    };
    let bytes = stride.checked_mul(h - 1).and_then(|bytes| bytes.checked_add(3 * w));
    let Some(bytes) = bytes else {
        return argument(format!("{what}: {h} rows of {stride} bytes are more than memory has"));
    };
    // SAFETY: the caller promises so many bytes.
    let data = unsafe { array(data, bytes, &format!("{what}: data")) }?;
    Ok(Image::new(w, h, order, data).and_then(|image| image.with_stride(stride))?)
}
