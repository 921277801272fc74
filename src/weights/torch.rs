//! Checkpoints written by `torch.save`: the zip archive of torch 1.6 and later, and the older stream of pickles,
//! which mmpose's `tools/misc/publish_model.py` still writes (`_use_new_zipfile_serialization=False`).
//!
//! What the file holds is decided as mmengine's `runner/checkpoint.py` does for inference: the dictionary
//! `state_dict`, else the file's own top-level dictionary; a leading `module.` of a name is dropped. When a model
//! with averaged weights is saved, mmengine's `EMAHook` puts the averaged ones into `state_dict` and the raw ones
//! into `ema_state_dict`, so `ema_state_dict` is looked at only where there is no `state_dict`.

use super::onnx;
use super::pickle::{self, Object, Pickle, Tensor, Value};
use super::{Contents, Data, Entry, Format, Parsed, elements, show};
use crate::error::printable;
use std::collections::{BTreeMap, HashMap};
use std::io::{Cursor, Read};
use std::ops::Range;
use zip::read::{ArchiveOffset, Config};
use zip::{CompressionMethod, ZipArchive};

/// `torch.serialization.MAGIC_NUMBER`, the first pickle of the older format, in little-endian bytes.
pub(super) const LEGACY_MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// `torch.serialization.PROTOCOL_VERSION`, the second.
const LEGACY_VERSION: i64 = 1001;

/// Views may share storages, and a stride of 0 repeats a value, but as f32 all values together may not take more than
/// this many times the file, and [`SLACK`].
const MAX_SHARING: usize = 2;
const SLACK: usize = 1 << 20;

/// What entries of an archive may have inflated, together: this many times the file, and [`INFLATED`] bytes.
const MAX_INFLATED: u64 = 4;
const INFLATED: u64 = 4 << 20;

/// Without zip64 an archive cannot have more; a published checkpoint has a thousand.
const MAX_ENTRIES: usize = 65_535;
/// Length of the folder's name in an archive: torch takes it from the file's name.
const MAX_ROOT: usize = 1024;

/// Where the bytes of a storage are: in part 0, the file, or in an inflated part.
#[derive(Clone)]
struct Storage {
    part: usize,
    range: Range<usize>,
}

/// A zip archive, its entries in place or inflated.
struct Archive<'a> {
    file: &'a [u8],
    zip: ZipArchive<Cursor<&'a [u8]>>,
    /// Begins and ends of the entries that were located.
    taken: BTreeMap<usize, usize>,
    /// Bytes that entries may still inflate to.
    left: u64,
    inflated: Vec<Vec<u8>>,
}

