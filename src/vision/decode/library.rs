//! WebP, BMP, TIFF, GIF and PNM, by the `image` crate.

use super::{Format, Header, Limits, Photo, Reason, Stored, check_size, reserved, zeroed};
use image::codecs::{
    bmp::BmpDecoder, gif::GifDecoder, pnm::PnmDecoder, tiff::TiffDecoder, webp::WebPDecoder,
};
use image::metadata::Orientation;
use image::{ColorType, ImageDecoder, ImageError, ImageResult};
use std::borrow::Cow;
use std::io::Cursor;

impl Format {
    fn name(self) -> &'static str {
        match self {
            Format::Jpeg => "JPEG",
            Format::Png => "PNG",
            Format::Bmp => "BMP",
            Format::WebP => "WebP",
            Format::Gif => "GIF",
            Format::Tiff => "TIFF",
            Format::Pnm => "PNM",
        }
    }

    /// Upper bound of the pixels that a byte of the file can stand for.
    fn most_pixels_per_byte(self, bytes: &[u8]) -> usize {
        match self {
            // Plain rows of one bit a pixel; runs may leave most pixels out.
            Format::Bmp if !matches!(bytes.get(30), Some(1 | 2)) => 8,
            // A row of a fax takes one bit if it equals the row above.
            Format::Tiff => 1 << 15,
            // A code of LZW takes 9 bits or more and stands for at most 4096 pixels.
            Format::Gif => 1 << 12,
            Format::Pnm => 8,
            // A lossless WebP of one colour takes no bits a pixel.
            _ => usize::MAX,
        }
    }

    /// How often the decoder holds all pixels at most, our buffer included.
    fn copies(self) -> usize {
        match self {
            Format::Bmp => 1,
            Format::Gif | Format::Pnm => 2,
            _ => 3,
        }
    }

    fn wrong(self, error: ImageError) -> Reason {
        match error {
            ImageError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                format!("not a readable {}: the file ends too early", self.name())
            }
            error => format!("not a readable {}: {error}", self.name()),
        }
    }
}

fn decoder(format: Format, bytes: &[u8]) -> Result<Box<dyn ImageDecoder + '_>, Reason> {
    let file = Cursor::new(bytes);
    let made = || -> ImageResult<Box<dyn ImageDecoder + '_>> {
        Ok(match format {
            Format::WebP => Box::new(WebPDecoder::new(file)?),
            Format::Gif => Box::new(GifDecoder::new(file)?),
            Format::Tiff => Box::new(TiffDecoder::new(file)?),
            Format::Pnm => Box::new(PnmDecoder::new(file)?),
            _ => Box::new(BmpDecoder::new(file)?),
        })
    };
    made().map_err(|error| format.wrong(error))
}

pub(super) fn header(format: Format, bytes: &[u8], limits: Limits) -> Result<Header, Reason> {
    if format == Format::Tiff && is_preview(bytes) {
        return Err("this is a raw photo, of which only the preview could be read".into());
    }
    let bytes = &*with_canvas(format, bytes)?;
    let decoder = decoder(format, bytes)?;
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    check_size(width, height, bytes.len().saturating_mul(format.most_pixels_per_byte(bytes)), limits)?;
    let pixel = (decoder.color_type().bytes_per_pixel() as usize).max(3);
    Ok(Header { width, height, memory: width * height * pixel * format.copies() })
}

pub(super) fn decode(format: Format, bytes: &[u8], header: &Header) -> Result<Stored, Reason> {
    let bytes = &*with_canvas(format, bytes)?;
    let mut decoder = decoder(format, bytes)?;
    let (color, len) = (decoder.color_type(), decoder.total_bytes() as usize);
    if matches!(color, ColorType::Rgb32F | ColorType::Rgba32F) {
        return Err(format!("a {} of floating-point numbers is not readable", format.name()));
    }
    // OpenCV looks for an orientation in TIFF only.
    let orientation = match format {
        Format::Tiff => decoder.orientation().map_err(|e| format.wrong(e))?,
        _ => Orientation::NoTransforms,
    };
    // The decoders' own allocations end the program where they fail. So there must be room for all of them first.
    drop(reserved(header.memory)?);
    let mut pixels = zeroed(len.max(header.width * header.height * 3))?;
    let mut limits = image::Limits::no_limits();
    limits.max_alloc = Some((header.memory + bytes.len()) as u64);
    decoder.set_limits(limits).map_err(|e| format.wrong(e))?;
    decoder.read_image_boxed(&mut pixels[..len]).map_err(|e| format.wrong(e))?;
    to_bgr(color, format == Format::Tiff, header.width * header.height, &mut pixels);
    let photo = Photo { width: header.width, height: header.height, bgr: pixels };
    Ok(Stored { photo, orientation, warnings: Vec::new() })
}

