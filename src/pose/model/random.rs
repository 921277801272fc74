//! Generated weights: a network that behaves like a trained one (activations of order one, a few dozen candidates,
//! boxes of the size of people, soft heatmaps) without being one. For benchmarks, and for tests that compare with
//! PyTorch: `tools/dump_reference.py` generates the same.

use super::build_from;
use super::config::{ANY_INPUT, Config};
use super::signal::Inputs;
use super::source::{Init, Source};
use crate::error::Result;
use crate::variant::Variant;
use crate::weights::Checkpoint;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Name to shape and values.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Generated weights of a published size, with any number of keypoints (at least 1) and 2 or 3 head levels. The same on
/// every machine.
///
/// Every value is a uniform number that depends on `seed`, the tensor's name and the index only, of a variance that
/// suits the layer. Batch norms get the expected statistics of their input, so that SiLU's inputs have mean and
/// variance 1. About one grid cell in fifty passes the default score threshold.
pub fn random(variant: Variant, keypoints: usize, levels: usize, seed: u64) -> Checkpoint {
    let label = format!("generated {variant} of {keypoints} keypoints, seed {seed}");
    Checkpoint::from_tensors(label, random_tensors(&variant.config(keypoints, levels), seed))
}

/// What [`random`] generates, for any network of the family: name to shape and values.
pub fn random_tensors(config: &Config, seed: u64) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let mut generator = Generator { seed, tensors: Tensors::new() };
    build_from(config, &mut generator, ANY_INPUT).expect("a generator has every tensor");
    generator.tensors
}

/// Generates the tensors that a network asks for, and keeps them.
struct Generator {
    seed: u64,
    tensors: Tensors,
}

impl Source for Generator {
    fn tensor(&mut self, name: &str, shape: &[usize], init: Init) -> Result<Cow<'_, [f32]>> {
        let values = self.generate(name, shape, &init);
        self.tensors.insert(name.into(), (shape.to_vec(), values));
        Ok(Cow::default())
    }

    fn has_values(&self) -> bool {
        false
    }

    fn path(&self) -> PathBuf {
        PathBuf::new()
    }
}

impl Generator {
    fn generate(&self, name: &str, shape: &[usize], init: &Init) -> Vec<f32> {
        let count: usize = shape.iter().product();
        let mut stream = Stream::new(self.seed, name);
        let mut uniform =
            |n: usize, (lo, hi): (f64, f64)| -> Vec<f32> { (0..n).map(|_| stream.uniform(lo, hi)).collect() };
        match init {
            Init::Uniform(lo, hi) => uniform(count, (*lo, *hi)),
            Init::Halves(halves) => halves.iter().flat_map(|&range| uniform(count / 2, range)).collect(),
            Init::Weight(variance) => {
                // A uniform distribution's variance is a third of its squared half width.
                let fan_in = shape[1..].iter().product::<usize>() as f64;
                let half = (3.0 * variance / fan_in).sqrt();
                uniform(count, (-half, half))
            }
            Init::Mean { weight, inputs } => {
                self.mean_outputs(weight, inputs).into_iter().map(|mean| mean as f32).collect()
            }
            Init::Unbiased { weight, inputs, around } => {
                let bias = self.generate(name, shape, around);
                let means = self.mean_outputs(weight, inputs);
                bias.iter().zip(means).map(|(b, m)| (f64::from(*b) - m) as f32).collect()
            }
        }
    }

    /// The output of a layer for the means of its inputs. Its weight was generated before.
    fn mean_outputs(&self, weight: &str, inputs: &Inputs) -> Vec<f64> {
        let (shape, values) = &self.tensors[weight];
        let (channels, window) = (shape[1], shape[2] * shape[3]);
        let means: Vec<f64> = inputs.means().take(channels).collect();
        let dot = |row: &[f32]| row.iter().enumerate().map(|(i, &w)| means[i / window] * f64::from(w)).sum();
        values.chunks_exact(channels * window).map(dot).collect()
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
