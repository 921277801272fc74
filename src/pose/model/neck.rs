//! Hybrid encoder (mmpose `models/necks/hybrid_encoder.py`): a transformer on C5, then a feature pyramid down to P3
//! and a path aggregation back up, and the projector.

use super::config::{ATTENTION_HEADS, Config, Neck, POSITION_TEMPERATURE};
use super::fold::{Filter, matmul, position_encoding};
use super::net::Net;
use crate::error::Result;
use crate::plan::{Act, Op, PreAdd, View};

/// Added to the variances of its batch norms and layer norms (PyTorch's default).
const EPS: f64 = 1e-5;

/// Appends the neck; returns the projected map of every head level, finest first.
pub(super) fn neck(net: &mut Net<'_>, config: &Config, [c3, c4, c5]: [View; 3]) -> Result<Vec<View>> {
    let Neck { dim, .. } = config.neck;
    let mut high = encoder(net, &config.neck, c5)?;

    // Top-down. The lateral output replaces the higher level: it goes up here, and into the concat below.
    let mut concats = Vec::new();
    for (i, low) in [c4, c3].into_iter().enumerate() {
        let (h, w) = net.plan.hw(high);
        let concat = net.plan.map(format!("neck.pan_blocks.{}.concat", 1 - i), h, w, 2 * dim);
        let lateral = net.conv_bn(&format!("neck.lateral_convs.{i}"), EPS)?;
        let name = format!("neck.lateral_convs.{i}");
        let lateral = net.conv(name, lateral, high).silu().into(concat.slice(dim, dim))?;
        concats.push(concat);
        let branches = fuse_upsampled(net, &format!("neck.fpn_blocks.{i}"), 1 - i, lateral, low)?;
        high = csp_rep(net, &config.neck, &format!("neck.fpn_blocks.{i}"), branches)?;
    }

    // Bottom-up.
    let mut outputs = vec![high];
    for (i, concat) in concats.into_iter().rev().enumerate() {
        let down = net.conv_bn(&format!("neck.downsample_convs.{i}"), EPS)?;
        let low = *outputs.last().expect("the finest level is there");
        let name = format!("neck.downsample_convs.{i}");
        net.conv(name, down, low).stride(2).silu().into(concat.slice(0, dim))?;
        let block = format!("neck.pan_blocks.{i}");
        let both = csp_rep_inputs(net, &block)?;
        let branches = net.conv(format!("{block}.conv1|conv2"), both, concat).silu();
        let branches = branches.to(format!("{block}.conv1|conv2"))?;
        outputs.push(csp_rep(net, &config.neck, &block, branches)?);
    }

    // `projector`: linear, but before padded 3x3 convolutions, so its bias must be there to be padded around.
    let mut projected = Vec::new();
    for (i, x) in outputs[3 - config.levels..].iter().enumerate() {
        let name = format!("neck.projector.convs.{i}");
        let filter = net.conv_bn(&name, EPS)?;
        projected.push(net.conv(name, filter, *x).to(format!("p{}", 6 - config.levels + i))?);
    }
    Ok(projected)
}

/// `input_proj` of C5 and `DetrTransformerEncoder`: post-norm layers over the map's cells as tokens.
fn encoder(net: &mut Net<'_>, neck: &Neck, c5: View) -> Result<View> {
    let dim = neck.dim;
    let (h, w) = net.plan.hw(c5);
    let input_proj = net.conv_bn("neck.input_proj.2", EPS)?;
    let mut x = net.conv("neck.input_proj.2", input_proj, c5).to("neck.input_proj.2")?;
    let position = position_encoding(h, w, dim, POSITION_TEMPERATURE);
    for i in 0..neck.layers {
        let layer = format!("neck.encoder.0.layers.{i}");
        let attn = format!("{layer}.self_attn.attn");
        let mut qkv = net.linear_named(&format!("{attn}.in_proj_weight"), &format!("{attn}.in_proj_bias"))?;
        qkv.scale_outputs(0..dim, ((dim / ATTENTION_HEADS) as f64).powf(-0.5));
        // Queries and keys see x + p, values x: (x + p) W = x W + p W, and p W is constant.
        let table = position_table(&qkv, &position, dim);
        let table = net.constant(format!("{attn}.in_proj.positions"), &[h, w, 3 * dim], &table)?;
        let step = net.conv(format!("{attn}.in_proj"), qkv, x).pre_add(PreAdd::Table(table));
        let qkv = step.to(format!("{attn}.in_proj"))?;
        let mixed = net.plan.map(attn.clone(), h, w, dim);
        net.plan.push(attn.clone(), Op::Attention { qkv, dst: mixed, heads: ATTENTION_HEADS });
        let out_proj = net.linear(&format!("{attn}.out_proj"))?;
        let step = net.conv(format!("{attn}.out_proj"), out_proj, mixed).plus(x);
        let attended = step.to(format!("{attn}.out_proj"))?;
        x = layer_norm(net, &format!("{layer}.norms.0"), attended)?;

        let expand = net.linear(&format!("{layer}.ffn.layers.0.0"))?;
        let reduce = net.linear(&format!("{layer}.ffn.layers.1"))?;
        let step = net.conv(format!("{layer}.ffn.layers.0"), expand, x).act(Act::Gelu);
        let inner = step.to(format!("{layer}.ffn.layers.0"))?;
        let step = net.conv(format!("{layer}.ffn.layers.1"), reduce, inner).plus(x);
        let transformed = step.to(format!("{layer}.ffn.layers.1"))?;
        x = layer_norm(net, &format!("{layer}.norms.1"), transformed)?;
    }
    Ok(x)
}

