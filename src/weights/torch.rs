//! Checkpoints written by `torch.save`: the zip archive of torch 1.6 and later, and the older stream of pickles,
//! which mmpose's `tools/misc/publish_model.py` still writes (`_use_new_zipfile_serialization=False`).
//!
//! What the file holds is decided as mmengine's `runner/checkpoint.py` does for inference: the dictionary
//! `state_dict`, else the file's own top-level dictionary; a leading `module.` of a name is dropped. When a model
//! with averaged weights is saved, mmengine's `EMAHook` puts the averaged ones into `state_dict` and the raw ones
//! into `ema_state_dict`, so `ema_state_dict` is looked at only where there is no `state_dict`.

use super::pickle::{self, Object, Pickle, Tensor, Value};
use super::zip::Zip;
use super::{Contents, Data, Entry, Format, MAX_TENSORS, Parsed, check_name, elements, show};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// `torch.serialization.MAGIC_NUMBER`, the first pickle of the older format, in little-endian bytes.
pub(super) const LEGACY_MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// `torch.serialization.PROTOCOL_VERSION`, the second.
const LEGACY_VERSION: i64 = 1001;

/// Views may share storages, but all tensors together may not claim more than this many times the file's size.
const MAX_SHARING: usize = 8;

/// Reads the zip archive in `file`.
pub(super) fn read_zip(file: &[u8]) -> Parsed<Contents> {
    let zip = Zip::open(file)?;
    let mut roots = zip.names().filter_map(|name| name.strip_suffix(b"data.pkl"));
    let root = match (roots.next(), roots.next()) {
        (Some(root), None) if root.is_empty() || root.ends_with(b"/") => root,
        _ => return Err(foreign_archive(&zip)),
    };
    let record = |name: &[u8]| zip.find(&[root, name].concat());
    if record(b"constants.pkl")?.is_some() {
        return Err("a TorchScript archive; save the model's state_dict with torch.save instead".into());
    }
    let big_endian = match record(b"byteorder")?.map(|at| &file[at]) {
        None | Some(b"little") => false,
        Some(b"big") => true,
        Some(other) => return Err(format!("unknown byte order '{}'", show(other))),
    };
    let data = record(b"data.pkl")?.expect("found above");
    let pickle = pickle::read(&file[data])?;
    let mut taken: BTreeMap<usize, usize> = BTreeMap::new();
    let mut locate = |key: &[u8]| {
        let shown = show(key);
        let at =
            record(&[b"data/", key].concat())?.ok_or_else(|| format!("record 'data/{shown}' is missing"))?;
        let before = taken.range(..at.end).next_back();
        if !at.is_empty() && before.is_some_and(|(_, &end)| end > at.start) {
            return Err(format!("record 'data/{shown}' overlaps another"));
        }
        if !at.is_empty() {
            taken.insert(at.start, at.end);
        }
        Ok(at)
    };
    collect(&pickle, file.len(), big_endian, Format::TorchZip, &mut locate)
}

/// What to say of a zip archive that `torch.save` did not write.
fn foreign_archive(zip: &Zip) -> String {
    if zip.names().any(|name| name.ends_with(b".onnx")) {
        "a zip archive with an ONNX model; the engine reads the .pth checkpoint it was made from".into()
    } else {
        "a zip archive, but not one that torch.save writes (it has no single data.pkl)".into()
    }
}

/// Reads the stream of pickles in `file`: magic number, version, system, object, storage keys; then, for each key,
/// the number of elements (i64) and the elements, little-endian.
pub(super) fn read_legacy(file: &[u8]) -> Parsed<Contents> {
    let mut at = 0;
    let mut next = || -> Parsed<(Pickle, usize)> {
        let pickle = pickle::read(&file[at..])?;
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
        places.insert(key, at + 8..at + 8 + size);
        at += 8 + size;
    }
    let mut locate =
        |key: &[u8]| places.get(key).cloned().ok_or_else(|| format!("storage '{}' is missing", show(key)));
    collect(&pickle, file.len(), false, Format::TorchLegacy, &mut locate)
}

/// Finds the model's weights in an unpickled checkpoint. `locate` gives the bytes of a storage.
fn collect(
    pickle: &Pickle,
    file_size: usize,
    big_endian: bool,
    format: Format,
    locate: &mut dyn FnMut(&[u8]) -> Parsed<Range<usize>>,
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

    let mut storages: HashMap<&[u8], Range<usize>> = HashMap::new();
    let mut contents = Contents { format, tensors: BTreeMap::new(), metadata: metadata(pickle) };
    let mut claimed = 0usize;
    for &(key, value) in items {
        let Value::Text(key) = key else { continue };
        let name = check_name(key.strip_prefix(b"module.").unwrap_or(key))?;
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
        claimed = claimed.saturating_add(entry.bytes());
        if contents.tensors.insert(name.to_string(), entry).is_some() {
            return Err(format!("two tensors are named '{name}'"));
        }
        // At once: a name takes a few bytes of the file, and its shape and strides a kilobyte here.
        if contents.tensors.len() > MAX_TENSORS {
            return Err(format!("more than {MAX_TENSORS} tensors"));
        }
    }
    if claimed / MAX_SHARING > file_size {
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
fn entry(tensor: Tensor, storage: Range<usize>, big_endian: bool) -> Parsed<Entry> {
    let Tensor { dtype, offset, shape, mut strides, storage: (stored, len), .. } = tensor;
    let Some(item) = dtype.size() else {
        // Listed, so that it can be refused by name if the model wants it.
        return Ok(Entry { shape, dtype, data: Data::Unreadable });
    };
    let count = elements(&shape).ok_or_else(|| format!("shape {shape:?} is too large"))?;
    let bytes = len.saturating_mul(stored.size().unwrap_or(1));
    if bytes > storage.len() {
        return Err(format!("its storage claims {bytes} bytes, the file has {}", storage.len()));
    }
    let available = bytes / item;
    if count > available {
        return Err(format!("shape {shape:?} over a storage of {available} elements"));
    }
    if count == 0 {
        return Ok(Entry {
            shape,
            dtype,
            data: Data::File { start: storage.start, strides: Vec::new(), big_endian },
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
    Ok(Entry { shape, dtype, data: Data::File { start: storage.start + offset * item, strides, big_endian } })
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
