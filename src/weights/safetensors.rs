//! The safetensors format: the header's length (u64), a JSON header, the values.
//!
//! The crate `safetensors` reads and writes it. This file adds what that crate lets pass: names that come twice, and
//! headers that would take many times their size in memory.

use super::{Contents, Data, Dtype, Entry, Format, MAX_DIMS, MAX_TENSORS, Parsed, elements, show};
use crate::error::printable;
use safetensors::{Dtype as Stored, SafeTensorError, SafeTensors};
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::collections::HashSet;
use std::fmt;

/// Entries of `__metadata__`. Trainers write some hundred.
const MAX_METADATA: usize = 1 << 12;

fn dtype(stored: Stored) -> Dtype {
    match stored {
        Stored::F64 => Dtype::F64,
        Stored::F32 => Dtype::F32,
        Stored::F16 => Dtype::F16,
        Stored::BF16 => Dtype::Bf16,
        Stored::I64 => Dtype::I64,
        Stored::I32 => Dtype::I32,
        Stored::I16 => Dtype::I16,
        Stored::I8 => Dtype::I8,
        Stored::U8 => Dtype::U8,
        Stored::BOOL => Dtype::Bool,
        other => Dtype::Other(format!("{other:?}")),
    }
}

/// Reads the header of `file`.
pub(super) fn read(file: &[u8]) -> Parsed<Contents> {
    let wrong = |what: String| format!("safetensors: {what}");
    let header = check_header(file).map_err(wrong)?;
    let (len, read) = SafeTensors::read_metadata(file).map_err(|error| {
        wrong(match error {
            SafeTensorError::InvalidOffset(name) => {
                format!("tensor '{}': its data overlap another's, or leave a hole", printable(name))
            }
            SafeTensorError::MetadataIncompleteBuffer => {
                let found = file.len() - 8 - header;
                format!("the file has {found} bytes of data, its tensors claim more or fewer")
            }
            other => printable(other).to_string(),
        })
    })?;
    let data = 8 + len;
    let mut contents = Contents::new(Format::Safetensors);
    for (key, value) in read.metadata().iter().flatten() {
        contents.metadata.insert(key.clone(), value.clone());
    }
    for (name, info) in read.tensors() {
        let start = data + info.data_offsets.0;
        let at = Data::Bytes { part: 0, start, strides: Vec::new(), big_endian: false };
        contents
            .add(name.as_bytes(), Entry { shape: info.shape.clone(), dtype: dtype(info.dtype), data: at })?;
    }
    if contents.tensors.is_empty() {
        return Err(wrong("no tensors".into()));
    }
    Ok(contents)
}

/// Checks what the crate does not check, and keeps nothing; returns the header's length.
fn check_header(file: &[u8]) -> Parsed<usize> {
    // As in the crate.
    const MAX_HEADER: u64 = 100_000_000;
    let len: [u8; 8] = file.get(..8).ok_or("no header")?.try_into().expect("8 bytes");
    let len = u64::from_le_bytes(len);
    if len > MAX_HEADER {
        return Err(format!("a header of {len} bytes, at most {MAX_HEADER} are accepted"));
    }
    let len = len as usize;
    let header = file.get(8..8 + len).ok_or_else(|| format!("the header of {len} bytes is cut off"))?;
    let mut json = serde_json::Deserializer::from_slice(header);
    let checked = json.deserialize_map(Header).and_then(|()| json.end());
    checked.map_err(|error| format!("damaged header: {}", printable(error)))?;
    Ok(len)
}

/// Checks the header: no name twice, no more tensors, dimensions and metadata than a checkpoint has.
struct Header;

impl<'de> Visitor<'de> for Header {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a dictionary of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if names.len() >= MAX_TENSORS {
                return Err(A::Error::custom(format!("more than {MAX_TENSORS} tensors")));
            }
            if name == "__metadata__" {
                map.next_value::<Pairs>()?;
            } else {
                let shown = show(name.as_bytes());
                let described = map.next_value::<Described>();
                let described =
                    described.map_err(|error| A::Error::custom(format!("tensor '{shown}': {error}")))?;
                described.check().map_err(|what| A::Error::custom(format!("tensor '{shown}': {what}")))?;
            }
            let shown = show(name.as_bytes());
            if !names.insert(name) {
                return Err(A::Error::custom(format!("two tensors are named '{shown}'")));
            }
        }
        Ok(())
    }
}

/// A tensor's description.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Described {
    dtype: Stored,
    shape: Extents,
    data_offsets: (usize, usize),
}

impl Described {
    /// That values of this shape fill these bytes.
    fn check(&self) -> Parsed<()> {
        let (dtype, Extents(shape), (begin, end)) = (self.dtype, &self.shape, self.data_offsets);
        let Some(len) = end.checked_sub(begin) else {
            return Err(format!("data_offsets {begin}..{end} make no sense"));
        };
        let bits = elements(shape).and_then(|count| count.checked_mul(dtype.bitsize()));
        match bits.is_some_and(|bits| Some(bits) == len.checked_mul(8)) {
            true => Ok(()),
            false => Err(format!("shape {shape:?} of {dtype:?} in {len} bytes")),
        }
    }
}

/// A shape of at most [`MAX_DIMS`] dimensions.
struct Extents(Vec<usize>);

impl<'de> serde::Deserialize<'de> for Extents {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Extents, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Extents;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a list of extents")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Extents, A::Error> {
                let mut shape = Vec::new();
                while let Some(extent) = list.next_element()? {
                    if shape.len() == MAX_DIMS {
                        return Err(A::Error::custom(format!("more than {MAX_DIMS} dimensions")));
                    }
                    shape.push(extent);
                }
                Ok(Extents(shape))
            }
        }
        from.deserialize_seq(List)
    }
}

/// A dictionary of at most [`MAX_METADATA`] entries, none twice.
struct Pairs;

impl<'de> serde::Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Pairs, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a dictionary of metadata")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Pairs, A::Error> {
                let mut keys = HashSet::new();
                while let Some(key) = map.next_key::<String>()? {
                    map.next_value::<IgnoredAny>()?;
                    if keys.len() == MAX_METADATA {
                        return Err(A::Error::custom(format!("more than {MAX_METADATA} metadata")));
                    }
                    let shown = show(key.as_bytes());
                    if !keys.insert(key) {
                        return Err(A::Error::custom(format!("two metadata are named '{shown}'")));
                    }
                }
                Ok(Pairs)
            }
        }
        from.deserialize_map(Map)
    }
}
