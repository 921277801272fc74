//! Convolutions. `algorithm` selects how a layer is computed, `direct` and `winograd` compute it, `epilogue` finishes the sums.

pub mod algorithm;
pub mod direct;
pub mod epilogue;
pub mod winograd;

use crate::backend::Precision;
use crate::backend::cpu::element::{Element, round_keeping_sum};
use crate::backend::cpu::memory::{Block, Map};
use crate::backend::cpu::pose::letterbox::{Layout, NetworkInput};
use crate::backend::cpu::prepare::Builder;
use crate::backend::cpu::simd::Simd;
use crate::backend::cpu::tile_unit::{TileUnit, Unit};
use crate::plan::{Conv, DType, Plan, PreAdd};
use algorithm::{Algorithm, Layer};
use direct::{Direct, Shape};
use epilogue::{Addend, Epilogue};
use half::bf16;
use winograd::Winograd;
use winograd::scheme::{F33, F43, F43Stride2, F53, F53Stride2, Scheme};

impl<S: Simd> Builder<'_, S> {
    /// Adds the phase of a convolution.
    pub(in crate::backend::cpu) fn conv(&mut self, plan: &mut Plan, step: usize, conv: &Conv) {
        let (mut weight, bias) = (self.take(plan, conv.weight), self.take(plan, conv.bias));
        let pre = match conv.pre_add {
            PreAdd::None => Addend::None,
            PreAdd::Same(view) => Addend::Same(self.map(plan, view)),
            PreAdd::Upsampled(view) => Addend::Upsampled(self.map(plan, view)),
            PreAdd::Table(id) => Addend::Table(Block::from_slice(&self.take(plan, id))),
        };
        let dst = self.map(plan, conv.dst);
        let epilogue =
            Epilogue { dst, pre, act: conv.act, post: conv.post_add.map(|view| self.map(plan, view)) };
        let mut shape =
            Shape { kernel: conv.kernel, stride: conv.stride, pad: conv.pad, groups: conv.groups };
        let src = match self.input {
            Some(NetworkInput { view, map, layout }) if view.buffer == conv.src.buffer => {
                match layout {
                    // The border is the padding.
                    Layout::Bordered { border } if border == conv.pad => shape.pad = 0,
                    Layout::Bordered { border } => assert!(border == 0, "a border as wide as the padding"),
                    Layout::Cells => {
                        shape = Shape { kernel: 3, stride: 1, pad: 1, groups: 1 };
                        weight = weights_over_cells(&weight);
                    }
                }
                map
            }
            _ => self.map(plan, conv.src),
        };
        let dtype = plan.buffer_of(conv.dst).dtype;
        let input = self.input.is_some_and(|input| input.view.buffer == conv.src.buffer);
        let layer = Layer { src: &src, dst: &dst, shape, lanes: S::LANES, panel: S::PANEL };
        let kernel = match self.input {
            // Pixels of up to 255 would lose most by rounding, and patches of five take 0.75 of the time of sums in bf16.
            Some(NetworkInput { layout: Layout::Cells, .. }) if input => Kernel::F32(layer.f32()),
            _ => self.choose(&layer, dtype),
        };
        if input && self.precision == Precision::Bf16 && !matches!(kernel, Kernel::F32(_)) {
            for filter in weight.chunks_exact_mut(shape.kernel * shape.kernel * src.c) {
                for channel in 0..src.c {
                    round_keeping_sum(
                        &mut filter.iter_mut().skip(channel).step_by(src.c).collect::<Vec<_>>(),
                    );
                }
            }
        }
        let layer = Unpacked { step, src, shape, weight, bias, epilogue };
        let f32 = self.simd.f32();
        match kernel {
            // S::BF16 is a constant, so that bf16 kernels are compiled only for instruction sets with bf16.
            Kernel::Tiles(unit) if S::BF16 => self.tiles(layer, unit),
            Kernel::Bf16(Algorithm::F33) if S::BF16 => {
                self.winograd::<S, F33, bf16>(self.simd, layer, "winograd 3 bf16");
            }
            Kernel::Bf16(Algorithm::F43Stride2) if S::BF16 => {
                self.winograd::<S, F43Stride2, bf16>(self.simd, layer, "winograd s2 bf16");
            }
            Kernel::Bf16(_) if S::BF16 => {
                self.direct::<S, bf16>(self.simd, layer, ["1x1 bf16", "direct bf16", "grouped bf16"]);
            }
            Kernel::F32(Algorithm::F43) => self.winograd::<S::F32, F43, f32>(f32, layer, "winograd"),
            Kernel::F32(Algorithm::F53) => self.winograd::<S::F32, F53, f32>(f32, layer, "winograd 5"),
            Kernel::F32(Algorithm::F53Stride2) => {
                self.winograd::<S::F32, F53Stride2, f32>(f32, layer, "winograd 5 s2");
            }
            Kernel::F32(Algorithm::F43Stride2) => {
                self.winograd::<S::F32, F43Stride2, f32>(f32, layer, "winograd s2");
            }
            _ => self.direct::<S::F32, f32>(f32, layer, ["1x1", "direct", "grouped"]),
        }
    }

    /// The kernel for a convolution in this precision.
    fn choose(&self, layer: &Layer<'_>, dst: DType) -> Kernel {
        let rounded = self.precision != Precision::Fp32 && dst == DType::Working;
        match self.unit {
            Some(unit) if rounded => Kernel::Tiles(unit),
            None if rounded => layer.bf16().map_or(Kernel::F32(layer.f32()), Kernel::Bf16),
            _ => Kernel::F32(layer.f32()),
        }
    }

    fn winograd<Q: Simd, W: Scheme, T: Element>(&mut self, simd: Q, layer: Unpacked, name: &'static str) {
        let Unpacked { step, src, shape, weight, bias, epilogue } = layer;
        let dst = &epilogue.dst;
        let layer = Layer { src: &src, dst, shape, lanes: S::LANES, panel: S::PANEL };
        let partition = layer.cut::<W, T>(self.threads);
        let make =
            move || Winograd::<Q, W, T>::new(simd, src, shape.groups, &weight, &bias, epilogue, partition);
        self.push_later(step, name, make);
    }

    fn tiles(&mut self, layer: Unpacked, unit: Unit) {
        let step = layer.step;
        let (name, make) = unit.convolution(self.simd, layer, self.precision, self.threads);
        self.push_boxed(step, name, make);
    }

    /// `names` are those of 1x1, other dense, and grouped layers.
    fn direct<Q: Simd, T: Element>(&mut self, simd: Q, layer: Unpacked, names: [&'static str; 3]) {
        let name = layer.shape.pick(names);
        let Unpacked { step, src, shape, weight, bias, epilogue } = layer;
        let partition = self.direct_partition(&epilogue.dst, weight.len() * size_of::<T>());
        let make = move || Direct::<Q, T>::new(simd, src, shape, &weight, &bias, epilogue, partition);
        self.push_later(step, name, make);
    }

    fn direct_partition(&self, dst: &Map, weight_bytes: usize) -> direct::Partition {
        let pixels = dst.pixels();
        // Of more than 1 MiB of weights each thread reads only those of its own output channels.
        let ranges = if weight_bytes > 1 << 20 { (2 * self.threads).min(dst.c / 32).max(1) } else { 1 };
        let blocks = pixels.div_ceil(96).next_multiple_of(self.threads);
        direct::Partition { pixels: pixels.div_ceil(blocks), ranges }
    }
}

