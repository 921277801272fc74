//! Generated weights: a network that behaves like a trained one (activations of order one, a few dozen candidates,
//! boxes of the size of people, soft heatmaps) without being one. For benchmarks, and for tests that compare with
//! PyTorch: `tools/dump_reference.py` generates the same.

use super::config::{Config, Variant};
use crate::weights::Checkpoint;
use std::collections::BTreeMap;

/// Name to shape and values.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Generated weights of a published size, with any number of keypoints (at least 1) and 2 or 3 head levels. The same on
/// every machine.
///
/// Every value is a uniform number that depends on `seed`, the tensor's name and the index only, of a variance that
/// suits the layer. Batch norms get the statistics that their input has if all goes to plan, so that what SiLU sees
/// has mean and variance 1; there its gain falls as signals grow, and what does not go to plan dies out within some
/// layers. (Around a mean of 0 it would grow.) About one grid in fifty passes the default score threshold.
pub fn random(variant: Variant, keypoints: usize, levels: usize, seed: u64) -> Checkpoint {
    let label = format!("generated rtmo-{} of {keypoints} keypoints, seed {seed}", variant.letter());
    Checkpoint::from_tensors(label, random_tensors(&variant.config(keypoints, levels), seed))
}

/// What [`random`] generates, for any network of the family: name to shape and values.
pub fn random_tensors(config: &Config, seed: u64) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let mut tensors = Tensors::new();
    for (name, shape) in config.tensors() {
        let values = values(config, seed, &name, &shape);
        tensors.insert(name, (shape, values));
    }
    // What the means of a layer's inputs add up to goes into its batch norm's mean, or off its bias.
    let names: Vec<String> = tensors.keys().cloned().collect();
    for name in names {
        if let Some(norm) = name.strip_suffix(".bn.running_mean") {
            let means = response_to_means(config, &tensors, &format!("{norm}.conv"));
            tensors.insert(name, (vec![means.len()], means.into_iter().map(|m| m as f32).collect()));
        } else if name.starts_with("head.head_module.out_") && name.ends_with(".bias") {
            let means = response_to_means(config, &tensors, &name[..name.len() - ".bias".len()]);
            let bias = &tensors[&name].1;
            let bias = bias.iter().zip(&means).map(|(b, m)| (f64::from(*b) - m) as f32).collect();
            tensors.insert(name, (vec![means.len()], bias));
        }
    }
    tensors
}

/// A layer's weights times the expected means of its inputs.
fn response_to_means(config: &Config, tensors: &Tensors, layer: &str) -> Vec<f64> {
    let (shape, weight) = &tensors[&format!("{layer}.weight")];
    let (inputs, window) = (shape[1], shape[2] * shape[3]);
    let means: Vec<f64> =
        (0..inputs).map(|i| input_moments(config, layer, i as f64 / inputs as f64).0).collect();
    let dot = |row: &[f32]| row.iter().enumerate().map(|(i, &w)| means[i / window] * f64::from(w)).sum();
    weight.chunks_exact(inputs * window).map(dot).collect()
}

/// Mean and variance of `SiLU(z)` for a normal `z` of mean and variance 1.
const SILU: (f64, f64) = (0.875, 0.716);

/// Mean and variance of a layer's input, at `place` (from 0 to 1) of its input channels.
fn input_moments(config: &Config, layer: &str, place: f64) -> (f64, f64) {
    let parts: Vec<&str> = layer.split('.').collect();
    let sum = |n: usize| (n as f64 * SILU.0, n as f64 * SILU.1);
    let csp_rep = sum(if config.neck.mid == config.neck.dim { 2 } else { 1 });
    match parts[..] {
        ["backbone", "stem", ..] => (114.0, 50.0 * 50.0),
        // The pooled three quarters of the pyramid.
        ["backbone", "stage4", "1", "conv2", ..] if place >= 0.25 => (3.0, 0.8),
        ["backbone", stage, _, "blocks", block, "conv1", ..] if stage != "stage4" => {
            sum(1 + block.parse::<usize>().unwrap_or(0))
        }
        ["backbone", stage, "1", "final_conv", ..] if place < 0.5 => {
            sum(1 + config.stages[usize::from(stage.as_bytes()[5] - b'1')].blocks)
        }
        ["neck", "lateral_convs", "0", ..] => (0.0, 1.0),
        ["neck", "lateral_convs" | "downsample_convs" | "projector", ..] => csp_rep,
        ["neck", "fpn_blocks", _, "conv1" | "conv2", ..] if place >= 0.5 => (0.0, 1.0),
        ["neck", _, _, "conv3", ..] => sum(2),
        ["head", "head_module", "conv_cls" | "conv_pose", _, "0", ..] => (0.0, 1.0),
        ["head", "dcc", ..] => (0.0, SILU.1),
        _ => sum(1),
    }
}