/// `[cells, 3 dim]`: positions times the query and key matrices, zeros for the values.
fn position_table(qkv: &Filter, position: &[f64], dim: usize) -> Vec<f64> {
    let qk = 2 * dim;
    let transposed: Vec<f64> =
        (0..dim).flat_map(|i| (0..qk).map(move |o| (i, o))).map(|(i, o)| qkv.weight[o * dim + i]).collect();
    let table = matmul(position, &transposed, dim, qk);
    table.chunks_exact(qk).flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(0.0, dim))).collect()
}

fn layer_norm(net: &mut Net<'_>, name: &str, src: View) -> Result<View> {
    let (h, w) = net.plan.hw(src);
    let gamma = net.values(&format!("{name}.weight"))?;
    let beta = net.values(&format!("{name}.bias"))?;
    let gamma = net.constant(format!("{name}.weight"), &[src.c], &gamma)?;
    let beta = net.constant(format!("{name}.bias"), &[src.c], &beta)?;
    let dst = net.plan.map(name, h, w, src.c);
    net.plan.push(name, Op::LayerNorm { src, dst, gamma, beta, eps: EPS as f32 });
    Ok(dst)
}

/// `conv1` and `conv2` of a `CSPRepLayer`, which see the same input.
fn csp_rep_inputs(net: &mut Net<'_>, prefix: &str) -> Result<Filter> {
    let conv1 = net.conv_bn(&format!("{prefix}.conv1"), EPS)?;
    Ok(conv1.stack(net.conv_bn(&format!("{prefix}.conv2"), EPS)?))
}

/// `conv1 | conv2` of a `CSPRepLayer` over `concat(upsample(high), input_proj(low))`, without the concat and without
/// the upsampling: a 1x1 map of the high half commutes with nearest-neighbour upsampling, so it runs at the low
/// resolution and is added on the fly. `input_proj` has no activation; it is merged into the map of the low half
/// unless the two in sequence are less work.
fn fuse_upsampled(net: &mut Net<'_>, block: &str, level: usize, high: View, low: View) -> Result<View> {
    let (of_high, of_low) = csp_rep_inputs(net, block)?.split_input(high.c);
    let name = format!("{block}.conv1|conv2.upsampled");
    let upsampled = net.conv(name.clone(), of_high, high).to(name)?;

    let name = format!("neck.input_proj.{level}");
    let input_proj = net.conv_bn(&name, EPS)?;
    let (outputs, inner, inputs) = (of_low.cout, input_proj.cout, input_proj.cin);
    let merge = outputs * inputs <= outputs * inner + inner * inputs;
    let (filter, low) = match merge {
        true => (of_low.after(&input_proj), low),
        false => (of_low, net.conv(name.clone(), input_proj, low).to(name)?),
    };
    let step = net.conv(format!("{block}.conv1|conv2"), filter, low).pre_add(PreAdd::Upsampled(upsampled));
    step.silu().to(format!("{block}.conv1|conv2"))
}

/// The rest of a `CSPRepLayer`: `conv3(bottlenecks(x1) + x2)`, where `branches` is `[x1, x2]`.
fn csp_rep(net: &mut Net<'_>, neck: &Neck, prefix: &str, branches: View) -> Result<View> {
    let (mut x, shortcut) = (branches.slice(0, neck.mid), branches.slice(neck.mid, neck.mid));
    for i in 0..neck.blocks {
        // RepVGGBlock: SiLU(BN(3x3 x) + BN(1x1 x)).
        let name = format!("{prefix}.bottlenecks.{i}");
        let branch_1x1 = net.conv_bn(&format!("{name}.branch_1x1"), EPS)?;
        let filter = net.conv_bn(&format!("{name}.branch_3x3"), EPS)?.plus_1x1(&branch_1x1);
        let last = i + 1 == neck.blocks;
        x = net.conv(name.clone(), filter, x).silu().plus(last.then_some(shortcut)).to(name)?;
    }
    if neck.mid == neck.dim {
        return Ok(x);
    }
    let conv3 = net.conv_bn(&format!("{prefix}.conv3"), EPS)?;
    net.conv(format!("{prefix}.conv3"), conv3, x).silu().to(prefix)
}
