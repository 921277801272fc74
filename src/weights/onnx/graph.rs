//! An ONNX file as nodes and constants, which borrow from it.
//!
//! Numbers of fields are those of `onnx.proto`. Nothing is computed, and nodes inside of other nodes (loops, branches) are not
//! looked at: RTMO has none.

use super::proto::{Value, fields, integers};
use crate::weights::{Data, Dtype, Entry, MAX_DIMS, MAX_TENSORS, Parsed, elements, show};
use std::collections::HashMap;

/// Nodes: RTMO-l has 1,500.
const MAX_NODES: usize = 1 << 13;
/// Inputs, outputs and attributes of a node: a concatenation has some.
const MAX_EDGES: usize = 64;
/// Those of all nodes together, and the numbers in attributes.
const MAX_ALL_EDGES: usize = 1 << 17;
/// Operations that only move a value, one after another: torch has four.
const MAX_MOVES: usize = 64;
/// Numbers of an attribute.
const MAX_NUMBERS: usize = 64;

/// An operation.
#[derive(Debug)]
pub(super) struct Node<'a> {
    pub op: &'a str,
    pub inputs: Vec<&'a str>,
    pub outputs: Vec<&'a str>,
    /// Attributes that are numbers.
    numbers: Vec<(&'a str, Vec<i64>)>,
}

impl<'a> Node<'a> {
    /// Input `i`; an empty name if it is left out.
    pub fn input(&self, i: usize) -> &'a str {
        self.inputs.get(i).copied().unwrap_or_default()
    }

    /// An attribute that is a number or a list of them.
    pub fn numbers(&self, name: &str) -> Option<&[i64]> {
        self.numbers.iter().find(|(of, _)| *of == name).map(|(_, numbers)| &numbers[..])
    }
}

/// A constant: where its values are.
#[derive(Clone, Debug)]
pub(super) struct Constant<'a> {
    pub shape: Vec<usize>,
    pub dtype: Dtype,
    /// Its values, little-endian, as many as its shape has.
    pub bytes: &'a [u8],
}

impl Constant<'_> {
    /// Integers of a small constant.
    pub fn integers(&self) -> Option<Vec<i64>> {
        if self.bytes.len() > 8 * MAX_NUMBERS {
            return None;
        }
        let read = |bytes: &[u8]| match self.dtype {
            Dtype::I64 => Some(i64::from_le_bytes(bytes.try_into().ok()?)),
            Dtype::I32 => Some(i32::from_le_bytes(bytes.try_into().ok()?).into()),
            _ => None,
        };
        self.bytes.chunks(self.dtype.size()?).map(read).collect()
    }
}

/// The file.
#[derive(Debug, Default)]
pub(super) struct Graph<'a> {
    pub nodes: Vec<Node<'a>>,
    /// By the name of what they make.
    makers: HashMap<&'a str, usize>,
    constants: HashMap<&'a str, Constant<'a>>,
    /// Inputs, outputs, attributes and their numbers so far.
    edges: usize,
    /// The first input's name and its extents, where those are numbers.
    pub input: Option<(&'a str, Vec<i64>)>,
}

