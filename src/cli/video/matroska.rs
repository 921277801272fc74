//! Raw frames with times, as a Matroska stream: raw video alone has no times, and not every clip has a constant rate.
//!
//! RFC 9559. The segment has no length, since it is a stream; each frame is a cluster of one block.

use std::io::{self, Write};

/// Nanoseconds of a time stamp's unit.
const UNIT: u64 = 1000;

/// Writes the header of a stream of frames of `width` times `height` pixels, as blue, green, red.
///
/// # Errors
/// Of the writer.
pub fn begin(out: &mut dyn Write, width: usize, height: usize) -> io::Result<()> {
    let header = [text(&[0x42, 0x82], b"matroska"), number(&[0x42, 0x87], 4), number(&[0x42, 0x85], 2)];
    out.write_all(&element(&[0x1a, 0x45, 0xdf, 0xa3], &header.concat()))?;
    // A segment of unknown length.
    out.write_all(&[0x18, 0x53, 0x80, 0x67, 0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])?;
    let names = [text(&[0x4d, 0x80], b"rtmo-engine"), text(&[0x57, 0x41], b"rtmo-engine")];
    let info = [number(&[0x2a, 0xd7, 0xb1], UNIT), names.concat()];
    out.write_all(&element(&[0x15, 0x49, 0xa9, 0x66], &info.concat()))?;
    let video = [
        number(&[0xb0], width as u64),
        number(&[0xba], height as u64),
        text(&[0x2e, 0xb5, 0x24], b"BGR\x18"),
    ];
    let track = [
        number(&[0xd7], 1),
        number(&[0x73, 0xc5], 1),
        number(&[0x83], 1),
        number(&[0x9c], 0),
        text(&[0x86], b"V_UNCOMPRESSED"),
        element(&[0xe0], &video.concat()),
    ];
    out.write_all(&element(&[0x16, 0x54, 0xae, 0x6b], &element(&[0xae], &track.concat())))
}

/// Writes a frame that is shown from `time` on, in seconds from 0.
///
/// # Errors
/// Of the writer.
pub fn frame(out: &mut dyn Write, time: f64, pixels: &[u8]) -> io::Result<()> {
    let at = number(&[0xe7], (time.max(0.0) * 1e9 / UNIT as f64).round() as u64);
    // Track 1, at the cluster's own time, a key frame.
    let head = [0x81, 0, 0, 0x80];
    let block = (head.len() + pixels.len()) as u64;
    let cluster = at.len() as u64 + 1 + 8 + block;
    out.write_all(&[0x1f, 0x43, 0xb6, 0x75])?;
    out.write_all(&length(cluster))?;
    out.write_all(&at)?;
    out.write_all(&[0xa3])?;
    out.write_all(&length(block))?;
    out.write_all(&head)?;
    out.write_all(pixels)
}

/// A length in eight bytes.
fn length(n: u64) -> [u8; 8] {
    (n | 1 << 56).to_be_bytes()
}

fn element(id: &[u8], content: &[u8]) -> Vec<u8> {
    [id, &length(content.len() as u64), content].concat()
}

fn number(id: &[u8], n: u64) -> Vec<u8> {
    element(id, &n.to_be_bytes())
}

fn text(id: &[u8], text: &[u8]) -> Vec<u8> {
    element(id, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_those_of_the_contents() {
        let mut out = Vec::new();
        frame(&mut out, 1.5, &[7; 300]).unwrap();
        // A cluster: its id, its length, the time (id, length, 8 bytes), the block (id, length, 4 bytes, pixels).
        assert_eq!(out.len(), 4 + 8 + (1 + 8 + 8) + (1 + 8 + 4 + 300));
        let cluster = u64::from_be_bytes(out[4..12].try_into().unwrap()) & !(1 << 56);
        assert_eq!(cluster as usize, out.len() - 12);
        assert_eq!(u64::from_be_bytes(out[21..29].try_into().unwrap()), 1_500_000);
        assert_eq!(out[12 + 17], 0xa3);
    }
}
