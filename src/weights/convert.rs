//! Conversion of a checkpoint to safetensors.

use super::download::hex;
use super::registry;
use super::{Architecture, Checkpoint, SaveType, save_safetensors};
use crate::error::{Error, Result, shown};
use sha2::{Digest, Sha256};
use std::fmt;
use std::path::{Path, PathBuf};

/// What [`convert`] did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Conversion {
    /// The file that was read.
    pub source: PathBuf,
    /// The file that was written.
    pub destination: PathBuf,
    /// The network.
    pub architecture: Architecture,
    /// Tensors written.
    pub tensors: usize,
    /// Values written.
    pub values: usize,
    /// Tensors left out because they are not floating-point: BatchNorm's counters, as a rule.
    pub dropped: Vec<String>,
    /// As [`Checkpoint::warnings`] of the source.
    pub warnings: Vec<String>,
    /// SHA-256 of the source file, in hexadecimal.
    pub sha256: String,
    /// Whether that is the published file's, or begins as its official name says where no more is known; `None` if the
    /// name is not an official one.
    pub genuine: Option<bool>,
    /// Size of the source file in bytes.
    pub source_bytes: u64,
    /// Size of the written file in bytes.
    pub destination_bytes: u64,
}

impl fmt::Display for Conversion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        writeln!(f, "{} ({:.1} MB)", shown(&self.source), megabytes(self.source_bytes))?;
        writeln!(f, "  sha256 {}", self.sha256)?;
        match self.genuine {
            Some(true) => writeln!(f, "  which agrees with the official file")?,
            Some(false) => {
                writeln!(f, "  which does not agree with the official file: damaged, or saved anew")?
            }
            None => {}
        }
        writeln!(f, "{} ({:.1} MB)", shown(&self.destination), megabytes(self.destination_bytes))?;
        write!(f, "  {}", self.architecture)?;
        if let Some(keypoints) = self.architecture.keypoints {
            write!(f, ", {keypoints} keypoints")?;
        }
        let values = self.values as f64 / 1e6;
        write!(f, ", {} tensors, {values:.2} M values, {} counters dropped", self.tensors, self.dropped.len())
    }
}

impl Checkpoint {
    /// SHA-256 of the file's bytes as hexadecimal digits.
    pub fn sha256(&self) -> String {
        hex(&Sha256::digest(&*self.bytes))
    }
}

/// Writes the model's floating-point tensors of a checkpoint as safetensors, under their upstream names. With `half`,
/// as [`SaveType::F16`].
///
/// Metadata: `arch`, `keypoints`, `input_size`, `source_file`, `source_sha256`, and the source's own metadata.
///
/// # Errors
/// If the source is not a checkpoint, or holds a NaN, an infinity or a type that cannot be read, or if the destination
/// cannot be written; it is then left as it was.
pub fn convert(source: impl AsRef<Path>, destination: impl AsRef<Path>, half: bool) -> Result<Conversion> {
    let (source, destination) = (source.as_ref(), destination.as_ref());
    let checkpoint = Checkpoint::open(source)?;
    if let (Ok(from), Ok(to)) = (source.canonicalize(), destination.canonicalize())
        && from == to
    {
        return Err(Error::Usage(format!("{}: source and destination are the same file", shown(source))));
    }
    let architecture = Architecture::of(&checkpoint);
    let sha256 = checkpoint.sha256();
    let official =
        source.file_name().and_then(|name| registry::PUBLISHED.iter().find(|p| name == p.file_name()));

    let mut dropped = Vec::new();
    let mut tensors = Vec::new();
    for name in checkpoint.names() {
        let (Some(dtype), Some(shape)) = (checkpoint.dtype(name), checkpoint.shape(name)) else { continue };
        if dtype.is_float() || dtype.size().is_none() {
            tensors.push((name, shape, checkpoint.tensor(name, shape)?));
        } else {
            dropped.push(name.to_string());
        }
    }
    if tensors.is_empty() {
        return Err(Error::weights(source, "holds integers only"));
    }
    checkpoint.release();

    let mut metadata = checkpoint.metadata().clone();
    let mut note = |key: &str, value: String| metadata.insert(key.to_string(), value);
    note("arch", architecture.to_string());
    if let Some(keypoints) = architecture.keypoints {
        note("keypoints", keypoints.to_string());
    }
    let (width, height) = architecture.input_size;
    note("input_size", format!("{width}x{height}"));
    note("source_file", source.file_name().unwrap_or_default().to_string_lossy().into_owned());
    note("source_sha256", sha256.clone());

    let save = if half { SaveType::F16 } else { SaveType::F32 };
    save_safetensors(
        destination,
        tensors.iter().map(|(name, shape, values)| (*name, *shape, &values[..])),
        &metadata,
        save,
    )?;
    let written = std::fs::metadata(destination).map_err(Error::io("cannot read", destination))?;
    Ok(Conversion {
        source: source.to_path_buf(),
        destination: destination.to_path_buf(),
        architecture,
        tensors: tensors.len(),
        values: tensors.iter().map(|(_, _, values)| values.len()).sum(),
        dropped,
        warnings: checkpoint.warnings().to_vec(),
        genuine: official.map(|published| match published.content {
            Some((known, _)) => sha256 == known,
            None => sha256.starts_with(published.sha256_prefix()),
        }),
        sha256,
        source_bytes: checkpoint.bytes.len() as u64,
        destination_bytes: written.len(),
    })
}
