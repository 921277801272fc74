//! Which tile for which convolution: measured on this GPU at first load and kept in a file, else the built-in table.

use super::MAX_BATCH;
use super::gpu::Caps;
use super::tiles::{
    Choice, SPLITS, Shape, TILES, Trigger, Trigger::*, Unit, buffers_needed, chunks, geometry, grid,
    shared_bytes, stages, window,
};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

/// `[kernel, stride, cin, cout, output side]`, tile, width of the output tile, split along K, activation buffers, trigger.
type Measured = ([usize; 5], &'static str, i32, usize, usize, Trigger);

/// The best tiles for the layers of rtmo-s and rtmo-l that were measured on an H100 for batch 1, beside a neighbour and then
/// inside the whole network (`benches/record`, the tiles of 2026-11-23); layers that share launches there, and some of other
/// networks, alone and with earlier kernels. What is measured at the first load goes before this.
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

/// Whether all shapes can be done that way on this GPU.
pub(super) fn possible(caps: &Caps, shapes: &[Shape], choice: &Choice) -> bool {
    let tile = &TILES[choice.tile];
    if !matches!(tile.unit, Unit::Mma { .. }) && !caps.wgmma || choice.split > 1 && !caps.sm90 {
        return false;
    }
    if matches!(tile.unit, Unit::PingPong { .. }) && (shapes.len() > 1 || !caps.ping_pong) {
        return false;
    }
    let steps: Option<Vec<_>> = shapes.iter().map(|s| geometry(s, choice)).collect();
    steps.is_some_and(|steps| shared_bytes(&steps, choice) <= caps.shared as usize)
}

/// Multiplications of a shape.
fn work(s: &Shape) -> usize {
    let channels = if s.group == 0 { s.cin } else { s.group };
    s.kernel * s.kernel * channels * s.cout * s.oh * s.ow
}

/// The built-in choice for a launch.
pub(super) fn built_in(caps: &Caps, shapes: &[Shape], images: usize) -> Choice {
    let main = shapes.iter().max_by_key(|s| work(s)).expect("a launch has steps");
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
            let tile = TILES.iter().position(|t| t.name == *name).expect("the table names tiles that exist");
            for (width, split) in [(*width, *split), (*width, 1), (8.min(*width * 8 + 8), 1)] {
                let width = if main.kernel == 1 { 0 } else { width };
                // more buffers than chunks are of no use
                let most = shapes.iter().map(|s| chunks(s, &TILES[tile]).div_ceil(split)).max().unwrap_or(1);
                let buffers = (*buffers).min(most).max(1);
                let choice = Choice { tile, width, split, buffers, trigger: *trigger };
                if possible(caps, shapes, &choice) {
                    return choice;
                }
            }
        }
    }
    let cost = |c: &Choice| estimate(caps, shapes, images, c);
    let all = candidates(caps, shapes, images);
    let best = all.iter().filter(|c| matches!(TILES[c.tile].unit, Unit::Mma { .. }));
    *best.min_by(|a, b| cost(a).total_cmp(&cost(b))).expect("64x32x32 does every shape")
}