impl<'a> Archive<'a> {
    fn open(file: &'a [u8]) -> Parsed<Archive<'a>> {
        let zip = (|| {
            check_count(file)?;
            // The archive begins at byte 0: `kind` has checked that.
            let config = Config { archive_offset: ArchiveOffset::Known(0) };
            let zip =
                ZipArchive::with_config(config, Cursor::new(file)).map_err(|e| printable(e).to_string())?;
            if zip.has_duplicate_names() {
                return Err("two entries have the same name".into());
            }
            Ok(zip)
        })();
        let zip = zip.map_err(|what: String| format!("zip: {what}"))?;
        let left = MAX_INFLATED * file.len() as u64 + INFLATED;
        Ok(Archive { file, zip, taken: BTreeMap::new(), left, inflated: Vec::new() })
    }

    /// The bytes of an entry; `None` if there is no such entry.
    fn locate(&mut self, name: &[u8]) -> Parsed<Option<Storage>> {
        let Some(index) = self.zip.index_for_name_raw(name) else { return Ok(None) };
        self.entry(index).map(Some).map_err(|what| format!("zip: entry '{}': {what}", show(name)))
    }

    fn entry(&mut self, index: usize) -> Parsed<Storage> {
        let wrong = |error: zip::result::ZipError| printable(error).to_string();
        let entry = self.zip.by_index_raw(index).map_err(wrong)?;
        let (method, size, packed) = (entry.compression(), entry.size(), entry.compressed_size());
        let encrypted = entry.encrypted();
        let start = entry.data_start().ok_or("its place is not known")?;
        drop(entry);
        if encrypted {
            return Err("is encrypted".into());
        }
        let end = start.checked_add(packed).filter(|&end| end <= self.file.len() as u64);
        let end = end.ok_or_else(|| {
            format!("bytes {start}+{packed} lie outside the file of {} bytes", self.file.len())
        })?;
        let range = start as usize..end as usize;
        let before = self.taken.range(..range.end).next_back();
        if !range.is_empty() && before.is_some_and(|(_, &end)| end > range.start) {
            return Err("overlaps another".into());
        }
        if !range.is_empty() {
            self.taken.insert(range.start, range.end);
        }
        match method {
            CompressionMethod::Stored if size == packed => Ok(Storage { part: 0, range }),
            CompressionMethod::Stored => Err(format!("is stored in {packed} bytes, but has {size}")),
            CompressionMethod::Deflated => {
                self.left = self.left.checked_sub(size).ok_or_else(|| {
                    format!("inflates to {size} bytes, {} are left of what this file may take", self.left)
                })?;
                let entry = self.zip.by_index(index).map_err(wrong)?;
                let mut bytes = Vec::new();
                // Reading one byte more shows whether the entry is longer than it says.
                let inflated = entry.take(size + 1).read_to_end(&mut bytes);
                inflated.map_err(|error| format!("cannot be inflated: {}", printable(error)))?;
                if bytes.len() as u64 != size {
                    return Err(format!("inflates to {} bytes, but says {size}", bytes.len()));
                }
                let range = 0..bytes.len();
                self.inflated.push(bytes);
                Ok(Storage { part: self.inflated.len(), range })
            }
            other => {
                Err(format!("is compressed by {other}; torch stores entries, and deflated ones are read"))
            }
        }
    }

    fn bytes(&self, at: &Storage) -> &[u8] {
        let part = at.part.checked_sub(1).map_or(self.file, |inflated| &self.inflated[inflated]);
        &part[at.range.clone()]
    }
}

/// Refuses an archive that claims, by zip64, more entries than a checkpoint has: the crate makes room for all of them.
fn check_count(file: &[u8]) -> Parsed<()> {
    // The end record has 22 bytes and a comment of at most 65,535, the locator of zip64 before it 20.
    let tail = &file[file.len().saturating_sub(20 + 22 + 65_535)..];
    if memchr::memmem::find(tail, b"PK\x06\x07").is_none() {
        return Ok(());
    }
    match memchr::memmem::find_iter(file, b"PK\x01\x02").nth(MAX_ENTRIES) {
        Some(_) => Err(format!("more than {MAX_ENTRIES} entries")),
        None => Ok(()),
    }
}

/// Reads the zip archive in `file`.
pub(super) fn read_zip(file: &[u8]) -> Parsed<Contents> {
    let mut archive = Archive::open(file)?;
    let Some(root) = root(&archive.zip) else { return read_archived_onnx(archive) };
    let record = |name: &[u8]| [&root, name].concat();
    if archive.zip.index_for_name_raw(&record(b"constants.pkl")).is_some() {
        return Err("a TorchScript archive; save the model's state_dict with torch.save instead".into());
    }
    let order = archive.locate(&record(b"byteorder"))?;
    let big_endian = match order.map(|at| archive.bytes(&at).to_vec()).as_deref() {
        None | Some(b"little") => false,
        Some(b"big") => true,
        Some(other) => return Err(format!("unknown byte order '{}'", show(other))),
    };
    let data = archive.locate(&record(b"data.pkl"))?.expect("found above");
    // No tensor lies in an inflated pickle, so it is not kept.
    let inflated = if data.part > 0 { archive.inflated.pop() } else { None };
    let data = inflated.as_deref().unwrap_or_else(|| &file[data.range]);
    let pickle = pickle::read(data, &mut { pickle::MAX_OPS })?;
    let mut locate = |key: &[u8]| {
        let name = [&root, &b"data/"[..], key].concat();
        archive.locate(&name)?.ok_or_else(|| format!("record 'data/{}' is missing", show(key)))
    };
    let mut contents = collect(&pickle, file.len(), big_endian, Format::TorchZip, &mut locate)?;
    contents.inflated = archive.inflated;
    Ok(contents)
}

/// The folder that holds the archive's one `data.pkl`, with its slash; empty if there is no folder.
fn root(zip: &ZipArchive<Cursor<&[u8]>>) -> Option<Vec<u8>> {
    let mut roots = zip.file_names_raw().filter_map(|name| name.strip_suffix(b"data.pkl"));
    let root = roots.next().filter(|root| root.is_empty() || root.ends_with(b"/"))?;
    (roots.next().is_none() && root.len() <= MAX_ROOT).then(|| root.to_vec())
}

/// Reads the one ONNX model in an archive, as mmpose publishes them: `end2end.onnx` among descriptions for mmdeploy.
fn read_archived_onnx(mut archive: Archive<'_>) -> Parsed<Contents> {
    let mut models = archive.zip.file_names_raw().filter(|name| name.ends_with(b".onnx"));
    let (Some(name), None) = (models.next().map(<[u8]>::to_vec), models.next()) else {
        return Err(foreign_archive(&archive.zip));
    };
    drop(models);
    let model = archive.locate(&name)?.expect("found above");
    let contents = onnx::read(archive.bytes(&model), model.part, model.range.start)?;
    Ok(Contents { inflated: archive.inflated, ..contents })
}

/// What to say of a zip archive that `torch.save` did not write.
fn foreign_archive(zip: &ZipArchive<Cursor<&[u8]>>) -> String {
    if zip.file_names_raw().any(|name| name.ends_with(b".onnx")) {
        "a zip archive with several ONNX models; give one of them".into()
    } else {
        "a zip archive, but not one that torch.save writes (it has no single data.pkl)".into()
    }
}

/// Reads the stream of pickles in `file`: magic number, version, system, object, storage keys; then, for each key,
/// the number of elements (i64) and the elements, little-endian.
pub(super) fn read_legacy(file: &[u8]) -> Parsed<Contents> {
    let (mut at, mut left) = (0, pickle::MAX_OPS);
    let mut next = || -> Parsed<(Pickle, usize)> {
        let pickle = pickle::read(&file[at..], &mut left)?;
        at += pickle.size;
        Ok((pickle, at))
    };
    if !matches!(next()?.0.root, Value::BigInt(magic) if magic == LEGACY_MAGIC) {
        return Err("not a torch file: its magic number is wrong".into());
    }
    match next()?.0.root {
        Value::Int(LEGACY_VERSION) => {}
        _ => return Err("an unknown version of torch's old format".into()),
    }
    next()?;
    let (pickle, _) = next()?;
    let (keys, mut at) = next()?;
    let Some(Object::List(list)) = keys.object(keys.root) else {
        return Err("the list of storages is missing".into());
    };

    let classes = pickle.storages();
    let mut places = HashMap::new();
    for key in list {
        let Value::Text(key) = *key else { return Err("a storage key that is not text".into()) };
        let shown = show(key);
        let class = classes.get(key).ok_or_else(|| format!("storage '{shown}' belongs to no tensor"))?;
        let dtype = pickle::storage_dtype(*class);
        let item = dtype.size().ok_or_else(|| format!("storage '{shown}' of unsupported type {dtype}"))?;
        let count = file
            .get(at..at + 8)
            .ok_or_else(|| format!("the file ends before storage '{shown}': truncated"))?;
        let count = u64::from_le_bytes(count.try_into().expect("8 bytes"));
        let left = file.len() - at - 8;
        let size = usize::try_from(count).ok().and_then(|n| n.checked_mul(item)).filter(|&size| size <= left);
        let size =
            size.ok_or_else(|| format!("storage '{shown}' claims {count} elements, {left} bytes are left"))?;
        if places.insert(key, at + 8..at + 8 + size).is_some() {
            return Err(format!("storage '{shown}' is listed twice"));
        }
        at += 8 + size;
    }
    let mut locate = |key: &[u8]| {
        let range = places.get(key).cloned();
        let range = range.ok_or_else(|| format!("storage '{}' is missing", show(key)))?;
        Ok(Storage { part: 0, range })
    };
    collect(&pickle, file.len(), false, Format::TorchLegacy, &mut locate)
}

/// Finds the model's weights in an unpickled checkpoint. `locate` gives the bytes of a storage.
fn collect(
    pickle: &Pickle,
    file_size: usize,
    big_endian: bool,
    format: Format,
    locate: &mut dyn FnMut(&[u8]) -> Parsed<Storage>,
) -> Parsed<Contents> {
    let root = pickle.root;
    if pickle.dict(root).is_none() {
        return Err(match pickle.object(root) {
            Some(Object::Opaque(name)) => {
                format!("holds a {name}, not a checkpoint; save its state_dict() instead")
            }
            _ => "holds no dictionary of tensors".into(),
        });
    }
    let averaged = || pickle.get(root, "ema_state_dict");
    let state = pickle.get(root, "state_dict").or_else(averaged).unwrap_or(root);
    let items = pickle.dict(state).ok_or("its state_dict is not a dictionary")?;

    let mut storages: HashMap<&[u8], Storage> = HashMap::new();
    let mut contents = Contents { metadata: metadata(pickle), ..Contents::new(format) };
    let mut claimed = 0usize;
    for &(key, value) in items {
        let Value::Text(key) = key else { continue };
        let name = show(key);
        let tensor = match pickle.tensor(value).map_err(|what| format!("tensor '{name}': {what}"))? {
            Some(tensor) => tensor,
            None => match pickle.object(value) {
                Some(Object::Opaque(function)) => {
                    return Err(format!("tensor '{name}' is built by {function}, which is never called"));
                }
                // Counters and the like beside the tensors of a bare state_dict.
                _ => continue,
            },
        };
        let storage = match storages.get(tensor.key) {
            Some(at) => at.clone(),
            None => {
                let at = locate(tensor.key).map_err(|what| format!("tensor '{name}': {what}"))?;
                storages.insert(tensor.key, at.clone());
                at
            }
        };
        let entry = entry(tensor, storage, big_endian).map_err(|what| format!("tensor '{name}': {what}"))?;
        claimed =
            claimed.saturating_add(elements(&entry.shape).unwrap_or(0).saturating_mul(size_of::<f32>()));
        contents.add(key, entry)?;
    }
    if claimed > file_size.saturating_mul(MAX_SHARING).saturating_add(SLACK) {
        return Err(format!("its tensors claim {claimed} bytes, the file has {file_size}"));
    }
    if contents.tensors.is_empty() {
        let keys: Vec<String> =
            pickle.dict(root).unwrap_or_default().iter().take(8).filter_map(|&(k, _)| text(k)).collect();
        return Err(format!("no state_dict and no tensors; its keys are: {}", keys.join(", ")));
    }
    Ok(contents)
}

/// Checks a tensor against the bytes of its storage.
fn entry(tensor: Tensor, storage: Storage, big_endian: bool) -> Parsed<Entry> {
    let Tensor { dtype, offset, shape, mut strides, storage: (stored, len), .. } = tensor;
    let Some(item) = dtype.size() else {
        // Listed, so that it can be refused by name if the model wants it.
        return Ok(Entry { shape, dtype, data: Data::Unreadable });
    };
    let Storage { part, range: storage } = storage;
    let count = elements(&shape).ok_or_else(|| format!("shape {shape:?} is too large"))?;
    let bytes = len.saturating_mul(stored.size().unwrap_or(1));
    if bytes > storage.len() {
        return Err(format!("its storage claims {bytes} bytes, the file has {}", storage.len()));
    }
    let available = bytes / item;
    if count == 0 {
        return Ok(Entry {
            shape,
            dtype,
            data: Data::Bytes { part, start: storage.start, strides: Vec::new(), big_endian },
        });
    }
    let last = shape
        .iter()
        .zip(&strides)
        .try_fold(offset, |at, (&n, &stride)| at.checked_add((n - 1).checked_mul(stride)?))
        .filter(|&last| last < available);
    if last.is_none() {
        return Err(format!("shape {shape:?} with strides {strides:?} from {offset} leaves its storage"));
    }
    let mut dense = 1;
    let row_major = shape.iter().zip(&strides).rev().all(|(&n, &stride)| {
        let fits = n == 1 || stride == dense;
        dense *= n;
        fits
    });
    if row_major {
        strides = Vec::new();
    }
    let start = storage.start + offset * item;
    Ok(Entry { shape, dtype, data: Data::Bytes { part, start, strides, big_endian } })
}

/// The short scalars of mmengine's `meta`, and the name of its data set.
fn metadata(pickle: &Pickle) -> BTreeMap<String, String> {
    let Some(meta) = pickle.get(pickle.root, "meta") else { return BTreeMap::new() };
    let dataset = pickle.get(meta, "dataset_meta").and_then(|data| pickle.get(data, "dataset_name"));
    let dataset = dataset.and_then(text).map(|name| ("dataset".to_string(), name));
    let scalars = pickle.dict(meta).unwrap_or_default().iter().take(64);
    scalars.filter_map(|&(key, value)| Some((text(key)?, text(value)?))).chain(dataset).collect()
}

/// A scalar in words; `None` for containers and for long or unprintable text.
fn text(value: Value) -> Option<String> {
    match value {
        Value::Text(text) if text.len() <= 200 => {
            let text = std::str::from_utf8(text).ok()?;
            (!text.contains(char::is_control)).then(|| text.to_string())
        }
        Value::Bool(value) => Some(value.to_string()),
        Value::Int(value) => Some(value.to_string()),
        Value::Float(value) => Some(value.to_string()),
        _ => None,
    }
}
