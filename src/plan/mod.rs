//! The network as data: a static list of fused steps over buffers whose shapes, lifetimes and memory offsets
//! are known before the first run.
//!
//! [`crate::model`] builds a plan and knows no device; [`crate::backend`]s execute plans and know no RTMO.
//! A plan describes one image; a backend may run it for several at once.
//!
//! Layout conventions, for every backend:
//! * maps are NHWC: pixel `(y, x)` of a `[h, w, c]` buffer starts at element `(y * w + x) * c`;
//! * a [`View`] is a channel range of a buffer, so a concatenation costs nothing: producers write slices;
//! * convolution weights are `[cout, kh, kw, cin / groups]`, linear weights `[out, in]`, all f32;
//! * convolutions pad with zeros, `pad` pixels on each side; output size is `ceil(in / stride)`;
//! * every channel of every buffer is written by one step, once, and read later only: see [`Plan::check`].

mod arena;
mod check;

pub(crate) use arena::place;
pub use arena::{Arena, Lifetime};

/// Index of a [`Buffer`] in its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub usize);

/// Index of a constant [`Tensor`] in its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(pub usize);

/// A constant of the network, in f32 (folded in f64, then rounded once).
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Name for messages: the upstream module it comes from.
    pub name: String,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// Row-major values.
    pub data: Vec<f32>,
}

/// Extents of a [`Buffer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// A feature map of one image, NHWC.
    Map {
        /// Rows.
        h: usize,
        /// Columns.
        w: usize,
    },
    /// One row of channels per survivor of [`Op::Select`]; how many is known at run time only.
    Survivors,
}

impl Extent {
    /// Pixels of a map; 1 for survivor rows.
    pub fn pixels(self) -> usize {
        match self {
            Extent::Map { h, w } => h * w,
            Extent::Survivors => 1,
        }
    }
}

/// Memory that steps write and read.
#[derive(Clone, Debug)]
pub struct Buffer {
    /// Name for messages and dumps.
    pub name: String,
    /// Spatial extents.
    pub extent: Extent,
    /// Channels; also the pitch from one pixel (or survivor) to the next.
    pub c: usize,
}

/// Channels `c0 .. c0 + c` of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// The buffer.
    pub buffer: BufferId,
    /// First channel.
    pub c0: usize,
    /// Number of channels.
    pub c: usize,
}

impl View {
    /// Channels `c0 .. c0 + c` of this view.
    ///
    /// # Panics
    /// If it has fewer.
    pub fn slice(self, c0: usize, c: usize) -> View {
        assert!(c0 + c <= self.c, "channel slice {c0}..{} of a view of {}", c0 + c, self.c);
        View { buffer: self.buffer, c0: self.c0 + c0, c }
    }

    /// Whether both are of one buffer, and have a channel in common.
    pub fn overlaps(self, other: View) -> bool {
        self.buffer == other.buffer && self.c0 < other.c0 + other.c && other.c0 < self.c0 + self.c
    }
}

/// Activation at the end of a fused step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    /// Identity.
    None,
    /// `x * sigmoid(x)`.
    Silu,
    /// `x * Phi(x)` with the exact Gaussian CDF (erf), as `torch.nn.GELU()`.
    Gelu,
}

/// What a convolution adds before its activation, besides the bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreAdd {
    /// Nothing.
    None,
    /// A map of the output's extents.
    Same(View),
    /// A map of half the output's height and width, nearest-neighbour upsampled: output pixel `(y, x)` takes
    /// `(y / 2, x / 2)`.
    Upsampled(View),
    /// A constant `[h, w, cout]`.
    Table(TensorId),
}

/// `dst = act(conv(src) + bias + pre_add) + post_add`.
#[derive(Clone, Debug)]
pub struct Conv {
    /// Input map.
    pub src: View,
    /// Output map; may be a channel slice.
    pub dst: View,
    /// `[cout, kernel, kernel, cin / groups]`.
    pub weight: TensorId,
    /// `[cout]`.
    pub bias: TensorId,
    /// Kernel height and width: 1, 3, or 6 (the stem).
    pub kernel: usize,
    /// 1 or 2.
    pub stride: usize,
    /// Zero padding on every side.
    pub pad: usize,
    /// Channel groups; output group `g` sees input group `g` only.
    pub groups: usize,
    /// Added before the activation.
    pub pre_add: PreAdd,
    /// The activation.
    pub act: Act,
    /// Added after the activation (a residual); extents of the output.
    pub post_add: Option<View>,
}

