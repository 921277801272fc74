//! The safetensors format: the header's length (u64), a JSON header, the values.
//!
//! Specification: README of `huggingface/safetensors`, "Format".

use super::{Contents, Data, Dtype, Entry, Format, Parsed, check_name, elements};
use crate::atomic_file::AtomicFile;
use crate::error::{Error, Result};
use half::f16;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// A header names each tensor in some 120 bytes; RTMO-l has a thousand.
const MAX_HEADER: u64 = 4 << 20;

fn dtype(name: &str) -> Dtype {
    match name {
        "F64" => Dtype::F64,
        "F32" => Dtype::F32,
        "F16" => Dtype::F16,
        "BF16" => Dtype::Bf16,
        "I64" => Dtype::I64,
        "I32" => Dtype::I32,
        "I16" => Dtype::I16,
        "I8" => Dtype::I8,
        "U8" => Dtype::U8,
        "BOOL" => Dtype::Bool,
        other => Dtype::Other(other.chars().take(40).flat_map(char::escape_default).collect()),
    }
}

/// Reads the header of `file`, which holds more than 8 bytes.
pub(super) fn read(file: &[u8]) -> Parsed<Contents> {
    let len = u64::from_le_bytes(file[..8].try_into().expect("8 bytes"));
    if len > MAX_HEADER {
        return Err(format!("safetensors: a header of {len} bytes, at most {MAX_HEADER} are accepted"));
    }
    let data = 8 + len as usize;
    let header =
        file.get(8..data).ok_or_else(|| format!("safetensors: the header of {len} bytes is cut off"))?;
    let header: Map<String, Value> =
        serde_json::from_slice(header).map_err(|error| format!("safetensors: damaged header: {error}"))?;

    let mut contents =
        Contents { format: Format::Safetensors, tensors: BTreeMap::new(), metadata: BTreeMap::new() };
    let mut ranges = Vec::new();
    for (name, value) in &header {
        if name == "__metadata__" {
            let pairs = value.as_object().ok_or("safetensors: __metadata__ is not a dictionary")?;
            for (key, value) in pairs {
                let value =
                    value.as_str().ok_or("safetensors: __metadata__ holds something that is not text")?;
                contents.metadata.insert(key.clone(), value.to_string());
            }
            continue;
        }
        let name = check_name(name.as_bytes())?;
        let (entry, end) =
            entry(value, data).map_err(|what| format!("safetensors: tensor '{name}': {what}"))?;
        if let Data::File { start, .. } = entry.data {
            ranges.push((start, end));
        }
        contents.tensors.insert(name.to_string(), entry);
    }

    // The values fill the rest of the file without holes, as the specification demands.
    ranges.sort_unstable();
    let mut filled = data;
    for (start, end) in ranges {
        if start != filled {
            return Err("safetensors: its tensors overlap or leave holes".into());
        }
        filled = end;
    }
    if filled != file.len() {
        let claimed = filled - data;
        return Err(format!(
            "safetensors: its tensors claim {claimed} bytes, the file has {}",
            file.len() - data
        ));
    }
    if contents.tensors.is_empty() {
        return Err("safetensors: no tensors".into());
    }
    Ok(contents)
}

/// A tensor's description, and the end of its bytes in the file.
fn entry(value: &Value, data: usize) -> Parsed<(Entry, usize)> {
    let numbers = |key: &str| -> Option<Vec<usize>> {
        let list = value.get(key)?.as_array()?;
        list.iter().map(|n| usize::try_from(n.as_u64()?).ok()).collect()
    };
    let dtype = dtype(value.get("dtype").and_then(Value::as_str).ok_or("no dtype")?);
    let shape = numbers("shape").ok_or("no shape")?;
    let [begin, end] = numbers("data_offsets").ok_or("no data_offsets")?[..] else {
        return Err("data_offsets are not two numbers".into());
    };
    let (Some(start), Some(stop), true) = (data.checked_add(begin), data.checked_add(end), begin <= end)
    else {
        return Err(format!("data_offsets {begin}..{end} make no sense"));
    };
    if let Some(item) = dtype.size() {
        let bytes = elements(&shape).and_then(|count| count.checked_mul(item));
        if bytes != Some(end - begin) {
            return Err(format!("shape {shape:?} of {dtype} in {} bytes", end - begin));
        }
    }
    Ok((Entry { shape, dtype, data: Data::File { start, strides: Vec::new(), big_endian: false } }, stop))
}

/// How [`save_safetensors`] stores values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaveType {
    /// All as F32.
    F32,
    /// Tensors of two or more dimensions as F16, where all their values fit its range (magnitude below 65520); the
    /// others, such as biases and BatchNorm statistics, are few and sensitive, and stay F32.
    F16,
}

impl SaveType {
    fn of(self, shape: &[usize], values: &[f32]) -> Dtype {
        let fits = || values.iter().all(|&value| !value.is_finite() || f16::from_f32(value).is_finite());
        if self == SaveType::F16 && shape.len() >= 2 && fits() { Dtype::F16 } else { Dtype::F32 }
    }
}

/// Writes tensors `(name, shape, row-major values)` as a safetensors file, all or nothing: an existing file is
/// replaced in one step when the new one is complete. Equal arguments give equal bytes.
///
/// # Errors
/// If the file cannot be written, a name comes twice, or values do not fill their shape.
pub fn save_safetensors<'a>(
    path: impl AsRef<Path>,
    tensors: impl IntoIterator<Item = (&'a str, &'a [usize], &'a [f32])>,
    metadata: &BTreeMap<String, String>,
    save: SaveType,
) -> Result<()> {
    let path = path.as_ref();
    let mut tensors: Vec<_> = tensors
        .into_iter()
        .map(|(name, shape, values)| (save.of(shape, values), name, shape, values))
        .collect();
    // Wide types first keeps every tensor aligned to its element; then by name.
    tensors.sort_unstable_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));

    let mut header = Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".into(), json!(metadata));
    }
    let mut end = 0;
    for (dtype, name, shape, values) in &tensors {
        if elements(shape) != Some(values.len()) {
            let what = format!("tensor '{name}': {} values for shape {shape:?}", values.len());
            return Err(Error::weights(path, what));
        }
        let begin = end;
        end += values.len() * dtype.size().expect("F32 or F16");
        let info = json!({"dtype": dtype.to_string(), "shape": shape, "data_offsets": [begin, end]});
        if header.insert(name.to_string(), info).is_some() {
            return Err(Error::weights(path, format!("two tensors are named '{name}'")));
        }
    }
    let mut header = Value::from(header).to_string().into_bytes();
    // Spaces, so that the values begin on a cache line.
    header.resize((header.len() + 8).next_multiple_of(64) - 8, b' ');

    let mut file = AtomicFile::create(path)?;
    let mut write = |bytes: &[u8]| file.write_all(bytes).map_err(Error::io("cannot write", path));
    write(&(header.len() as u64).to_le_bytes())?;
    write(&header)?;
    for (dtype, _, _, values) in &tensors {
        for values in values.chunks(1 << 14) {
            match dtype {
                Dtype::F16 => {
                    write(&values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect::<Vec<_>>())?
                }
                _ => write(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())?,
            }
        }
    }
    file.commit()
}