/// Cycles of a launch, roughly: waves of blocks, each with a fixed cost and some 350 cycles (or the tensor cores'
/// time) a step.
fn estimate(caps: &Caps, shapes: &[Shape], images: usize, choice: &Choice) -> f64 {
    let tile = &TILES[choice.tile];
    let steps: Vec<_> = shapes.iter().filter_map(|s| geometry(s, choice)).collect();
    if let (Unit::PingPong { warpgroups, .. }, [one]) = (tile.unit, steps.as_slice()) {
        let s = &one.step;
        let along = (s.tiles as usize * images).div_ceil(grid(caps, &steps, images, choice)[0] as usize);
        let all = (s.chunks * s.kernel * s.kernel) as usize;
        // Of a tile: products, bytes from L2, epilogue.
        let weights =
            if stages(&steps, choice) == all { 0 } else { all * tile.bn * tile.bk * 2 / warpgroups as usize };
        let activations = (s.halo_w * s.halo_h * s.chunks) as usize * tile.bk * 2;
        // Products of 64 channels read shared memory as fast as it can be read; a step takes a warpgroup 200 cycles at
        // least.
        let slower = if tile.bn == 64 { 1.25 } else { 1.1 };
        let step =
            ((tile.bm * tile.bn * tile.bk) as f64 / 2048.0 * slower).max(200.0 / f64::from(warpgroups));
        let products = all as f64 * step;
        let bytes = (weights + activations) as f64 / 40.0;
        return 4000.0 + along as f64 * products.max(bytes).max((tile.bm * tile.bn) as f64 / 12.0);
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
/// batches, where a measurement takes long. Kernels whose blocks stay have an estimate of their own, and a quota: the
/// best way for each of a few.
pub(super) fn ranked(caps: &Caps, shapes: &[Shape], images: usize) -> Vec<Choice> {
    const BATCHED: usize = 16;
    const PING_PONG: usize = 3;
    let cost = |c: &Choice| estimate(caps, shapes, images, c);
    let mut all = candidates(caps, shapes, images);
    all.sort_by(|a, b| cost(a).total_cmp(&cost(b)));
    let stays = |c: &Choice| matches!(TILES[c.tile].unit, Unit::PingPong { .. });
    let (staying, mut others): (Vec<Choice>, Vec<Choice>) = all.into_iter().partition(stays);
    others.truncate(if images == 1 { usize::MAX } else { BATCHED });
    let mut ranked: Vec<Choice> = Vec::new();
    for choice in staying {
        if ranked.len() < PING_PONG && ranked.iter().all(|c| c.tile != choice.tile) {
            ranked.push(choice);
        }
    }
    ranked.extend(others);
    ranked
}

/// Everything that is possible for a launch, but for what makes no difference.
pub(super) fn candidates(caps: &Caps, shapes: &[Shape], images: usize) -> Vec<Choice> {
    let main = shapes.iter().max_by_key(|s| work(s)).expect("a launch has steps");
    let widths: &[i32] = match (main.kernel, main.stride) {
        (1, _) => &[0],
        (_, 1) => &[8, 16, -1],
        _ => &[8, 16],
    };
    let mut all = Vec::new();
    for (tile, t) in TILES.iter().enumerate() {
        for &width in widths {
            for split in SPLITS {
                let buffers: Vec<usize> = match t.unit {
                    Unit::Mma { .. } => {
                        let need = |s: &Shape| buffers_needed(s, t, chunks(s, t), split);
                        vec![shapes.iter().map(need).max().unwrap_or(1)]
                    }
                    Unit::Wgmma { kernel: 1, .. } => vec![4, 8],
                    Unit::Wgmma { .. } => vec![2],
                    Unit::PingPong { .. } => vec![ping_pong_buffers(shapes, tile, width)],
                };
                for buffers in buffers {
                    let choice = Choice { tile, width, split, buffers, trigger: Mid };
                    if possible(caps, shapes, &choice) && stays_busy(caps, shapes, images, &choice) {
                        all.push(choice);
                    }
                }
            }
        }
    }
    all
}

/// Activation buffers of a warpgroup of [`Unit::PingPong`]: as many as leave enough room for the weights.
fn ping_pong_buffers(shapes: &[Shape], tile: usize, width: i32) -> usize {
    const WEIGHTS: usize = 112 << 10;
    let leaves_room = |&buffers: &usize| {
        let choice = Choice { tile, width, split: 1, buffers, trigger: Mid };
        geometry(&shapes[0], &choice).is_some_and(|g| {
            let all = (g.step.chunks * g.step.kernel * g.step.kernel) as usize;
            let stages = stages(&[g], &choice);
            stages == all || stages * TILES[tile].bn * TILES[tile].bk * 2 >= WEIGHTS
        })
    };
    [4, 3].into_iter().find(leaves_room).unwrap_or(2)
}

/// Whether blocks that stay have at least two tiles each; true of other kernels.
fn stays_busy(caps: &Caps, shapes: &[Shape], images: usize, choice: &Choice) -> bool {
    match (TILES[choice.tile].unit, geometry(&shapes[0], choice)) {
        (Unit::PingPong { .. }, Some(g)) => {
            let tiles = g.step.tiles as usize * images;
            tiles >= 2 * grid(caps, &[g], images, choice)[0] as usize
        }
        _ => true,
    }
}

/// Measured choices of one GPU, kept in the user's cache folder.
#[derive(Debug, Default)]
pub(super) struct Cache {
    path: Option<PathBuf>,
    /// Choices, and the microseconds that a launch took, for people who read the file.
    known: HashMap<String, (Choice, f64)>,
    changed: bool,
}

/// What a launch is called in the file.
pub(super) fn signature(shapes: &[Shape], images: usize) -> String {
    let mut s = format!("x{images}");
    for p in shapes {
        let _ = write!(
            s,
            " k{}s{}g{}:{}x{}x{}>{}x{}x{}:{:?}",
            p.kernel, p.stride, p.group, p.h, p.w, p.cin, p.oh, p.ow, p.cout, p.act
        );
    }
    s
}

impl Cache {
    /// The file for a GPU in the user's cache folder. A file that is missing counts as empty, a line that is damaged or
    /// asks for what the kernels cannot do as missing.
    pub fn open(identity: &str) -> Cache {
        let Some(folder) = crate::cache::folder(|name| std::env::var_os(name)) else {
            return Cache::default();
        };
        // Kernels of another version of this crate are other kernels.
        let text: String = format!("{identity} {}", env!("CARGO_PKG_VERSION"));
        let name: String =
            text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
        Cache::read(folder.join("rtmo-engine").join(format!("tiles-{name}.txt")))
    }

    fn read(path: PathBuf) -> Cache {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let known = text.lines().filter_map(parse).collect();
        Cache { path: Some(path), known, changed: false }
    }

    pub fn get(&self, caps: &Caps, shapes: &[Shape], images: usize) -> Option<Choice> {
        self.known.get(&signature(shapes, images)).map(|k| k.0).filter(|c| possible(caps, shapes, c))
    }

    /// The choice for this batch size, or else that of the next larger one that was measured.
    pub fn near(&self, caps: &Caps, shapes: &[Shape], images: usize) -> Option<Choice> {
        (images..=MAX_BATCH).find_map(|images| self.get(caps, shapes, images))
    }

    /// What was measured for a launch, if anything.
    pub fn time(&self, shapes: &[Shape], images: usize) -> Duration {
        let us = self.known.get(&signature(shapes, images)).map_or(0.0, |k| k.1);
        Duration::try_from_secs_f64(us / 1e6).unwrap_or_default() // a damaged file may say anything
    }

    pub fn insert(&mut self, shapes: &[Shape], images: usize, choice: Choice, time: Duration) {
        self.known.insert(signature(shapes, images), (choice, time.as_secs_f64() * 1e6));
        self.changed = true;
    }

    /// Writes the file if there is news; a folder that cannot be written only costs the next start its time.
    pub fn save(&mut self) {
        let Some(path) = self.path.as_ref().filter(|_| self.changed) else { return };
        let mut lines: Vec<String> = self.known.iter().map(|(s, c)| line(s, c)).collect();
        lines.sort();
        let partial = path.with_extension(format!("{}.partial", std::process::id()));
        let written = path
            .parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| std::fs::write(&partial, lines.concat()))
            .and_then(|()| std::fs::rename(&partial, path));
        if written.is_err() {
            let _ = std::fs::remove_file(&partial);
        }
        self.changed = false;
    }
}

fn line(signature: &str, (choice, us): &(Choice, f64)) -> String {
    let Choice { tile, width, split, buffers, trigger } = choice;
    format!("{signature}\t{} {width} {split} {buffers} {trigger:?} {us:.2} us\n", TILES[*tile].name)
}

fn parse(line: &str) -> Option<(String, (Choice, f64))> {
    let (signature, choice) = line.split_once('\t')?;
    let mut words = choice.split(' ');
    let name = words.next()?;
    let choice = Choice {
        tile: TILES.iter().position(|t| t.name == name)?,
        width: words.next()?.parse().ok()?,
        split: words.next()?.parse().ok()?,
        buffers: words.next()?.parse().ok()?,
        trigger: [Early, Late, Mid]
            .into_iter()
            .find(|t| Some(format!("{t:?}").as_str()) == words.clone().next())?,
    };
    let us = words.nth(1).and_then(|word| word.parse().ok()).unwrap_or(0.0);
    Some((signature.to_string(), (choice, us)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Act;

    const H100: Caps = Caps { sms: 132, shared: 227 << 10, sm90: true, wgmma: true, ping_pong: true };
    const T4: Caps = Caps { sms: 40, shared: 64 << 10, sm90: false, wgmma: false, ping_pong: false };

    fn shape(kernel: usize, stride: usize, cin: usize, cout: usize, o: usize) -> Shape {
        let act = Act::Silu;
        Shape { kernel, stride, cin, cout, h: o * stride, w: o * stride, oh: o, ow: o, group: 0, act }
    }

    #[test]
    fn measured_shapes_get_their_measured_tile() {
        for (key, name, width, split, buffers, trigger) in MEASURED {
            let s = shape(key[0], key[1], key[2], key[3], key[4]);
            let c = built_in(&H100, &[s], 1);
            assert_eq!((TILES[c.tile].name, c.width, c.split), (*name, *width, *split), "{key:?}");
            assert!(c.buffers <= *buffers && c.trigger == *trigger, "{key:?}");
        }
    }

    #[test]
    fn every_shape_has_a_tile_on_every_gpu() {
        for caps in [H100, T4] {
            for (kernel, stride) in [(1, 1), (3, 1), (3, 2)] {
                for cin in [8, 16, 24, 96, 256, 2048] {
                    for cout in [8, 24, 144, 1024] {
                        for o in [1, 2, 13, 20, 40, 160, 320] {
                            for act in [Act::Silu, Act::Gelu] {
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

    fn ping_pong(choices: &[Choice]) -> Vec<Choice> {
        let stays = |c: &&Choice| matches!(TILES[c.tile].unit, Unit::PingPong { .. });
        choices.iter().filter(stays).copied().collect()
    }

    #[test]
    fn blocks_that_stay_are_for_single_steps_with_many_tiles() {
        for (s, images) in [
            (shape(3, 1, 16, 64, 320), 1),
            (shape(3, 1, 64, 64, 160), 1),
            (shape(3, 1, 128, 128, 80), 16),
            (shape(3, 1, 512, 512, 20), 16),
            (shape(3, 2, 256, 512, 40), 16),
            (shape(1, 1, 512, 512, 40), 16),
            (shape(1, 1, 128, 256, 80), 2),
        ] {
            let ranked = ranked(&H100, &[s], images);
            let found = ping_pong(&ranked);
            assert!((1..=3).contains(&found.len()) && found == ranked[..found.len()], "{s:?}");
            for c in found {
                assert!(possible(&H100, &[s], &c), "{s:?} {c:?}");
                let g = geometry(&s, &c).unwrap();
                let tiles = g.step.tiles as usize * images;
                let all = (g.step.chunks * g.step.kernel * g.step.kernel) as usize;
                let [along, columns, depth] = grid(&H100, &[g], images, &c);
                assert!(along * columns * depth <= H100.sms && tiles >= 2 * along as usize, "{s:?} {c:?}");
                assert!((all.min(3)..=all).contains(&stages(&[g], &c)), "{s:?} {c:?}");
            }
            assert!(ping_pong(&candidates(&H100, &[s, s], images)).is_empty(), "several steps");
            assert!(ping_pong(&candidates(&T4, &[s], images)).is_empty(), "no wgmma");
            let unasked = Caps { ping_pong: false, ..H100 };
            assert!(ping_pong(&candidates(&unasked, &[s], images)).is_empty(), "nobody asked");
        }
        assert!(ping_pong(&candidates(&H100, &[shape(3, 1, 128, 128, 20)], 1)).is_empty(), "few tiles");
    }

    #[test]
    fn the_cache_survives_a_round_trip_and_damage() {
        let folder = std::env::temp_dir().join(format!("rtmo-tiles-{}", std::process::id()));
        let path = folder.join("tiles.txt");
        let shapes = [shape(3, 1, 64, 64, 20), shape(3, 1, 64, 64, 40)];
        let choice = built_in(&H100, &shapes, 2);
        let mut cache = Cache::read(path.clone());
        assert_eq!(cache.get(&H100, &shapes, 2), None);
        cache.insert(&shapes, 2, choice, Duration::from_micros(7));
        cache.save();
        assert_eq!(Cache::read(path.clone()).get(&H100, &shapes, 2), Some(choice));
        assert_eq!(Cache::read(path.clone()).get(&H100, &shapes[..1], 2), None);
        assert_eq!(Cache::read(path.clone()).get(&T4, &shapes, 2), None, "a tile that this GPU cannot do");
        let choice = ranked(&H100, &shapes[1..], 16)[0];
        assert_eq!(ping_pong(&[choice]), [choice]);
        cache.insert(&shapes[1..], 16, choice, Duration::from_micros(7));
        cache.save();
        assert_eq!(Cache::read(path.clone()).get(&H100, &shapes[1..], 16), Some(choice));
        assert_eq!(Cache::read(path.clone()).get(&H100, &shapes[1..], 1), None);
        std::fs::write(&path, "garbage\nx1\tno_such_tile 0 1 1 Mid\n\t\n").unwrap();
        assert!(Cache::read(path.clone()).known.is_empty());
        // lines that are whole, but ask for what kernels cannot do or is no time
        let shapes = [shape(1, 1, 512, 512, 20)];
        let read = |what: &str| {
            let line = format!("{}\tconv_wg_1_1x2_128x64_3 {what}\n", signature(&shapes, 1));
            std::fs::write(&path, line).unwrap();
            let cache = Cache::read(path.clone());
            (cache.get(&H100, &shapes, 1), cache.time(&shapes, 1))
        };
        for good in ["0 1 8 Mid 7.00 us", "0 2 4 Late 7.00 us", "0 4 2 Early 7.00 us"] {
            let (choice, time) = read(good);
            assert!(choice.is_some() && time == Duration::from_micros(7), "{good}");
        }
        let huge = usize::MAX / 4;
        for bad in [
            "0 3 4",
            "0 0 4",
            "0 8 4",
            "0 5 4",
            "0 1 9",
            "0 1 0",
            "0 1 -1",
            "8 1 4",
            "-1 1 4",
            "7 1 4",
            &format!("0 1 {huge}"),
            &format!("0 {huge} 4"),
        ] {
            assert_eq!(read(&format!("{bad} Mid 7.00 us")).0, None, "{bad}");
        }
        for bad in ["-7", "NaN", "inf", "1e300", "x"] {
            assert_eq!(read(&format!("0 1 4 Mid {bad} us")).1, Duration::ZERO, "{bad}");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
