//! Pickle as data: a machine that builds plain containers and tensor descriptions, and calls nothing.
//!
//! Python's unpickler runs whatever function a file names. Here a name is only ever a name: the few that torch
//! writes around tensors are recognised and interpreted, every other becomes [`Object::Opaque`], which swallows
//! its arguments and state. Objects refer to each other by index, so neither depth nor cycles cost anything, and
//! every opcode adds at most one value or small object, so [`MAX_OPS`] bounds memory (to some 50 MB, whatever the
//! file) as well as time.
//!
//! Opcodes of protocols 2 to 5, as CPython's `Lib/pickle.py` defines them.

use super::{Dtype, MAX_DIMS, Parsed, show};
use std::collections::HashMap;
use std::fmt;

/// A published checkpoint takes some 50 thousand opcodes; with optimizer and averaged weights a few times that.
pub(super) const MAX_OPS: usize = 1 << 19;
/// Storages are called by numbers.
const MAX_KEY: usize = 256;

/// A value on the stack, in the memo or in a container.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// An integer of more than 64 bits, as little-endian two's complement.
    BigInt(&'a [u8]),
    Float(f64),
    /// A string; UTF-8 is not yet checked.
    Text(&'a [u8]),
    Bytes,
    /// Index into the objects.
    Object(Id),
}

/// A module-level name of Python: a function or class.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name<'a> {
    module: &'a [u8],
    name: &'a [u8],
}

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", show(self.module), show(self.name))
    }
}

/// Index of an object; [`MAX_OPS`] of them fit.
type Id = u32;