/// Most head levels of a plan.
pub const MAX_LEVELS: usize = 4;

/// One head level as [`Op::Select`] sees it.
#[derive(Clone, Debug)]
pub struct GridLevel {
    /// Class logits, one channel.
    pub cls: View,
    /// Box regression, four channels: `x, y` offsets and log `w, h`, in units of the stride.
    pub bbox: View,
    /// Pixels of the network input per grid cell.
    pub stride: usize,
}

/// Weights of the Gated Attention Unit over the `K` keypoint tokens of a survivor (mmpose `RTMCCBlock`;
/// paper section 3.1, arXiv 2202.10447): `x` is `[K, d]`,
///
/// ```text
/// n = x / max(|x| / sqrt(d), 1e-5) * norm_gain          (ScaleNorm, row by row)
/// u, v, b = split(SiLU(n uv^T), [e, e, s])
/// q = b * q_gain + q_bias      k = b * k_gain + k_bias  (biases hold the positional encoding)
/// A = relu(q k^T / sqrt(s))^2                           [K, K]
/// dst = (u * (A v)) out^T + x * residual_gain
/// ```
#[derive(Clone, Debug)]
pub struct Gau {
    /// Survivor rows of `K * d` channels.
    pub src: View,
    /// Survivor rows of `K * d` channels.
    pub dst: View,
    /// `K`.
    pub tokens: usize,
    /// `d`, channels of a token in and out.
    pub dim: usize,
    /// `e`, width of u and v.
    pub expansion: usize,
    /// `s`, width of queries and keys.
    pub key_dim: usize,
    /// ScaleNorm's gain, `[1]`.
    pub norm_gain: TensorId,
    /// `[2 e + s, d]`.
    pub uv: TensorId,
    /// `[s]`.
    pub q_gain: TensorId,
    /// `[K, s]`.
    pub q_bias: TensorId,
    /// `[s]`.
    pub k_gain: TensorId,
    /// `[K, s]`.
    pub k_bias: TensorId,
    /// `[d, e]`.
    pub out: TensorId,
    /// `[d]`.
    pub residual_gain: TensorId,
}

/// One axis of the Dynamic Coordinate Classifier.
#[derive(Clone, Copy, Debug)]
pub struct BinAxis {
    /// Bins over the padded box: 192 for x, 256 for y.
    pub bins: usize,
    /// `[pe_dim, d]`: rotates a keypoint vector onto the encodings, `r = weight f` (the transposed `x_fc` / `y_fc`
    /// matrix; its bias is constant over the bins, so softmax ignores it).
    pub weight: TensorId,
}

/// The Dynamic Coordinate Classifier (paper section 3.2, equations 1 to 4; mmpose `DCC.forward_test`).
///
/// For a survivor with box centre `c`, size `s`, and grid point `g` the bins of an axis lie at
/// `x_i = c - g + t_i * padding * s`, `t = linspace(-0.5, 0.5, bins)`, relative to the grid point. With
/// `PE(x) = [cos(x / T), sin(x / T)]`, `T_j = temperature^(j / (pe_dim / 2))`, `j = 0 .. pe_dim / 2`, and
/// `p = softmax_i(r . PE(x_i))`, a keypoint's coordinate is `g + sum_i p_i x_i`.
#[derive(Clone, Debug)]
pub struct BinDecode {
    /// Survivor rows of `K * d` channels: the keypoint vectors `f`.
    pub src: View,
    /// Survivor rows of `K * 2` channels: x, y of each keypoint in network-input pixels.
    pub dst: View,
    /// `K`.
    pub tokens: usize,
    /// `d`.
    pub dim: usize,
    /// Channels of `PE`: 128.
    pub pe_dim: usize,
    /// 300 in every published model.
    pub temperature: f32,
    /// The box's padding: 1.25.
    pub padding: f32,
    /// Horizontal bins.
    pub x: BinAxis,
    /// Vertical bins.
    pub y: BinAxis,
}

