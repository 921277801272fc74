//! PNG, by the `png` crate, a row at a time. The `image` crate's wrapper around it holds all pixels twice (four times
//! with 16 bits), and does not read what follows the pixels: the checksum of the last ones, an eXIf chunk.

use super::{Header, Limits, Photo, Reason, Stored, check_size, zeroed};
use image::metadata::Orientation;
use png::{BitDepth, ColorType, Decoder, DecodingError, Transformations};
use std::io::Cursor;

/// Deflate's best: 258 bytes from two bits.
const MOST_INFLATION: usize = 1032;

/// For chunks beside the pixels.
const SIDE_MEMORY: usize = 1 << 20;

fn decoder(bytes: &[u8]) -> Decoder<Cursor<&[u8]>> {
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), png::Limits { bytes: SIDE_MEMORY });
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    decoder
}

pub(super) fn header(bytes: &[u8], limits: Limits) -> Result<Header, Reason> {
    let mut decoder = decoder(bytes);
    let info = decoder.read_header_info().map_err(wrong)?;
    let (width, height) = (info.width as usize, info.height as usize);
    let inflated = bytes.len().saturating_mul(MOST_INFLATION);
    check_size(width, height, inflated.saturating_mul(8) / info.bits_per_pixel(), limits)?;
    // Interlaced pixels come all together, with alpha.
    let pixel = if info.interlaced { 3 + 4 } else { 3 };
    Ok(Header { width, height, memory: width * height * pixel + row_memory(width) })
}

/// A row of up to 2^20 pixels of 8 bytes, and the decoder's copies of it.
fn row_memory(width: usize) -> usize {
    SIDE_MEMORY + width * 32
}

pub(super) fn decode(bytes: &[u8], header: &Header) -> Result<Stored, Reason> {
    let &Header { width, height, .. } = header;
    let mut decoder = decoder(bytes);
    decoder.set_limits(png::Limits { bytes: row_memory(width) });
    let mut reader = decoder.read_info().map_err(wrong)?;

    let (color, depth) = reader.output_color_type();
    debug_assert_eq!(depth, BitDepth::Eight);
    let mut bgr = zeroed(width * height * 3)?;
    if reader.info().interlaced {
        let mut pixels = zeroed(width * height * color.samples())?;
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
    let warnings = match reader.finish() {
        Ok(()) => Vec::new(),
        Err(e) if is_end_of_file(&e) => vec!["the file ends behind its pixels, without an IEND chunk".into()],
        Err(e) => return Err(wrong(e)),
    };
    let exif = reader.info().exif_metadata.as_deref();
    let orientation = exif.and_then(Orientation::from_exif_chunk).unwrap_or(Orientation::NoTransforms);
    Ok(Stored { photo: Photo { width, height, bgr }, orientation, warnings })
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
