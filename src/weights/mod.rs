//! Checkpoints: named tensors from a `.safetensors`, a published `.pth` or an `.onnx` file.
//!
//! A weights file comes from anywhere, so it is read as data only; a tensor's values are converted when they are asked
//! for. Nothing in a file makes the reader run code or panic, or take more than 64 MB and eight times the file's own
//! size. What bounds that:
//!
//! | | at most | where |
//! |---|---|---|
//! | file | 4 GiB | [`Checkpoint::open`] |
//! | tensors | 16,384, of 64 dimensions, with names of 512 bytes | all readers |
//! | values of all tensors, as f32 | twice the file and 1 MB | `torch.rs`; elsewhere tensors share nothing |
//! | opcodes of all pickles | 524,288 | `pickle.rs` |
//! | key of a storage | 256 bytes | `pickle.rs` |
//! | entries of a zip archive | 65,535 | `torch.rs` |
//! | inflated entries together | 4 times the file and 4 MB | `torch.rs` |
//! | nodes of an ONNX graph | 8,192, of 64 inputs, outputs and attributes; 131,072 of those in all | `onnx/graph.rs` |
//! | header of safetensors | 100 MB, with 4096 metadata | `safetensors.rs` |

mod architecture;
#[cfg(feature = "download")]
mod convert;
mod demo;
#[cfg(feature = "download")]
mod download;
mod onnx;
mod pickle;
pub mod registry;
mod safetensors;
#[cfg(feature = "download")]
mod save;
mod torch;
#[cfg(feature = "download")]
mod wanted;

pub use architecture::{Architecture, Inspection, MAX_FILE_INPUT, input_size, inspect};
#[cfg(feature = "download")]
pub use convert::{Conversion, convert};
pub use demo::{DEMO, DEMO_SCORE_THR, demo, is_demo, score_thr};
#[cfg(feature = "download")]
pub use download::{DownloadOptions, Progress, Standing, address, download, remove, standing};
#[cfg(feature = "download")]
pub use save::{SaveType, save_safetensors};
#[cfg(feature = "download")]
pub use wanted::{Notices, Wanted, no_cache_folder};

use crate::error::{Error, Result, printable};
use half::{bf16, f16};
use memmap2::Mmap;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Result of the parsers: the message lacks only the file's name.
type Parsed<T> = std::result::Result<T, String>;

/// RTMO-l has a thousand.
const MAX_TENSORS: usize = 1 << 14;
/// As many as a torch tensor can have.
const MAX_DIMS: usize = 64;
/// RTMO-l's largest training checkpoint, with the optimizer's state, has 0.8 GB.
const MAX_FILE: u64 = 4 << 30;

/// Element type of a stored tensor.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
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
#[non_exhaustive]
pub enum Format {
    /// A safetensors file.
    Safetensors,
    /// `torch.save` of torch 1.6 and later.
    TorchZip,
    /// `torch.save` with `_use_new_zipfile_serialization=False`, or before torch 1.6.
    TorchLegacy,
    /// An ONNX file, as mmdeploy makes them of RTMO.
    Onnx,
    /// Made by [`Checkpoint::from_tensors`].
    Memory,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Safetensors => "safetensors",
            Format::TorchZip => "torch zip",
            Format::TorchLegacy => "torch pickle",
            Format::Onnx => "ONNX",
            Format::Memory => "generated",
        })
    }
}

