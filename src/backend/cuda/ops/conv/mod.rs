//! Convolutions: one launch for up to four independent ones, with the kernel and tile that suit their shapes.
//!
//! * `conv.cuh` is what all convolution kernels share; [`tiles`] is how they split a map, [`pack`] how they read
//!   weights.
//! * A family is a file of kernels built on one machine instruction. Leaving one out is leaving out its name below.
//! * [`tune`] chooses among them: by a table, by an estimate, or by what [`measure`] found and [`cache`] keeps.
//!   [`judge`] decides what was found: a choice that computes something else than `conv_mma` is left out.

mod activation;
pub mod cache;
pub mod judge;
pub mod measure;
mod pack;
pub mod params;
mod scratch;
pub mod shape;
pub mod tiles;
pub mod trial;
pub mod tune;

use self::params::{CONV_STEPS, ConvLaunch, ConvStep, PreAdd as Addend};
use self::shape::{Shape, stem};
use self::tiles::{Choice, Family, geometry, grid, shared_bytes, stages};
use super::{Operation, Supported, aligned, pack as packing, predict, require};
use crate::backend::cuda::launch::Launch;
use crate::backend::cuda::lower::Lowering;
use crate::error::Result;
use crate::plan::{Act, Conv, IMAGE, Op, Plan, PreAdd};

macro_rules! families {
    ($($family:ident),*) => {
        $(mod $family;)*
        /// All families of kernels.
        static FAMILIES: &[&dyn Family] = &[$($family::FAMILY),*];
    };
}
families![mma, wg, pp];

pub struct Convolution;

/// The convolutions of a launch; `None` if it is of another operation.
pub fn shapes(plan: &Plan, steps: &[usize]) -> Option<Vec<Shape>> {
    let shape = |&step: &usize| match &plan.steps[step].op {
        Op::Conv(c) if !predict::is(plan, c) => Some(Shape::of(plan, c)),
        _ => None,
    };
    steps.iter().map(shape).collect()
}

impl Operation for Convolution {
    fn supports(&self, plan: &Plan, op: &Op) -> Supported {
        let Op::Conv(c) = op else { unreachable!("see ops::of") };
        let (kernel, stride, pad) = (c.kernel, c.stride, c.pad);
        if let Some(stem) = stem(kernel) {
            require(plan.input(IMAGE) == Some(c.src) && (stride, pad, c.groups) == (2, stem.pad, 1), || {
                format!("a {kernel}x{kernel} convolution that is not the stem")
            })?;
        } else {
            require(matches!((kernel, stride, pad), (1, 1 | 2, 0) | (3, 1 | 2, 1)), || {
                format!("kernel {kernel}, stride {stride}, padding {pad}")
            })?;
            aligned(plan, c.src)?;
            require(c.src.c.is_multiple_of(8), || {
                format!("{} input channels, expected a multiple of 8", c.src.c)
            })?;
        }
        require(!c.src.overlaps(c.dst), || "it writes what it reads".into())?;
        aligned(plan, c.dst)?;
        require(c.dst.c.is_multiple_of(8), || {
            format!("{} output channels, expected a multiple of 8", c.dst.c)
        })?;
        if let PreAdd::Same(v) | PreAdd::Upsampled(v) = c.pre_add {
            aligned(plan, v)?;
        }
        c.post_add.map_or(Ok(()), |v| aligned(plan, v))?;
        require(c.groups == 1 || (c.src.c == c.dst.c && kernel == 3), || {
            format!("{} groups of {} channels", c.groups, c.src.c / c.groups)
        })
    }

    fn most(&self) -> usize {
        CONV_STEPS
    }

    fn together(&self, plan: &Plan, first: &Op, other: &Op) -> bool {
        let (Op::Conv(a), Op::Conv(b)) = (first, other) else { return false };
        let alike =
            (a.kernel, a.stride) == (b.kernel, b.stride) && (a.act == Act::Gelu) == (b.act == Act::Gelu);
        // There are no kernels for several steps of 1x1 s2, of ResNet's stem, or with ReLU.
        let several = |c: &Conv| matches!((c.kernel, c.stride), (1, 1) | (3 | 6, _)) && c.act != Act::Relu;
        !predict::is(plan, b) && alike && several(a) && several(b)
    }

