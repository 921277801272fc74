//! Hybrid encoder (mmpose `models/necks/hybrid_encoder.py`): a transformer on C5, then a feature pyramid down to P3
//! and a path aggregation back up, and the projector.

use super::fold::{Filter, matmul, position_encoding};
use super::net::{Net, Norm};
use super::probe::Probe;
use super::signal::{Inputs, Signal};
use super::source::Init;
use crate::error::Result;
use crate::plan::{Act, Op, PreAdd, View};

/// Added to the variances of its batch norms and layer norms (PyTorch's default).
const EPS: f64 = 1e-5;
const NORM: Norm = Norm::before_activation(EPS);
const LINEAR: Norm = Norm::linear(EPS);

/// Heads of the encoder's attention. No shape depends on it; every published configuration has 8.
const ATTENTION_HEADS: usize = 8;
/// Temperature of the encoder's position encoding (`pe_temperature`).
pub(super) const POSITION_TEMPERATURE: f64 = 1e4;

/// The hybrid encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neck {
    /// Channels of the tokens and of every level's map.
    pub dim: usize,
    /// Hidden width of the feed-forward network.
    pub ffn: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Channels within a CSPRep layer.
    pub mid: usize,
    /// RepVGG blocks of a CSPRep layer.
    pub blocks: usize,
}

/// Name of a transformer layer.
fn layer_name(i: usize) -> String {
    format!("neck.encoder.0.layers.{i}")
}

impl Neck {
    /// Reads it off the shapes of a checkpoint.
    pub(super) fn read(probe: &Probe<'_>) -> Result<Neck> {
        Ok(Neck {
            dim: probe.multiple("neck.input_proj.0.conv.weight", 0, ATTENTION_HEADS)?,
            layers: probe.count(|i| format!("{}.self_attn.attn.in_proj_weight", layer_name(i)))?,
            ffn: probe.extent(&format!("{}.ffn.layers.0.0.weight", layer_name(0)), 0)?,
            mid: probe.extent("neck.fpn_blocks.0.conv1.conv.weight", 0)?,
            blocks: probe.count(|b| format!("neck.fpn_blocks.0.bottlenecks.{b}.branch_3x3.conv.weight"))?,
        })
    }

    /// Appends the neck. Returns the finest `levels` maps that end at the coarsest, each projected to `projected`
    /// channels, finest first.
    pub(super) fn append(
        &self,
        net: &mut Net<'_>,
        [c3, c4, c5]: [View; 3],
        levels: usize,
        projected: usize,
    ) -> Result<Vec<View>> {
        let dim = self.dim;
        let mut high = self.encoder(net, c5)?;

        // Top-down. The lateral output replaces the higher level: it goes up here, and into the concat below.
        let mut concats = Vec::new();
        for (i, low) in [c4, c3].into_iter().enumerate() {
            let (h, w) = net.plan.hw(high);
            let concat = net.plan.map(format!("neck.pan_blocks.{}.concat", 1 - i), h, w, 2 * dim);
            let name = format!("neck.lateral_convs.{i}");
            let lateral = net.conv_bn(&name, [dim, dim, 1, 1], NORM, net.inputs(&[high]))?;
            let lateral = net.conv(name, lateral, high).silu().into(concat.slice(dim, dim))?;
            concats.push(concat);
            let block = format!("neck.fpn_blocks.{i}");
            let branches = self.fuse_upsampled(net, &block, 1 - i, lateral, low)?;
            high = self.csp_rep(net, &block, branches)?;
        }

        // Bottom-up.
        let mut outputs = vec![high];
        for (i, concat) in concats.into_iter().rev().enumerate() {
            let low = *outputs.last().expect("the finest level is there");
            let name = format!("neck.downsample_convs.{i}");
            let down = net.conv_bn(&name, [dim, dim, 3, 3], NORM, net.inputs(&[low]))?;
            net.conv(name, down, low).stride(2).silu().into(concat.slice(0, dim))?;
            let block = format!("neck.pan_blocks.{i}");
            let both = self.csp_rep_inputs(net, &block, net.inputs(&[concat]))?;
            let branches = net.conv(format!("{block}.conv1|conv2"), both, concat).silu();
            let branches = branches.to(format!("{block}.conv1|conv2"))?;
            outputs.push(self.csp_rep(net, &block, branches)?);
        }

        // `projector` is linear, but padded 3x3 convolutions follow. Padding is zeros around values with the bias, so
        // the projector cannot be merged into them.
        let mut maps = Vec::new();
        for (i, x) in outputs[3 - levels..].iter().enumerate() {
            let name = format!("neck.projector.convs.{i}");
            let filter = net.conv_bn(&name, [projected, dim, 1, 1], LINEAR, net.inputs(&[*x]))?;
            maps.push(net.conv(name, filter, *x).to(format!("p{}", 6 - levels + i))?);
        }
        Ok(maps)
    }

