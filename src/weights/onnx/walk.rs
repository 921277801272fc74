//! Steps back from a value to what it was made of, which note the weights that they pass.

use super::graph::{Constant, Graph, Node, entry};
use crate::weights::{Contents, Data, Dtype, Entry, Parsed, Reader, elements, show};

/// Layers of a kind, one after another: so many at most.
pub(super) const MOST: usize = 64;

/// All tensors together, as f32, may take so many times the file (half precision takes twice), and [`SLACK`].
const MAX_TENSORS_BYTES: usize = 3;
const SLACK: usize = 1 << 20;

/// A walk through a graph, and the tensors that it has found.
pub(super) struct Walk<'g, 'a> {
    pub graph: &'g Graph<'a>,
    pub contents: Contents,
    file: &'a [u8],
    part: usize,
    start: usize,
    /// Nodes whose weights were taken.
    taken: Vec<bool>,
    /// Bytes that tensors may still take, as f32: nodes may share constants, and some values are made up.
    left: usize,
}

/// A convolution that was passed.
pub(super) struct Conv<'a> {
    place: usize,
    pub input: &'a str,
    pub weight: Constant<'a>,
    bias: Option<Constant<'a>>,
}

impl Conv<'_> {
    /// Height and width of the window; 0 if they differ.
    pub fn kernel(&self) -> usize {
        match self.weight.shape[..] {
            [_, _, h, w] if h == w => h,
            _ => 0,
        }
    }

    /// Output channels.
    pub fn channels(&self) -> usize {
        self.weight.shape.first().copied().unwrap_or(0)
    }
}

/// A linear layer that was passed: `[in, out]` where `transposed`.
pub(super) struct Linear<'a> {
    pub place: usize,
    pub input: &'a str,
    pub weight: Constant<'a>,
    pub transposed: bool,
    pub bias: Option<Constant<'a>>,
}

impl Linear<'_> {
    /// Inputs and outputs.
    pub fn extents(&self) -> (usize, usize) {
        match (&self.weight.shape[..], self.transposed) {
            (&[a, b], true) => (a, b),
            (&[a, b], false) => (b, a),
            _ => (0, 0),
        }
    }
}

impl<'g, 'a> Walk<'g, 'a> {
    pub fn new(
        graph: &'g Graph<'a>,
        file: &'a [u8],
        part: usize,
        start: usize,
        contents: Contents,
    ) -> Walk<'g, 'a> {
        let left = file.len().saturating_mul(MAX_TENSORS_BYTES).saturating_add(SLACK);
        Walk { graph, contents, file, part, start, taken: vec![false; graph.nodes.len()], left }
    }

    /// That something else was expected where a value is made.
    pub fn unlike<T>(&self, value: &str, expected: &str) -> Parsed<T> {
        let got = match self.graph.maker(value) {
            Some((_, node)) => show(node.op.as_bytes()),
            None => "a constant or an input".into(),
        };
        let value = show(value.as_bytes());
        Err(format!("expected {expected}, got {got} ('{value}'); RTMO's own files are read only"))
    }

    /// Notes a tensor.
    fn add(&mut self, name: &str, entry: Entry) -> Parsed<()> {
        self.spend(&entry.shape)?;
        self.contents.add(name.as_bytes(), entry)
    }

    /// Counts the values of a shape.
    fn spend(&mut self, shape: &[usize]) -> Parsed<()> {
        let bytes = elements(shape).and_then(|count| count.checked_mul(size_of::<f32>()));
        let left = bytes.and_then(|bytes| self.left.checked_sub(bytes));
        self.left =
            left.ok_or_else(|| format!("its tensors claim more than the file of {} bytes", self.file.len()))?;
        Ok(())
    }

    /// Notes made-up values.
    pub fn fill(&mut self, name: &str, shape: &[usize], value: f32) -> Parsed<()> {
        // Before there are any.
        self.spend(shape)?;
        let count = elements(shape).unwrap_or(0);
        let entry =
            Entry { shape: shape.to_vec(), dtype: Dtype::F32, data: Data::Memory(vec![value; count]) };
        self.add(name, entry)
    }