impl<'a> Graph<'a> {
    /// Reads a file.
    pub fn read(file: &'a [u8]) -> Parsed<Graph<'a>> {
        let mut graph = None;
        for field in fields(file) {
            if let (7, value) = field?
                && graph.replace(value.bytes()?).is_some()
            {
                return Err("it has two graphs".into());
            }
        }
        let message = graph.ok_or("it has no graph")?;
        let mut graph = Graph::default();
        let mut inputs = Vec::new();
        for field in fields(message) {
            match field? {
                (1, value) => graph.add_node(value.bytes()?)?,
                (5, value) => {
                    let (name, constant) = constant(value.bytes()?)?;
                    graph.add_constant(name, constant)?;
                }
                (11, value) if inputs.len() < MAX_TENSORS => inputs.push(value.bytes()?),
                _ => {}
            }
        }
        for message in inputs {
            let (name, extents) = input(message)?;
            // Older files list constants among the inputs, too.
            if graph.input.is_none() && !graph.constants.contains_key(name) {
                graph.input = Some((name, extents));
            }
        }
        Ok(graph)
    }

    fn add_constant(&mut self, name: &'a str, constant: Constant<'a>) -> Parsed<()> {
        if self.constants.len() >= MAX_TENSORS {
            return Err(format!("more than {MAX_TENSORS} constants"));
        }
        match self.constants.insert(name, constant) {
            Some(_) => Err(format!("two constants are named '{}'", show(name.as_bytes()))),
            None => Ok(()),
        }
    }

    fn add_node(&mut self, message: &'a [u8]) -> Parsed<()> {
        let mut node = Node { op: "", inputs: Vec::new(), outputs: Vec::new(), numbers: Vec::new() };
        let mut value = None;
        for field in fields(message) {
            match field? {
                (1, name) if node.inputs.len() < MAX_EDGES => node.inputs.push(text(name)?),
                (2, name) if node.outputs.len() < MAX_EDGES => node.outputs.push(text(name)?),
                (1 | 2, _) => return Err(format!("a node of more than {MAX_EDGES} inputs or outputs")),
                (4, name) => node.op = text(name)?,
                (5, message) if node.numbers.len() < MAX_EDGES => {
                    let (name, attribute) = attribute(message.bytes()?)?;
                    match attribute {
                        Attribute::Numbers(numbers) => node.numbers.push((name, numbers)),
                        Attribute::Constant(constant) => value = Some(constant),
                        Attribute::Other => {}
                    }
                }
                _ => {}
            }
        }
        if let ("Constant", [name], Some(constant)) = (node.op, &node.outputs[..], value) {
            return self.add_constant(name, constant);
        }
        if self.nodes.len() >= MAX_NODES {
            return Err(format!("more than {MAX_NODES} nodes"));
        }
        let numbers: usize = node.numbers.iter().map(|(_, numbers)| 1 + numbers.len()).sum();
        self.edges += node.inputs.len() + node.outputs.len() + numbers;
        if self.edges > MAX_ALL_EDGES {
            return Err(format!("its nodes have more than {MAX_ALL_EDGES} inputs, outputs and numbers"));
        }
        for &output in node.outputs.iter().filter(|output| !output.is_empty()) {
            if self.makers.insert(output, self.nodes.len()).is_some() {
                return Err(format!("two nodes make '{}'", show(output.as_bytes())));
            }
        }
        self.nodes.push(node);
        Ok(())
    }

    /// The node that makes a value, and the number of it.
    pub fn maker(&self, value: &str) -> Option<(usize, &Node<'a>)> {
        let place = *self.makers.get(value)?;
        Some((place, &self.nodes[place]))
    }

    /// The node that makes a value if it is of this kind.
    pub fn made_by(&self, value: &str, op: &str) -> Option<&Node<'a>> {
        self.maker(value).map(|(_, node)| node).filter(|node| node.op == op)
    }

    /// A constant of this name.
    pub fn constant(&self, name: &str) -> Option<&Constant<'a>> {
        self.constants.get(name)
    }

    /// A node of this kind with one constant among its first two inputs: the other one, and the constant.
    pub fn with_constant(&self, value: &str, ops: &[&str]) -> Option<(&'a str, &Constant<'a>)> {
        let (_, node) = self.maker(value)?;
        let (a, b) = (node.input(0), node.input(1));
        if !ops.contains(&node.op) {
            return None;
        }
        match (self.constant(a), self.constant(b)) {
            (None, Some(constant)) => Some((a, constant)),
            (Some(constant), None) => Some((b, constant)),
            _ => None,
        }
    }

    /// What a value was before operations that only move or rename it.
    pub fn unmoved(&self, mut value: &'a str) -> &'a str {
        const MOVES: [&str; 8] =
            ["Identity", "Reshape", "Transpose", "Flatten", "Unsqueeze", "Squeeze", "Cast", "Dropout"];
        for _ in 0..MAX_MOVES {
            match self.maker(value) {
                Some((_, node)) if MOVES.contains(&node.op) => value = node.input(0),
                _ => break,
            }
        }
        value
    }
}

fn text<'a>(value: Value<'a>) -> Parsed<&'a str> {
    let bytes = value.bytes()?;
    if bytes.len() > 512 {
        return Err(format!("a name of {} bytes", bytes.len()));
    }
    std::str::from_utf8(bytes).map_err(|_| format!("a name is not text: '{}'", show(bytes)))
}

enum Attribute<'a> {
    Numbers(Vec<i64>),
    Constant(Constant<'a>),
    Other,
}

