//! Checkpoints: named tensors from a `.safetensors` or a published `.pth` file.
//!
//! A weights file comes from anywhere, so it is read as data only. Files are memory-mapped; a tensor's values are
//! converted when they are asked for. Nothing in a file makes the reader run code, allocate more than a small
//! multiple of the file's own size, or panic.

mod convert;
mod download;
mod pickle;
pub mod registry;
mod safetensors;
mod torch;
mod zip;

pub use convert::{Architecture, Conversion, Inspection, convert, inspect};
pub use download::{download, is_published};
pub use safetensors::{SaveType, save_safetensors};

use crate::error::{Error, Result};
use half::{bf16, f16};
use memmap2::Mmap;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Result of the parsers: the message lacks only the file's name.
type Parsed<T> = std::result::Result<T, String>;

/// More tensors than this are not a model of this family.
const MAX_TENSORS: usize = 1 << 16;

/// Element type of a stored tensor.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dtype {
    /// IEEE 754 binary64.
    F64,
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
    /// 64-bit signed integer.
    I64,
    /// 32-bit signed integer.
    I32,
    /// 16-bit signed integer.
    I16,
    /// 8-bit signed integer.
    I8,
    /// 8-bit unsigned integer.
    U8,
    /// One byte, 0 or 1.
    Bool,
    /// A type whose values the engine cannot read, by its name in the file.
    Other(String),
}

impl Dtype {
    /// Bytes an element; `None` for [`Dtype::Other`].
    pub fn size(&self) -> Option<usize> {
        match self {
            Dtype::F64 | Dtype::I64 => Some(8),
            Dtype::F32 | Dtype::I32 => Some(4),
            Dtype::F16 | Dtype::Bf16 | Dtype::I16 => Some(2),
            Dtype::I8 | Dtype::U8 | Dtype::Bool => Some(1),
            Dtype::Other(_) => None,
        }
    }

    /// Whether it is one of the floating-point types.
    pub fn is_float(&self) -> bool {
        matches!(self, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::Bf16)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dtype::F64 => "F64",
            Dtype::F32 => "F32",
            Dtype::F16 => "F16",
            Dtype::Bf16 => "BF16",
            Dtype::I64 => "I64",
            Dtype::I32 => "I32",
            Dtype::I16 => "I16",
            Dtype::I8 => "I8",
            Dtype::U8 => "U8",
            Dtype::Bool => "BOOL",
            Dtype::Other(name) => name,
        })
    }
}

/// What kind of file a checkpoint was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A safetensors file.
    Safetensors,
    /// `torch.save` of torch 1.6 and later.
    TorchZip,
    /// `torch.save` with `_use_new_zipfile_serialization=False`, or before torch 1.6.
    TorchLegacy,
    /// Made by [`Checkpoint::from_tensors`].
    Memory,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Safetensors => "safetensors",
            Format::TorchZip => "torch zip",
            Format::TorchLegacy => "torch pickle",
            Format::Memory => "generated",
        })
    }
}

/// Where the values of a tensor are.
#[derive(Debug)]
enum Data {
    /// In the mapped file from byte `start` on. `strides` are in elements; none mean row-major order. Every element
    /// lies within the file: the readers check that.
    File {
        start: usize,
        strides: Vec<usize>,
        big_endian: bool,
    },
    Memory(Vec<f32>),
    /// Of a type that cannot be read.
    Unreadable,
}

#[derive(Debug)]
struct Entry {
    shape: Vec<usize>,
    dtype: Dtype,
    data: Data,
}

impl Entry {
    /// Size of the values, in bytes; 0 if they cannot be read.
    fn bytes(&self) -> usize {
        let count = elements(&self.shape).unwrap_or(0);
        count.saturating_mul(self.dtype.size().unwrap_or(0))
    }
}

/// What a reader finds in a file.
struct Contents {
    format: Format,
    tensors: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
}

/// An opened checkpoint: names, shapes and values of its tensors.
///
/// The file stays mapped: it should be replaced (as [`save_safetensors`] does), not overwritten or cut, while a
/// checkpoint is open.
pub struct Checkpoint {
    path: PathBuf,
    map: Option<Mmap>,
    contents: Contents,
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint")
            .field("path", &self.path)
            .field("format", &self.contents.format)
            .field("tensors", &self.contents.tensors.len())
            .finish()
    }
}

