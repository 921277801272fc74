//! What a checkpoint holds: which RTMO, for which input, how many values.

use super::{Checkpoint, Format, elements};
use crate::error::{Error, Result, shown};
use crate::variant::Variant;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Which RTMO a checkpoint is, read off the shapes of its tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
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
#[non_exhaustive]
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
