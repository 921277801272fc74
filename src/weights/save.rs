//! Writing safetensors.

use super::{Parsed, elements};
use crate::atomic_file::AtomicFile;
use crate::error::{Error, Result};
use half::f16;
use safetensors::Dtype as Stored;
use safetensors::tensor::{Metadata, TensorInfo};
use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::Path;

/// How [`save_safetensors`] stores values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SaveType {
    /// All as F32.
    F32,
    /// Tensors of two or more dimensions as F16, where all their values fit its range (magnitude below 65520); the
    /// others, such as biases and BatchNorm statistics, are few and sensitive, and stay F32.
    F16,
}

impl SaveType {
    fn of(self, shape: &[usize], values: &[f32]) -> Stored {
        let fits = || values.iter().all(|&value| !value.is_finite() || f16::from_f32(value).is_finite());
        if self == SaveType::F16 && shape.len() >= 2 && fits() { Stored::F16 } else { Stored::F32 }
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
    tensors.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));

    let mut names = HashSet::new();
    let mut infos = Vec::new();
    let mut end = 0;
    for (dtype, name, shape, values) in &tensors {
        if elements(shape) != Some(values.len()) {
            let what = format!("tensor '{name}': {} values for shape {shape:?}", values.len());
            return Err(Error::weights(path, what));
        }
        if !names.insert(*name) {
            return Err(Error::weights(path, format!("two tensors are named '{name}'")));
        }
        let begin = end;
        end += values.len() * dtype.bitsize() / 8;
        infos.push((
            name.to_string(),
            TensorInfo { dtype: *dtype, shape: shape.to_vec(), data_offsets: (begin, end) },
        ));
    }
    let mut header = header(infos, metadata).map_err(|what| Error::weights(path, what))?;
    // Spaces, so that the values begin on a cache line.
    header.resize((header.len() + 8).next_multiple_of(64) - 8, b' ');

    let mut file = AtomicFile::create(path)?;
    let mut write = |bytes: &[u8]| file.write_all(bytes).map_err(Error::io("cannot write", path));
    write(&(header.len() as u64).to_le_bytes())?;
    write(&header)?;
    for (dtype, _, _, values) in &tensors {
        for values in values.chunks(1 << 14) {
            match dtype {
                Stored::F16 => {
                    write(&values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect::<Vec<_>>())?
                }
                _ => write(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())?,
            }
        }
    }
    file.commit()
}

/// The crate's header of the tensors, with the metadata in front in the order of their names: the crate keeps them in
/// a hash map, whose order differs from run to run.
fn header(infos: Vec<(String, TensorInfo)>, metadata: &BTreeMap<String, String>) -> Parsed<Vec<u8>> {
    let tensors = Metadata::new(None, infos).map_err(|error| error.to_string())?;
    let tensors = serde_json::to_string(&tensors).map_err(|error| error.to_string())?;
    if metadata.is_empty() {
        return Ok(tensors.into_bytes());
    }
    let metadata = serde_json::to_string(metadata).map_err(|error| error.to_string())?;
    let rest = tensors.strip_prefix('{').unwrap_or_default();
    let comma = if rest == "}" { "" } else { "," };
    Ok(format!("{{\"__metadata__\":{metadata}{comma}{rest}").into_bytes())
}
