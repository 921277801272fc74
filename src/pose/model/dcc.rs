//! What only survivors need: visibility, keypoint vectors, and the Dynamic Coordinate Classifier (mmpose `DCC` and
//! `GAUEncoder`; paper, section 3.2).

use super::head::MODULE;
use super::limits::{BINS, KEYPOINTS};
use super::net::{Net, Norm};
use super::probe::Probe;
use super::signal::{Inputs, Signal};
use super::source::Init;
use crate::error::Result;
use crate::plan::{self, BinAxis, BinDecode, Gau, Op, Port, Pose, View};

/// `pose_to_kpts`' batch norm has PyTorch's default epsilon.
const NORM: Norm = Norm::linear(1e-5);
/// Temperature of the coordinates' encoding (`spe_temperature`).
pub(super) const BIN_TEMPERATURE: f64 = 300.0;
/// The bins of the coordinate classifier span this many times a person's box (`bbox_padding` of `RTMOHead`).
pub const BOX_PADDING: f32 = 1.25;

/// The Dynamic Coordinate Classifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dcc {
    /// Channels of a keypoint's vector.
    pub dim: usize,
    /// Channels of a coordinate's sine encoding.
    pub encoding: usize,
    /// Horizontal and vertical bins.
    pub bins: (usize, usize),
    /// Width of the gated attention unit's `u` and `v`.
    pub expansion: usize,
    /// Width of its queries and keys.
    pub key_dim: usize,
}

/// The keypoints' position encoding, `[K, key_dim]`.
const POSITIONS: &str = "head.dcc.pos_enc";

impl Dcc {
    /// Reads it off the shapes of a checkpoint, and the number of keypoints.
    pub(super) fn read(probe: &Probe<'_>) -> Result<(Dcc, usize)> {
        let bins = |name: &str, default: usize| match probe.has(name) {
            true => probe.extent_up_to(name, 0, BINS),
            false => Ok(default),
        };
        let dcc = Dcc {
            dim: probe.extent("head.dcc.x_fc.weight", 0)?,
            encoding: probe.multiple("head.dcc.x_fc.weight", 1, 2)?,
            bins: (bins("head.dcc.x_bins", 192)?, bins("head.dcc.y_bins", 256)?),
            expansion: probe.extent("head.dcc.gau.o.weight", 1)?,
            key_dim: probe.extent(POSITIONS, 1)?,
        };
        Ok((dcc, probe.extent_up_to(POSITIONS, 0, KEYPOINTS)?))
    }

