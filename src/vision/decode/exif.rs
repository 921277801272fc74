//! The orientation tag of an Exif block.

/// Orientation (tag 274) in the first directory of a TIFF block ("II*\0..." or "MM\0*..."); 1 if there is none.
///
/// Reads what OpenCV's `ExifReader` reads: the first entry with the tag counts, whatever type it claims to be; entries
/// behind one whose value lies outside the block are lost.
pub(super) fn orientation(tiff: &[u8]) -> u16 {
    read(tiff).unwrap_or(1)
}

const ORIENTATION: u16 = 274;

fn read(tiff: &[u8]) -> Option<u16> {
    let little = match tiff {
        [b'I', b'I', ..] => true,
        [b'M', b'M', ..] => false,
        _ => return None,
    };
    let u16_at = |at: usize| -> Option<u16> {
        let b = tiff.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if little { u16::from_le_bytes(b) } else { u16::from_be_bytes(b) })
    };
    let u32_at = |at: usize| -> Option<usize> {
        let b = tiff.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if little { u32::from_le_bytes(b) } else { u32::from_be_bytes(b) } as usize)
    };
    if u16_at(2)? != 42 {
        return None;
    }
    let directory = u32_at(4)?;
    for i in 0..u16_at(directory)? as usize {
        let entry = directory + 2 + 12 * i;
        // The value of an entry: what OpenCV insists on finding before it goes on to the next.
        let (at, len) = match u16_at(entry)? {
            ORIENTATION => return u16_at(entry + 8),
            // ImageDescription, Make, Model, Software, DateTime, Copyright
            270 | 271 | 272 | 305 | 306 | 33432 => match u32_at(entry + 4)? {
                // OpenCV looks for a short string at the block's own ninth byte.
                len @ 0..=4 => (8, len),
                len => (u32_at(entry + 8)?, len),
            },
            // XResolution, YResolution; WhitePoint; PrimaryChromaticities, ReferenceBlackWhite; YCbCrCoefficients
            282 | 283 => (u32_at(entry + 8)?, 8),
            318 => (u32_at(entry + 8)?, 16),
            319 | 532 => (u32_at(entry + 8)?, 48),
            529 => (u32_at(entry + 8)?, 24),
            // ResolutionUnit, YCbCrPositioning
            296 | 531 => (entry + 8, 2),
            _ => continue,
        };
        if at.checked_add(len)? > tiff.len() {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::orientation;

    fn block(big: bool, entries: &[(u16, u16, u32, u32)]) -> Vec<u8> {
        let w2 = |v: u16| if big { v.to_be_bytes() } else { v.to_le_bytes() };
        let w4 = |v: u32| if big { v.to_be_bytes() } else { v.to_le_bytes() };
        let mut b = if big { b"MM".to_vec() } else { b"II".to_vec() };
        b.extend(w2(42));
        b.extend(w4(8));
        b.extend(w2(entries.len() as u16));
        for &(tag, kind, count, value) in entries {
            b.extend(w2(tag));
            b.extend(w2(kind));
            b.extend(w4(count));
            // A short value sits in the first two of the four bytes.
            if kind == 3 {
                b.extend(w2(value as u16));
                b.extend([0, 0]);
            } else {
                b.extend(w4(value));
            }
        }
        b
    }

    #[test]
    fn both_byte_orders() {
        for big in [false, true] {
            for o in 1..=8 {
                assert_eq!(orientation(&block(big, &[(256, 3, 1, 7), (274, 3, 1, o)])), o as u16);
            }
        }
    }

    #[test]
    fn damage_means_upright() {
        let whole = block(false, &[(271, 2, 5, 8), (274, 3, 1, 6)]);
        assert_eq!(orientation(&whole), 6);
        for len in 0..whole.len() - 2 {
            assert_eq!(orientation(&whole[..len]), 1, "cut at {len}");
        }
        // A maker's name outside the block hides the entries behind it; so does an absurd one.
        assert_eq!(orientation(&block(false, &[(271, 2, 5, 1 << 20), (274, 3, 1, 6)])), 1);
        assert_eq!(orientation(&block(false, &[(271, 2, u32::MAX, u32::MAX), (274, 3, 1, 6)])), 1);
        assert_eq!(orientation(b"II*\0\xff\xff\xff\xff"), 1);
        assert_eq!(orientation(b"http://ns.adobe.com/xap"), 1);
    }
}
