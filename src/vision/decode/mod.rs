//! Image files to pixels, exactly as `cv2.imread(path, cv2.IMREAD_COLOR)` of OpenCV 4.10 computes them: that is what
//! the published weights were trained and evaluated on.
//!
//! | format | what is read | upright by |
//! |---|---|---|
//! | JPEG | baseline, progressive, arithmetic; any sampling; grey, YCbCr, RGB, CMYK, YCCK | the first APP1 segment, if it is Exif |
//! | PNG | all colour types and depths; 16 bit keep their high byte; alpha is dropped, not blended | eXIf chunk |
//! | WebP | lossy and lossless, not animated; alpha is dropped | nothing |
//! | BMP | 1, 4, 8, 16, 24, 32 bits, masks, RLE4, RLE8 | nothing |

mod bmp;
mod exif;
mod jpeg;
mod png;
mod webp;

use super::Photo;
use crate::error::{Error, Result};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Photos of more pixels are refused, before memory is asked for: 2^28, or 768 MiB of BGR bytes. (Under a fuzzer 2^20,
/// so that it tries many files and not large ones.)
pub const MAX_PIXELS: usize = if cfg!(fuzzing) { 1 << 20 } else { 1 << 28 };

/// No photo may be wider or higher: OpenCV's limit, and coordinates of 1/1024 pixel still fit 32 bits.
pub const MAX_SIDE: usize = 1 << 20;

/// A photo and what was wrong with its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The pixels, upright.
    pub photo: Photo,
    /// Damage that the decoder worked around, in its own words, e.g. "premature end of JPEG file". What is missing
    /// is grey or smeared.
    pub warning: Option<String>,
}

/// What a format's decoder gives: pixels as stored, and how to turn them.
struct Stored {
    photo: Photo,
    /// Exif orientation; 1 for upright.
    orientation: u16,
    warning: Option<String>,
}

/// Why a format's decoder gave up, without the file's name.
type Reason = String;

/// No photo within the limits above needs a longer file; so much of a stream is read at most.
const MAX_BYTES: u64 = 3 << 30;

/// Enough to tell the format.
const HEAD: u64 = 64;

/// Reads and decodes an image file: [`Photo::open`] with the decoder's warning. What begins like no image is not read
/// any further, however long.
///
/// # Errors
/// [`Error::Io`] if it cannot be read, otherwise as [`decode`].
pub fn open(path: impl AsRef<Path>) -> Result<Decoded> {
    let path = path.as_ref();
    let cannot = || Error::io("cannot read", path);
    let mut file = File::open(path).map_err(cannot())?;
    let len = file.metadata().map_err(cannot())?.len();
    let mut bytes = Vec::new();
    (&mut file).take(HEAD).read_to_end(&mut bytes).map_err(cannot())?;
    if format(&bytes).is_ok() {
        // Room to see the end without growing.
        let rest = len.min(MAX_BYTES).saturating_sub(HEAD) as usize + 1;
        bytes
            .try_reserve_exact(rest)
            .map_err(|_| Error::image(path, format!("no memory for {len} bytes")))?;
        file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(cannot())?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(Error::image(path, format!("longer than {MAX_BYTES} bytes")));
        }
    }
    decode(&bytes, path)
}

/// Decodes an image file in memory; `label` names it in messages.
///
/// Truncated and slightly corrupt JPEGs give a picture and a warning, as in OpenCV; other formats give an error.
///
/// # Errors
/// [`Error::Image`] if the content is no supported image, is damaged, or exceeds [`MAX_PIXELS`] or [`MAX_SIDE`]; also
/// if a header promises more pixels than a file of this length can hold.
pub fn decode(bytes: &[u8], label: &Path) -> Result<Decoded> {
    let stored = format(bytes).and_then(|decode| decode(bytes));
    let Stored { photo, orientation, warning } = stored.map_err(|what| Error::image(label, what))?;
    Ok(Decoded { photo: photo.upright(orientation), warning })
}

/// Decoder of one format.
type Format = fn(&[u8]) -> std::result::Result<Stored, Reason>;

/// The decoder for a file that begins with `head`.
fn format(head: &[u8]) -> std::result::Result<Format, Reason> {
    match head {
        [] => Err("the file is empty".into()),
        [0xff, 0xd8, 0xff, ..] => Ok(jpeg::decode),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Ok(png::decode),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Ok(webp::decode),
        [b'B', b'M', ..] => Ok(bmp::decode),
        _ => Err(format!("{}; readable are JPEG, PNG, WebP and BMP", foreign(head))),
    }
}

/// What a file that is none of ours may be.
fn foreign(bytes: &[u8]) -> String {
    let name = match bytes {
        [b'G', b'I', b'F', b'8', ..] => "a GIF",
        [b'I', b'I', b'*', 0, ..] | [b'M', b'M', 0, b'*', ..] => "a TIFF or raw photo",
        [_, _, _, _, b'f', b't', b'y', b'p', b'a', b'v', b'i', ..] => "an AVIF",
        [_, _, _, _, b'f', b't', b'y', b'p', b'h' | b'm', ..] => "a HEIC photo or a video",
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => "a video",
        [0xff, 0x0a, ..] | [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..] => "a JPEG XL",
        [0, 0, 0, 12, b'j', b'P', ..] => "a JPEG 2000",
        [b'%', b'P', b'D', b'F', ..] => "a PDF",
        [b'<', ..] => "an SVG or HTML file",
        _ => return "not an image".into(),
    };
    format!("this is {name}")
}

/// Refuses sizes that no photo has; `most` is an upper bound of the pixels that a file of this length can hold.
fn check_size(width: usize, height: usize, most: usize) -> std::result::Result<(), Reason> {
    if width == 0 || height == 0 {
        return Err(format!("the header says {width}x{height} pixels"));
    }
    let pixels = width.saturating_mul(height);
    if width > MAX_SIDE || height > MAX_SIDE || pixels > MAX_PIXELS {
        return Err(format!(
            "the header says {width}x{height} pixels; the limit is {MAX_PIXELS} pixels, {MAX_SIDE} a side"
        ));
    }
    if pixels > most {
        return Err(format!(
            "the header says {width}x{height} pixels, far more than a file of this length can hold"
        ));
    }
    Ok(())
}