impl Checkpoint {
    /// Opens a weights file: safetensors, or what `torch.save` wrote. The content decides, not the suffix.
    ///
    /// # Errors
    /// If it cannot be read or is not a checkpoint.
    pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint> {
        let path = path.as_ref();
        // Before opening: to open a named pipe would wait for its writer.
        let kind = std::fs::metadata(path).map_err(Error::io("cannot open weights", path))?;
        if !kind.is_file() {
            return Err(Error::weights(
                path,
                if kind.is_dir() { "is a folder" } else { "is not a regular file" },
            ));
        }
        if kind.len() == 0 {
            return Err(Error::weights(path, "is empty"));
        }
        let file = File::open(path).map_err(Error::io("cannot open weights", path))?;
        // SAFETY: the mapping is read-only and private to this value, and is only ever seen as bytes, for which every
        // bit pattern is valid. The engine itself never writes a weights file in place (it writes a new one and
        // renames it); that others do not is the documented condition of a mapped file.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("cannot map weights", path))?;
        let contents = parse(&map).map_err(|what| Error::weights(path, what))?;
        Ok(Checkpoint { path: path.to_path_buf(), map: Some(map), contents })
    }

    /// A checkpoint of generated weights: name -> (shape, row-major values). `label` stands for the file in messages.
    pub fn from_tensors(
        label: impl Into<PathBuf>,
        tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    ) -> Checkpoint {
        let entry =
            |(name, (shape, values))| (name, Entry { shape, dtype: Dtype::F32, data: Data::Memory(values) });
        let tensors = tensors.into_iter().map(entry).collect();
        let contents = Contents { format: Format::Memory, tensors, metadata: BTreeMap::new() };
        Checkpoint { path: label.into(), map: None, contents }
    }

    /// The file, or the label of generated weights.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What kind of file it is.
    pub fn format(&self) -> Format {
        self.contents.format
    }

    /// Names of all tensors (state_dict keys of the model, without a wrapper's `module.`), sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.contents.tensors.keys().map(String::as_str)
    }

    /// Extents of a tensor, outermost first; `None` if there is no such tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.contents.tensors.get(name).map(|entry| &entry.shape[..])
    }

    /// Element type of a tensor as it is stored; `None` if there is no such tensor.
    pub fn dtype(&self, name: &str) -> Option<&Dtype> {
        self.contents.tensors.get(name).map(|entry| &entry.dtype)
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.contents.tensors.contains_key(name)
    }

    /// The safetensors metadata, or the scalars of an mmengine checkpoint's `meta` (epoch, time, ...).
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.contents.metadata
    }

    /// Values of a tensor in row-major order, converted to f32.
    ///
    /// F32, F16 and BF16 are exact, F64 is rounded to nearest. Integers are converted only for BatchNorm's counter
    /// `num_batches_tracked`.
    ///
    /// # Errors
    /// [`Error::Tensor`] if it is missing, has another shape, is not of a floating-point type, or holds a NaN or an
    /// infinity.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.values(name, shape).map(Cow::into_owned)
    }

    /// [`Checkpoint::tensor`] without a copy where the file holds plain f32 values.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub fn values(&self, name: &str, shape: &[usize]) -> Result<Cow<'_, [f32]>> {
        let error = |expected: String, got: String| Error::Tensor {
            path: self.path.clone(),
            tensor: name.to_string(),
            expected,
            got,
        };
        let Some(entry) = self.contents.tensors.get(name) else {
            return Err(error(format!("shape {shape:?}"), "no tensor of this name".into()));
        };
        if entry.shape != shape {
            return Err(error(format!("shape {shape:?}"), format!("shape {:?}", entry.shape)));
        }
        if !entry.dtype.is_float() && (entry.dtype.size().is_none() || !name.ends_with("num_batches_tracked"))
        {
            return Err(error("F32, F16, BF16 or F64".into(), entry.dtype.to_string()));
        }
        let values = self.read(entry);
        if Some(values.len()) != elements(shape) {
            return Err(error(format!("the values of shape {shape:?}"), format!("{} values", values.len())));
        }
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err(error("finite values".into(), format!("{} at element {at}", values[at])));
        }
        Ok(values)
    }

    fn read<'a>(&'a self, entry: &'a Entry) -> Cow<'a, [f32]> {
        let bytes = self.map.as_deref().unwrap_or_default();
        match &entry.data {
            Data::Memory(values) => Cow::Borrowed(values),
            Data::Unreadable => Cow::default(),
            Data::File { start, strides, big_endian } => {
                let bytes = &bytes[*start..];
                let read = Reader { bytes, shape: &entry.shape, strides, big_endian: *big_endian };
                if entry.dtype == Dtype::F32
                    && let Some(values) = read.in_place()
                {
                    return Cow::Borrowed(values);
                }
                Cow::Owned(match entry.dtype {
                    Dtype::F64 => read.all(|b| f64::from_le_bytes(b) as f32),
                    Dtype::F32 => read.all(f32::from_le_bytes),
                    Dtype::F16 => read.all(|b| f16::from_le_bytes(b).to_f32()),
                    Dtype::Bf16 => read.all(|b| bf16::from_le_bytes(b).to_f32()),
                    Dtype::I64 => read.all(|b| i64::from_le_bytes(b) as f32),
                    Dtype::I32 => read.all(|b| i32::from_le_bytes(b) as f32),
                    Dtype::I16 => read.all(|b| i16::from_le_bytes(b).into()),
                    Dtype::I8 => read.all(|b| i8::from_le_bytes(b).into()),
                    Dtype::U8 | Dtype::Bool => read.all(|[b]| b.into()),
                    Dtype::Other(_) => Vec::new(),
                })
            }
        }
    }

    /// Tells the system that the mapped pages are not needed for now, so that they no longer count as resident
    /// memory. Values can still be read afterwards.
    pub fn release(&self) {
        #[cfg(unix)]
        if let Some(map) = &self.map {
            // SAFETY: the mapping is file-backed and never written, so dropped pages come back with the same bytes
            // when they are next touched.
            let advised = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
            // It is advice: without it the pages only stay a while longer.
            advised.ok();
        }
    }
}