/// Everything a backend must be able to do. Closed on purpose: a new operation does not compile until every
/// backend has it.
#[derive(Clone, Debug)]
pub enum Op {
    /// The photo, letterboxed: BGR, 0..255, three channels.
    Letterbox {
        /// The network input.
        dst: View,
    },
    /// Convolution (a linear layer over tokens is one of kernel 1) with everything that follows it.
    Conv(Conv),
    /// `dst = [pool(src), pool(pool(src)), pool(pool(pool(src)))]`, max over `window x window`, stride 1, same
    /// size (outside counts as minus infinity). Equals windows of `w`, `2 w - 1`, `3 w - 2`.
    PoolPyramid {
        /// `c` channels.
        src: View,
        /// `3 c` channels.
        dst: View,
        /// Odd window size.
        window: usize,
    },
    /// Multi-head self-attention over the pixels of a map: per head `softmax(q k^T) v`; queries come already
    /// scaled by `1 / sqrt(head dim)`.
    Attention {
        /// `[q, k, v]`, `3 c` channels; a head is a contiguous range of each.
        qkv: View,
        /// `c` channels.
        dst: View,
        /// Number of heads.
        heads: usize,
    },
    /// `(x - mean) / sqrt(var + eps) * gamma + beta` over the channels of each pixel.
    LayerNorm {
        /// Input.
        src: View,
        /// Output.
        dst: View,
        /// `[c]`.
        gamma: TensorId,
        /// `[c]`.
        beta: TensorId,
        /// Added to the variance.
        eps: f32,
    },
    /// Threshold, box decoding, sorting, greedy NMS. Grid order: level by level, row by row. A grid's point is
    /// `g = index * stride + (stride - 1) / 2`; box centre `g + xy * stride`, size `exp(wh) * stride`; score
    /// `sigmoid(cls)`. Fixes the survivors that all later steps work on.
    Select {
        /// Head levels, finest first.
        levels: Vec<GridLevel>,
    },
    /// For each survivor the linear map of its level, applied to its grid cell's channels.
    SurvivorLinear {
        /// Per level, the map to gather from.
        src: Vec<View>,
        /// Per level, `[out, in]`.
        weight: Vec<TensorId>,
        /// Per level, `[out]`.
        bias: Vec<TensorId>,
        /// Survivor rows.
        dst: View,
    },
    /// Gated Attention Unit over keypoint tokens.
    Gau(Gau),
    /// Bins, dot products, softmax and integral of the Dynamic Coordinate Classifier.
    BinDecode(BinDecode),
}

impl Op {
    /// Views that the step reads.
    pub fn reads(&self) -> Vec<View> {
        match self {
            Op::Letterbox { .. } => vec![],
            Op::Conv(c) => {
                let mut v = vec![c.src];
                if let PreAdd::Same(a) | PreAdd::Upsampled(a) = c.pre_add {
                    v.push(a);
                }
                v.extend(c.post_add);
                v
            }
            Op::PoolPyramid { src, .. } | Op::LayerNorm { src, .. } => vec![*src],
            Op::Attention { qkv, .. } => vec![*qkv],
            Op::Select { levels } => levels.iter().flat_map(|l| [l.cls, l.bbox]).collect(),
            Op::SurvivorLinear { src, .. } => src.clone(),
            Op::Gau(g) => vec![g.src],
            Op::BinDecode(d) => vec![d.src],
        }
    }

    /// Constants that the step uses, one entry a use.
    pub fn tensors(&self) -> Vec<TensorId> {
        match self {
            Op::Letterbox { .. } | Op::PoolPyramid { .. } | Op::Attention { .. } | Op::Select { .. } => {
                vec![]
            }
            Op::Conv(c) => match c.pre_add {
                PreAdd::Table(table) => vec![c.weight, c.bias, table],
                PreAdd::None | PreAdd::Same(_) | PreAdd::Upsampled(_) => vec![c.weight, c.bias],
            },
            Op::LayerNorm { gamma, beta, .. } => vec![*gamma, *beta],
            Op::SurvivorLinear { weight, bias, .. } => weight.iter().chain(bias).copied().collect(),
            Op::Gau(g) => {
                vec![g.norm_gain, g.uv, g.q_gain, g.q_bias, g.k_gain, g.k_bias, g.out, g.residual_gain]
            }
            Op::BinDecode(d) => vec![d.x.weight, d.y.weight],
        }
    }