#[derive(Debug)]
pub(super) enum Object<'a> {
    Tuple(Vec<Value<'a>>),
    /// A list or a set.
    List(Vec<Value<'a>>),
    Dict(Vec<(Value<'a>, Value<'a>)>),
    Global(Name<'a>),
    /// Something that only running Python code could build.
    Opaque(Name<'a>),
    /// Torch's persistent id, `('storage', class, key, location, elements)`.
    Storage {
        class: Id,
        key: &'a [u8],
        len: i64,
    },
    /// Arguments of `torch._utils._rebuild_tensor_v2`; `dtype` is that of `_rebuild_tensor_v3`.
    Tensor {
        storage: Id,
        offset: i64,
        shape: Id,
        strides: Id,
        dtype: Option<Id>,
    },
}

/// A tensor as the pickle describes it, in elements; nothing is checked against the rest of the file yet.
#[derive(Clone, Debug)]
pub(super) struct Tensor<'a> {
    pub dtype: Dtype,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
    /// Name of the storage's record in the file.
    pub key: &'a [u8],
    /// Element type and number of elements of the storage.
    pub storage: (Dtype, usize),
}

/// One unpickled object with all that it refers to.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    objects: Objects<'a>,
    pub root: Value<'a>,
    /// Bytes read, up to and with STOP.
    pub size: usize,
}

impl<'a> Pickle<'a> {
    /// The object behind a value that is not a scalar.
    pub fn object(&self, value: Value<'a>) -> Option<&Object<'a>> {
        self.objects.get(value)
    }

    /// The items of a dictionary.
    pub fn dict(&self, value: Value<'a>) -> Option<&[(Value<'a>, Value<'a>)]> {
        match self.object(value) {
            Some(Object::Dict(items)) => Some(items),
            _ => None,
        }
    }

    /// The value of `key` in a dictionary; of several the last, as in Python.
    pub fn get(&self, value: Value<'a>, key: &str) -> Option<Value<'a>> {
        let items = self.dict(value)?;
        items.iter().rev().find(|(k, _)| matches!(k, Value::Text(t) if *t == key.as_bytes())).map(|&(_, v)| v)
    }

    /// Class of each storage that the pickle names, for [`storage_dtype`].
    pub fn storages(&self) -> HashMap<&'a [u8], Name<'a>> {
        let storage = |object: &Object<'a>| match *object {
            Object::Storage { class, key, .. } => {
                Some((key, self.objects.callable(Value::Object(class)).ok()?))
            }
            _ => None,
        };
        self.objects.0.iter().filter_map(storage).collect()
    }

    /// The tensor behind `value`, `None` if it is something else.
    pub fn tensor(&self, value: Value<'a>) -> Parsed<Option<Tensor<'a>>> {
        let Some(&Object::Tensor { storage, offset, shape, strides, dtype }) = self.object(value) else {
            return Ok(None);
        };
        let Object::Storage { class, key, len } = self.objects.0[storage as usize] else {
            return Err("no storage".into());
        };
        let extents = |id| -> Parsed<Vec<usize>> {
            let items = self.objects.tuple(Value::Object(id))?;
            if items.len() > MAX_DIMS {
                return Err(format!("{} dimensions", items.len()));
            }
            items.iter().map(|&value| integer(value).and_then(size)).collect()
        };
        let (shape, strides) = (extents(shape)?, extents(strides)?);
        if shape.len() != strides.len() {
            return Err(format!("{} extents and {} strides", shape.len(), strides.len()));
        }
        let stored = storage_dtype(self.objects.callable(Value::Object(class))?);
        let dtype = match dtype {
            Some(id) => Dtype::Other(self.objects.callable(Value::Object(id))?.to_string()),
            None => stored.clone(),
        };
        Ok(Some(Tensor { dtype, offset: size(offset)?, shape, strides, key, storage: (stored, size(len)?) }))
    }
}

#[derive(Debug, Default)]
struct Objects<'a>(Vec<Object<'a>>);

impl<'a> Objects<'a> {
    fn get(&self, value: Value<'a>) -> Option<&Object<'a>> {
        match value {
            Value::Object(id) => self.0.get(id as usize),
            _ => None,
        }
    }

    fn add(&mut self, object: Object<'a>) -> Value<'a> {
        self.0.push(object);
        Value::Object((self.0.len() - 1) as Id)
    }

    fn callable(&self, value: Value<'a>) -> Parsed<Name<'a>> {
        match self.get(value) {
            Some(Object::Global(name) | Object::Opaque(name)) => Ok(*name),
            _ => Err("a call of something that is not a function".into()),
        }
    }

    fn tuple(&self, value: Value<'a>) -> Parsed<&[Value<'a>]> {
        match self.get(value) {
            Some(Object::Tuple(items) | Object::List(items)) => Ok(items),
            _ => Err("a tuple was expected".into()),
        }
    }
}

/// Unpickles the object at the start of `bytes`; what follows its STOP is left alone. Takes the opcodes off those that
/// the file has left, of [`MAX_OPS`].
pub(super) fn read<'a>(bytes: &'a [u8], left: &mut usize) -> Parsed<Pickle<'a>> {
    let mut machine = Machine {
        bytes,
        at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        objects: Objects::default(),
    };
    let root = machine.run(left).map_err(|what| format!("pickle: {what} (byte {})", machine.at))?;
    Ok(Pickle { objects: machine.objects, root, size: machine.at })
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    /// Stack heights at the open marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    objects: Objects<'a>,
}

impl<'a> Machine<'a> {
    fn take(&mut self, len: usize) -> Parsed<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let taken =
            rest.get(..len).ok_or_else(|| format!("{len} bytes expected, {} are left", rest.len()))?;
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("N bytes"))
    }

    fn byte(&mut self) -> Parsed<u8> {
        Ok(self.array::<1>()?[0])
    }

    /// `len` bytes after a little-endian length of `N` bytes.
    fn counted<const N: usize>(&mut self) -> Parsed<&'a [u8]> {
        let mut len = [0; 8];
        len[..N].copy_from_slice(&self.array::<N>()?);
        self.take(usize::try_from(u64::from_le_bytes(len)).unwrap_or(usize::MAX))
    }

    fn line(&mut self) -> Parsed<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let len = rest.iter().position(|&b| b == b'\n').ok_or("unfinished line")?;
        self.at += len + 1;
        Ok(&rest[..len])
    }

    fn push(&mut self, value: Value<'a>) {
        self.stack.push(value);
    }

    fn push_object(&mut self, object: Object<'a>) {
        let value = self.objects.add(object);
        self.push(value);
    }

    fn pop(&mut self) -> Parsed<Value<'a>> {
        if self.stack.len() <= self.marks.last().copied().unwrap_or(0) {
            return Err("stack is empty".into());
        }
        Ok(self.stack.pop().expect("not empty"))
    }

    /// Everything above the last mark.
    fn pop_mark(&mut self) -> Parsed<Vec<Value<'a>>> {
        let mark = self.marks.pop().ok_or("no mark")?;
        // Not `split_off`, which may hand out the whole stack's capacity.
        Ok(self.stack.drain(mark..).collect())
    }

    fn pop_tuple(&mut self, len: usize) -> Parsed<Vec<Value<'a>>> {
        let mut items = vec![Value::None; len];
        for item in items.iter_mut().rev() {
            *item = self.pop()?;
        }
        Ok(items)
    }

    fn top(&mut self) -> Parsed<&mut Object<'a>> {
        if self.stack.len() <= self.marks.last().copied().unwrap_or(0) {
            return Err("stack is empty".into());
        }
        match self.stack.last() {
            Some(&Value::Object(id)) => Ok(&mut self.objects.0[id as usize]),
            _ => Err("a container was expected".into()),
        }
    }

    fn append(&mut self, items: impl IntoIterator<Item = Value<'a>>) -> Parsed<()> {
        match self.top()? {
            Object::List(list) => list.extend(items),
            Object::Opaque(_) => {}
            _ => return Err("append to something that is not a list".into()),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Value<'a>]) -> Parsed<()> {
        if !items.len().is_multiple_of(2) {
            return Err("a key without a value".into());
        }
        match self.top()? {
            Object::Dict(dict) => dict.extend(items.chunks_exact(2).map(|kv| (kv[0], kv[1]))),
            Object::Opaque(_) => {}
            _ => return Err("item set on something that is not a dictionary".into()),
        }
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Parsed<()> {
        let value = *self.memo.get(&key).ok_or_else(|| format!("nothing was memorised as {key}"))?;
        self.push(value);
        Ok(())
    }

    fn memorise(&mut self, key: u32) -> Parsed<()> {
        let value = *self.stack.last().ok_or("nothing to memorise")?;
        self.memo.insert(key, value);
        Ok(())
    }

    fn run(&mut self, left: &mut usize) -> Parsed<Value<'a>> {
        while let Some(rest) = left.checked_sub(1) {
            *left = rest;
            if self.at == self.bytes.len() {
                return Err("it ends without STOP: truncated".into());
            }
            let op = self.byte()?;
            if op == b'.' {
                return self.pop();
            }
            self.step(op)?;
        }
        Err(format!("more than {MAX_OPS} opcodes"))
    }

    fn step(&mut self, op: u8) -> Parsed<()> {
        match op {
            // PROTO, FRAME: a frame is a hint for buffered readers, but a false one means damage.
            0x80 => {
                let protocol = self.byte()?;
                if !(2..=5).contains(&protocol) {
                    return Err(format!("protocol {protocol}; 2 to 5 are known"));
                }
            }
            0x95 => {
                let len = u64::from_le_bytes(self.array()?);
                let left = self.bytes.len() - self.at;
                if len > left as u64 {
                    return Err(format!("a frame of {len} bytes, {left} are left"));
                }
            }
            // The stack itself: MARK, POP, POP_MARK, DUP.
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            b'1' => drop(self.pop_mark()?),
            b'2' => {
                let value = self.pop()?;
                self.stack.extend([value, value]);
            }
            // BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET.
            b'q' => {
                let key = self.byte()?;
                self.memorise(key.into())?;
            }
            b'r' => {
                let key = u32::from_le_bytes(self.array()?);
                self.memorise(key)?;
            }
            0x94 => self.memorise(self.memo.len() as u32)?,
            b'h' => {
                let key = self.byte()?;
                self.recall(key.into())?;
            }
            b'j' => {
                let key = u32::from_le_bytes(self.array()?);
                self.recall(key)?;
            }
            // Scalars: NONE, NEWTRUE, NEWFALSE, BININT, BININT1, BININT2, LONG1, LONG4, BINFLOAT.
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()));
            }
            b'K' => {
                let value = self.byte()?;
                self.push(Value::Int(value.into()));
            }
            b'M' => {
                let value = u16::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()));
            }
            0x8a => {
                let digits = self.counted::<1>()?;
                self.push(long(digits));
            }
            0x8b => {
                let digits = self.counted::<4>()?;
                self.push(long(digits));
            }
            b'G' => {
                let value = f64::from_be_bytes(self.array()?);
                self.push(Value::Float(value));
            }
            // Strings: SHORT_BINSTRING, BINSTRING, BINUNICODE, SHORT_BINUNICODE, BINUNICODE8.
            b'U' | 0x8c => {
                let text = self.counted::<1>()?;
                self.push(Value::Text(text));
            }
            b'T' | b'X' => {
                let text = self.counted::<4>()?;
                self.push(Value::Text(text));
            }
            0x8d => {
                let text = self.counted::<8>()?;
                self.push(Value::Text(text));
            }
            // Bytes, whose content nothing here needs: SHORT_BINBYTES, BINBYTES, BINBYTES8, BYTEARRAY8.
            b'C' => {
                self.counted::<1>()?;
                self.push(Value::Bytes);
            }
            b'B' => {
                self.counted::<4>()?;
                self.push(Value::Bytes);
            }
            0x8e | 0x96 => {
                self.counted::<8>()?;
                self.push(Value::Bytes);
            }
            // Tuples: EMPTY_TUPLE, TUPLE, TUPLE1 to TUPLE3.
            b')' => self.push_object(Object::Tuple(Vec::new())),
            b't' => {
                let items = self.pop_mark()?;
                self.push_object(Object::Tuple(items));
            }
            0x85..=0x87 => {
                let items = self.pop_tuple(usize::from(op - 0x84))?;
                self.push_object(Object::Tuple(items));
            }
            // Lists and sets: EMPTY_LIST, EMPTY_SET, LIST, FROZENSET, APPEND, APPENDS, ADDITEMS.
            b']' | 0x8f => self.push_object(Object::List(Vec::new())),
            b'l' | 0x91 => {
                let items = self.pop_mark()?;
                self.push_object(Object::List(items));
            }
            b'a' => {
                let item = self.pop()?;
                self.append([item])?;
            }
            b'e' | 0x90 => {
                let items = self.pop_mark()?;
                self.append(items)?;
            }
            // Dictionaries: EMPTY_DICT, DICT, SETITEM, SETITEMS.
            b'}' => self.push_object(Object::Dict(Vec::new())),
            b'd' => {
                let items = self.pop_mark()?;
                self.push_object(Object::Dict(Vec::new()));
                self.set_items(&items)?;
            }
            b's' => {
                let items = self.pop_tuple(2)?;
                self.set_items(&items)?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set_items(&items)?;
            }
            // Names and what Python would do with them: GLOBAL, STACK_GLOBAL, REDUCE, NEWOBJ, NEWOBJ_EX, BUILD,
            // INST, OBJ, BINPERSID.
            b'c' => {
                let name = Name { module: self.line()?, name: self.line()? };
                self.push_object(Object::Global(name));
            }
            0x93 => match self.pop_tuple(2)?[..] {
                [Value::Text(module), Value::Text(name)] => {
                    self.push_object(Object::Global(Name { module, name }))
                }
                _ => return Err("a global whose name is not text".into()),
            },
            b'R' => {
                let call = self.pop_tuple(2)?;
                let value = self.reduce(call[0], call[1])?;
                self.push(value);
            }
            0x81 => {
                let call = self.pop_tuple(2)?;
                let name = self.objects.callable(call[0])?;
                self.push_object(Object::Opaque(name));
            }
            0x92 => {
                let call = self.pop_tuple(3)?;
                let name = self.objects.callable(call[0])?;
                self.push_object(Object::Opaque(name));
            }
            b'b' => {
                // The state of an OrderedDict or Parameter holds no values of its own; all others are opaque.
                self.pop()?;
                self.top()?;
            }
            b'i' => {
                let name = Name { module: self.line()?, name: self.line()? };
                self.pop_mark()?;
                self.push_object(Object::Opaque(name));
            }
            b'o' => {
                let call = self.pop_mark()?;
                let name = self.objects.callable(*call.first().ok_or("an object without a class")?)?;
                self.push_object(Object::Opaque(name));
            }
            b'Q' => {
                let id = self.pop()?;
                let object = self.persistent(id)?;
                self.push_object(object);
            }
            0x82..=0x84 => return Err("a code of the extension registry".into()),
            0x97 | 0x98 => return Err("an out-of-band buffer".into()),
            b'F' | b'I' | b'L' | b'S' | b'V' | b'P' | b'g' | b'p' => {
                return Err("an opcode of protocols 0 and 1; torch writes protocol 2".into());
            }
            _ => return Err(format!("unknown opcode 0x{op:02x}: damaged file")),
        }
        Ok(())
    }

    /// What `function(*args)` stands for.
    fn reduce(&mut self, function: Value<'a>, args: Value<'a>) -> Parsed<Value<'a>> {
        let opaque = matches!(self.objects.get(function), Some(Object::Opaque(_)));
        let name = self.objects.callable(function)?;
        let args = match self.objects.tuple(args) {
            // The longest known list of arguments has 8.
            Ok(args) if !opaque && args.len() <= 8 => args.to_vec(),
            _ => return Ok(self.objects.add(Object::Opaque(name))),
        };
        let object = match (name.module, name.name, &args[..]) {
            (b"collections", b"OrderedDict", []) => Object::Dict(Vec::new()),
            (b"torch._utils", b"_rebuild_parameter", [data, _, _])
            | (b"torch._utils", b"_rebuild_parameter_with_state", [data, _, _, _]) => return Ok(*data),
            (b"torch._utils", b"_rebuild_tensor", [_, _, _, _])
            | (b"torch._utils", b"_rebuild_tensor_v2", [_, _, _, _, _, _]) => tensor(&args, None)?,
            (b"torch._utils", b"_rebuild_tensor_v2", [_, _, _, _, _, _, marks]) => {
                // Marks say that a view is to be negated or conjugated when it is read.
                match self.objects.get(*marks) {
                    None => {}
                    Some(Object::Dict(marks)) if marks.is_empty() => {}
                    Some(_) => return Err("a tensor that is a negated or conjugated view".into()),
                }
                tensor(&args, None)?
            }
            (b"torch._utils", b"_rebuild_tensor_v3", [_, _, _, _, _, _, dtype, ..]) => {
                tensor(&args, Some(*dtype))?
            }
            _ => Object::Opaque(name),
        };
        Ok(self.objects.add(object))
    }

    /// Resolves a persistent id.
    fn persistent(&self, id: Value<'a>) -> Parsed<Object<'a>> {
        match *self.objects.tuple(id)? {
            // The legacy format adds what the storage is a view of, which is None since torch 0.4.
            [Value::Text(b"storage"), Value::Object(class), Value::Text(key), Value::Text(_), len]
            | [
                Value::Text(b"storage"),
                Value::Object(class),
                Value::Text(key),
                Value::Text(_),
                len,
                Value::None,
            ] => match key.len() > MAX_KEY {
                true => Err(format!("a storage key of {} bytes, at most {MAX_KEY} are accepted", key.len())),
                false => Ok(Object::Storage { class, key, len: integer(len)? }),
            },
            // A whole module, saved with its class and source.
            [Value::Text(b"module"), class, ..] => Ok(Object::Opaque(self.objects.callable(class)?)),
            _ => Err("an unknown kind of persistent id".into()),
        }
    }
}