    /// `input_proj` of C3, C4 or C5 (`i` of 0 to 2).
    fn input_proj(&self, net: &mut Net<'_>, i: usize, x: View) -> Result<Filter> {
        net.conv_bn(&format!("neck.input_proj.{i}"), [self.dim, x.c, 1, 1], LINEAR, net.inputs(&[x]))
    }

    /// `input_proj` of C5 and `DetrTransformerEncoder`: post-norm layers over the map's cells as tokens.
    fn encoder(&self, net: &mut Net<'_>, c5: View) -> Result<View> {
        let Neck { dim, ffn, .. } = *self;
        let (h, w) = net.plan.hw(c5);
        let input_proj = self.input_proj(net, 2, c5)?;
        let mut x = net.conv("neck.input_proj.2", input_proj, c5).to("neck.input_proj.2")?;
        for i in 0..self.layers {
            let layer = layer_name(i);
            let attn = format!("{layer}.self_attn.attn");
            let names = [&*format!("{attn}.in_proj_weight"), &format!("{attn}.in_proj_bias")];
            let mut qkv = net.linear_with(names, &[3 * dim, dim], 1.0, Init::SMALL)?;
            qkv.scale_outputs(0..dim, ((dim / ATTENTION_HEADS) as f64).powf(-0.5));
            // Queries and keys see x + p, values x: (x + p) W = x W + p W, and p W is constant.
            let table = net.constant(format!("{attn}.in_proj.positions"), &[h, w, 3 * dim], || {
                position_table(&qkv, h, w)
            })?;
            let step = net.conv(format!("{attn}.in_proj"), qkv, x).pre_add(PreAdd::Table(table));
            let qkv = step.to(format!("{attn}.in_proj"))?;
            let mixed = net.plan.map(attn.clone(), h, w, dim);
            net.plan.push(attn.clone(), Op::Attention { qkv, dst: mixed, heads: ATTENTION_HEADS });
            let out_proj = net.linear(&format!("{attn}.out_proj"), [dim, dim])?;
            let step = net.conv(format!("{attn}.out_proj"), out_proj, mixed).plus(x);
            let attended = step.to(format!("{attn}.out_proj"))?;
            x = layer_norm(net, &format!("{layer}.norms.0"), attended)?;

            let expand = net.linear(&format!("{layer}.ffn.layers.0.0"), [ffn, dim])?;
            let step = net.conv(format!("{layer}.ffn.layers.0"), expand, x).act(Act::Gelu);
            let inner = step.to(format!("{layer}.ffn.layers.0"))?;
            let reduce = net.linear(&format!("{layer}.ffn.layers.1"), [dim, ffn])?;
            let step = net.conv(format!("{layer}.ffn.layers.1"), reduce, inner).plus(x);
            let transformed = step.to(format!("{layer}.ffn.layers.1"))?;
            x = layer_norm(net, &format!("{layer}.norms.1"), transformed)?;
        }
        Ok(x)
    }

    /// `conv1` and `conv2` of a `CSPRepLayer`, which see the same input.
    fn csp_rep_inputs(&self, net: &mut Net<'_>, prefix: &str, inputs: Inputs) -> Result<Filter> {
        let shape = [self.mid, 2 * self.dim, 1, 1];
        let conv1 = net.conv_bn(&format!("{prefix}.conv1"), shape, NORM, inputs.clone())?;
        Ok(conv1.stack(net.conv_bn(&format!("{prefix}.conv2"), shape, NORM, inputs)?))
    }

