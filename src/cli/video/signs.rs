//! The first bytes of clips.

/// Whether these are the first bytes of a clip. The first 16 decide, so that it does not matter in what pieces they arrive.
pub fn is_clip_head(head: &[u8]) -> bool {
    let at = |at: usize, magic: &[u8]| head.get(at..at + magic.len()) == Some(magic);
    // Pictures are kept in this container too, and have their own error.
    let picture =
        [&b"heic"[..], b"heix", b"mif1", b"msf1", b"avif", b"avis"].iter().any(|brand| at(8, brand));
    let quicktime = at(4, b"ftyp") && !picture || at(4, b"moov") || at(4, b"mdat") || at(4, b"wide");
    let transport = at(0, b"G")
        && !at(0, b"GIF8")
        && head.get(1).is_some_and(|b| b & 0x80 == 0 && *b < 0x60)
        && head.get(3).is_some_and(|b| b & 0x30 != 0)
        && head.iter().take(16).any(|b| *b < 9);
    quicktime
        || at(0, b"\x1a\x45\xdf\xa3")
        || at(0, b"RIFF") && at(8, b"AVI ")
        || at(0, b"FLV\x01")
        || at(0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11")
        || at(0, b"\0\0\x01\xba")
        || at(0, b"OggS")
        || at(0, b"YUV4MPEG2 ")
        || transport
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clips_are_known_by_their_first_bytes() {
        for (clip, head) in [
            (true, &b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2"[..]),
            (false, b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
            (true, b"\x1a\x45\xdf\xa3\x01\0\0\0"),
            (true, b"RIFF\x10\0\0\0AVI LIST"),
            (false, b"RIFF\x10\0\0\0WEBPVP8 "),
            (true, b"G\x40\0\x10\0\0\xb0\x0d\0\x01\xc1\0\0"),
            (true, b"G\x40\0\x12\x14\x14\x14\x14\x14\x14\x14\x14\x14\x14\x14\xec, and no G at byte 188"),
            (false, b"GIF89a\x10\0\x10\0"),
            (false, b"Gate.jpg\nother.jpg\n"),
            (false, b"\xff\xd8\xff\xe0"),
            (false, b""),
        ] {
            assert_eq!(is_clip_head(head), clip, "{head:?}");
        }
    }
}
