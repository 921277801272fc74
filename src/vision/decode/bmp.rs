//! What OpenCV reads from BMP files otherwise than the `image` crate does:
//! * pixels that run-length coding skips have the palette's first colour, not black; runs that end a row of RLE8 begin the
//!   next one; jumps in RLE4 go to the right only;
//! * pixels of 16 bits leave the low bits of a byte zero instead of spreading the value over the whole range;
//! * masks of more than 8 bits are scaled to 255 instead of losing their low bits.

use super::{Format, Header, Photo, Reason, Stored, library, zeroed};
use image::codecs::bmp::BmpDecoder;
use image::metadata::Orientation;
use std::io::Cursor;

const RLE8: u32 = 1;
const RLE4: u32 = 2;
const BITFIELDS: u32 = 3;

/// Where the masks are, behind the part of the header that all versions share.
const MASKS: usize = 54;

pub(super) fn decode(bytes: &[u8], header: &Header) -> Result<Stored, Reason> {
    let mut file = Bytes { all: bytes, at: 10 };
    let (pixels_at, size) = (file.u32()? as usize, file.u32()?);
    // Files of the first version, with a header of 12 bytes, have neither runs nor 16 bits.
    if size == 12 {
        return library::decode(Format::Bmp, bytes, header);
    }
    file.at = 28;
    let (bits, compression) = (file.u16()?, file.u32()?);
    match (bits, compression) {
        (8, RLE8) | (4, RLE4) => {
            file.at = pixels_at;
            let decoder =
                BmpDecoder::new(Cursor::new(bytes)).map_err(|e| format!("not a readable BMP: {e}"))?;
            let palette = decoder.get_palette().ok_or("not a readable BMP: it has no palette")?;
            let mut bgr = zeroed(header.width * header.height * 3)?;
            read_runs(&mut file, bits == 4, palette, header.width, &mut bgr)?;
            Ok(upright(header, bgr))
        }
        (32, BITFIELDS) if size >= 56 => {
            file.at = MASKS;
            let [r, g, b] = [file.u32()?, file.u32()?, file.u32()?].map(Mask::new);
            let mut stored = library::decode(Format::Bmp, bytes, header)?;
            if [r, g, b].iter().any(|mask| mask.highest > 255) {
                file.at = pixels_at;
                let bottom_up = i32::from_le_bytes([bytes[22], bytes[23], bytes[24], bytes[25]]) > 0;
                let row_bytes = header.width * 3;
                for y in 0..header.height {
                    let y = if bottom_up { header.height - 1 - y } else { y };
                    let row = &mut stored.photo.bgr[y * row_bytes..(y + 1) * row_bytes];
                    for pixel in row.chunks_exact_mut(3) {
                        let value = file.u32()?;
                        pixel.copy_from_slice(&[b.of(value), g.of(value), r.of(value)]);
                    }
                }
            }
            Ok(stored)
        }
        (16, _) => {
            file.at = MASKS + 4;
            let green = if compression == BITFIELDS && file.u32()? == 0x7e0 { 0xfc } else { 0xf8 };
            let mut stored = library::decode(Format::Bmp, bytes, header)?;
            for pixel in stored.photo.bgr.chunks_exact_mut(3) {
                pixel.iter_mut().zip([0xf8, green, 0xf8]).for_each(|(byte, kept)| *byte &= kept);
            }
            Ok(stored)
        }
        _ => library::decode(Format::Bmp, bytes, header),
    }
}

fn upright(&Header { width, height, .. }: &Header, bgr: Vec<u8>) -> Stored {
    let photo = Photo { width, height, bgr };
    Stored { photo, orientation: Orientation::NoTransforms, warnings: Vec::new() }
}

/// One channel of a 32-bit pixel.
#[derive(Clone, Copy)]
struct Mask {
    mask: u32,
    shift: u32,
    highest: u32,
}

impl Mask {
    fn new(mask: u32) -> Mask {
        let shift = mask.trailing_zeros() % 32;
        Mask { mask, shift, highest: (mask >> shift).max(1) }
    }

    /// OpenCV's conversion.
    fn of(self, pixel: u32) -> u8 {
        (((pixel & self.mask) >> self.shift) as f32 * (255.0 / self.highest as f32)) as u8
    }
}

/// Reads little-endian numbers; what lies behind the end is an error.
struct Bytes<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Bytes<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Reason> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.all.len());
        let end = end.ok_or("not a readable BMP: the file ends too early")?;
        let taken = &self.all[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, Reason> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, Reason> {
        let b = self.take(2)?;
        Ok(u16::from_le_bytes([b[0], b[1]]))
    }

    fn u32(&mut self) -> Result<u32, Reason> {
        let b = self.take(4)?;
        Ok(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }
}

/// Run-length coded pixels. What the file skips takes colour 0. Like OpenCV, the vertical part of a jump counts in
/// RLE8 only.
fn read_runs(
    file: &mut Bytes<'_>,
    four: bool,
    palette: &[[u8; 3]],
    width: usize,
    bgr: &mut [u8],
) -> Result<(), Reason> {
    let height = bgr.len() / 3 / width;
    let nibble = |byte: u8, i: usize| byte >> (4 - i % 2 * 4) & 15;
    let mut put = |x: usize, y: usize, color: u8| {
        let at = ((height - 1 - y) * width + x) * 3;
        let [r, g, b] = palette[color as usize];
        bgr[at..at + 3].copy_from_slice(&[b, g, r]);
    };
    // Row 0 is the first one stored.
    let (mut x, mut y) = (0, 0);
    // Whether a run of RLE8 has just filled its row and gone to the next: an "end of row" behind it means nothing.
    let mut wrapped = false;
    while y < height {
        let (len, code) = (file.u8()? as usize, file.u8()?);
        if len > 0 {
            if x + len > width {
                return Err(LONG_RUN.into());
            }
            (0..len).for_each(|i| put(x + i, y, if four { nibble(code, i) } else { code }));
            x += len;
            wrapped = !four && x == width;
            if wrapped {
                (x, y) = (0, y + 1);
            }
        } else if code > 2 {
            let len = code as usize;
            if x + len > width {
                return Err(LONG_RUN.into());
            }
            let packed = file.take(if four { len.div_ceil(4) * 2 } else { len.next_multiple_of(2) })?;
            (0..len).for_each(|i| put(x + i, y, if four { nibble(packed[i / 2], i) } else { packed[i] }));
            x += len;
            wrapped = false;
        } else {
            let mut skip = match code {
                0 if wrapped && x == 0 => {
                    wrapped = false;
                    continue;
                }
                0 => width - x,
                1 => (height - y) * width - x,
                _ => {
                    let (right, down) = (file.u8()? as usize, file.u8()? as usize);
                    right + if four { 0 } else { down * width }
                }
            };
            wrapped = false;
            // Once at least: "end of row" behind a full row skips nothing, yet goes to the next.
            loop {
                let n = skip.min(width - x);
                (x..x + n).for_each(|x| put(x, y, 0));
                skip -= n;
                x += n;
                if x == width {
                    (x, y) = (0, y + 1);
                }
                if skip == 0 || y == height {
                    break;
                }
            }
        }
    }
    Ok(())
}

const LONG_RUN: &str = "not a readable BMP: a run leaves its row";
