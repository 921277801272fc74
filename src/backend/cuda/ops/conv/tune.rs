//! Which tile for which convolution: a table of measured ones, and what is worth measuring on this GPU.

use super::params::Trigger::{self, *};
use super::shape::Shape;
use super::tiles::{Choice, Geometry, SPLITS, chunks, geometry, possible, tile, tiles, window};
use crate::backend::cuda::gpu::Caps;

/// `[kernel, stride, cin, cout, output side]`, tile, width of the output tile, split along K, activation buffers,
/// trigger.
type Measured = ([usize; 5], &'static str, i32, usize, usize, Trigger);

/// The best tiles for the layers of rtmo-s and rtmo-l that were measured on an H100 for batch 1, beside a neighbour and
/// then inside the whole network (`benches/record`, the tiles of 2026-11-23); layers that share launches there, and
/// some of other networks, alone and with earlier kernels. Choices measured at the first load take precedence.
#[rustfmt::skip]
const MEASURED: &[Measured] = &[
    ([1, 1, 32, 32, 160], "conv_mma_64x32x32_3_4x1x1", 0, 1, 1, Mid),
    ([1, 1, 64, 64, 80], "conv_wg_1_1x2_64x64_4", 0, 1, 4, Mid),
    ([1, 1, 64, 64, 160], "conv_mma_64x64x64_3_2x2x1", 0, 1, 1, Mid),
    ([1, 1, 128, 128, 40], "conv_wg_1_1x2_128x64_3", 0, 1, 8, Mid),
    ([1, 1, 128, 128, 80], "conv_mma_32x128x64_3_1x4x1", 0, 1, 2, Mid),
    ([1, 1, 128, 128, 160], "conv_mma_64x128x64_3_2x4x1", 0, 1, 2, Mid),
    ([1, 1, 128, 256, 20], "conv_wg_1_1x2_64x64_4", 0, 1, 2, Mid),
    ([1, 1, 128, 256, 40], "conv_wg_1_1x2_128x64_3", 0, 1, 4, Mid),
    ([1, 1, 128, 256, 80], "conv_wg_1_1x4_256x64_3", 0, 1, 2, Late),
    ([1, 1, 256, 256, 20], "conv_wg_1_1x2_64x64_4", 0, 1, 4, Mid),
    ([1, 1, 256, 256, 40], "conv_wg_1_1x2_128x64_3", 0, 1, 4, Mid),
    ([1, 1, 256, 256, 80], "conv_wg_1_1x4_256x64_3", 0, 1, 4, Mid),
    ([1, 1, 256, 512, 20], "conv_wg_1_1x2_64x64_4", 0, 1, 4, Mid),
    ([1, 1, 256, 512, 40], "conv_wg_1_1x4_256x64_3", 0, 1, 8, Mid),
    ([1, 1, 256, 512, 80], "conv_wg_1_1x4_256x64_3", 0, 1, 4, Mid),
    ([1, 1, 256, 768, 20], "conv_wg_1_1x2_128x64_3", 0, 1, 4, Mid),
    ([1, 1, 256, 1024, 20], "conv_mma_32x128x64_3_1x4x1", 0, 1, 3, Mid),
    ([1, 1, 512, 256, 20], "conv_wg_1_1x2_64x64_4", 0, 2, 4, Mid),
    ([1, 1, 512, 256, 40], "conv_wg_1_1x4_256x64_3", 0, 2, 4, Mid),
    ([1, 1, 512, 256, 80], "conv_wg_1_1x4_256x64_3", 0, 1, 4, Late),
    ([1, 1, 512, 512, 20], "conv_wg_1_1x2_128x64_3", 0, 2, 4, Mid),
    ([1, 1, 512, 512, 40], "conv_wg_1_1x4_256x64_3", 0, 1, 8, Mid),
    ([1, 1, 512, 512, 80], "conv_wg_1_1x4_256x64_3", 0, 1, 4, Late),
    ([1, 1, 1024, 256, 20], "conv_wg_1_1x2_128x64_3", 0, 4, 4, Mid),
    ([1, 1, 1024, 512, 20], "conv_wg_1_1x2_128x64_3", 0, 2, 4, Mid),
    ([1, 1, 1024, 1024, 20], "conv_wg_1_1x2_128x64_3", 0, 2, 4, Mid),
    ([1, 1, 2048, 1024, 20], "conv_wg_1_1x2_128x64_3", 0, 2, 8, Mid),
    ([3, 1, 16, 32, 320], "conv_mma_128x32x16_5_4x1x1", 8, 1, 1, Mid),
    ([3, 1, 16, 64, 320], "conv_mma_128x32x16_5_4x1x1", 8, 1, 1, Mid),
    ([3, 1, 32, 32, 160], "conv_wg_3_4x1_32x32_4", 8, 1, 1, Mid),
    ([3, 1, 64, 64, 80], "conv_wg_3_1x1_64x64_8", 8, 1, 2, Mid),
    ([3, 1, 64, 64, 160], "conv_wg_3_4x1_64x32_4", 8, 1, 2, Mid),
    ([3, 1, 128, 128, 20], "conv_wg_3_1x1_32x64_8", -1, 2, 2, Mid),
    ([3, 1, 128, 128, 40], "conv_wg_3_1x1_32x64_8", 8, 1, 2, Mid),
    ([3, 1, 128, 128, 80], "conv_wg_3_1x2_128x64_6", 8, 1, 2, Early),
    ([3, 1, 128, 144, 20], "conv_wg_3_1x1_32x64_8", -1, 1, 2, Mid),
    ([3, 1, 128, 144, 40], "conv_wg_3_1x1_32x64_8", 8, 1, 2, Mid),
    ([3, 1, 256, 256, 20], "conv_wg_3_1x1_64x64_8", -1, 2, 2, Mid),
    ([3, 1, 256, 256, 40], "conv_wg_3_1x2_128x64_6", 8, 2, 2, Mid),
    ([3, 1, 256, 256, 80], "conv_wg_3_2x2_128x64_6", 8, 1, 2, Early),
    ([3, 1, 256, 288, 20], "conv_wg_3_1x1_64x64_8", -1, 2, 2, Mid),
    ([3, 1, 256, 288, 40], "conv_wg_3_1x1_64x64_8", 8, 1, 4, Late),
    ([3, 1, 512, 512, 20], "conv_wg_3_1x2_128x64_6", -1, 2, 2, Mid),
    ([3, 2, 32, 64, 160], "conv_wg_3_4x1_64x32_4", 8, 1, 1, Mid),
    ([3, 2, 64, 128, 80], "conv_wg_3_1x2_128x64_6", 8, 1, 1, Mid),
    ([3, 2, 64, 128, 160], "conv_wg_3_2x2_128x64_6", 8, 1, 1, Mid),
    ([3, 2, 128, 256, 40], "conv_wg_3_1x2_128x64_6", 8, 1, 2, Mid),
    ([3, 2, 128, 256, 80], "conv_wg_3_1x2_256x64_3", 8, 1, 2, Mid),
    ([3, 2, 256, 256, 20], "conv_wg_3_1x1_64x64_8", 8, 2, 2, Mid),
    ([3, 2, 256, 256, 40], "conv_wg_3_1x2_256x64_3", 8, 4, 2, Mid),
    ([3, 2, 256, 512, 20], "conv_wg_3_1x2_128x64_6", 8, 2, 2, Mid),
    ([3, 2, 256, 512, 40], "conv_wg_3_1x2_128x64_6", 8, 1, 2, Mid),
    ([3, 2, 512, 1024, 20], "conv_wg_3_1x2_256x64_3", 8, 2, 2, Mid),
];

/// The built-in choice for a launch.
///
/// # Panics
/// If no kernel does these shapes in one launch: the schedule makes no such launch.
pub fn built_in(caps: &Caps, shapes: &[Shape], images: usize) -> Choice {
    let main = shapes.iter().max_by_key(|s| s.work()).expect("a launch has steps");
    if caps.wgmma {
        // The nearest measured shape whose tile fits: ratios of channels count more than the map's size.
        let pixels = shapes.iter().map(|s| s.oh * s.ow).sum::<usize>() * images;
        let (_, channels) = window(main, 0, 32);
        let ratio = |a: usize, b: usize| (a as f64 / b as f64).ln().abs();
        let distance = |m: &[usize; 5]| {
            ratio(m[2], channels) + ratio(m[3], main.cout) + 0.7 * ratio(m[4] * m[4], pixels)
        };
        let mut near: Vec<_> =
            MEASURED.iter().filter(|m| (m.0[0], m.0[1]) == (main.kernel, main.stride)).collect();
        near.sort_by(|a, b| distance(&a.0).total_cmp(&distance(&b.0)));
        for (_, name, width, split, buffers, trigger) in near {
            let tile = tile(name).expect("the table names tiles that exist");
            for (width, split) in [(*width, *split), (*width, 1), (8.min(*width * 8 + 8), 1)] {
                let width = if main.kernel == 1 { 0 } else { width };
                // more buffers than chunks are of no use
                let most = shapes.iter().map(|s| chunks(s, tile).div_ceil(split)).max().unwrap_or(1);
                let buffers = (*buffers).min(most).max(1);
                let choice = Choice { tile, width, split, buffers, trigger: *trigger };
                if possible(caps, shapes, &choice) {
                    return choice;
                }
            }
        }
    }
    // Estimates of the wgmma families are rough.
    fallback(caps, shapes, images)
}

/// The choice of `conv_mma`, the family that does everything on every GPU, which others are compared with.
///
/// # Panics
/// As [`built_in`].
pub fn fallback(caps: &Caps, shapes: &[Shape], images: usize) -> Choice {
    let cost = |c: &Choice| estimate(caps, shapes, images, c);
    let all = candidates(caps, shapes, images);
    let best = all.iter().filter(|c| c.tile.family.file() == FALLBACK);
    *best.min_by(|a, b| cost(a).total_cmp(&cost(b))).expect("conv_mma does every shape")
}

/// Its file.
const FALLBACK: &str = "conv_mma";

/// Cycles of a launch, roughly: waves of blocks, each with a fixed cost and some 350 cycles (or the tensor cores'
/// time) a step.
fn estimate(caps: &Caps, shapes: &[Shape], images: usize, choice: &Choice) -> f64 {
    let tile = choice.tile;
    let steps: Vec<Geometry> = shapes.iter().filter_map(|s| geometry(s, choice)).collect();
    if let [one] = steps.as_slice()
        && let Some(cycles) = tile.family.cycles(caps, one, images, choice)
    {
        return cycles;
    }
    let blocks: usize = steps.iter().map(|g| g.tiles * images * choice.split).sum();
    let longest =
        steps.iter().map(|g| (g.step.chunks * g.step.kernel * g.step.kernel) as usize).max().unwrap_or(0);
    let each = 350f64.max((tile.bm * tile.bn * tile.bk) as f64 / 512.0);
    let run =
        2500.0 + longest.div_ceil(choice.split) as f64 * each + if choice.split > 1 { 1700.0 } else { 0.0 };
    let waves = (blocks as f64 / f64::from(caps.sms)).max(1.0);
    run * if waves < 4.0 { waves.ceil() } else { waves }
}

/// What is worth measuring for a launch, the most promising first: nearly everything for single images, some for
/// batches, where a measurement takes long. Families with a quota come first, with their best way for each of a few
/// tiles.
pub fn ranked(caps: &Caps, shapes: &[Shape], images: usize) -> Vec<Choice> {
    const BATCHED: usize = 16;
    let cost = |c: &Choice| estimate(caps, shapes, images, c);
    let mut all = candidates(caps, shapes, images);
    all.sort_by(|a, b| cost(a).total_cmp(&cost(b)));
    let (first, mut others): (Vec<Choice>, Vec<Choice>) =
        all.into_iter().partition(|c| c.tile.family.first().is_some());
    others.truncate(if images == 1 { usize::MAX } else { BATCHED });
    let mut ranked: Vec<Choice> = Vec::new();
    for choice in first {
        let family = choice.tile.family;
        let of_family = ranked.iter().filter(|c| c.tile.family.file() == family.file()).count();
        if of_family < family.first().unwrap_or(0) && ranked.iter().all(|c| c.tile != choice.tile) {
            ranked.push(choice);
        }
    }
    ranked.extend(others);
    ranked
}

/// All choices that are possible for a launch, without those that differ in nothing that matters.
pub fn candidates(caps: &Caps, shapes: &[Shape], images: usize) -> Vec<Choice> {
    let main = shapes.iter().max_by_key(|s| s.work()).expect("a launch has steps");
    let widths: &[i32] = match (main.kernel, main.stride) {
        (1, _) => &[0],
        (3, 1) => &[8, 16, -1],
        _ => &[8, 16],
    };
    let mut all = Vec::new();
    for tile in tiles() {
        let family = tile.family;
        for &width in widths {
            for split in SPLITS {
                for buffers in family.buffers_to_try(shapes, tile, width, split) {
                    let choice = Choice { tile, width, split, buffers, trigger: Mid };
                    let busy = |g: Geometry| family.busy(caps, &g, images);
                    if possible(caps, shapes, &choice) && geometry(&shapes[0], &choice).is_some_and(busy) {
                        all.push(choice);
                    }
                }
            }
        }
    }
    all
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::plan::Act;

    pub const H100: Caps = Caps { sms: 132, shared: 227 << 10, sm90: true, wgmma: true, unproven: true };
    pub const T4: Caps = Caps { sms: 40, shared: 64 << 10, sm90: false, wgmma: false, unproven: false };

    pub fn shape(kernel: usize, stride: usize, cin: usize, cout: usize, o: usize) -> Shape {
        let act = Act::Silu;
        Shape { kernel, stride, cin, cout, h: o * stride, w: o * stride, oh: o, ow: o, group: 0, act }
    }

    #[test]
    fn measured_shapes_get_their_measured_tile() {
        for (key, name, width, split, buffers, trigger) in MEASURED {
            let s = shape(key[0], key[1], key[2], key[3], key[4]);
            let c = built_in(&H100, &[s], 1);
            assert_eq!((c.tile.name, c.width, c.split), (*name, *width, *split), "{key:?}");
            assert!(c.buffers <= *buffers && c.trigger == *trigger, "{key:?}");
        }
    }

    #[test]
    fn every_shape_has_a_tile_on_every_gpu() {
        for caps in [H100, T4] {
            for (kernel, stride) in [(1, 1), (1, 2), (3, 1), (3, 2), (4, 1)] {
                for cin in [8, 16, 24, 96, 256, 2048] {
                    for cout in [8, 24, 144, 1024] {
                        for o in [1, 2, 13, 20, 40, 160, 320] {
                            for act in [Act::None, Act::Silu, Act::Gelu, Act::Relu] {
                                let s = Shape { act, ..shape(kernel, stride, cin, cout, o) };
                                let c = built_in(&caps, &[s], 1);
                                assert!(possible(&caps, &[s], &c), "{s:?} {c:?}");
                            }
                        }
                    }
                }
            }
        }
    }
}
