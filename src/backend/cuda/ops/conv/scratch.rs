//! A launch of convolutions on made-up data, to try choices on and to time them.

use super::judge::Output;
use super::params::{ConvLaunch, ConvStep};
use super::shape::Shape;
use super::tiles::{self, Choice, Geometry};
use super::{launch_params, pack};
use crate::backend::cuda::gpu::{Caps, Gpu, GraphRecipe, Memory, Purpose};
use crate::backend::cuda::launch::Launch;
use crate::backend::cuda::ops::pack::floats;
use crate::error::{Error, Result};
use half::f16;
use std::collections::HashMap;
use std::sync::Arc;

/// Memory, weights and input of a launch: numbers of the size that a network has, so that results can be compared and
/// the GPU takes the power that it takes in use.
pub struct Scratch {
    gpu: Arc<dyn Gpu>,
    shapes: Vec<Shape>,
    images: usize,
    /// Halves from one image to the next, in the input and in the output of each step: the largest map, and the gap.
    image: usize,
    src: Memory,
    /// Step by step, image by image.
    dst: Memory,
    bias: Vec<Memory>,
    weights: Vec<Vec<f32>>,
    /// Packed weights of each step, by how they are packed.
    packed: HashMap<String, Memory>,
}

/// Halves after each output that must stay as they are.
const GAP: usize = 128;

impl Scratch {
    /// # Errors
    /// If the device has no memory left.
    pub fn new(gpu: &Arc<dyn Gpu>, shapes: &[Shape], images: usize) -> Result<Scratch> {
        let most = |s: &Shape| (s.h * s.w * s.cin).max(s.oh * s.ow * s.cout);
        let image = shapes.iter().map(most).max().unwrap_or(0).next_multiple_of(GAP) + GAP;
        let mut random = Random(1);
        let values: Vec<f16> = (0..image).map(|_| f16::from_f32(random.normal())).collect();
        let src = Memory::new(gpu, images * image * 2, Purpose::Working)?;
        for i in 0..images {
            // Each image begins elsewhere, so that an image that is taken for another one shows.
            let (end, start) = values.split_at(i * 8 % image);
            let at = i * image * 2;
            src.write(at, bytemuck::cast_slice(start))?;
            src.write(at + start.len() * 2, bytemuck::cast_slice(end))?;
        }
        let dst = Memory::new(gpu, shapes.len() * images * image * 2, Purpose::Working)?;
        let (mut bias, mut weights) = (Vec::new(), Vec::new());
        for s in shapes {
            let inputs = s.kernel * s.kernel * if s.group == 0 { s.cin } else { s.group };
            // Sums are about standard normal, too.
            let scale = 1.0 / (inputs as f32).sqrt();
            weights.push((0..s.cout * inputs).map(|_| random.normal() * scale).collect());
            let values: Vec<f32> = (0..s.cout).map(|_| random.normal() * 0.5).collect();
            // as many as the widest tile reads
            let memory = Memory::new(gpu, (s.cout + 256) * 4, Purpose::Constant)?;
            memory.write(0, &floats(&values, s.cout + 256))?;
            bias.push(memory);
        }
        let packed = HashMap::new();
        Ok(Scratch {
            gpu: gpu.clone(),
            shapes: shapes.to_vec(),
            images,
            image,
            src,
            dst,
            bias,
            weights,
            packed,
        })
    }

    /// The launch under a choice.
    ///
    /// # Errors
    /// If there is no such launch; if the device has no memory for its weights.
    pub fn launch(&mut self, choice: &Choice) -> Result<Launch> {
        let caps: Caps = self.gpu.caps();
        let none = || Error::Device(format!("kernel {}: not for this launch", choice.tile.name));
        if !tiles::possible(&caps, &self.shapes, choice) {
            return Err(none());
        }
        let kernel = choice.tile.kernel(&self.shapes).ok_or_else(none)?;
        let mut params =
            ConvLaunch { image: self.image as i64, ..launch_params(self.shapes.len(), self.images, choice) };
        let geometry = |shape: &Shape| tiles::geometry(shape, choice).ok_or_else(none);
        let geometries: Vec<Geometry> = self.shapes.iter().map(geometry).collect::<Result<_>>()?;
        let mut blocks = 0;
        for (i, g) in geometries.iter().enumerate() {
            let shape = self.shapes[i];
            params.step[i] = ConvStep {
                src: self.src.address,
                dst: self.dst.address + (i * self.images * self.image * 2) as u64,
                weight: self.weight(i, choice, g.step.chunks as usize)?,
                bias: self.bias[i].address,
                src_pitch: shape.cin as i32,
                dst_pitch: shape.cout as i32,
                first_block: blocks,
                ..g.step
            };
            blocks += (g.tiles * self.images) as i32;
        }
        params.stages = tiles::stages(&geometries, choice) as i32;
        let grid = tiles::grid(&caps, &geometries, self.images, choice);
        Ok(Launch {
            cluster: choice.split as u32,
            shared: tiles::shared_bytes(&geometries, choice) as u32,
            ..Launch::new(kernel, grid, choice.tile.threads, params, &[])
        })
    }

    /// The address of a step's weights as a choice's kernel reads them.
    fn weight(&mut self, step: usize, choice: &Choice, chunks: usize) -> Result<u64> {
        let tile = choice.tile;
        // What `pack::conv` depends on.
        let key = format!("{step}: {} {} {chunks}", tile.bn, tile.bk);
        if let Some(memory) = self.packed.get(&key) {
            return Ok(memory.address);
        }
        let data = pack::conv(&self.weights[step], &self.shapes[step], tile, chunks);
        let memory = Memory::new(&self.gpu, data.len(), Purpose::Constant)?;
        memory.write(0, &data)?;
        let address = memory.address;
        self.packed.insert(key, memory);
        Ok(address)
    }

    /// Runs a choice once on memory full of NaNs; the output of the first image and of the last one.
    ///
    /// # Errors
    /// As [`Scratch::launch`]; failures of the device.
    pub fn output(&mut self, choice: &Choice) -> Result<Output> {
        let launches = vec![self.launch(choice)?];
        self.dst.fill(0xFF)?;
        // SAFETY: addresses are those of `self`, and the program ends here.
        unsafe { self.gpu.compile(GraphRecipe { launches, ..GraphRecipe::default() }) }?.run()?;
        let mut output = Output { values: vec![], spilled: false };
        for (i, s) in self.shapes.iter().enumerate() {
            let len = s.oh * s.ow * s.cout;
            for image in if self.images == 1 { vec![0] } else { vec![0, self.images - 1] } {
                let mut values = vec![f16::ZERO; len + GAP];
                let at = (i * self.images + image) * self.image * 2;
                self.dst.read(at, bytemuck::cast_slice_mut(&mut values))?;
                output.spilled |= values[len..].iter().any(|v| v.to_bits() != 0xFFFF);
                values.truncate(len);
                output.values.extend(values);
            }
        }
        Ok(output)
    }
}

/// Reproducible numbers, about standard normal, in little time.
struct Random(u64);

impl Random {
    /// Of four uniform numbers of 16 bits (splitmix64) the sum, which has a variance of a third.
    fn normal(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        let sum: u64 = (0..4).map(|i| z >> (16 * i) & 0xFFFF).sum();
        (sum as f32 / 65536.0 - 2.0) * 3f32.sqrt()
    }
}
