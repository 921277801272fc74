//! CSPDarknet (mmpose `models/backbones/csp_darknet.py`): image to C3, C4, C5 at strides 8, 16, 32.

use super::config::Stage;
use super::net::{Net, Norm};
use super::probe::Probe;
use super::signal::{Inputs, Signal};
use crate::error::Result;
use crate::plan::{Op, View};

const NORM: Norm = Norm::before_activation(1e-3);

/// Hyper-parameters of the backbone of RTMO-t, -s, -m and -l.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Darknet {
    /// Channels after the stem.
    pub stem: usize,
    /// The stages, each a strided convolution and a CSP layer; their outputs have strides 4, 8, 16, 32.
    pub stages: [Stage; 4],
    /// Channels that the last stage's spatial pyramid pools.
    pub spp_mid: usize,
}

/// The convolution of the stem.
const STEM: &str = "backbone.stem.conv";

/// The last stage, which has a spatial pyramid before its CSP layer, and no identities in its blocks.
const LAST: usize = 3;

/// Names of a stage's strided convolution, and of its CSP layer.
fn stage_names(i: usize) -> (String, String) {
    let stage = format!("backbone.stage{}", i + 1);
    (format!("{stage}.0"), format!("{stage}.{}", if i == LAST { 2 } else { 1 }))
}

/// Name of the last stage's spatial pyramid.
const SPP: &str = "backbone.stage4.1";

impl Darknet {
    /// Reads it off the shapes of a checkpoint.
    pub(super) fn read(probe: &Probe<'_>) -> Result<Darknet> {
        let stage = |i| -> Result<Stage> {
            let (down, csp) = stage_names(i);
            Ok(Stage {
                channels: probe.extent(&format!("{down}.conv.weight"), 0)?,
                mid: probe.extent(&format!("{csp}.main_conv.conv.weight"), 0)?,
                blocks: probe.count(|b| format!("{csp}.blocks.{b}.conv1.conv.weight"))?,
            })
        };
        let stem = probe.extent(&format!("{STEM}.conv.weight"), 0)?;
        let stages = [stage(0)?, stage(1)?, stage(2)?, stage(3)?];
        let spp_mid = probe.extent(&format!("{SPP}.conv1.conv.weight"), 0)?;
        Ok(Darknet { stem, stages, spp_mid })
    }

    /// Appends the backbone; returns C3, C4, C5.
    pub(super) fn append(&self, net: &mut Net<'_>, image: View) -> Result<[View; 3]> {
        // Focus puts four pixels into a cell.
        let pixels = Inputs::of(12, net.inputs(&[image]).first());
        let stem = net.conv_bn(STEM, [self.stem, 12, 3, 3], NORM, pixels)?.unfocus();
        let mut x = net.conv(STEM, stem, image).stride(2).silu().to("c1")?;
        let mut outputs = [x; 4];
        for (i, stage) in self.stages.iter().enumerate() {
            let (name, csp) = stage_names(i);
            let inputs = net.inputs(&[x]);
            let down = net.conv_bn(&name, [stage.channels, x.c, 3, 3], NORM, inputs)?;
            x = net.conv(name.clone(), down, x).stride(2).silu().to(name)?;
            if i == LAST {
                x = spp(net, self.spp_mid, x)?;
            }
            x = csp_layer(net, &csp, stage, i != LAST, x, &format!("c{}", i + 2))?;
            outputs[i] = x;
        }
        let [_, c3, c4, c5] = outputs;
        Ok([c3, c4, c5])
    }
}

/// `SPPBottleneck`: windows of 5, 9 and 13 are one, two and three windows of 5.
fn spp(net: &mut Net<'_>, mid: usize, x: View) -> Result<View> {
    let channels = x.c;
    let (h, w) = net.plan.hw(x);
    let pyramid = net.plan.map(format!("{SPP}.concat"), h, w, 4 * mid);
    let (inner, pooled) = (pyramid.slice(0, mid), pyramid.slice(mid, 3 * mid));

    let name = format!("{SPP}.conv1");
    let conv1 = net.conv_bn(&name, [mid, channels, 1, 1], NORM, net.inputs(&[x]))?;
    net.conv(name, conv1, x).silu().into(inner)?;
    net.plan.push(format!("{SPP}.poolings"), Op::PoolPyramid { src: inner, dst: pooled, window: 5 });
    net.holds(pooled, Signal::POOLED_SILU);

    let name = format!("{SPP}.conv2");
    let conv2 = net.conv_bn(&name, [channels, 4 * mid, 1, 1], NORM, net.inputs(&[pyramid]))?;
    net.conv(name, conv2, pyramid).silu().to(SPP)
}

/// `CSPLayer`: `final(concat(blocks(main(x)), short(x)))`.
///
/// One buffer holds `[main, short, blocks(main)]`: the first two are one convolution's output, the last two the
/// final one's input.
fn csp_layer(
    net: &mut Net<'_>,
    prefix: &str,
    stage: &Stage,
    identity: bool,
    x: View,
    out: &str,
) -> Result<View> {
    let Stage { channels, mid, blocks } = *stage;
    let (h, w) = net.plan.hw(x);
    let concat = net.plan.map(format!("{prefix}.concat"), h, w, 3 * mid);
    let (short, processed) = (concat.slice(mid, mid), concat.slice(2 * mid, mid));

    let branch = [mid, channels, 1, 1];
    let main_conv = net.conv_bn(&format!("{prefix}.main_conv"), branch, NORM, net.inputs(&[x]))?;
    let short_conv = net.conv_bn(&format!("{prefix}.short_conv"), branch, NORM, net.inputs(&[x]))?;
    let name = format!("{prefix}.main_conv|short_conv");
    net.conv(name, main_conv.stack(short_conv), x).silu().into(concat.slice(0, 2 * mid))?;

    let mut main = concat.slice(0, mid);
    for i in 0..blocks {
        let block = format!("{prefix}.blocks.{i}");
        let name = format!("{block}.conv1");
        let conv1 = net.conv_bn(&name, [mid, mid, 1, 1], NORM, net.inputs(&[main]))?;
        let inner = net.conv(name.clone(), conv1, main).silu().to(name)?;

        let name = format!("{block}.conv2");
        let conv2 = net.conv_bn(&name, [mid, mid, 3, 3], NORM, net.inputs(&[inner]))?;
        let step = net.conv(name, conv2, inner).silu().plus(identity.then_some(main));
        main = match i + 1 == blocks {
            true => step.into(processed)?,
            false => step.to(block)?,
        };
    }

    let name = format!("{prefix}.final_conv");
    let inputs = net.inputs(&[processed, short]);
    let last = net.conv_bn(&name, [channels, 2 * mid, 1, 1], NORM, inputs)?.swap_input(mid);
    net.conv(name, last, concat.slice(mid, 2 * mid)).silu().to(out)
}
