//! Image files to pixels, exactly as `cv2.imread(path, cv2.IMREAD_COLOR)` of OpenCV 4.10 computes them: that is what
//! the published weights were trained and evaluated on.
//!
//! | format | what is read | turned upright by |
//! |---|---|---|
//! | JPEG | baseline, progressive, arithmetic; any sampling; grey, YCbCr, RGB, CMYK, YCCK | the first APP1 segment, if it is Exif |
//! | PNG | all colour types and depths | eXIf chunk |
//! | WebP | lossy and lossless, the first frame of an animation | nothing |
//! | BMP | 1, 4, 8, 16, 24, 32 bits, masks, RLE4, RLE8 | nothing |
//! | TIFF | the first page: grey, RGB, CMYK; 1, 8, 16 bits | tag 274 |
//! | GIF | the first frame | nothing |
//! | PNM | P1 to P7 | nothing |
//!
//! Samples of 16 bits keep their high byte. Alpha is dropped, not blended.

mod bmp;
mod idct;
mod jpeg;
mod library;
mod orientation;
mod png;

use super::{MAX_SIDE, Photo};
use crate::error::{Error, Result};
use image::metadata::Orientation;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The most pixels that [`Limits`] can allow: 2^28, or 768 MiB of BGR bytes. (Under a fuzzer 2^20, so that it tries many
/// files and not large ones.)
pub const MAX_PIXELS: usize = if cfg!(fuzzing) { 1 << 20 } else { 1 << 28 };

impl Photo {
    /// Reads and decodes an image file. The format is told by the content, whatever the suffix says. Pixels and
    /// orientation equal `cv2.imread(path, cv2.IMREAD_COLOR)` of OpenCV 4.10.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Image`] if it is no photo, is damaged, or is larger than
    /// [`MAX_PIXELS`]. A JPEG whose end is missing is no error, see [`open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Photo> {
        Ok(open(path)?.photo)
    }

    /// Decodes an image file that is already in memory; `label` names it in messages.
    ///
    /// # Errors
    /// As [`Photo::open`].
    pub fn decode(bytes: &[u8], label: &Path) -> Result<Photo> {
        Ok(decode(bytes, label)?.photo)
    }
}

/// What a photo may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Photos of more pixels are refused before memory is asked for; [`MAX_PIXELS`] at most.
    pub max_pixels: usize,
}

impl Default for Limits {
    /// 200 megapixels.
    fn default() -> Limits {
        Limits { max_pixels: MAX_PIXELS.min(200_000_000) }
    }
}

/// A photo and what was wrong with its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The pixels, upright.
    pub photo: Photo,
    /// Damage that the decoder worked around, in its own words, e.g. "Premature end of JPEG file". What is missing
    /// is grey or smeared.
    pub warnings: Vec<String>,
}

/// An image file in memory. Its header has been read, and its size is within the limits.
pub struct Encoded {
    bytes: Vec<u8>,
    label: PathBuf,
    format: Format,
    header: Header,
    limits: Limits,
}

impl Encoded {
    /// Reads an image file. A file that does not begin like an image is not read any further, however long it is.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, otherwise as [`Encoded::new`].
    pub fn open(path: impl AsRef<Path>, limits: Limits) -> Result<Encoded> {
        let path = path.as_ref();
        let cannot = || Error::io("cannot read", path);
        let mut file = File::open(path).map_err(cannot())?;
        let len = file.metadata().map_err(cannot())?.len();
        let mut bytes = Vec::new();
        (&mut file).take(HEAD).read_to_end(&mut bytes).map_err(cannot())?;
        if Format::of(&bytes).is_ok() {
            // Room to see the end without growing.
            let rest = len.min(MAX_BYTES).saturating_sub(HEAD) as usize + 1;
            bytes.try_reserve_exact(rest).map_err(|_| Error::image(path, no_memory(len)))?;
            file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(cannot())?;
            if bytes.len() as u64 > MAX_BYTES {
                return Err(Error::image(path, format!("longer than {MAX_BYTES} bytes")));
            }
        }
        Encoded::new(bytes, path, limits)
    }

