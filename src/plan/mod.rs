//! The network as data: a static list of fused steps over buffers whose shapes, lifetimes and memory offsets
//! are known before the first run.
//!
//! [`crate::pose::model`] builds a plan and knows no device; [`crate::backend`]s execute plans and know operations
//! only. A plan describes one image; a backend may run it for several at once.
//!
//! Layout conventions, for every backend:
//! * maps are NHWC: pixel `(y, x)` of a `[h, w, c]` buffer starts at element `(y * w + x) * c`;
//! * a [`View`] is a channel range of a buffer, so a concatenation costs nothing: producers write slices;
//! * convolution weights are `[cout, kh, kw, cin / groups]`, linear weights `[out, in]`, all f32;
//! * convolutions pad with zeros, `pad` pixels on each side; output size is `ceil(in / stride)`;
//! * every channel of every buffer is written by one step, once, and read later only: see [`Plan::check`].

mod arena;
mod check;
mod pose;

#[cfg(feature = "cuda")]
pub(crate) use arena::place;
pub use arena::{Arena, Lifetime};
pub use pose::{BinAxis, BinDecode, Gau, GridLevel, MAX_LEVELS, Pose};
pub use pose::{IMAGE, KEYPOINTS, VISIBILITY};

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
    /// Rows of channels, as many as an earlier step of the run finds: see [`Op::fixes_rows`].
    Rows,
}

impl Extent {
    /// Pixels of a map; 1 for rows.
    pub fn pixels(self) -> usize {
        match self {
            Extent::Map { h, w } => h * w,
            Extent::Rows => 1,
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
    /// Channels; also the pitch from one pixel (or row) to the next.
    pub c: usize,
    /// Number format.
    pub dtype: DType,
}

/// Number format of a buffer's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// The precision that the plan runs in: f32, bf16 or f16.
    Working,
    /// f32 in every precision: class logits and boxes, which decide who is found, and rows.
    F32,
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
    /// `max(x, 0)`.
    Relu,
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
    /// Kernel height and width: 1, 3, 6 (RTMO's own stem) or 7 (ResNet's).
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

/// Everything a backend must be able to do. Closed on purpose: a new operation does not compile until every
/// backend has it.
#[derive(Clone, Debug)]
pub enum Op {
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
    /// Maximum over windows of `window x window` pixels, every `stride` pixels; what lies outside the map counts as
    /// minus infinity. The output is `ceil(in / stride)` pixels high and wide.
    MaxPool {
        /// `c` channels.
        src: View,
        /// `c` channels.
        dst: View,
        /// Height and width of a window: `2 pad + 1`.
        window: usize,
        /// Input pixels from a window to the next.
        stride: usize,
        /// Pixels by which the first window begins outside the map.
        pad: usize,
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
    /// An operation that only pose networks have.
    Pose(Pose),
}

impl Op {
    /// Views that the step reads.
    pub fn reads(&self) -> Vec<View> {
        match self {
            Op::Conv(c) => {
                let mut v = vec![c.src];
                if let PreAdd::Same(a) | PreAdd::Upsampled(a) = c.pre_add {
                    v.push(a);
                }
                v.extend(c.post_add);
                v
            }
            Op::PoolPyramid { src, .. } | Op::MaxPool { src, .. } | Op::LayerNorm { src, .. } => vec![*src],
            Op::Attention { qkv, .. } => vec![*qkv],
            Op::Pose(pose) => pose.reads(),
        }
    }

    /// Constants that the step uses, one entry a use.
    pub fn tensors(&self) -> Vec<TensorId> {
        match self {
            Op::PoolPyramid { .. } | Op::MaxPool { .. } | Op::Attention { .. } => vec![],
            Op::Conv(c) => match c.pre_add {
                PreAdd::Table(table) => vec![c.weight, c.bias, table],
                PreAdd::None | PreAdd::Same(_) | PreAdd::Upsampled(_) => vec![c.weight, c.bias],
            },
            Op::LayerNorm { gamma, beta, .. } => vec![*gamma, *beta],
            Op::Pose(pose) => pose.tensors(),
        }
    }

    /// The view that the step writes; `None` for [`Pose::Select`], which fixes the number of rows instead.
    pub fn writes(&self) -> Option<View> {
        match self {
            Op::PoolPyramid { dst, .. }
            | Op::MaxPool { dst, .. }
            | Op::Attention { dst, .. }
            | Op::LayerNorm { dst, .. } => Some(*dst),
            Op::Conv(c) => Some(c.dst),
            Op::Pose(pose) => pose.writes(),
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

/// A named input or output of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Name.
    pub name: &'static str,
    /// Where its values are.
    pub view: View,
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
    /// What a run is given, by name. A plan of a few steps may have none.
    pub inputs: Vec<Port>,
    /// What a run returns, by name. A plan of a few steps may have none.
    pub outputs: Vec<Port>,
}

impl Plan {
    /// Adds a feature map and returns the view of all of it.
    pub fn map(&mut self, name: impl Into<String>, h: usize, w: usize, c: usize) -> View {
        self.buffer(name, Extent::Map { h, w }, c, DType::Working)
    }

    /// As [`Plan::map`], of values that are f32 in every precision.
    pub fn map_f32(&mut self, name: impl Into<String>, h: usize, w: usize, c: usize) -> View {
        self.buffer(name, Extent::Map { h, w }, c, DType::F32)
    }

    /// Adds a buffer of rows and returns the view of all of it.
    pub fn rows(&mut self, name: impl Into<String>, c: usize) -> View {
        self.buffer(name, Extent::Rows, c, DType::F32)
    }

    fn buffer(&mut self, name: impl Into<String>, extent: Extent, c: usize, dtype: DType) -> View {
        self.buffers.push(Buffer { name: name.into(), extent, c, dtype });
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

    /// The output of that name.
    pub fn output(&self, name: &str) -> Option<View> {
        self.outputs.iter().find(|port| port.name == name).map(|port| port.view)
    }

    /// The input of that name.
    pub fn input(&self, name: &str) -> Option<View> {
        self.inputs.iter().find(|port| port.name == name).map(|port| port.view)
    }

    /// The buffer behind a view.
    pub fn buffer_of(&self, view: View) -> &Buffer {
        &self.buffers[view.buffer.0]
    }

    /// Height and width of a view of a map.
    ///
    /// # Panics
    /// If the view is of rows.
    pub fn hw(&self, view: View) -> (usize, usize) {
        match self.buffer_of(view).extent {
            Extent::Map { h, w } => (h, w),
            Extent::Rows => panic!("{} holds rows, not a map", self.buffer_of(view).name),
        }
    }

    /// Floating-point operations of a step, two per multiply-add, for one image or (after selection) one survivor.
    /// Counts the arithmetic of the plain algorithm, also where a backend uses another one.
    pub fn flops(&self, step: &Step) -> u64 {
        let size = |t: TensorId| self.tensors[t.0].shape.iter().product::<usize>() as u64;
        match &step.op {
            Op::PoolPyramid { .. } | Op::MaxPool { .. } | Op::LayerNorm { .. } => 0,
            Op::Conv(c) => {
                let (h, w) = self.hw(c.dst);
                2 * (h * w) as u64 * size(c.weight)
            }
            Op::Attention { dst, .. } => {
                let (h, w) = self.hw(*dst);
                4 * ((h * w) as u64).pow(2) * dst.c as u64
            }
            Op::Pose(pose) => self.pose_flops(pose),
        }
    }
}