/// Where the values of a tensor are.
#[derive(Debug)]
enum Data {
    /// From byte `start` of a part of the file on: part 0 is the file itself, `n` its `n`-th inflated piece, counted
    /// from 1. `strides` are in elements; none mean row-major order. Every element lies within the part: the readers
    /// check that.
    Bytes {
        part: usize,
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

/// What a reader finds in a file.
struct Contents {
    format: Format,
    tensors: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
    /// Pieces of the file that were compressed.
    inflated: Vec<Vec<u8>>,
}

impl Contents {
    fn new(format: Format) -> Contents {
        Contents { format, tensors: BTreeMap::new(), metadata: BTreeMap::new(), inflated: Vec::new() }
    }

    /// Adds a tensor under its name in the model, without the names of wrappers.
    fn add(&mut self, name: &[u8], entry: Entry) -> Parsed<()> {
        let name = unwrapped(check_name(name)?);
        if self.tensors.len() >= MAX_TENSORS {
            return Err(format!("more than {MAX_TENSORS} tensors"));
        }
        match self.tensors.entry(name) {
            std::collections::btree_map::Entry::Occupied(there) => {
                Err(format!("two tensors are named '{}'", there.key()))
            }
            std::collections::btree_map::Entry::Vacant(free) => {
                free.insert(entry);
                Ok(())
            }
        }
    }
}

/// A tensor's name without what wrappers of the model put in front: `module.` of data parallelism, `model.` of
/// trainers, in any order, and `_orig_mod.` of `torch.compile` at any place.
fn unwrapped(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').filter(|&part| part != "_orig_mod").collect();
    let wrappers = parts.iter().take_while(|&&part| part == "module" || part == "model").count();
    parts[wrappers..].join(".")
}

/// The content of a weights file.
enum Bytes {
    Read(Cow<'static, [u8]>),
    Mapped(Mmap),
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Read(bytes) => bytes,
            Bytes::Mapped(map) => map,
        }
    }
}

/// An opened checkpoint: names, shapes and values of its tensors.
///
/// Of a file that has a `backbone`, only the tensors of the model are listed: those of `backbone`, `neck` and `head`.
/// mmpose ignores others likewise (`strict=False`); [`Checkpoint::warnings`] says so.
pub struct Checkpoint {
    path: PathBuf,
    bytes: Bytes,
    contents: Contents,
    warnings: Vec<String>,
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
    /// Reads a weights file into memory: safetensors, what `torch.save` wrote, or an ONNX model of RTMO as mmdeploy exports it
    /// (`end2end.onnx`, also in a zip archive). The content decides, not the suffix.
    ///
    /// # Errors
    /// If it cannot be read or is not a checkpoint; if it tells several classes apart, since the engine knows one.
    pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint> {
        let path = path.as_ref();
        let mut file = open_file(path)?;
        let unreadable = || Error::io("cannot read weights", path);
        // A file of another kind is refused before it is read whole.
        let mut bytes = Vec::new();
        (&mut file).take(HEAD).read_to_end(&mut bytes).map_err(unreadable())?;
        kind(&bytes).map_err(|what| Error::weights(path, what))?;
        let len = file.metadata().map_err(unreadable())?.len();
        if len > MAX_FILE {
            return Err(Error::weights(path, format!("has {len} bytes, at most {MAX_FILE} are read")));
        }
        let out_of_memory = |_| Error::weights(path, format!("{len} bytes do not fit into memory"));
        bytes.try_reserve_exact(len as usize).map_err(out_of_memory)?;
        file.take(MAX_FILE).read_to_end(&mut bytes).map_err(unreadable())?;
        Checkpoint::new(path.to_path_buf(), Bytes::Read(bytes.into()))
    }

    /// As [`Checkpoint::open`], but the file is mapped into memory: what is not read takes none.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    ///
    /// # Safety
    /// While the checkpoint lives:
    ///
    /// 1. the file must not be written to: values would change while they are read;
    /// 2. it must not be truncated: reading a missing page ends the process.
    ///
    /// Replacing the file under its name is harmless.
    pub unsafe fn open_mapped(path: impl AsRef<Path>) -> Result<Checkpoint> {
        let path = path.as_ref();
        let file = open_file(path)?;
        // SAFETY: the mapping is read-only and private to this value, and is only ever seen as bytes, for which every
        // bit pattern is valid. That the file does not change is the caller's promise.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("cannot map weights", path))?;
        Checkpoint::new(path.to_path_buf(), Bytes::Mapped(map))
    }

    /// A weights file that is in memory already. `label` stands for its path in messages.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_bytes(label: impl Into<PathBuf>, file: impl Into<Cow<'static, [u8]>>) -> Result<Checkpoint> {
        Checkpoint::new(label.into(), Bytes::Read(file.into()))
    }

    fn new(path: PathBuf, bytes: Bytes) -> Result<Checkpoint> {
        let contents = parse(&bytes).map_err(|what| Error::weights(&path, what))?;
        let mut checkpoint = Checkpoint { path, bytes, contents, warnings: Vec::new() };
        if checkpoint.names().any(|name| name.starts_with("backbone.")) {
            checkpoint.keep_model_tensors()?;
        }
        Ok(checkpoint)
    }