    /// `conv1 | conv2` of a `CSPRepLayer` over `concat(upsample(high), input_proj(low))`, without the concat and
    /// without the upsampling: a 1x1 map of the high half commutes with nearest-neighbour upsampling, so it runs at the
    /// low resolution and is added on the fly. `input_proj` has no activation; it is merged into the map of the low
    /// half unless the two in sequence are less work.
    fn fuse_upsampled(
        &self,
        net: &mut Net<'_>,
        block: &str,
        level: usize,
        high: View,
        low: View,
    ) -> Result<View> {
        let inputs = net.inputs(&[high]).then(self.dim, Signal::NORMAL);
        let (of_high, of_low) = self.csp_rep_inputs(net, block, inputs)?.split_input(high.c);
        let name = format!("{block}.conv1|conv2.upsampled");
        let upsampled = net.conv(name.clone(), of_high, high).to(name)?;

        let name = format!("neck.input_proj.{level}");
        let input_proj = self.input_proj(net, level, low)?;
        let (outputs, inner, inputs) = (of_low.cout, input_proj.cout, input_proj.cin);
        let merge = outputs * inputs <= outputs * inner + inner * inputs;
        let (filter, low) = match merge {
            true => (of_low.after(&input_proj), low),
            false => (of_low, net.conv(name.clone(), input_proj, low).to(name)?),
        };
        let step =
            net.conv(format!("{block}.conv1|conv2"), filter, low).pre_add(PreAdd::Upsampled(upsampled));
        step.silu().to(format!("{block}.conv1|conv2"))
    }

    /// The rest of a `CSPRepLayer`: `conv3(bottlenecks(x1) + x2)`, where `branches` is `[x1, x2]`.
    fn csp_rep(&self, net: &mut Net<'_>, prefix: &str, branches: View) -> Result<View> {
        let Neck { dim, mid, blocks, .. } = *self;
        let (mut x, shortcut) = (branches.slice(0, mid), branches.slice(mid, mid));
        for i in 0..blocks {
            // RepVGGBlock: SiLU(BN(3x3 x) + BN(1x1 x)).
            let name = format!("{prefix}.bottlenecks.{i}");
            let mut branch = |kernel: usize| {
                let inputs = net.inputs(&[x]);
                let name = format!("{name}.branch_{kernel}x{kernel}");
                net.conv_bn(&name, [mid, mid, kernel, kernel], NORM.half(), inputs)
            };
            let filter = branch(3)?.plus_1x1(&branch(1)?);
            let last = i + 1 == blocks;
            x = net.conv(name.clone(), filter, x).silu().plus(last.then_some(shortcut)).to(name)?;
        }
        if mid == dim {
            return Ok(x);
        }
        let name = format!("{prefix}.conv3");
        let conv3 = net.conv_bn(&name, [dim, mid, 1, 1], NORM, net.inputs(&[x]))?;
        net.conv(name, conv3, x).silu().to(prefix)
    }
}

/// `[h * w, 3 dim]`: positions times the query and key matrices, zeros for the values.
fn position_table(qkv: &Filter, h: usize, w: usize) -> Vec<f64> {
    let (dim, qk) = (qkv.cin, 2 * qkv.cin);
    let position = position_encoding(h, w, dim, POSITION_TEMPERATURE);
    let transposed: Vec<f64> =
        (0..dim).flat_map(|i| (0..qk).map(move |o| (i, o))).map(|(i, o)| qkv.weight[o * dim + i]).collect();
    let table = matmul(&position, &transposed, dim, qk);
    table.chunks_exact(qk).flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(0.0, dim))).collect()
}

fn layer_norm(net: &mut Net<'_>, name: &str, src: View) -> Result<View> {
    let (h, w) = net.plan.hw(src);
    let mut constant = |part: &str, init: Init| {
        let name = format!("{name}.{part}");
        let values = net.values(&name, &[src.c], init)?;
        net.constant(name, &[src.c], || values)
    };
    let (gamma, beta) = (constant("weight", Init::GAIN)?, constant("bias", Init::SMALL)?);
    let dst = net.plan.map(name, h, w, src.c);
    net.plan.push(name, Op::LayerNorm { src, dst, gamma, beta, eps: EPS as f32 });
    net.holds(dst, Signal::NORMAL);
    Ok(dst)
}