    /// Appends everything after the selection for `k` keypoints; `pose` are the pose branches' last maps, `vector` is
    /// the length of a grid's pose feature. Sets the plan's outputs.
    pub(super) fn append(&self, net: &mut Net<'_>, k: usize, vector: usize, pose: Vec<View>) -> Result<()> {
        let Dcc { dim, encoding, .. } = *self;

        // BN(Linear(out_pose(x))) is one linear map, and out_kpt_vis another one of the same x. Levels differ in
        // out_pose and out_kpt_vis.
        let names = ["head.dcc.pose_to_kpts.0", "head.dcc.pose_to_kpts.1"];
        let vectors = Inputs::of(vector, Signal::SILU.centered());
        let to_keypoints = net.linear_bn(names, [k * dim, vector], NORM, vectors)?;
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        for (level, &x) in pose.iter().enumerate() {
            let mut output = |part: &str, n: usize| {
                let inputs = net.inputs(&[x]);
                net.output(&format!("{MODULE}.{part}.{level}"), [n, x.c, 1, 1], 1.0, Init::SMALL, inputs)
            };
            let (out_pose, visibility) = (output("out_pose", vector)?, output("out_kpt_vis", k)?);
            let both = to_keypoints.after(&out_pose).stack(visibility);
            let name = format!("head.dcc.pose_to_kpts|out_kpt_vis.{level}");
            weights.push(net.constant(format!("{name}.weight"), &[both.cout, both.cin], || both.weight)?);
            biases.push(net.constant(format!("{name}.bias"), &[both.cout], || both.bias)?);
        }
        let rows = net.plan.rows("head.dcc.pose_to_kpts|out_kpt_vis", k * (dim + 1));
        let gather = Op::Pose(Pose::SurvivorLinear { src: pose, weight: weights, bias: biases, dst: rows });
        net.plan.push("head.dcc.pose_to_kpts|out_kpt_vis", gather);
        net.plan.outputs.push(Port { name: plan::VISIBILITY, view: rows.slice(k * dim, k) });

        let features = net.plan.rows("head.dcc.gau", k * dim);
        let gau = self.gau(net, k, rows.slice(0, k * dim), features)?;
        net.plan.push("head.dcc.gau", Op::Pose(Pose::Gau(gau)));

        // logits_i = f . (W e_i + b) = (W^T f) . e_i + f . b, and f . b is the same for every bin.
        let mut axis = |name: &str, bins: usize| -> Result<BinAxis> {
            let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
            // Heatmap logits of a deviation of about 1.5 over the bins.
            let variance = 8.0 / dim as f64;
            let fc = net.linear_with([&weight, &bias], &[dim, encoding], variance, Init::SMALL)?;
            let transposed =
                || (0..encoding * dim).map(|i| fc.weight[i % dim * encoding + i / dim]).collect();
            Ok(BinAxis { bins, weight: net.constant(weight, &[encoding, dim], transposed)? })
        };
        let x = axis("head.dcc.x_fc", self.bins.0)?;
        let y = axis("head.dcc.y_fc", self.bins.1)?;
        let keypoints = net.plan.rows("keypoints", 2 * k);
        let decode = BinDecode {
            src: features,
            dst: keypoints,
            tokens: k,
            dim,
            pe_dim: encoding,
            temperature: BIN_TEMPERATURE as f32,
            padding: BOX_PADDING,
            x,
            y,
        };
        net.plan.push("head.dcc", Op::Pose(Pose::BinDecode(decode)));
        net.plan.outputs.push(Port { name: plan::KEYPOINTS, view: keypoints });
        Ok(())
    }

    /// The gated attention unit's constants; the keypoints' position encoding joins the biases of queries and keys.
    fn gau(&self, net: &mut Net<'_>, k: usize, src: View, dst: View) -> Result<Gau> {
        let Dcc { dim, expansion: e, key_dim: s, .. } = *self;
        let name = |part: &str| format!("head.dcc.gau.{part}");
        // Attention of the order of one over the number of tokens.
        let gamma = net.values(&name("gamma"), &[2, s], Init::around(0.3, 0.2))?;
        let beta = net.values(&name("beta"), &[2, s], Init::SMALL)?;
        let position = net.values(POSITIONS, &[k, s], Init::SMALL)?;
        let bias = |of: usize| -> Vec<f64> {
            position.iter().enumerate().map(|(i, p)| beta[of * s + i % s] + p).collect()
        };
        let norm_gain = net.values(&name("ln.g"), &[1], Init::GAIN)?;
        let uv = net.values(&name("uv.weight"), &[2 * e + s, dim], Init::Weight(1.0))?;
        let out = net.values(&name("o.weight"), &[dim, e], Init::Weight(1.0))?;
        let residual = net.values(&name("res_scale.scale"), &[dim], Init::GAIN)?;
        Ok(Gau {
            src,
            dst,
            tokens: k,
            dim,
            expansion: e,
            key_dim: s,
            norm_gain: net.constant(name("ln.g"), &[1], || norm_gain)?,
            uv: net.constant(name("uv.weight"), &[2 * e + s, dim], || uv)?,
            q_gain: net.constant(name("gamma.0"), &[s], || gamma[..s].to_vec())?,
            q_bias: net.constant(name("beta.0+pos_enc"), &[k, s], || bias(0))?,
            k_gain: net.constant(name("gamma.1"), &[s], || gamma[s..].to_vec())?,
            k_bias: net.constant(name("beta.1+pos_enc"), &[k, s], || bias(1))?,
            out: net.constant(name("o.weight"), &[dim, e], || out)?,
            residual_gain: net.constant(name("res_scale.scale"), &[dim], || residual)?,
        })
    }
}
