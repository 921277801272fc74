//! What a checkpoint holds, and its conversion to safetensors.

use super::download::hex;
use super::registry;
use super::{Checkpoint, Format, SaveType, elements, save_safetensors};
use crate::error::{Error, Result, shown};
use crate::variant::Variant;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Which RTMO a checkpoint is, read off the shapes of its tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Architecture {
    /// The size of the paper whose stem it has.
    pub variant: Option<Variant>,
    /// Output channels of the stem, `64 * widen`: 24, 32, 48 and 64 for -t, -s, -m and -l. `None` without the stem of a
    /// CSPDarknet or ResNet.
    pub width: Option<usize>,
    /// Keypoints a person; `None` without an RTMO head.
    pub keypoints: Option<usize>,
    /// Levels of the head: 2 or 3, 0 without one.
    pub levels: usize,
    /// As [`input_size`].
    pub input_size: (usize, usize),
}

impl Architecture {
    /// Reads it off a checkpoint.
    pub fn of(checkpoint: &Checkpoint) -> Architecture {
        let rows = |name: &str| checkpoint.shape(name)?.first().copied();
        let (darknet, resnet) = (rows("backbone.stem.conv.conv.weight"), rows("backbone.conv1.weight"));
        let variant = match (darknet, resnet) {
            (Some(24), _) => Some(Variant::T),
            (Some(32), _) => Some(Variant::S),
            (Some(48), _) => Some(Variant::M),
            (Some(64), _) => Some(Variant::L),
            (None, Some(64)) => Some(Variant::R50),
            _ => None,
        };
        let visibility = rows("head.head_module.out_kpt_vis.0.weight");
        let levels =
            (0..).take_while(|i| checkpoint.contains(&format!("head.head_module.out_cls.{i}.weight")));
        Architecture {
            variant,
            width: darknet.or(resnet),
            keypoints: visibility.or_else(|| rows("head.dcc.pos_enc")),
            levels: levels.count(),
            input_size: noted_size(checkpoint).unwrap_or(variant.unwrap_or(Variant::L).default_input()),
        }
    }
}

impl fmt::Display for Architecture {
    /// `rtmo-s`, or `custom 40` with the stem's width.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.variant, self.width) {
            (Some(variant), _) => variant.fmt(f),
            (None, Some(width)) => write!(f, "custom {width}"),
            (None, None) => f.write_str("unknown"),
        }
    }
}

/// The input size in a checkpoint's metadata, `WIDTHxHEIGHT`.
fn noted_size(checkpoint: &Checkpoint) -> Option<(usize, usize)> {
    let (w, h) = checkpoint.metadata().get("input_size")?.split_once('x')?;
    Some((w.parse().ok()?, h.parse().ok()?))
}

/// The largest network input that a file may set, in pixels a side. A larger one is the caller's to ask for.
pub const MAX_FILE_INPUT: usize = 1536;

/// The network input that a checkpoint is for, width and height in pixels: what its metadata note as `input_size`, else
/// what its variant was trained for.
///
/// # Errors
/// A noted size that is no multiple of 32, or above [`MAX_FILE_INPUT`].
pub fn input_size(checkpoint: &Checkpoint) -> Result<(usize, usize)> {
    let (w, h) = Architecture::of(checkpoint).input_size;
    match [w, h].into_iter().all(|n| n > 0 && n % 32 == 0 && n <= MAX_FILE_INPUT) {
        true => Ok((w, h)),
        false => Err(Error::weights(
            checkpoint.path(),
            format!(
                "metadata 'input_size': expected multiples of 32 up to {MAX_FILE_INPUT}, got {w}x{h} (a size that \
                 the caller gives, such as --size, takes its place)"
            ),
        )),
    }
}

/// What a weights file holds.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// The file.
    pub path: PathBuf,
    /// Its kind.
    pub format: Format,
    /// The network.
    pub architecture: Architecture,
    /// Number of tensors, counters and other integers included.
    pub tensors: usize,
    /// Values of all floating-point tensors, BatchNorm statistics included.
    pub values: usize,
    /// Number of tensors of each element type, by its name.
    pub dtypes: BTreeMap<String, usize>,
    /// As [`Checkpoint::metadata`].
    pub metadata: BTreeMap<String, String>,
}

/// Says what a weights file holds, without reading its values.
///
/// # Errors
/// As [`Checkpoint::open`].
pub fn inspect(path: impl AsRef<Path>) -> Result<Inspection> {
    let checkpoint = Checkpoint::open(path)?;
    let mut dtypes = BTreeMap::new();
    let mut values = 0;
    for name in checkpoint.names() {
        let (Some(dtype), Some(shape)) = (checkpoint.dtype(name), checkpoint.shape(name)) else { continue };
        *dtypes.entry(dtype.to_string()).or_insert(0) += 1;
        values += if dtype.is_float() { elements(shape).unwrap_or(0) } else { 0 };
    }
    Ok(Inspection {
        path: checkpoint.path().to_path_buf(),
        format: checkpoint.format(),
        architecture: Architecture::of(&checkpoint),
        tensors: checkpoint.names().count(),
        values,
        dtypes,
        metadata: checkpoint.metadata().clone(),
    })
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Architecture { keypoints, levels, input_size: (w, h), .. } = self.architecture;
        let dtypes: Vec<String> =
            self.dtypes.iter().map(|(dtype, count)| format!("{count} {dtype}")).collect();
        writeln!(f, "{} ({})", shown(&self.path), self.format)?;
        match keypoints {
            Some(keypoints) => {
                writeln!(f, "  {}, {keypoints} keypoints, {levels} levels, {w}x{h}", self.architecture)?
            }
            None => writeln!(f, "  {}: no RTMO head", self.architecture)?,
        }
        write!(
            f,
            "  {} tensors ({}), {:.2} M values",
            self.tensors,
            dtypes.join(", "),
            self.values as f64 / 1e6
        )?;
        for (key, value) in &self.metadata {
            // Text from a file may hold anything.
            let short: String = value.chars().take(200).flat_map(char::escape_debug).collect();
            write!(f, "\n  {}: {short}", key.escape_debug())?;
        }
        Ok(())
    }
}

/// What [`convert`] did.
#[derive(Clone, Debug)]
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
        return Err(Error::Usage(format!("{}: source and destination are the same file", source.display())));
    }
    let architecture = Architecture::of(&checkpoint);
    let file = &*checkpoint.bytes;
    let sha256 = hex(&Sha256::digest(file));
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
        source_bytes: file.len() as u64,
        destination_bytes: written.len(),
    })
}