/// A smooth random picture, `[height, width, 3]`: four octaves of value noise, interpolated linearly in integers. The
/// same on every machine.
pub fn noise_image(width: usize, height: usize, seed: u64) -> Vec<u8> {
    let seed = mix(seed ^ fnv("noise_image"));
    let mut image = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        for x in 0..width {
            for c in 0..3 {
                let mut sum = 0; // of four numbers below 256 * 64^2
                for (octave, cell) in [64, 32, 16, 8].into_iter().enumerate() {
                    let knot = |dy: usize, dx: usize| {
                        let (row, column) = (y / cell + dy, x / cell + dx);
                        let place = ((octave * 3 + c) << 48) | (row << 24) | column;
                        (mix(seed.wrapping_add((place as u64).wrapping_mul(GOLDEN))) >> 56) as usize
                    };
                    let (fy, fx) = (y % cell, x % cell);
                    let row = |dy| knot(dy, 0) * (cell - fx) + knot(dy, 1) * fx;
                    sum += (row(0) * (cell - fy) + row(1) * fy) * (64 / cell) * (64 / cell);
                }
                // The mean of the octaves, with twice the contrast.
                image.push((sum >> 13).saturating_sub(128).min(255) as u8);
            }
        }
    }
    image
}

/// Values of one tensor, but for means. Half widths of uniform distributions: `spread(v)` has variance
/// `v / fan in`.
fn values(config: &Config, seed: u64, name: &str, shape: &[usize]) -> Vec<f32> {
    let fan_in = shape[1..].iter().product::<usize>() as f64;
    let spread = |v: f64| (3.0 * v / fan_in).sqrt();
    let around = |center: f64, half: f64| (center - half, center + half);
    let count: usize = shape.iter().product();
    let mut stream = Stream::new(seed, name);
    let mut uniform =
        |n: usize, (lo, hi): (f64, f64)| -> Vec<f32> { (0..n).map(|_| stream.uniform(lo, hi)).collect() };
    let parts: Vec<&str> = name.split('.').collect();
    match parts[..] {
        // Centres near the grid point; sizes of about six strides.
        [.., "out_bbox", _, "weight"] => uniform(count, around(0.0, spread(0.35 * 0.35 / SILU.1))),
        [.., "out_bbox", _, "bias"] => [uniform(2, around(0.0, 0.1)), uniform(2, around(1.8, 0.1))].concat(),
        // Logits of a deviation of 1.5, two of them below the default threshold, ln(0.1 / 0.9).
        [.., "out_cls", _, "weight"] => uniform(count, around(0.0, spread(1.5 * 1.5 / SILU.1))),
        [.., "out_cls", _, "bias"] => uniform(count, around(-2.2 - 2.0 * 1.5, 0.0)),
        // Heatmap logits of a deviation of about 1.5 over the bins.
        [.., "x_fc" | "y_fc", "weight"] => uniform(count, around(0.0, spread(8.0 / config.dcc.dim as f64))),
        // Attention of the order of one over the number of tokens.
        [.., "gau", "gamma"] => uniform(count, around(0.3, 0.2)),
        [.., "running_mean"] => vec![0.0; count],
        [.., "running_var"] => {
            let layer = name.replace(".bn.running_var", ".conv");
            // Average over the input; a RepVGG block adds two such maps.
            let quarters = [0.0, 0.25, 0.5, 0.75].map(|place| input_moments(config, &layer, place).1);
            let maps = if layer.contains(".branch_") { 2.0 } else { 1.0 };
            let var = maps * (quarters[0] + quarters[1] + quarters[2] + quarters[3]) / 4.0;
            uniform(count, (0.8 * var, 1.2 * var))
        }
        ["neck", "input_proj", _, "bn", "bias"] | ["neck", "projector", .., "bn", "bias"] => {
            uniform(count, around(0.0, 0.1))
        }
        [.., "branch_3x3" | "branch_1x1", "bn", "bias"] => uniform(count, around(0.5, 0.1)),
        [.., "bn", "bias"] => uniform(count, around(1.0, 0.1)),
        [.., "bias" | "in_proj_bias" | "beta" | "pos_enc"] => uniform(count, around(0.0, 0.1)),
        _ if shape.len() == 1 => uniform(count, around(1.0, 0.2)),
        _ => uniform(count, around(0.0, spread(1.0))),
    }
}

/// 2^64 divided by the golden ratio: splitmix64's increment.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// splitmix64's finaliser.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The 64-bit FNV-1a hash.
fn fnv(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// splitmix64, started from a seed and a name.
struct Stream {
    state: u64,
}

impl Stream {
    fn new(seed: u64, name: &str) -> Stream {
        Stream { state: mix(seed) ^ fnv(name) }
    }

    /// Uniform in `[lo, hi)`: 24 random bits, scaled in f64, rounded once.
    fn uniform(&mut self, lo: f64, hi: f64) -> f32 {
        self.state = self.state.wrapping_add(GOLDEN);
        (lo + (hi - lo) * ((mix(self.state) >> 40) as f64 / 16_777_216.0)) as f32
    }
}