    fn launch(&self, cx: &mut Lowering<'_>, steps: &[usize]) -> Result<Launch> {
        let plan = cx.plan;
        let convs = steps.iter().map(|&step| match cx.op(step) {
            Op::Conv(c) => c,
            _ => unreachable!("see ops::of"),
        });
        let convs: Vec<&Conv> = convs.collect();
        let shapes: Vec<Shape> = convs.iter().map(|c| Shape::of(plan, c)).collect();
        let choice = (cx.choose)(&shapes);
        let tile = choice.tile;
        let mut params = launch_params(steps.len(), cx.workspace.images, &choice);
        params.image = cx.image();
        let mut blocks = 0;
        let mut geometries = Vec::new();
        for ((c, shape), slot) in convs.iter().zip(&shapes).zip(&mut params.step) {
            let g = geometry(shape, &choice).expect("the choice was made for these shapes");
            let weight = &plan.tensors[c.weight.0].data;
            let how = format!("{shape:?} for tiles of {} and {}", tile.bn, tile.bk);
            let weight = cx.constants.put(Some(c.weight), how, || match stem(c.kernel) {
                Some(stem) => {
                    pack::conv(&pack::stem(weight, shape.cout, stem), shape, tile, g.step.chunks as usize)
                }
                None => pack::conv(weight, shape, tile, g.step.chunks as usize),
            })?;
            let (pre, pre_pitch, pre_image, pre_add) = match c.pre_add {
                PreAdd::None => (0, 0, 0, Addend::None),
                PreAdd::Same(v) => (cx.address(v), cx.pitch(v), cx.image(), Addend::Same),
                PreAdd::Upsampled(v) => (cx.address(v), cx.pitch(v), cx.image(), Addend::Upsampled),
                PreAdd::Table(t) => (cx.constants.halves(plan, t)?, c.dst.c as i32, 0, Addend::Same),
            };
            *slot = ConvStep {
                src: cx.address(c.src),
                weight,
                bias: bias(cx, c, g.step.cout_pad as usize)?,
                pre,
                post: c.post_add.map_or(0, |v| cx.address(v)),
                dst: cx.address(c.dst),
                pre_image,
                src_pitch: cx.pitch(c.src),
                pre_pitch,
                post_pitch: c.post_add.map_or(0, |v| cx.pitch(v)),
                dst_pitch: cx.pitch(c.dst),
                pre_add: pre_add as i32,
                first_block: blocks,
                ..g.step
            };
            blocks += (g.tiles * cx.workspace.images) as i32;
            geometries.push(g);
        }
        params.stages = stages(&geometries, &choice) as i32;
        let grid = grid(&cx.constants.gpu.caps(), &geometries, cx.workspace.images, &choice);
        let kernel = tile.kernel(&shapes).expect("the choice was made for these shapes");
        Ok(Launch {
            cluster: choice.split as u32,
            shared: shared_bytes(&geometries, &choice) as u32,
            ..Launch::new(kernel, grid, tile.threads, params, steps)
        })
    }
}

/// The launch parameters that a choice determines.
fn launch_params(steps: usize, images: usize, choice: &Choice) -> ConvLaunch {
    ConvLaunch {
        steps: steps as i32,
        images: images as i32,
        split: choice.split as i32,
        buffers: choice.buffers as i32,
        trigger: choice.trigger as i32,
        ..ConvLaunch::default()
    }
}

/// A convolution's bias, scaled for its activation and padded to `len`.
fn bias(cx: &mut Lowering<'_>, c: &Conv, len: usize) -> Result<u64> {
    let (values, scale) = (&cx.plan.tensors[c.bias.0].data, activation::scale(c.act));
    cx.constants.put(Some(c.bias), format!("{len} floats, times {scale}"), || {
        let scaled: Vec<f32> = values.iter().map(|v| v * scale).collect();
        packing::floats(&scaled, len)
    })
}

/// Makes each convolution whose kernel can do so prefetch the next convolution's weights into L2. `constants`: bytes of
/// all weights. If they fit into L2 together, nothing is prefetched.
pub fn prefetch(launches: &mut [Launch], constants: usize) {
    /// Weights up to this size stay in L2.
    const STAYS: usize = 40 << 20;
    if constants < STAYS {
        return;
    }
    let mut next: Option<(u64, i32)> = None;
    for l in launches.iter_mut().rev() {
        let name = Some(l.kernel.name);
        let tile = tiles::tiles().find(|t| [Some(t.name), t.several, t.relu].contains(&name));
        let (Some(p), Some(tile)) = (l.params.get_mut::<ConvLaunch>(), tile) else { continue };
        if let (true, Some((address, bytes))) = (tile.family.prefetches(), next) {
            (p.prefetch, p.prefetch_bytes) = (address, bytes);
        }
        let s = &p.step[0];
        next = Some((s.weight, s.chunks * s.kernel * s.kernel * s.cout_pad * tile.bk as i32 * 2));
    }
}

/// Files of the convolution kernels.
pub fn files() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|family| family.file())
}