    /// An image file that is already in memory; `label` names it in messages.
    ///
    /// # Errors
    /// [`Error::Image`] if the content is no supported image, or exceeds the limits or [`MAX_SIDE`]; also if the header
    /// promises more pixels than a file of this length can hold.
    pub fn new(bytes: Vec<u8>, label: impl Into<PathBuf>, limits: Limits) -> Result<Encoded> {
        let label = label.into();
        match Format::of(&bytes).and_then(|format| Ok((format, format.header(&bytes, limits)?))) {
            Ok((format, header)) => Ok(Encoded { bytes, label, format, header, limits }),
            Err(what) => Err(Error::image(label, what)),
        }
    }

    /// Bytes of memory that [`Encoded::decode`] holds at most: the file, the photo and the decoder's own buffers.
    pub fn memory(&self) -> usize {
        self.bytes.len() + self.header.memory
    }

    /// Decodes the file. Truncated and slightly corrupt JPEGs give a photo and warnings, as in OpenCV; other formats give
    /// an error.
    ///
    /// # Errors
    /// [`Error::Image`] if the file is damaged, or needs more memory than there is.
    pub fn decode(self) -> Result<Decoded> {
        decode_with(&self.bytes, &self.label, self.format, &self.header, self.limits)
    }
}

/// Reads and decodes an image file: [`Photo::open`] with the decoder's warnings.
///
/// # Errors
/// As [`Encoded::open`] and [`Encoded::decode`].
pub fn open(path: impl AsRef<Path>) -> Result<Decoded> {
    Encoded::open(path, Limits::default())?.decode()
}

/// Decodes an image file in memory; `label` names it in messages.
///
/// # Errors
/// As [`Encoded::new`] and [`Encoded::decode`].
pub fn decode(bytes: &[u8], label: &Path) -> Result<Decoded> {
    let limits = Limits::default();
    let header = Format::of(bytes).and_then(|format| Ok((format, format.header(bytes, limits)?)));
    let (format, header) = header.map_err(|what| Error::image(label, what))?;
    decode_with(bytes, label, format, &header, limits)
}

fn decode_with(
    bytes: &[u8],
    label: &Path,
    format: Format,
    header: &Header,
    limits: Limits,
) -> Result<Decoded> {
    let decoded = format.decode(bytes, header, limits).and_then(|stored| {
        let Stored { photo, orientation, warnings } = stored;
        Ok(Decoded { photo: photo.upright(orientation).ok_or_else(|| no_memory(header.memory))?, warnings })
    });
    decoded.map_err(|what| Error::image(label, what))
}

/// What a format's decoder gives: pixels as stored, and how to turn them.
struct Stored {
    photo: Photo,
    orientation: Orientation,
    warnings: Vec<String>,
}

/// What the header says, within the limits.
struct Header {
    width: usize,
    height: usize,
    /// Bytes that decoding takes at most beside the file.
    memory: usize,
}

/// Why a format's decoder gave up, without the file's name.
type Reason = String;

/// No photo within the limits above needs a longer file; so much of a stream is read at most.
const MAX_BYTES: u64 = 3 << 30;

/// Enough to tell the format.
const HEAD: u64 = 64;

/// A file format, and the decoder for it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Jpeg,
    Png,
    Bmp,
    WebP,
    Gif,
    Tiff,
    Pnm,
}

