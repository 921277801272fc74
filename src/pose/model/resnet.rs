//! ResNet of bottlenecks (He et al., arXiv 1512.03385; mmpose `models/backbones/resnet.py`, style `pytorch`: a
//! bottleneck's 3x3 convolution has its stride): image to C3, C4, C5 at strides 8, 16, 32.

use super::config::Stage;
use super::net::{Net, Norm};
use super::probe::Probe;
use super::signal::Signal;
use crate::error::Result;
use crate::plan::{Op, PreAdd, View};

const NORM: Norm = Norm::before_activation(1e-5);

/// Hyper-parameters of the backbone of RTMO-r50.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResNet {
    /// Channels after the stem.
    pub stem: usize,
    /// The stages; their outputs have strides 4, 8, 16, 32.
    pub stages: [Stage; 4],
}

/// Name of a bottleneck.
fn block_name(stage: usize, block: usize) -> String {
    format!("backbone.layer{}.{block}", stage + 1)
}

impl ResNet {
    /// Whether a checkpoint has such a backbone.
    pub(super) fn is_in(probe: &Probe<'_>) -> bool {
        probe.has("backbone.conv1.weight") || probe.has("backbone.layer1.0.conv1.weight")
    }

    /// Reads it off the shapes of a checkpoint.
    pub(super) fn read(probe: &Probe<'_>) -> Result<ResNet> {
        let stage = |i| -> Result<Stage> {
            Ok(Stage {
                channels: probe.extent(&format!("{}.conv3.weight", block_name(i, 0)), 0)?,
                mid: probe.extent(&format!("{}.conv1.weight", block_name(i, 0)), 0)?,
                blocks: probe.count(|b| format!("{}.conv1.weight", block_name(i, b)))?,
            })
        };
        let stem = probe.extent("backbone.conv1.weight", 0)?;
        Ok(ResNet { stem, stages: [stage(0)?, stage(1)?, stage(2)?, stage(3)?] })
    }

    /// Appends the backbone; returns C3, C4, C5.
    pub(super) fn append(&self, net: &mut Net<'_>, image: View) -> Result<[View; 3]> {
        let names = ["backbone.conv1", "backbone.bn1"];
        let conv1 = net.conv_then_bn(names, [self.stem, 3, 7, 7], NORM, net.inputs(&[image]))?;
        let src = net.conv("backbone.conv1", conv1, image).stride(2).relu().to("c1")?;
        let (h, w) = net.plan.hw(src);
        let mut x = net.plan.map("backbone.maxpool", h.div_ceil(2), w.div_ceil(2), self.stem);
        net.plan.push("backbone.maxpool", Op::MaxPool { src, dst: x, window: 3, stride: 2, pad: 1 });
        net.holds(x, Signal::POOLED_RELU);
        let mut outputs = [x; 4];
        for (i, stage) in self.stages.iter().enumerate() {
            for block in 0..stage.blocks {
                let name = block_name(i, block);
                let out = if block + 1 == stage.blocks { format!("c{}", i + 2) } else { name.clone() };
                // The first stage works at the resolution that the pooling leaves.
                let stride = if i > 0 && block == 0 { 2 } else { 1 };
                x = bottleneck(net, &name, stage, stride, x, out)?;
            }
            outputs[i] = x;
        }
        let [_, c3, c4, c5] = outputs;
        Ok([c3, c4, c5])
    }
}

/// `Bottleneck`: `relu(bn3(conv3(relu(bn2(conv2(relu(bn1(conv1(x)))))))) + identity)`, where the identity of a block
/// that changes the map's shape is a 1x1 convolution and its batch norm.
fn bottleneck(
    net: &mut Net<'_>,
    prefix: &str,
    stage: &Stage,
    stride: usize,
    x: View,
    out: String,
) -> Result<View> {
    let Stage { channels, mid, .. } = *stage;
    let names = |i: usize| [format!("{prefix}.conv{i}"), format!("{prefix}.bn{i}")];
    let [name, bn] = names(1);
    let conv1 = net.conv_then_bn([&name, &bn], [mid, x.c, 1, 1], NORM, net.inputs(&[x]))?;
    let inner = net.conv(name.clone(), conv1, x).relu().to(name)?;
    let [name, bn] = names(2);
    let conv2 = net.conv_then_bn([&name, &bn], [mid, mid, 3, 3], NORM, net.inputs(&[inner]))?;
    let inner = net.conv(name.clone(), conv2, inner).stride(stride).relu().to(name)?;

    let (identity, norm) = if stride != 1 || x.c != channels {
        let [conv, bn] = [format!("{prefix}.downsample.0"), format!("{prefix}.downsample.1")];
        let inputs = net.inputs(&[x]);
        let filter = net.conv_then_bn([&conv, &bn], [channels, x.c, 1, 1], NORM.half(), inputs)?;
        (net.conv(conv.clone(), filter, x).stride(stride).to(conv)?, NORM.half())
    } else {
        (x, NORM.less(Signal::RELU))
    };
    let [name, bn] = names(3);
    let conv3 = net.conv_then_bn([&name, &bn], [channels, mid, 1, 1], norm, net.inputs(&[inner]))?;
    net.conv(name, conv3, inner).pre_add(PreAdd::Same(identity)).relu().to(out)
}
