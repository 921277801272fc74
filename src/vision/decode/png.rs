//! PNG, by the png crate, a row at a time.

use super::{Photo, Reason, Stored, check_size, exif};
use png::{BitDepth, ColorType, DecodingError, Limits, Transformations};
use std::io::Cursor;

/// Deflate's best: 258 bytes from two bits.
const MOST_INFLATION: usize = 1032;

/// For chunks beside the pixels (profiles, texts).
const SIDE_MEMORY: usize = 64 << 20;

pub(super) fn decode(bytes: &[u8]) -> Result<Stored, Reason> {
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: SIDE_MEMORY });
    let header = decoder.read_header_info().map_err(wrong)?;
    let (width, height) = (header.width as usize, header.height as usize);
    let bits = header.bits_per_pixel();
    let inflated = bytes.len().saturating_mul(MOST_INFLATION);
    check_size(width, height, inflated.saturating_mul(8) / bits)?;
    // A row of 2^20 pixels of 8 bytes, and the decoder's copies of it, are part of the bargain.
    decoder.set_limits(Limits { bytes: SIDE_MEMORY + width * 32 });
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    let mut reader = decoder.read_info().map_err(wrong)?;

    let (color, depth) = reader.output_color_type();
    debug_assert_eq!(depth, BitDepth::Eight);
    let mut bgr = vec![0; width * height * 3];
    if reader.info().interlaced {
        let mut pixels = vec![0; width * height * color.samples()];
        reader.next_frame(&mut pixels).map_err(wrong)?;
        to_bgr(color, &pixels, &mut bgr);
    } else {
        for row in bgr.chunks_exact_mut(width * 3) {
            let Some(pixels) = reader.next_row().map_err(wrong)? else {
                return Err("not a readable PNG: rows are missing".into());
            };
            to_bgr(color, pixels.data(), row);
        }
    }
    // The checksum of the last pixels is still to come, perhaps an eXIf chunk too; a file may do without its end.
    let warning = match reader.finish() {
        Ok(()) => None,
        Err(e) if is_end_of_file(&e) => Some("the file ends behind its pixels, without an IEND chunk".into()),
        Err(e) => return Err(wrong(e)),
    };
    let orientation = reader.info().exif_metadata.as_deref().map_or(1, exif::orientation);
    Ok(Stored { photo: Photo { width, height, bgr }, orientation, warning })
}

fn is_end_of_file(error: &DecodingError) -> bool {
    matches!(error, DecodingError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof)
}

fn wrong(error: DecodingError) -> Reason {
    if is_end_of_file(&error) {
        return "not a readable PNG: the file ends too early".into();
    }
    format!("not a readable PNG: {error}")
}

fn to_bgr(color: ColorType, pixels: &[u8], bgr: &mut [u8]) {
    let samples = color.samples();
    let pairs = bgr.chunks_exact_mut(3).zip(pixels.chunks_exact(samples));
    match samples {
        1 | 2 => pairs.for_each(|(to, from)| to.fill(from[0])),
        _ => pairs.for_each(|(to, from)| to.copy_from_slice(&[from[2], from[1], from[0]])),
    }
}