impl Format {
    /// The format of a file that begins with `head`.
    fn of(head: &[u8]) -> std::result::Result<Format, Reason> {
        Ok(match head {
            [] => return Err("the file is empty".into()),
            [0xff, 0xd8, 0xff, ..] => Format::Jpeg,
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Format::Png,
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Format::WebP,
            [b'B', b'M', ..] => Format::Bmp,
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Format::Gif,
            [b'I', b'I', b'*', 0, _, _, _, _, rest @ ..] if !rest.starts_with(b"CR") => Format::Tiff,
            [b'M', b'M', 0, b'*', ..] => Format::Tiff,
            [b'P', b'1'..=b'7', b' ' | b'\t' | b'\n' | b'\r' | b'#', ..] => Format::Pnm,
            _ => {
                return Err(format!(
                    "{}; readable are JPEG, PNG, WebP, BMP, TIFF, GIF and PNM",
                    foreign(head)
                ));
            }
        })
    }

    fn header(self, bytes: &[u8], limits: Limits) -> std::result::Result<Header, Reason> {
        match self {
            Format::Jpeg => jpeg::header(bytes, limits),
            Format::Png => png::header(bytes, limits),
            _ => library::header(self, bytes, limits),
        }
    }

    fn decode(self, bytes: &[u8], header: &Header, limits: Limits) -> std::result::Result<Stored, Reason> {
        match self {
            Format::Jpeg => jpeg::decode(bytes, header, limits),
            Format::Png => png::decode(bytes, header),
            Format::Bmp => bmp::decode(bytes, header),
            _ => library::decode(self, bytes, header),
        }
    }
}

/// What a file may be that begins like none of the formats.
fn foreign(bytes: &[u8]) -> String {
    let name = match bytes {
        [b'I', b'I', b'*', 0, ..] => "a raw photo",
        [_, _, _, _, b'f', b't', b'y', b'p', b'a', b'v', b'i', ..] => "an AVIF",
        [_, _, _, _, b'f', b't', b'y', b'p', b'h' | b'm', ..] => "a HEIC photo or a video",
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => "a video",
        [0xff, 0x0a, ..] | [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..] => "a JPEG XL",
        [0, 0, 0, 12, b'j', b'P', ..] | [0xff, 0x4f, 0xff, 0x51, ..] => "a JPEG 2000",
        [b'%', b'P', b'D', b'F', ..] => "a PDF",
        [b'<', ..] => "an SVG or HTML file",
        _ => return "not an image".into(),
    };
    format!("this is {name}")
}

/// Refuses sizes that no photo has; `most` is an upper bound of the pixels that a file of this length can hold.
fn check_size(width: usize, height: usize, most: usize, limits: Limits) -> std::result::Result<(), Reason> {
    if width == 0 || height == 0 {
        return Err(format!("the header says {width}x{height} pixels"));
    }
    let (pixels, limit) = (width.saturating_mul(height), limits.max_pixels.min(MAX_PIXELS));
    if width > MAX_SIDE || height > MAX_SIDE || pixels > MAX_PIXELS {
        return Err(format!(
            "the header says {width}x{height} pixels; {MAX_PIXELS} pixels, {MAX_SIDE} a side, are the most that is possible"
        ));
    }
    if pixels > most {
        return Err(format!(
            "the header says {width}x{height} pixels, far more than a file of this length can hold"
        ));
    }
    if pixels > limit {
        return Err(format!(
            "the header says {width}x{height} pixels; the limit is {limit} pixels ('--max-pixels {pixels}' allows it)"
        ));
    }
    Ok(())
}

/// Memory for pixels, or the reason why not. Its size comes from the file: too much is an error for that file.
fn reserved(len: usize) -> std::result::Result<Vec<u8>, Reason> {
    let mut memory = Vec::new();
    memory.try_reserve_exact(len).map_err(|_| no_memory(len))?;
    Ok(memory)
}

/// [`reserved`] memory of zeros.
fn zeroed(len: usize) -> std::result::Result<Vec<u8>, Reason> {
    let mut zeros = reserved(len)?;
    zeros.resize(len, 0);
    Ok(zeros)
}

fn no_memory(bytes: impl std::fmt::Display) -> Reason {
    format!("needs {bytes} bytes of memory, which are not free")
}