/// Weights of a 6x6 convolution with stride 2 over three channels, `[cout][6][6][3]`, as those of the 3x3 convolution over cells of
/// 2x2 pixels, `[cout][3][3][2][2][3]`.
fn weights_over_cells(weight: &[f32]) -> Vec<f32> {
    let mut out = Vec::with_capacity(weight.len());
    for filter in weight.chunks_exact(6 * 6 * 3) {
        for tap in 0..9 {
            for pixel in 0..4 {
                let (y, x) = (tap / 3 * 2 + pixel / 2, tap % 3 * 2 + pixel % 2);
                out.extend_from_slice(&filter[(y * 6 + x) * 3..][..3]);
            }
        }
    }
    out
}

/// The instructions and elements of a convolution.
enum Kernel {
    /// Vectors of f32.
    F32(Algorithm),
    /// Vectors of bf16 pairs.
    Bf16(Algorithm),
    /// Tiles, in bf16 or bf16x3.
    Tiles(Unit),
}

/// A convolution before its weights are packed.
pub struct Unpacked {
    /// Step of the plan.
    pub step: usize,
    /// Input.
    pub src: Map,
    /// Shape.
    pub shape: Shape,
    /// `[cout][kernel][kernel][cin / groups]`.
    pub weight: Vec<f32>,
    /// `[cout]`.
    pub bias: Vec<f32>,
    /// Epilogue, with the output.
    pub epilogue: Epilogue,
}
