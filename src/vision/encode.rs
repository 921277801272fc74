//! Pixels to image files.

use super::Photo;
use crate::atomic_file::AtomicFile;
use crate::error::{Error, Result, shown};
use jpeg_encoder::{ColorType, Encoder, EncodingError, SamplingFactor};
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

/// Coloured lines want full chroma and little loss.
const JPEG_QUALITY: u8 = 92;

/// Writes a photo as JPEG (quality 92, no chroma subsampling) or PNG, as the suffix says. The file appears when it is
/// whole; an older one of that name is replaced.
///
/// # Errors
/// [`Error::Usage`] for another suffix, [`Error::Image`] if the photo is too large for a JPEG (65535 a side),
/// [`Error::Io`] if it cannot be written.
pub fn save(photo: &Photo, path: impl AsRef<Path>) -> Result<()> {
    write(photo, path.as_ref(), false)
}

/// As [`save`], for pictures of results: they say in their first bytes that they are (PNG: text `Software`; JPEG: segment
/// APP7), and replace nothing but such pictures.
///
/// # Errors
/// As [`save`] and [`may_replace`].
pub fn save_result(photo: &Photo, path: impl AsRef<Path>) -> Result<()> {
    may_replace(&path)?;
    write(photo, path.as_ref(), true)
}

/// Whether nothing is lost if [`save_result`] writes there: nothing is there, an empty file, or an earlier result.
///
/// # Errors
/// [`Error::Usage`] if another file is there, [`Error::Io`] if it cannot be read.
pub fn may_replace(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    if !fs::metadata(path).is_ok_and(|found| found.is_file()) {
        return Ok(());
    }
    let mut start = Vec::new();
    File::open(path)
        .and_then(|file| file.take(256).read_to_end(&mut start))
        .map_err(Error::io("cannot read", path))?;
    match start.is_empty() || start.windows(MARK.len()).any(|part| part == MARK.as_bytes()) {
        true => Ok(()),
        false => Err(Error::Usage(format!("{}: would be lost, and is no earlier result", shown(path)))),
    }
}

/// What results say of themselves.
const MARK: &str = "drawn by rtmo-engine";

fn write(photo: &Photo, path: &Path, mark: bool) -> Result<()> {
    let suffix = path.extension().and_then(|s| s.to_str()).unwrap_or("").to_ascii_lowercase();
    let failed = |what: String| Error::image(path, what);
    match suffix.as_str() {
        "jpg" | "jpeg" => {
            let side = |v: usize| {
                u16::try_from(v).map_err(|_| failed("too large for a JPEG (65535 pixels a side)".into()))
            };
            let size = (side(photo.width)?, side(photo.height)?);
            let mut file = AtomicFile::create(path)?;
            jpeg(photo, size, mark, &mut file).map_err(|e| match e {
                EncodingError::IoError(source) => Error::io("cannot write", path)(source),
                e => failed(e.to_string()),
            })?;
            file.commit()
        }
        "png" => {
            let mut rgb = Vec::new();
            rgb.try_reserve_exact(photo.bgr.len())
                .map_err(|_| failed("there is no memory to encode it".into()))?;
            rgb.extend_from_slice(&photo.bgr);
            rgb.chunks_exact_mut(3).for_each(|p| p.swap(0, 2));
            let mut file = AtomicFile::create(path)?;
            png((photo.width, photo.height), &rgb, mark, &mut file).map_err(|e| match e {
                png::EncodingError::IoError(source) => Error::io("cannot write", path)(source),
                e => failed(e.to_string()),
            })?;
            file.commit()
        }
        _ => Err(Error::Usage(format!("{}: pictures are written as .jpg or .png", shown(path)))),
    }
}

/// The `image` crate's encoder is slower: this one has SIMD. (And it writes no segment of ours.)
fn jpeg(
    photo: &Photo,
    (width, height): (u16, u16),
    mark: bool,
    file: &mut AtomicFile,
) -> std::result::Result<(), EncodingError> {
    let mut encoder = Encoder::new(file, JPEG_QUALITY);
    encoder.set_sampling_factor(SamplingFactor::R_4_4_4);
    if mark {
        encoder.add_app_segment(7, MARK.into())?;
    }
    encoder.encode(&photo.bgr, width, height, ColorType::Bgr)
}

/// By the `png` crate itself, because the `image` crate's encoder writes no text.
fn png(
    (width, height): (usize, usize),
    rgb: &[u8],
    mark: bool,
    file: &mut AtomicFile,
) -> std::result::Result<(), png::EncodingError> {
    let mut encoder = png::Encoder::new(file, width as u32, height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::Fast);
    if mark {
        encoder.add_text_chunk("Software".into(), MARK.into())?;
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(rgb)?;
    writer.finish()
}
