//! What only survivors need: visibility, keypoint vectors, and the Dynamic Coordinate Classifier (mmpose `DCC` and
//! `GAUEncoder`; paper, section 3.2).

use super::config::{BIN_TEMPERATURE, Config, Dcc};
use super::net::Net;
use crate::error::Result;
use crate::plan::{BinAxis, BinDecode, Gau, KEYPOINTS, Op, Port, Pose, VISIBILITY, View};

/// Added to the variances of `pose_to_kpts`' batch norm (PyTorch's default).
const BN_EPS: f64 = 1e-5;
/// The bins of the coordinate classifier span this many times a person's box (`bbox_padding` of `RTMOHead`).
pub const BOX_PADDING: f32 = 1.25;

/// Appends everything after the selection; `pose` are the pose branches' last maps. Sets the plan's outputs.
pub(super) fn dcc(net: &mut Net<'_>, config: &Config, pose: Vec<View>) -> Result<()> {
    let k = config.keypoints;
    let Dcc { dim, encoding, expansion, key_dim, .. } = config.dcc;

    // BN(Linear(out_pose(x))) is one linear map, and out_kpt_vis another one of the same x. Levels differ in
    // out_pose and out_kpt_vis.
    let to_keypoints = net.linear_bn("head.dcc.pose_to_kpts.0", "head.dcc.pose_to_kpts.1", BN_EPS)?;
    let (mut weights, mut biases) = (Vec::new(), Vec::new());
    for level in 0..pose.len() {
        let module = "head.head_module";
        let out_pose = net.linear(&format!("{module}.out_pose.{level}"))?;
        let visibility = net.linear(&format!("{module}.out_kpt_vis.{level}"))?;
        let both = to_keypoints.after(&out_pose).stack(visibility);
        let name = format!("head.dcc.pose_to_kpts|out_kpt_vis.{level}");
        weights.push(net.constant(format!("{name}.weight"), &[both.cout, both.cin], &both.weight)?);
        biases.push(net.constant(format!("{name}.bias"), &[both.cout], &both.bias)?);
    }
    let rows = net.plan.rows("head.dcc.pose_to_kpts|out_kpt_vis", k * (dim + 1));
    let gather = Op::Pose(Pose::SurvivorLinear { src: pose, weight: weights, bias: biases, dst: rows });
    net.plan.push("head.dcc.pose_to_kpts|out_kpt_vis", gather);
    net.plan.outputs.push(Port { name: VISIBILITY, view: rows.slice(k * dim, k) });

    let features = net.plan.rows("head.dcc.gau", k * dim);
    let gau = gau(net, config, rows.slice(0, k * dim), features)?;
    debug_assert_eq!((gau.expansion, gau.key_dim), (expansion, key_dim));
    net.plan.push("head.dcc.gau", Op::Pose(Pose::Gau(gau)));

    // logits_i = f . (W e_i + b) = (W^T f) . e_i + f . b, and f . b is the same for every bin.
    let mut axis = |name: &str, bins: usize| -> Result<BinAxis> {
        let fc = net.linear(name)?;
        let transposed: Vec<f64> =
            (0..encoding * dim).map(|i| fc.weight[i % dim * encoding + i / dim]).collect();
        let weight = net.constant(format!("{name}.weight"), &[encoding, dim], &transposed)?;
        Ok(BinAxis { bins, weight })
    };
    let x = axis("head.dcc.x_fc", config.dcc.bins.0)?;
    let y = axis("head.dcc.y_fc", config.dcc.bins.1)?;
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
    net.plan.outputs.push(Port { name: KEYPOINTS, view: keypoints });
    Ok(())
}

/// The gated attention unit's constants; the keypoints' position encoding joins the biases of queries and keys.
fn gau(net: &mut Net<'_>, config: &Config, src: View, dst: View) -> Result<Gau> {
    let k = config.keypoints;
    let Dcc { dim, expansion: e, key_dim: s, .. } = config.dcc;
    let name = |part: &str| format!("head.dcc.gau.{part}");
    let gamma = net.values(&name("gamma"))?;
    let beta = net.values(&name("beta"))?;
    let position = net.values("head.dcc.pos_enc")?;
    let bias = |of: usize| -> Vec<f64> {
        position.iter().enumerate().map(|(i, p)| beta[of * s + i % s] + p).collect()
    };
    let norm_gain = net.values(&name("ln.g"))?;
    let uv = net.values(&name("uv.weight"))?;
    let out = net.values(&name("o.weight"))?;
    let residual = net.values(&name("res_scale.scale"))?;
    Ok(Gau {
        src,
        dst,
        tokens: k,
        dim,
        expansion: e,
        key_dim: s,
        norm_gain: net.constant(name("ln.g"), &[1], &norm_gain)?,
        uv: net.constant(name("uv.weight"), &[2 * e + s, dim], &uv)?,
        q_gain: net.constant(name("gamma.0"), &[s], &gamma[..s])?,
        q_bias: net.constant(name("beta.0+pos_enc"), &[k, s], &bias(0))?,
        k_gain: net.constant(name("gamma.1"), &[s], &gamma[s..])?,
        k_bias: net.constant(name("beta.1+pos_enc"), &[k, s], &bias(1))?,
        out: net.constant(name("o.weight"), &[dim, e], &out)?,
        residual_gain: net.constant(name("res_scale.scale"), &[dim], &residual)?,
    })
}
