//! CSPDarknet (mmpose `models/backbones/csp_darknet.py`): image to C3, C4, C5 at strides 8, 16, 32.

use super::config::{Config, Stage};
use super::net::Net;
use crate::error::Result;
use crate::plan::{Op, View};

/// Added to the variances of its batch norms.
const BN_EPS: f64 = 1e-3;

/// Appends the backbone; returns C3, C4, C5.
pub(super) fn backbone(net: &mut Net<'_>, config: &Config, image: View) -> Result<[View; 3]> {
    let stem = net.conv_bn("backbone.stem.conv", BN_EPS)?.unfocus();
    let mut x = net.conv("backbone.stem.conv", stem, image).stride(2).silu().to("c1")?;
    let mut outputs = [x; 4];
    for (i, stage) in config.stages.iter().enumerate() {
        let prefix = format!("backbone.stage{}", i + 1);
        let down = net.conv_bn(&format!("{prefix}.0"), BN_EPS)?;
        x = net.conv(format!("{prefix}.0"), down, x).stride(2).silu().to(format!("{prefix}.0"))?;
        let last = i == 3;
        if last {
            x = spp(net, &format!("{prefix}.1"), x)?;
        }
        let csp = format!("{prefix}.{}", if last { 2 } else { 1 });
        x = csp_layer(net, &csp, stage, !last, x, &format!("c{}", i + 2))?;
        outputs[i] = x;
    }
    let [_, c3, c4, c5] = outputs;
    Ok([c3, c4, c5])
}

/// `SPPBottleneck`: windows of 5, 9 and 13 are one, two and three windows of 5.
fn spp(net: &mut Net<'_>, prefix: &str, x: View) -> Result<View> {
    let conv1 = net.conv_bn(&format!("{prefix}.conv1"), BN_EPS)?;
    let conv2 = net.conv_bn(&format!("{prefix}.conv2"), BN_EPS)?;
    let (h, w) = net.plan.hw(x);
    let mid = conv1.cout;
    let pyramid = net.plan.map(format!("{prefix}.concat"), h, w, 4 * mid);
    let x = net.conv(format!("{prefix}.conv1"), conv1, x).silu().into(pyramid.slice(0, mid))?;
    let pools = Op::PoolPyramid { src: x, dst: pyramid.slice(mid, 3 * mid), window: 5 };
    net.plan.push(format!("{prefix}.poolings"), pools);
    net.conv(format!("{prefix}.conv2"), conv2, pyramid).silu().to(prefix)
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
    let mid = stage.mid;
    let (h, w) = net.plan.hw(x);
    let concat = net.plan.map(format!("{prefix}.concat"), h, w, 3 * mid);

    let main = net.conv_bn(&format!("{prefix}.main_conv"), BN_EPS)?;
    let short = net.conv_bn(&format!("{prefix}.short_conv"), BN_EPS)?;
    let name = format!("{prefix}.main_conv|short_conv");
    net.conv(name, main.stack(short), x).silu().into(concat.slice(0, 2 * mid))?;

    let mut main = concat.slice(0, mid);
    for i in 0..stage.blocks {
        let block = format!("{prefix}.blocks.{i}");
        let conv1 = net.conv_bn(&format!("{block}.conv1"), BN_EPS)?;
        let conv2 = net.conv_bn(&format!("{block}.conv2"), BN_EPS)?;
        let inner = net.conv(format!("{block}.conv1"), conv1, main).silu().to(format!("{block}.conv1"))?;
        let step = net.conv(format!("{block}.conv2"), conv2, inner).silu().plus(identity.then_some(main));
        main = match i + 1 == stage.blocks {
            true => step.into(concat.slice(2 * mid, mid))?,
            false => step.to(block)?,
        };
    }

    let last = net.conv_bn(&format!("{prefix}.final_conv"), BN_EPS)?.swap_input(mid);
    net.conv(format!("{prefix}.final_conv"), last, concat.slice(mid, 2 * mid)).silu().to(out)
}