/// Turns pixels of `color` at the start of the buffer into BGR, in place. Of 16 bits the high byte is kept; of a TIFF's
/// colours OpenCV rounds them to the nearest byte.
fn to_bgr(color: ColorType, rounded: bool, count: usize, pixels: &mut Vec<u8>) {
    let channels = color.channel_count() as usize;
    let pixel = color.bytes_per_pixel() as usize;
    let places = if channels < 3 { [0, 0, 0] } else { [2, 1, 0] };
    let mut convert = |i: usize| {
        let sample = |c: usize| match pixel / channels {
            1 => pixels[i * pixel + c],
            _ => {
                // The decoders give numbers in the machine's order of bytes.
                let at = i * pixel + 2 * c;
                let value = u16::from_ne_bytes([pixels[at], pixels[at + 1]]);
                if rounded && channels >= 3 { ((value as u32 + 128) / 257) as u8 } else { (value >> 8) as u8 }
            }
        };
        let bgr = places.map(sample);
        pixels[i * 3..i * 3 + 3].copy_from_slice(&bgr);
    };
    // Pixels that grow overwrite the ones behind them.
    match pixel < 3 {
        true => (0..count).rev().for_each(&mut convert),
        false => (0..count).for_each(&mut convert),
    }
    pixels.truncate(count * 3);
    pixels.shrink_to_fit();
}

/// The file as the decoder understands it. image-webp 0.2.4 takes the largest side of a lossless WebP, 16384, for zero;
/// where the extended header (VP8X) states the size of the canvas, it takes it from there.
fn with_canvas(format: Format, bytes: &[u8]) -> Result<Cow<'_, [u8]>, Reason> {
    const LARGEST: u32 = 0x3fff;
    let lossless = format == Format::WebP && bytes.len() >= 25 && bytes[12..16] == *b"VP8L";
    let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    // Each side less one, in 14 bits; then whether there is alpha.
    let (width, height) = if lossless { (number(21) & LARGEST, number(21) >> 14 & LARGEST) } else { (0, 0) };
    if width != LARGEST && height != LARGEST {
        return Ok(bytes.into());
    }
    let alpha = (number(21) >> 28 & 1) << 4;
    let mut file = reserved(bytes.len() + 18)?;
    file.extend(b"RIFF");
    file.extend((number(4).saturating_add(18)).to_le_bytes());
    file.extend(b"WEBPVP8X");
    file.extend([10, alpha].map(u32::to_le_bytes).concat());
    file.extend([width, height].map(|side| [side as u8, (side >> 8) as u8, 0]).concat());
    file.extend(&bytes[12..]);
    Ok(file.into())
}

/// Whether the first image of a TIFF is a reduced version of another: so do raw photos begin (DNG, NEF, ARW).
fn is_preview(tiff: &[u8]) -> bool {
    const NEW_SUBFILE_TYPE: usize = 254;
    let little = tiff.starts_with(b"II");
    let number = |at: usize, len: usize| -> Option<usize> {
        let bytes = tiff.get(at..at.checked_add(len)?)?.iter();
        let add = |sum: usize, byte: &u8| sum << 8 | *byte as usize;
        Some(if little { bytes.rev().fold(0, add) } else { bytes.fold(0, add) })
    };
    let find = || -> Option<usize> {
        let directory = number(4, 4)?;
        let entries = (0..number(directory, 2)?).map(|i| directory + 2 + 12 * i);
        let entry = entries
            .take_while(|at| at + 12 <= tiff.len())
            .find(|&at| number(at, 2) == Some(NEW_SUBFILE_TYPE));
        number(entry? + 8, 4)
    };
    find().is_some_and(|kind| kind & 1 == 1)
}