/// A tensor from `(storage, offset, shape, strides, ...)`.
fn tensor<'a>(args: &[Value<'a>], dtype: Option<Value<'a>>) -> Parsed<Object<'a>> {
    let id = |value| match value {
        Value::Object(id) => Ok(id),
        _ => Err("a tensor with a scalar where its storage, shape, strides or dtype belongs".to_string()),
    };
    Ok(Object::Tensor {
        storage: id(args[0])?,
        offset: integer(args[1])?,
        shape: id(args[2])?,
        strides: id(args[3])?,
        dtype: dtype.map(id).transpose()?,
    })
}

fn integer(value: Value) -> Parsed<i64> {
    match value {
        Value::Int(n) => Ok(n),
        _ => Err("a size that is not a 64-bit integer".into()),
    }
}

fn size(n: i64) -> Parsed<usize> {
    usize::try_from(n).map_err(|_| format!("a size of {n}"))
}

/// An integer in little-endian two's complement.
fn long(digits: &[u8]) -> Value<'_> {
    if digits.len() > 8 {
        return Value::BigInt(digits);
    }
    let sign = if digits.last().is_some_and(|&top| top >= 0x80) { 0xff } else { 0 };
    let mut bytes = [sign; 8];
    bytes[..digits.len()].copy_from_slice(digits);
    Value::Int(i64::from_le_bytes(bytes))
}

/// Element type of a typed storage class, such as `torch.HalfStorage`.
pub(super) fn storage_dtype(class: Name) -> Dtype {
    match class.name {
        b"FloatStorage" => Dtype::F32,
        b"HalfStorage" => Dtype::F16,
        b"BFloat16Storage" => Dtype::Bf16,
        b"DoubleStorage" => Dtype::F64,
        b"LongStorage" => Dtype::I64,
        b"IntStorage" => Dtype::I32,
        b"ShortStorage" => Dtype::I16,
        b"CharStorage" => Dtype::I8,
        b"ByteStorage" | b"UntypedStorage" => Dtype::U8,
        b"BoolStorage" => Dtype::Bool,
        _ => Dtype::Other(class.to_string()),
    }
}