    /// Drops tensors that do not belong to the model, with a warning, and refuses a model of several classes.
    fn keep_model_tensors(&mut self) -> Result<()> {
        for (name, neutral) in [("data_preprocessor.mean", 0.0), ("data_preprocessor.std", 1.0)] {
            let few = |entry: &&Entry| elements(&entry.shape).is_some_and(|count| count <= 16);
            let values =
                self.contents.tensors.get(name).filter(few).map(|entry| self.read(entry).into_owned());
            if let Some(values) = values.filter(|values| values.iter().any(|&value| value != neutral)) {
                self.warnings.push(format!(
                    "has '{name}' {values:?}: it was trained on normalised pixels, the engine takes them as they are"
                ));
            }
        }
        let of_model = |name: &str| ["backbone.", "neck.", "head."].iter().any(|part| name.starts_with(part));
        let mut outside = Vec::new();
        self.contents.tensors.retain(|name, _| {
            let keep = of_model(name);
            if !keep && !name.starts_with("data_preprocessor.") {
                outside.push(name.clone());
            }
            keep
        });
        if let Some(first) = outside.first() {
            let (n, such) = (outside.len(), if outside.len() == 1 { "" } else { ", and others" });
            let noun = if n == 1 { "tensor" } else { "tensors" };
            self.warnings.push(format!(
                "{n} {noun} outside backbone, neck and head ignored: '{}'{such}",
                printable(first)
            ));
        }
        for level in 0.. {
            let Some(shape) = self.shape(&format!("head.head_module.out_cls.{level}.weight")) else { break };
            if let Some(classes) = shape.first().filter(|&&classes| classes > 1) {
                let what = format!("tells {classes} classes apart; one, persons, is supported");
                return Err(Error::weights(&self.path, what));
            }
        }
        Ok(())
    }

    /// A checkpoint of generated weights: name -> (shape, row-major values). `label` stands for the file in messages.
    pub fn from_tensors(
        label: impl Into<PathBuf>,
        tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    ) -> Checkpoint {
        let entry =
            |(name, (shape, values))| (name, Entry { shape, dtype: Dtype::F32, data: Data::Memory(values) });
        let tensors = tensors.into_iter().map(entry).collect();
        let contents = Contents { tensors, ..Contents::new(Format::Memory) };
        let bytes = Bytes::Read(Cow::Borrowed(&[]));
        Checkpoint { path: label.into(), bytes, contents, warnings: Vec::new() }
    }

    /// What the user should know of the file although it can be used, each a sentence that follows the file's name.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The file, or the label of generated weights.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What kind of file it is.
    pub fn format(&self) -> Format {
        self.contents.format
    }

    /// Names of all tensors (state_dict keys of the model, without wrappers' `module.` and the like), sorted.
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
        match &entry.data {
            Data::Memory(values) => Cow::Borrowed(values),
            Data::Unreadable => Cow::default(),
            Data::Bytes { part, start, strides, big_endian } => {
                let whole =
                    part.checked_sub(1).map_or(&*self.bytes, |inflated| &self.contents.inflated[inflated]);
                let bytes = &whole[*start..];
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

    /// Tells the system that the pages of a mapped file are not needed now, so that they no longer count as resident
    /// memory. Values can still be read afterwards.
    pub fn release(&self) {
        #[cfg(unix)]
        if let Bytes::Mapped(map) = &self.bytes {
            // SAFETY: the mapping is file-backed and never written, so dropped pages come back with the same bytes
            // when they are next touched.
            let advised = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
            // It is advice: without it the pages only stay a while longer.
            advised.ok();
        }
    }
}

/// Opens a regular file that is not empty.
fn open_file(path: &Path) -> Result<File> {
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
    File::open(path).map_err(Error::io("cannot open weights", path))
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

/// Bytes at the beginning of a file that tell its kind.
const HEAD: u64 = 32;

/// What kind of file begins with `head`.
fn kind(head: &[u8]) -> Parsed<Format> {
    let head = &head[..head.len().min(HEAD as usize)];
    if head.starts_with(b"PK\x03\x04") {
        Ok(Format::TorchZip)
    } else if head.starts_with(b"\x80") && head.windows(10).any(|window| window == torch::LEGACY_MAGIC) {
        Ok(Format::TorchLegacy)
    } else if head.get(8) == Some(&b'{') {
        Ok(Format::Safetensors)
    } else if onnx::begins(head) {
        Ok(Format::Onnx)
    } else {
        Err(match head {
            [0x80, 2..=5, ..] => "a pickle, but not one that torch.save writes",
            [b'<', ..] => "a web page, not weights: the download went wrong",
            _ if head.starts_with(b"version https://git-lfs") => "a Git LFS pointer; fetch the file itself",
            _ => "not a safetensors file, a torch checkpoint or an ONNX model",
        }
        .into())
    }
}

fn parse(file: &[u8]) -> Parsed<Contents> {
    match kind(file)? {
        Format::TorchZip => torch::read_zip(file),
        Format::TorchLegacy => torch::read_legacy(file),
        Format::Onnx => onnx::read(file, 0, 0),
        Format::Safetensors | Format::Memory => safetensors::read(file),
    }
}
