//! BMP, read as OpenCV's `BmpDecoder` reads it.

use super::{MAX_PIXELS, Photo, Reason, Stored, check_size};

const RGB: u32 = 0;
const RLE8: u32 = 1;
const RLE4: u32 = 2;
const BITFIELDS: u32 = 3;

/// One channel of a 32-bit pixel with masks.
#[derive(Clone, Copy)]
struct Mask {
    mask: u32,
    shift: u32,
    scale: f32,
}

impl Mask {
    fn new(mask: u32) -> Mask {
        let shift = if mask == 0 { 0 } else { mask.trailing_zeros() };
        Mask { mask, shift, scale: if mask == 0 { 1.0 } else { 255.0 / (mask >> shift) as f32 } }
    }

    fn of(self, pixel: u32) -> u8 {
        (((pixel & self.mask) >> self.shift) as f32 * self.scale) as u8
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

struct Header {
    width: usize,
    height: usize,
    top_down: bool,
    bits: u16,
    compression: u32,
    palette: Vec<[u8; 3]>,
    /// Red, green, blue; only of 32-bit pixels with masks.
    masks: Option<[Mask; 3]>,
}

pub(super) fn decode(bytes: &[u8]) -> Result<Stored, Reason> {
    let mut file = Bytes { all: bytes, at: 10 };
    let pixels_at = file.u32()? as usize;
    let header = read_header(&mut file)?;
    let rle = matches!(header.compression, RLE4 | RLE8);
    // Runs may leave most pixels out; plain rows are all there.
    let most = if rle { MAX_PIXELS } else { bytes.len().saturating_mul(8) / header.bits as usize };
    check_size(header.width, header.height, most)?;
    file.at = pixels_at;
    let (width, height) = (header.width, header.height);
    let mut bgr = vec![0; width * height * 3];
    if rle {
        read_runs(&mut file, &header, &mut bgr)?;
    } else {
        let pitch = (width * header.bits as usize).div_ceil(8).next_multiple_of(4);
        for i in 0..height {
            let y = if header.top_down { i } else { height - 1 - i };
            read_row(file.take(pitch)?, &header, &mut bgr[y * width * 3..(y + 1) * width * 3]);
        }
    }
    Ok(Stored { photo: Photo { width, height, bgr }, orientation: 1, warning: None })
}

fn read_header(file: &mut Bytes<'_>) -> Result<Header, Reason> {
    let size = file.u32()?;
    let (width, height, bits, compression, mut colors) = match size {
        12 => {
            let (w, h) = (file.u16()? as i64, file.u16()? as i64);
            file.u16()?;
            (w, h, file.u16()?, RGB, 0)
        }
        36.. => {
            let (w, h) = (file.u32()? as i32 as i64, file.u32()? as i32 as i64);
            file.u16()?;
            let (bits, compression) = (file.u16()?, file.u32()?);
            file.take(12)?;
            (w, h, bits, compression, file.u32()?)
        }
        _ => return Err(format!("not a readable BMP: a header of {size} bytes")),
    };
    if width < 0 {
        return Err(format!("the header says {width}x{height} pixels"));
    }
    let known = match compression {
        RGB => matches!(bits, 1 | 4 | 8 | 16 | 24 | 32) && (size != 12 || bits != 16),
        RLE8 => bits == 8,
        RLE4 => bits == 4,
        BITFIELDS => matches!(bits, 16 | 32),
        _ => false,
    };
    if !known {
        return Err(format!("a BMP of {bits} bits a pixel and compression {compression} is not readable"));
    }
    let mut masks = None;
    if bits == 32 && compression == BITFIELDS && size >= 56 {
        file.take(4)?;
        let rgb = [file.u32()?, file.u32()?, file.u32()?];
        file.u32()?; // alpha
        file.take(size as usize - 56)?;
        if rgb.iter().all(|&m| m != 0) {
            masks = Some(rgb.map(Mask::new));
        }
    } else if bits == 16 && compression == BITFIELDS && size >= 52 {
        file.take(4)?; // and the masks, below
    } else if size != 12 {
        file.take(size as usize - 36)?;
    }
    let mut palette = Vec::new();
    if bits <= 8 {
        let entry = if size == 12 { 3 } else { 4 };
        if colors == 0 {
            colors = 1 << bits;
        }
        if colors > 256 {
            return Err(format!("not a readable BMP: a palette of {colors} colours"));
        }
        palette =
            file.take(colors as usize * entry)?.chunks_exact(entry).map(|c| [c[0], c[1], c[2]]).collect();
        palette.resize(256, [0; 3]);
    }
    let mut compression = compression;
    if bits == 16 && compression == BITFIELDS {
        match [file.u32()?, file.u32()?, file.u32()?] {
            [0x7c00, 0x3e0, 0x1f] => compression = RGB,
            [0xf800, 0x7e0, 0x1f] => {}
            other => return Err(format!("a 16-bit BMP with masks {other:x?} is not readable")),
        }
    }
    Ok(Header {
        width: width as usize,
        height: height.unsigned_abs() as usize,
        top_down: height < 0,
        bits,
        compression,
        palette,
        masks,
    })
}

fn read_row(row: &[u8], header: &Header, bgr: &mut [u8]) {
    let pixels = bgr.chunks_exact_mut(3);
    let palette = &header.palette;
    match header.bits {
        1 => pixels.enumerate().for_each(|(x, p)| {
            p.copy_from_slice(&palette[(row[x / 8] >> (7 - x % 8) & 1) as usize]);
        }),
        4 => pixels.enumerate().for_each(|(x, p)| {
            p.copy_from_slice(&palette[(row[x / 2] >> (4 - x % 2 * 4) & 15) as usize]);
        }),
        8 => pixels.zip(row).for_each(|(p, &i)| p.copy_from_slice(&palette[i as usize])),
        16 => pixels.zip(row.chunks_exact(2)).for_each(|(p, b)| {
            let v = u16::from_le_bytes([b[0], b[1]]);
            // OpenCV leaves the low bits zero.
            let rgb = match header.compression {
                RGB => [v << 3 & 0xf8, v >> 2 & 0xf8, v >> 7 & 0xf8],
                _ => [v << 3 & 0xf8, v >> 3 & 0xfc, v >> 8 & 0xf8],
            };
            p.copy_from_slice(&rgb.map(|c| c as u8));
        }),
        24 => bgr.copy_from_slice(&row[..bgr.len()]),
        _ => match header.masks {
            Some([r, g, b]) => pixels.zip(row.chunks_exact(4)).for_each(|(p, q)| {
                let v = u32::from_le_bytes([q[0], q[1], q[2], q[3]]);
                p.copy_from_slice(&[b.of(v), g.of(v), r.of(v)]);
            }),
            None => pixels.zip(row.chunks_exact(4)).for_each(|(p, q)| p.copy_from_slice(&q[..3])),
        },
    }
}

/// Run-length coded pixels. What the file skips takes colour 0. Like OpenCV, the vertical part of a jump counts in
/// RLE8 only.
fn read_runs(file: &mut Bytes<'_>, header: &Header, bgr: &mut [u8]) -> Result<(), Reason> {
    let (width, height) = (header.width, header.height);
    let four = header.bits == 4;
    let nibble = |byte: u8, i: usize| byte >> (4 - i % 2 * 4) & 15;
    let mut put = |x: usize, y: usize, color: u8| {
        let row = if header.top_down { y } else { height - 1 - y };
        let at = (row * width + x) * 3;
        bgr[at..at + 3].copy_from_slice(&header.palette[color as usize]);
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