    /// The view that the step writes; `None` for [`Op::Select`], which fixes the survivors instead.
    pub fn writes(&self) -> Option<View> {
        match self {
            Op::Letterbox { dst }
            | Op::PoolPyramid { dst, .. }
            | Op::Attention { dst, .. }
            | Op::LayerNorm { dst, .. }
            | Op::SurvivorLinear { dst, .. } => Some(*dst),
            Op::Conv(c) => Some(c.dst),
            Op::Select { .. } => None,
            Op::Gau(g) => Some(g.dst),
            Op::BinDecode(d) => Some(d.dst),
        }
    }
}

/// One line of a plan.
#[derive(Clone, Debug)]
pub struct Step {
    /// Upstream module name(s), for tables, dumps and messages.
    pub name: String,
    /// What to do.
    pub op: Op,
}

/// A network ready to be prepared by a backend.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Memory, see [`Plan::arena`].
    pub buffers: Vec<Buffer>,
    /// Constants.
    pub tensors: Vec<Tensor>,
    /// In order of execution.
    pub steps: Vec<Step>,
    /// Network input width and height in pixels.
    pub input_size: (usize, usize),
    /// `K`.
    pub keypoints: usize,
    /// Survivor rows of `2 K` channels: keypoints in network-input pixels.
    pub keypoint_xy: Option<View>,
    /// Survivor rows of `K` channels: visibility logits.
    pub keypoint_vis: Option<View>,
}

impl Plan {
    /// Adds a feature map and returns the view of all of it.
    pub fn map(&mut self, name: impl Into<String>, h: usize, w: usize, c: usize) -> View {
        self.buffer(name, Extent::Map { h, w }, c)
    }

    /// Adds a buffer of one row per survivor and returns the view of all of it.
    pub fn rows(&mut self, name: impl Into<String>, c: usize) -> View {
        self.buffer(name, Extent::Survivors, c)
    }

    fn buffer(&mut self, name: impl Into<String>, extent: Extent, c: usize) -> View {
        self.buffers.push(Buffer { name: name.into(), extent, c });
        View { buffer: BufferId(self.buffers.len() - 1), c0: 0, c }
    }

    /// Adds a constant.
    ///
    /// # Panics
    /// If `data` does not fill `shape`.
    pub fn tensor(&mut self, name: impl Into<String>, shape: &[usize], data: Vec<f32>) -> TensorId {
        let name = name.into();
        assert_eq!(shape.iter().product::<usize>(), data.len(), "tensor {name} of shape {shape:?}");
        self.tensors.push(Tensor { name, shape: shape.to_vec(), data });
        TensorId(self.tensors.len() - 1)
    }

    /// Appends a step.
    pub fn push(&mut self, name: impl Into<String>, op: Op) {
        self.steps.push(Step { name: name.into(), op });
    }

    /// The buffer behind a view.
    pub fn buffer_of(&self, view: View) -> &Buffer {
        &self.buffers[view.buffer.0]
    }

    /// Height and width of a view of a map.
    ///
    /// # Panics
    /// If the view is of survivor rows.
    pub fn hw(&self, view: View) -> (usize, usize) {
        match self.buffer_of(view).extent {
            Extent::Map { h, w } => (h, w),
            Extent::Survivors => panic!("{} holds survivor rows, not a map", self.buffer_of(view).name),
        }
    }

    /// Floating-point operations of a step, two per multiply-add, for one image or (after selection) one survivor.
    /// Counts the arithmetic of the plain algorithm, whatever a backend does instead.
    pub fn flops(&self, step: &Step) -> u64 {
        let size = |t: TensorId| self.tensors[t.0].shape.iter().product::<usize>() as u64;
        match &step.op {
            Op::Letterbox { .. } | Op::PoolPyramid { .. } | Op::LayerNorm { .. } | Op::Select { .. } => 0,
            Op::Conv(c) => {
                let (h, w) = self.hw(c.dst);
                2 * (h * w) as u64 * size(c.weight)
            }
            Op::Attention { dst, .. } => {
                let (h, w) = self.hw(*dst);
                4 * ((h * w) as u64).pow(2) * dst.c as u64
            }
            Op::SurvivorLinear { weight, .. } => 2 * size(weight[0]),
            Op::Gau(g) => {
                let k = g.tokens as u64;
                2 * k * (size(g.uv) + size(g.out)) + 2 * k * k * (g.key_dim + g.expansion) as u64
            }
            Op::BinDecode(d) => {
                let k = d.tokens as u64;
                2 * k * (size(d.x.weight) + size(d.y.weight) + (d.pe_dim * (d.x.bins + d.y.bins)) as u64)
            }
        }
    }
}
