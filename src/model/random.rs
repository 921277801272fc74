//! Generated weights: a network that behaves like a trained one (activations of order one, a few dozen candidates,
//! boxes of the size of people, soft heatmaps) without being one. For benchmarks, and for tests that compare with
//! PyTorch: `tools/dump_reference.py` computes the same bits.

use super::config::{Config, Variant};
use crate::weights::Checkpoint;
use std::collections::BTreeMap;

/// Generated weights of a published size, with any number of keypoints and 2 or 3 head levels. The same on every
/// machine.
pub fn random(variant: Variant, keypoints: usize, levels: usize, seed: u64) -> Checkpoint {
    let config = variant.config(keypoints, levels);
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)> = BTreeMap::new();
    for (name, shape) in config.tensors() {
        let values = Stream::new(seed, &name).tensor(&config, &name, &shape);
        tensors.insert(name, (shape, values));
    }
    // The photo's mean grey is not noise to the stem: its batch norm takes it off.
    let stem = &tensors["backbone.stem.conv.conv.weight"].1;
    let means =
        stem.chunks_exact(12 * 9).map(|w| (114.0 * w.iter().map(|&w| f64::from(w)).sum::<f64>()) as f32);
    let means = means.collect();
    tensors.get_mut("backbone.stem.conv.bn.running_mean").expect("in every configuration").1 = means;
    let label = format!("generated rtmo-{} of {keypoints} keypoints, seed {seed}", variant.letter());
    Checkpoint::from_tensors(label, tensors)
}

/// `E[SiLU(z)^2]` and `E[SiLU(z)]^2` of a standard normal `z`.
const SILU: (f64, f64) = (0.3555, 0.0427);

/// Second moment of the sum of `n` independent SiLU outputs.
fn silu_sum(n: usize) -> f64 {
    let n = n as f64;
    n * (SILU.0 - SILU.1) + n * n * SILU.1
}

/// Second moment of what a batch norm sees: its layer's weights have variance `1 / fan in`, so it is that of the
/// layer's input.
fn second_moment(config: &Config, layer: &str) -> f64 {
    let parts: Vec<&str> = layer.split('.').collect();
    let index = |i: usize| parts[i].parse::<usize>().unwrap_or(0);
    let one = silu_sum(1);
    let csp_rep = if config.neck.mid == config.neck.dim { silu_sum(2) } else { one };
    match parts[..] {
        ["backbone", "stem", ..] => 60.0 * 60.0,
        ["backbone", "stage4", "1", "conv2", ..] => 1.2,
        ["backbone", "stage4", ..] => one,
        ["backbone", _, _, "blocks", _, "conv1", ..] => silu_sum(1 + index(4)),
        ["backbone", stage, _, "final_conv", ..] => {
            let i = stage.as_bytes()[5] - b'1';
            0.5 * (silu_sum(1 + config.stages[usize::from(i)].blocks) + one)
        }
        ["neck", "lateral_convs", "0", ..] => 1.0,
        ["neck", "lateral_convs", ..] | ["neck", "downsample_convs", ..] | ["neck", "projector", ..] => {
            csp_rep
        }
        ["neck", "fpn_blocks", _, "conv1" | "conv2", ..] => 0.5 * (one + 1.0),
        ["neck", "pan_blocks", _, "conv1" | "conv2", ..] => 0.5 * (one + one),
        ["neck", _, _, "bottlenecks", ..] => 2.0 * one,
        ["neck", _, _, "conv3", ..] => silu_sum(2),
        ["head", "head_module", _, _, "0", ..] => 1.0,
        _ => one,
    }
}

/// Uniform numbers that depend on nothing but seed, tensor name and index.
struct Stream {
    state: u64,
}

/// The finaliser of splitmix64.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Stream {
    /// FNV-1a of the name, mixed with the seed.
    fn new(seed: u64, name: &str) -> Stream {
        let fnv = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
        Stream { state: mix(seed) ^ name.bytes().fold(0xcbf2_9ce4_8422_2325, fnv) }
    }

    /// Uniform in `[lo, hi)`: 24 random bits, scaled in f64, rounded once.
    fn uniform(&mut self, lo: f64, hi: f64) -> f32 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (lo + (hi - lo) * ((mix(self.state) >> 40) as f64 / 16_777_216.0)) as f32
    }

    /// Values of one tensor, in order.
    fn tensor(&mut self, config: &Config, name: &str, shape: &[usize]) -> Vec<f32> {
        let fan_in: usize = shape[1..].iter().product();
        // Half width of a uniform distribution of variance `v / fan in`.
        let spread = |v: f64| (3.0 * v / fan_in as f64).sqrt();
        let (layer, parameter) = name.rsplit_once('.').unwrap_or(("", name));
        let module = layer.rsplit_once('.').map_or(layer, |(parent, leaf)| match leaf.parse::<usize>() {
            Ok(_) => parent,
            Err(_) => layer,
        });
        let leaf = module.rsplit('.').next().unwrap_or(module);
        let (lo, hi) = match (leaf, parameter) {
            ("out_cls", "weight") => (-spread(7.2), spread(7.2)),
            ("out_cls", "bias") => (-5.3, -5.3),
            ("out_bbox", "weight") => (-spread(0.34), spread(0.34)),
            ("out_bbox", "bias") => {
                let mut bias: Vec<f32> = (0..2).map(|_| self.uniform(-0.1, 0.1)).collect();
                bias.extend((0..2).map(|_| self.uniform(1.7, 1.9)));
                return bias;
            }
            ("x_fc" | "y_fc", "weight") => {
                let a = spread(11.4 / config.dcc.dim as f64);
                (-a, a)
            }
            (_, "running_mean") => (-0.1, 0.1),
            (_, "running_var") => {
                let v = second_moment(config, layer);
                (0.8 * v, 1.2 * v)
            }
            (_, "gamma") => (0.1, 0.5),
            (_, "bias" | "in_proj_bias" | "beta" | "pos_enc") => (-0.1, 0.1),
            _ if shape.len() == 1 => (0.8, 1.2),
            _ => (-spread(1.0), spread(1.0)),
        };
        (0..shape.iter().product()).map(|_| self.uniform(lo, hi)).collect()
    }
}