    /// Notes values that were put together.
    pub fn made(&mut self, name: &str, shape: &[usize], values: Vec<f32>) -> Parsed<()> {
        self.add(name, Entry { shape: shape.to_vec(), dtype: Dtype::F32, data: Data::Memory(values) })
    }

    /// A constant as a tensor of this shape.
    pub fn tensor(&mut self, name: &str, constant: &Constant<'a>, shape: &[usize]) -> Parsed<()> {
        if elements(&constant.shape) != elements(shape) {
            return Err(format!("'{name}': expected shape {shape:?}, got {:?}", constant.shape));
        }
        let reshaped = Constant { shape: shape.to_vec(), ..constant.clone() };
        self.constant(name, &reshaped, false)
    }

    fn constant(&mut self, name: &str, constant: &Constant<'a>, transposed: bool) -> Parsed<()> {
        // Its bytes are a part of the file's.
        let at = constant.bytes.as_ptr().addr().wrapping_sub(self.file.as_ptr().addr());
        let at = if at <= self.file.len() { at } else { 0 };
        let entry = entry(constant, self.part, self.start + at, transposed);
        self.add(name, entry)
    }

    /// A constant's values, row-major.
    pub fn values(&self, constant: &Constant<'a>, transposed: bool) -> Parsed<Vec<f32>> {
        let (shape, strides) = match (&constant.shape[..], transposed) {
            (&[rows, columns], true) => (vec![columns, rows], vec![1, columns]),
            (shape, _) => (shape.to_vec(), Vec::new()),
        };
        let read = Reader { bytes: constant.bytes, shape: &shape, strides: &strides, big_endian: false };
        match constant.dtype {
            Dtype::F32 => Ok(read.all(f32::from_le_bytes)),
            Dtype::F16 => Ok(read.all(|bytes| half::f16::from_le_bytes(bytes).to_f32())),
            Dtype::F64 => Ok(read.all(|bytes| f64::from_le_bytes(bytes) as f32)),
            ref other => Err(format!("weights of type {other}")),
        }
    }

    /// Takes a node's weights, which belong to one layer.
    pub fn take(&mut self, place: usize, name: &str) -> Parsed<()> {
        match std::mem::replace(&mut self.taken[place], true) {
            true => Err(format!("'{name}' and another layer have the same weights")),
            false => Ok(()),
        }
    }

