//! Operations that only pose networks have: from the photo to the network input, and from the head's maps to people.
//! Each backend keeps its code for them in its `pose` folder.

use super::{Op, Plan, Port, Step, TensorId, View};

/// The input of a pose network: a letterboxed photo, `[h, w, 3]`, BGR, 0..255.
pub const IMAGE: &str = "image";
/// An output: rows of `2 K` channels, x and y of each keypoint in pixels of the network input.
pub const KEYPOINTS: &str = "keypoints";
/// An output: rows of `K` channels, visibility logits.
pub const VISIBILITY: &str = "visibility";

/// Most head levels of a plan, on every backend: P3, P4 and P5 (paper, Table 4).
pub const MAX_LEVELS: usize = 3;

/// One head level as [`Pose::Select`] sees it.
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

/// The operations of a pose network that no other network has.
#[derive(Clone, Debug)]
pub enum Pose {
    /// The photo, letterboxed: BGR, 0..255, three channels.
    Letterbox {
        /// The network input.
        dst: View,
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

impl Pose {
    /// As [`Op::reads`].
    pub fn reads(&self) -> Vec<View> {
        match self {
            Pose::Letterbox { .. } => vec![],
            Pose::Select { levels } => levels.iter().flat_map(|l| [l.cls, l.bbox]).collect(),
            Pose::SurvivorLinear { src, .. } => src.clone(),
            Pose::Gau(g) => vec![g.src],
            Pose::BinDecode(d) => vec![d.src],
        }
    }

    /// As [`Op::tensors`].
    pub fn tensors(&self) -> Vec<TensorId> {
        match self {
            Pose::Letterbox { .. } | Pose::Select { .. } => vec![],
            Pose::SurvivorLinear { weight, bias, .. } => weight.iter().chain(bias).copied().collect(),
            Pose::Gau(g) => {
                vec![g.norm_gain, g.uv, g.q_gain, g.q_bias, g.k_gain, g.k_bias, g.out, g.residual_gain]
            }
            Pose::BinDecode(d) => vec![d.x.weight, d.y.weight],
        }
    }

    /// As [`Op::writes`].
    pub fn writes(&self) -> Option<View> {
        match self {
            Pose::Letterbox { dst } | Pose::SurvivorLinear { dst, .. } => Some(*dst),
            Pose::Select { .. } => None,
            Pose::Gau(g) => Some(g.dst),
            Pose::BinDecode(d) => Some(d.dst),
        }
    }
}

impl Op {
    /// Whether the step determines the number of survivor rows. It writes no view, so its order is a rule of its own:
    /// it depends on every earlier step, and every later step depends on it.
    pub fn fixes_rows(&self) -> bool {
        matches!(self, Op::Pose(Pose::Select { .. }))
    }

    /// Whether the step fills the network input from a photo.
    pub fn is_letterbox(&self) -> bool {
        matches!(self, Op::Pose(Pose::Letterbox { .. }))
    }
}

impl Plan {
    /// Index of the step that selects people; the number of steps if there is none.
    pub fn selection(&self) -> usize {
        self.steps.iter().position(|step| step.op.fixes_rows()).unwrap_or(self.steps.len())
    }

    /// Steps before the selection, the letterbox included: what every grid cell needs.
    pub fn dense_steps(&self) -> &[Step] {
        &self.steps[..self.selection()]
    }

    /// Head levels that the selection looks at, finest first.
    pub fn grid_levels(&self) -> Option<&[GridLevel]> {
        self.steps.iter().find_map(|step| match &step.op {
            Op::Pose(Pose::Select { levels }) => Some(levels.as_slice()),
            _ => None,
        })
    }

    /// Adds the network input and the step that fills it.
    pub fn letterbox(&mut self, w: usize, h: usize) -> View {
        let image = self.map("input", h, w, 3);
        self.inputs.push(Port { name: IMAGE, view: image });
        self.push("letterbox", Op::Pose(Pose::Letterbox { dst: image }));
        image
    }

    /// Width and height of the network input in pixels; zeros in a plan of a few steps without one.
    pub fn input_size(&self) -> (usize, usize) {
        self.input(IMAGE).map_or((0, 0), |view| {
            let (h, w) = self.hw(view);
            (w, h)
        })
    }

    /// `K`, keypoints a person; 0 in a plan of a few steps without outputs.
    pub fn keypoints(&self) -> usize {
        self.output(VISIBILITY).map_or(0, |view| view.c)
    }

    /// The decoder of keypoints, if the plan has one.
    pub fn bin_decode(&self) -> Option<&BinDecode> {
        self.steps.iter().find_map(|step| match &step.op {
            Op::Pose(Pose::BinDecode(decode)) => Some(decode),
            _ => None,
        })
    }

    /// As [`Plan::flops`]: for one image, or after the selection one survivor.
    pub(super) fn pose_flops(&self, pose: &Pose) -> u64 {
        let size = |t: TensorId| self.tensors[t.0].shape.iter().product::<usize>() as u64;
        match pose {
            Pose::Letterbox { .. } | Pose::Select { .. } => 0,
            Pose::SurvivorLinear { weight, .. } => 2 * size(weight[0]),
            Pose::Gau(g) => {
                let k = g.tokens as u64;
                2 * k * (size(g.uv) + size(g.out)) + 2 * k * k * (g.key_dim + g.expansion) as u64
            }
            Pose::BinDecode(d) => {
                let k = d.tokens as u64;
                2 * k * (size(d.x.weight) + size(d.y.weight) + (d.pe_dim * (d.x.bins + d.y.bins)) as u64)
            }
        }
    }

    /// Checks a step whose views lie within their buffers.
    pub(super) fn check_pose(&self, pose: &Pose) -> Result<(), String> {
        match pose {
            Pose::Letterbox { dst } => {
                let [h, w, _] = self.map_shape(*dst)?;
                self.expect_map(*dst, [h, w, 3])?;
                let whole = self.buffer_of(*dst).c == 3 && self.input(IMAGE) == Some(*dst);
                if whole { Ok(()) } else { Err(format!("does not fill the input {IMAGE}")) }
            }
            Pose::Select { levels } => {
                if !(1..=MAX_LEVELS).contains(&levels.len()) {
                    return Err(format!("{} head levels, not 1 to {MAX_LEVELS}", levels.len()));
                }
                // All levels are grids over one image.
                let extent = |level: &GridLevel| -> Result<_, String> {
                    let [h, w, _] = self.map_shape(level.cls)?;
                    let pixels = |n: usize| n.checked_mul(level.stride).filter(|n| *n > 0);
                    pixels(h).zip(pixels(w)).ok_or_else(|| format!("stride {}", level.stride))
                };
                let (h, w) = extent(&levels[0])?;
                let (image_w, image_h) = if self.inputs.is_empty() { (w, h) } else { self.input_size() };
                for level in levels {
                    let [rows, columns, _] = self.map_shape(level.cls)?;
                    self.expect_map(level.cls, [rows, columns, 1])?;
                    self.expect_map(level.bbox, [rows, columns, 4])?;
                    if extent(level)? != (image_h, image_w) {
                        let stride = level.stride;
                        return Err(format!(
                            "a grid of {columns}x{rows} cells of {stride} pixels over {image_w}x{image_h} pixels"
                        ));
                    }
                }
                Ok(())
            }
            Pose::SurvivorLinear { src, weight, bias, dst } => {
                self.expect_rows(*dst, dst.c)?;
                if src.len() != weight.len() || src.len() != bias.len() {
                    return Err(format!(
                        "{} maps, {} weights, {} biases",
                        src.len(),
                        weight.len(),
                        bias.len()
                    ));
                }
                // A survivor is a grid cell of one of the selection's levels.
                let levels = self.grid_levels();
                let levels = levels.ok_or("no selection")?;
                if src.len() != levels.len() {
                    return Err(format!("{} maps for {} head levels", src.len(), levels.len()));
                }
                for (((src, level), weight), bias) in src.iter().zip(levels).zip(weight).zip(bias) {
                    self.check_view(level.cls)?;
                    let [h, w, _] = self.map_shape(level.cls)?;
                    self.expect_map(*src, [h, w, src.c])?;
                    self.expect_constants(&[(*weight, &[dst.c, src.c]), (*bias, &[dst.c])])?;
                }
                Ok(())
            }
            Pose::Gau(g) => {
                let (k, d, e, s) = (g.tokens, g.dim, g.expansion, g.key_dim);
                let c = k.checked_mul(d).ok_or_else(|| format!("{k} keypoints of {d} channels"))?;
                self.expect_rows(g.src, c)?;
                self.expect_rows(g.dst, c)?;
                let uv = e.checked_mul(2).and_then(|n| n.checked_add(s));
                let uv = uv.ok_or_else(|| format!("widths {e} and {s}"))?;
                self.expect_constants(&[
                    (g.norm_gain, &[1]),
                    (g.uv, &[uv, d]),
                    (g.q_gain, &[s]),
                    (g.q_bias, &[k, s]),
                    (g.k_gain, &[s]),
                    (g.k_bias, &[k, s]),
                    (g.out, &[d, e]),
                    (g.residual_gain, &[d]),
                ])
            }
            Pose::BinDecode(b) => {
                let (k, d) = (b.tokens, b.dim);
                let c = k.checked_mul(d).filter(|_| k.checked_mul(2).is_some());
                self.expect_rows(b.src, c.ok_or_else(|| format!("{k} keypoints of {d} channels"))?)?;
                self.expect_rows(b.dst, k * 2)?;
                if b.x.bins == 0 || b.y.bins == 0 || b.pe_dim == 0 || !b.pe_dim.is_multiple_of(2) {
                    return Err(format!(
                        "{} and {} bins, codes of {} channels",
                        b.x.bins, b.y.bins, b.pe_dim
                    ));
                }
                let shape = [b.pe_dim, b.dim];
                self.expect_constants(&[(b.x.weight, &shape), (b.y.weight, &shape)])
            }
        }
    }

    /// Checks the outputs, and that there is at most one letterbox, one selection and one bin decoder.
    pub(super) fn check_pose_ports(&self) -> Result<(), String> {
        let k = self.keypoints();
        for (name, c) in [(KEYPOINTS, 2 * k), (VISIBILITY, k)] {
            if let Some(view) = self.output(name) {
                self.expect_rows(view, c).map_err(|what| format!("output {what}"))?;
            }
        }
        let count = |what: fn(&Pose) -> bool| {
            self.steps.iter().filter(|step| matches!(&step.op, Op::Pose(pose) if what(pose))).count()
        };
        let counts = [
            ("letterboxes", count(|p| matches!(p, Pose::Letterbox { .. }))),
            ("selections", count(|p| matches!(p, Pose::Select { .. }))),
            ("decoders of bins", count(|p| matches!(p, Pose::BinDecode(_)))),
        ];
        match counts.into_iter().find(|(_, n)| *n > 1) {
            Some((what, n)) => Err(format!("{n} {what}, expected one at most")),
            None => Ok(()),
        }
    }
}