/// `AttributeProto`.
fn attribute(message: &[u8]) -> Parsed<(&str, Attribute<'_>)> {
    let (mut name, mut numbers, mut found) = ("", Vec::new(), None);
    for field in fields(message) {
        match field? {
            (1, value) => name = text(value)?,
            (3 | 8, value) => integers(value, &mut numbers, MAX_NUMBERS)?,
            (5, value) => found = Some(constant(value.bytes()?)?.1),
            _ => {}
        }
    }
    Ok((
        name,
        match found {
            Some(constant) => Attribute::Constant(constant),
            None if !numbers.is_empty() => Attribute::Numbers(numbers),
            None => Attribute::Other,
        },
    ))
}

/// `TensorProto`: its name, and where its values are.
fn constant(message: &[u8]) -> Parsed<(&str, Constant<'_>)> {
    let (mut dims, mut kind, mut name, mut raw, mut listed) = (Vec::new(), 0, "", None, None);
    for field in fields(message) {
        match field? {
            (1, value) => integers(value, &mut dims, MAX_DIMS)?,
            (2, value) => kind = value.number()?,
            (4, value @ Value::Bytes(_)) if listed.is_none() => listed = Some(value.bytes()?),
            (4, _) => listed = Some(&[]),
            (8, value) => name = text(value)?,
            (9, value) => raw = Some(value.bytes()?),
            (14, value) if value.number()? != 0 => {
                return Err("its weights are in other files, which are not read".into());
            }
            _ => {}
        }
    }
    let wrong = |what: String| format!("constant '{}': {what}", show(name.as_bytes()));
    let dtype = match kind {
        1 => Dtype::F32,
        6 => Dtype::I32,
        7 => Dtype::I64,
        10 => Dtype::F16,
        11 => Dtype::F64,
        16 => Dtype::Bf16,
        other => Dtype::Other(format!("ONNX type {other}")),
    };
    let shape: Option<Vec<usize>> = dims.iter().map(|&n| usize::try_from(n).ok()).collect();
    let shape = shape.ok_or_else(|| wrong(format!("shape {dims:?}")))?;
    let bytes = elements(&shape).and_then(|count| count.checked_mul(dtype.size().unwrap_or(0)));
    // Floats may be listed in a field of their own, packed: the same bytes.
    let values = raw.or(listed.filter(|_| dtype == Dtype::F32));
    let usable = dtype.size().is_some() && values.is_some();
    match bytes {
        Some(bytes) if usable && values.is_some_and(|values| values.len() == bytes) => {
            Ok((name, Constant { shape, dtype, bytes: values.unwrap_or_default() }))
        }
        // Kept without values: an error if the network wants it.
        Some(_) if !usable => {
            let dtype = Dtype::Other(format!("{dtype} in a form that is not read"));
            Ok((name, Constant { shape, dtype, bytes: &[] }))
        }
        _ => {
            let got = values.unwrap_or_default().len();
            Err(wrong(format!("shape {shape:?} of {dtype} in {got} bytes")))
        }
    }
}

/// `ValueInfoProto`: its name and extents; -1 for one that is not fixed.
fn input(message: &[u8]) -> Parsed<(&str, Vec<i64>)> {
    let (mut name, mut extents) = ("", Vec::new());
    for field in fields(message) {
        match field? {
            (1, value) => name = text(value)?,
            (2, kind) => {
                for field in fields(kind.bytes()?) {
                    let (1, tensor) = field? else { continue };
                    for field in fields(tensor.bytes()?) {
                        let (2, shape) = field? else { continue };
                        for field in fields(shape.bytes()?) {
                            let (1, dim) = field? else { continue };
                            if extents.len() == MAX_DIMS {
                                return Err(format!("an input of more than {MAX_DIMS} dimensions"));
                            }
                            let mut extent = -1;
                            for field in fields(dim.bytes()?) {
                                if let (1, Value::Number(number)) = field? {
                                    extent = number.cast_signed();
                                }
                            }
                            extents.push(extent);
                        }
                    }
                }
            }
            _ => {}
        }
    }
    Ok((name, extents))
}

/// A constant as a tensor of the checkpoint: `at` is where its bytes begin in the part.
pub(super) fn entry(constant: &Constant<'_>, part: usize, at: usize, transposed: bool) -> Entry {
    let Constant { mut shape, dtype, .. } = constant.clone();
    if matches!(dtype, Dtype::Other(_)) {
        return Entry { shape, dtype, data: Data::Unreadable };
    }
    let mut strides = Vec::new();
    if let ([rows, columns], true) = (&shape[..], transposed) {
        strides = vec![1, *columns];
        shape = vec![*columns, *rows];
    }
    Entry { shape, dtype, data: Data::Bytes { part, start: at, strides, big_endian: false } }
}