    /// The convolution that makes a value.
    pub fn conv(&self, value: &'a str) -> Option<Conv<'a>> {
        let value = self.graph.unmoved(value);
        let (place, node) = self.graph.maker(value).filter(|(_, node)| node.op == "Conv")?;
        let weight = self.graph.constant(node.input(1))?.clone();
        let bias = self.graph.constant(node.input(2)).cloned();
        let whole = (bias.is_some() || node.input(2).is_empty()) && weight.shape.len() == 4;
        whole.then_some(Conv { place, input: node.input(0), weight, bias })
    }

    /// The convolution whose SiLU makes a value.
    pub fn activated(&self, value: &'a str) -> Option<Conv<'a>> {
        self.conv(self.before_silu(value)?)
    }

    /// What a SiLU was made of: `x * sigmoid(x)`.
    pub fn before_silu(&self, value: &'a str) -> Option<&'a str> {
        let node = self.graph.made_by(self.graph.unmoved(value), "Mul")?;
        let of = |x: &'a str, gate: &'a str| {
            self.graph.made_by(gate, "Sigmoid").is_some_and(|gate| gate.input(0) == x).then_some(x)
        };
        of(node.input(0), node.input(1)).or_else(|| of(node.input(1), node.input(0)))
    }

    /// The nodes that read a value.
    pub fn readers(&self, value: &'a str) -> impl Iterator<Item = &'g Node<'a>> {
        let graph: &'g Graph<'a> = self.graph;
        graph.nodes.iter().filter(move |node| node.inputs.contains(&value))
    }

    /// Notes a convolution and a batch norm of this epsilon after it, which was folded into it. Returns its input.
    pub fn conv_bn(&mut self, name: &str, conv: &Conv<'a>, kernel: usize, eps: f32) -> Parsed<&'a str> {
        self.take(conv.place, name)?;
        if conv.kernel() != kernel {
            let shape = &conv.weight.shape;
            return Err(format!("'{name}': expected a window of {kernel}x{kernel}, got shape {shape:?}"));
        }
        self.constant(&format!("{name}.conv.weight"), &conv.weight, false)?;
        let n = conv.channels();
        self.norm(&format!("{name}.bn"), n, conv.bias.as_ref(), eps)?;
        Ok(conv.input)
    }

    /// A batch norm of `n` channels that adds a bias and changes nothing else.
    pub fn norm(&mut self, name: &str, n: usize, bias: Option<&Constant<'a>>, eps: f32) -> Parsed<()> {
        match bias {
            Some(bias) => self.tensor(&format!("{name}.bias"), bias, &[n])?,
            None => self.fill(&format!("{name}.bias"), &[n], 0.0)?,
        }
        self.fill(&format!("{name}.weight"), &[n], 1.0)?;
        self.fill(&format!("{name}.running_mean"), &[n], 0.0)?;
        self.fill(&format!("{name}.running_var"), &[n], 1.0 - eps)
    }

    /// Notes a convolution with a bias and no batch norm. Returns its input.
    pub fn conv_bias(&mut self, name: &str, conv: &Conv<'a>) -> Parsed<&'a str> {
        self.take(conv.place, name)?;
        self.constant(&format!("{name}.weight"), &conv.weight, false)?;
        let bias = conv.bias.as_ref().ok_or_else(|| format!("'{name}' has no bias"))?;
        self.tensor(&format!("{name}.bias"), bias, &[conv.channels()])?;
        Ok(conv.input)
    }

    /// The linear layer that makes a value: `x W + b`, `x W`, or `Gemm`.
    pub fn linear(&self, value: &'a str) -> Option<Linear<'a>> {
        let value = self.graph.unmoved(value);
        let (value, bias) = match self.graph.with_constant(value, &["Add"]) {
            Some((product, bias)) => (self.graph.unmoved(product), Some(bias.clone())),
            None => (value, None),
        };
        let (place, node) = self.graph.maker(value)?;
        let weight = self.graph.constant(node.input(1)).filter(|weight| weight.shape.len() == 2)?.clone();
        let input = node.input(0);
        match node.op {
            "MatMul" => Some(Linear { place, input, weight, transposed: true, bias }),
            "Gemm" => {
                let transposed = node.numbers("transB").is_none_or(|flag| flag == [0]);
                let own = self.graph.constant(node.input(2)).cloned();
                let bias = if bias.is_none() { own } else { None };
                Some(Linear { place, input, weight, transposed, bias })
            }
            _ => None,
        }
    }

    /// Notes a linear layer's weight, and its bias if it should have one. Returns its input.
    pub fn take_linear(&mut self, name: &str, linear: &Linear<'a>, biased: bool) -> Parsed<&'a str> {
        self.take(linear.place, name)?;
        self.constant(&format!("{name}.weight"), &linear.weight, linear.transposed)?;
        match (&linear.bias, biased) {
            (Some(bias), true) => self.tensor(&format!("{name}.bias"), bias, &[linear.extents().1])?,
            (None, false) => {}
            _ => return Err(format!("'{name}': a bias is missing, or there should be none")),
        }
        Ok(linear.input)
    }

    /// Whether a convolution was taken.
    pub fn is_taken(&self, conv: &Conv<'_>) -> bool {
        self.taken[conv.place]
    }

    /// That no convolution is left over: then it is another network.
    pub fn check_all_taken(&self) -> Parsed<()> {
        let left = self.graph.nodes.iter().zip(&self.taken);
        match left.filter(|(node, taken)| node.op == "Conv" && !**taken).count() {
            0 => Ok(()),
            n => Err(format!("{n} convolutions have no place in RTMO")),
        }
    }
}
