//! Zip archives as `torch.save` writes them: stored entries, read in place.
//!
//! Compressed entries are never inflated, so nothing can be larger than the file. Layout of the records: PKWARE
//! APPNOTE, sections 4.3.7 (local header), 4.3.12 (central directory), 4.3.14 (zip64), 4.3.16 (end of directory).

use super::{Parsed, show};
use std::collections::HashMap;
use std::ops::Range;

/// A published checkpoint has about a thousand entries; one that was training a few thousand.
const MAX_ENTRIES: u64 = 1 << 17;

#[derive(Debug)]
struct Entry {
    /// Offset of the local header.
    header: u64,
    size: u64,
    stored: bool,
}

/// Directory of a zip archive.
#[derive(Debug)]
pub(super) struct Zip<'a> {
    bytes: &'a [u8],
    entries: HashMap<&'a [u8], Entry>,
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Parsed<[u8; N]> {
    let end = at.checked_add(N).ok_or("zip: offset out of range")?;
    let slice = bytes.get(at..end).ok_or("zip: a record runs past the end of the file")?;
    Ok(slice.try_into().expect("N bytes"))
}

fn u16_at(bytes: &[u8], at: usize) -> Parsed<u16> {
    field(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Parsed<u32> {
    field(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Parsed<u64> {
    field(bytes, at).map(u64::from_le_bytes)
}

fn range(bytes: &[u8], start: u64, len: u64) -> Parsed<Range<usize>> {
    match start.checked_add(len) {
        Some(end) if end <= bytes.len() as u64 => Ok(start as usize..end as usize),
        _ => Err(format!("zip: bytes {start}+{len} lie outside the file of {} bytes", bytes.len())),
    }
}

/// Where the central directory is: `(entries, offset, length)`.
fn directory(bytes: &[u8]) -> Parsed<(u64, u64, u64)> {
    // The end record is 22 bytes and a comment of at most 65535.
    let first = bytes.len().saturating_sub(22 + 65535);
    let end = (first..bytes.len().saturating_sub(21))
        .rev()
        .find(|&at| bytes[at..].starts_with(b"PK\x05\x06"))
        .ok_or("zip: no end-of-directory record: the file is truncated")?;
    let mut place = (
        u64::from(u16_at(bytes, end + 10)?),
        u64::from(u32_at(bytes, end + 16)?),
        u64::from(u32_at(bytes, end + 12)?),
    );
    if end >= 20 && bytes[end - 20..].starts_with(b"PK\x06\x07") {
        let at = range(bytes, u64_at(bytes, end - 12)?, 56)?.start;
        if !bytes[at..].starts_with(b"PK\x06\x06") {
            return Err("zip: damaged zip64 end-of-directory record".into());
        }
        place = (u64_at(bytes, at + 32)?, u64_at(bytes, at + 48)?, u64_at(bytes, at + 40)?);
    }
    Ok(place)
}

impl<'a> Zip<'a> {
    /// Reads the directory of the archive that `bytes` holds.
    pub fn open(bytes: &'a [u8]) -> Parsed<Zip<'a>> {
        let (count, offset, length) = directory(bytes)?;
        if count > MAX_ENTRIES {
            return Err(format!("zip: {count} entries, at most {MAX_ENTRIES} are accepted"));
        }
        let mut rest = &bytes[range(bytes, offset, length)?];
        let mut entries = HashMap::new();
        for _ in 0..count {
            if !rest.starts_with(b"PK\x01\x02") {
                return Err("zip: damaged directory".into());
            }
            let name_end = 46 + usize::from(u16_at(rest, 28)?);
            let extra_end = name_end + usize::from(u16_at(rest, 30)?);
            let next = extra_end + usize::from(u16_at(rest, 32)?);
            let name = rest.get(46..name_end).ok_or("zip: truncated directory")?;
            let mut extra = rest.get(name_end..extra_end).ok_or("zip: truncated directory")?;

            let mut packed = u64::from(u32_at(rest, 20)?);
            let mut size = u64::from(u32_at(rest, 24)?);
            let mut header = u64::from(u32_at(rest, 42)?);
            while extra.len() >= 4 {
                let len = usize::from(u16_at(extra, 2)?);
                let body = extra.get(4..4 + len).ok_or("zip: damaged extra field")?;
                if u16_at(extra, 0)? == 1 {
                    // zip64: 8 bytes for each saturated 32-bit field, in this order.
                    let mut at = 0;
                    for value in [&mut size, &mut packed, &mut header] {
                        if *value == u64::from(u32::MAX) {
                            *value = u64_at(body, at)?;
                            at += 8;
                        }
                    }
                }
                extra = &extra[4 + len..];
            }
            let (flags, method) = (u16_at(rest, 8)?, u16_at(rest, 10)?);
            let stored = method == 0 && flags & 1 == 0 && packed == size;
            if entries.insert(name, Entry { header, size, stored }).is_some() {
                return Err(format!("zip: two entries are named '{}'", show(name)));
            }
            rest = rest.get(next..).ok_or("zip: truncated directory")?;
        }
        Ok(Zip { bytes, entries })
    }

    /// Names of all entries, in no order.
    pub fn names(&self) -> impl Iterator<Item = &'a [u8]> {
        self.entries.keys().copied()
    }

    /// Bytes of the archive that hold the entry `name`, `None` if there is no such entry.
    pub fn find(&self, name: &[u8]) -> Parsed<Option<Range<usize>>> {
        let Some(entry) = self.entries.get(name) else { return Ok(None) };
        let shown = show(name);
        if !entry.stored {
            return Err(format!(
                "zip: entry '{shown}' is compressed or encrypted; torch writes stored entries"
            ));
        }
        let at = range(self.bytes, entry.header, 30)?.start;
        let header = &self.bytes[at..];
        let name_end = 30 + usize::from(u16_at(header, 26)?);
        if !header.starts_with(b"PK\x03\x04") || header.get(30..name_end) != Some(name) {
            return Err(format!("zip: entry '{shown}' has no local header of that name"));
        }
        let data = entry.header + (name_end + usize::from(u16_at(header, 28)?)) as u64;
        range(self.bytes, data, entry.size).map(Some)
    }
}