/// Elements of a row-major or strided tensor within `bytes`.
struct Reader<'a> {
    bytes: &'a [u8],
    shape: &'a [usize],
    strides: &'a [usize],
    big_endian: bool,
}

impl<'a> Reader<'a> {
    /// Row-major f32 values of this machine's byte order and alignment, as they are.
    fn in_place(&self) -> Option<&'a [f32]> {
        let count = elements(self.shape).unwrap_or(0);
        let native = self.big_endian == cfg!(target_endian = "big");
        let bytes = (self.strides.is_empty() && native).then(|| &self.bytes[..count * size_of::<f32>()])?;
        bytemuck::try_cast_slice(bytes).ok()
    }

    fn all<const N: usize>(&self, decode: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        let count = elements(self.shape).unwrap_or(0);
        let decode = |bytes: &[u8]| {
            let mut bytes: [u8; N] = bytes.try_into().expect("N bytes");
            if self.big_endian {
                bytes.reverse();
            }
            decode(bytes)
        };
        if self.strides.is_empty() {
            return self.bytes[..count * N].chunks_exact(N).map(decode).collect();
        }
        let mut index = vec![0; self.shape.len()];
        let mut values = Vec::with_capacity(count);
        for _ in 0..count {
            let at: usize = index.iter().zip(self.strides).map(|(i, stride)| i * stride).sum();
            values.push(decode(&self.bytes[at * N..][..N]));
            for (i, &n) in index.iter_mut().zip(self.shape).rev() {
                *i += 1;
                if *i < n {
                    break;
                }
                *i = 0;
            }
        }
        values
    }
}

/// Number of elements of a shape; `None` if it does not fit.
fn elements(shape: &[usize]) -> Option<usize> {
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(1usize, |count, &extent| count.checked_mul(extent))
}

/// The beginning of some text from a file, fit for a message.
fn show(text: &[u8]) -> String {
    text[..text.len().min(80)].escape_ascii().to_string()
}

/// A tensor name as text that can be shown.
fn check_name(name: &[u8]) -> Parsed<&str> {
    match std::str::from_utf8(name) {
        Ok(text) if name.len() <= 512 && !text.contains(char::is_control) => Ok(text),
        _ => Err(format!("a tensor name is not plain text: '{}'", show(name))),
    }
}

fn parse(file: &[u8]) -> Parsed<Contents> {
    let head = &file[..file.len().min(32)];
    let contents = if head.starts_with(b"PK\x03\x04") {
        torch::read_zip(file)?
    } else if head.starts_with(b"\x80") && head.windows(10).any(|window| window == torch::LEGACY_MAGIC) {
        torch::read_legacy(file)?
    } else if head.get(8) == Some(&b'{') {
        safetensors::read(file)?
    } else {
        return Err(match head {
            [0x80, 2..=5, ..] => "a pickle, but not one that torch.save writes",
            [b'<', ..] => "a web page, not weights: the download went wrong",
            _ if head.starts_with(b"version https://git-lfs") => "a Git LFS pointer; fetch the file itself",
            _ => "neither safetensors nor a torch checkpoint",
        }
        .into());
    };
    if contents.tensors.len() > MAX_TENSORS {
        return Err(format!("{} tensors, at most {MAX_TENSORS} are accepted", contents.tensors.len()));
    }
    Ok(contents)
}
