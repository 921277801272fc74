//! From a schedule to launches: addresses, geometry, packed constants.

use super::constants::{Constants, Packing};
use super::launch::{Launch, Params};
use super::pack;
use super::params::*;
use super::schedule::{Group, Schedule, Storage, beyond};
use super::tiles::{Choice, Shape, TILES, Unit, geometry, grid, shared_bytes, stages};
use crate::error::Result;
use crate::plan::{Conv, Op, Plan, Pose, PreAdd, TensorId, View};
use crate::plan::{KEYPOINTS, VISIBILITY};

/// Memory that a batch of images works in. Device addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub images: usize,
    /// Survivors an image can have.
    pub capacity: usize,
    /// `images` times the schedule's `image` halves.
    pub arena: u64,
    /// `images * capacity` times the schedule's `row` floats.
    pub rows: u64,
    /// Frames, tables and photos.
    pub input: u64,
    pub survivors: u64,
    pub counts: u64,
    /// `images * slots` boxes of four floats.
    pub boxes: u64,
    /// `images * slots` sort keys of eight bytes.
    pub keys: u64,
    pub host_counts: u64,
    pub host_rows: u64,
    /// `[images, capacity, K, bins]` of x and y, or 0.
    pub heat: [u64; 2],
}

/// Grid cells of all levels, and sort slots for them.
pub(super) fn cells(plan: &Plan) -> (usize, usize) {
    let levels = plan.grid_levels().unwrap_or_default();
    let cells: usize = levels.iter().map(|l| plan.buffer_of(l.cls).extent.pixels()).sum();
    (cells, cells.next_power_of_two().max(2))
}

/// Candidates that are sorted in shared memory, where a key and a box each must fit into every GPU's 64 KiB.
const NEAR: usize = 2048;

/// Keys and values that attention holds in shared memory at a time, `CHUNK` in `kernels/attention.cu`.
const ATTENTION_CHUNK: usize = 448;

/// A convolution, as far as tiling is concerned. The stem counts as a 3x3 on 2x2 cells of 16 channels.
pub(super) fn shape(plan: &Plan, c: &Conv) -> Shape {
    let ((h, w), (oh, ow)) = (plan.hw(c.src), plan.hw(c.dst));
    if c.kernel == 6 {
        let cout = c.dst.c;
        return Shape { kernel: 3, stride: 1, cin: 16, cout, h: oh, w: ow, oh, ow, group: 0, act: c.act };
    }
    let group = if c.groups == 1 { 0 } else { c.src.c / c.groups };
    Shape { kernel: c.kernel, stride: c.stride, cin: c.src.c, cout: c.dst.c, h, w, oh, ow, group, act: c.act }
}

/// Makes launches.
pub(super) struct Lowering<'a> {
    pub plan: &'a Plan,
    pub schedule: &'a Schedule,
    pub constants: &'a mut Constants,
    pub place: Place,
    /// The tile of a launch of convolutions.
    pub choose: &'a mut dyn FnMut(&[Shape]) -> Choice,
}

impl Lowering<'_> {
    /// All launches of a run, in order: the schedule's groups, then the one that hands the people over.
    ///
    /// # Errors
    /// If constants do not fit into device memory, or a kernel does not fit into the GPU's shared memory.
    pub fn launches(&mut self) -> Result<Vec<Launch>> {
        let schedule = self.schedule;
        let mut launches: Vec<Launch> =
            schedule.groups.iter().map(|g| self.group(g)).collect::<Result<Vec<_>>>()?;
        launches.extend(self.collect()?);
        self.prefetch(&mut launches);
        let limit = self.constants.gpu.caps().shared;
        for l in &launches {
            if l.shared > limit {
                let names: Vec<&str> = l.steps.iter().map(|&s| self.plan.steps[s].name.as_str()).collect();
                let (kernel, needs) = (l.kernel, l.shared);
                let why =
                    format!("kernel {kernel} needs {needs} bytes of shared memory, this GPU has {limit}");
                return Err(beyond(self.plan, &names.join(", "), &why));
            }
        }
        Ok(launches)
    }

    fn pitch(&self, view: View) -> i32 {
        match self.schedule.storage[view.buffer.0] {
            Storage::Half { pitch } | Storage::Float { pitch } | Storage::Rows { pitch } => pitch as i32,
            Storage::Cells => 16,
        }
    }

    fn address(&self, view: View) -> u64 {
        let offset = self.schedule.offsets[view.buffer.0];
        let Place { arena, rows, images, capacity, .. } = self.place;
        match self.schedule.storage[view.buffer.0] {
            Storage::Half { .. } => arena + ((offset + view.c0) * 2) as u64,
            Storage::Float { .. } => arena + (offset * 2 + view.c0 * 4) as u64,
            Storage::Cells => arena + (offset * 2) as u64,
            Storage::Rows { .. } => rows + ((offset * images * capacity + view.c0) * 4) as u64,
        }
    }

    fn image(&self) -> i64 {
        self.schedule.image as i64
    }

    fn group(&mut self, group: &Group) -> Result<Launch> {
        let plan = self.plan;
        let op = |step: usize| &plan.steps[step].op;
        match group {
            Group::Letterbox(step) => {
                let Op::Pose(Pose::Letterbox { dst }) = op(*step) else { unreachable!("scheduled as such") };
                Ok(self.letterbox(*step, *dst))
            }
            Group::Conv(steps) => {
                let convs: Vec<&Conv> = steps.iter().map(|&s| as_conv(op(s))).collect();
                self.conv(steps, &convs)
            }
            Group::Predict(steps) => {
                let convs: Vec<&Conv> = steps.iter().map(|&s| as_conv(op(s))).collect();
                self.predict(steps, &convs)
            }
            Group::Pool(step)
            | Group::Attention(step)
            | Group::LayerNorm(step)
            | Group::Select(step)
            | Group::SurvivorLinear(step)
            | Group::Gau(step)
            | Group::BinDecode(step) => self.single(*step, op(*step)),
        }
    }

    fn letterbox(&self, step: usize, dst: View) -> Launch {
        let ((in_w, in_h), images) = (self.plan.input_size(), self.place.images);
        let params = LetterboxLaunch {
            frames: self.place.input,
            dst: self.address(dst),
            image: self.image(),
            in_w: in_w as i32,
            in_h: in_h as i32,
            images: images as i32,
            reserved: 0,
        };
        let grid = [(in_w / 2).div_ceil(32) as u32, (in_h / 2).div_ceil(4) as u32, images as u32];
        launch("letterbox", grid, 128, 0, Params::Letterbox(params), vec![step])
    }

    fn conv(&mut self, steps: &[usize], convs: &[&Conv]) -> Result<Launch> {
        let plan = self.plan;
        let shapes: Vec<Shape> = convs.iter().map(|c| shape(plan, c)).collect();
        let choice = (self.choose)(&shapes);
        let tile = &TILES[choice.tile];
        let mut params = ConvLaunch {
            image: self.image(),
            steps: convs.len() as i32,
            images: self.place.images as i32,
            split: choice.split as i32,
            buffers: choice.buffers as i32,
            trigger: choice.trigger as i32,
            ..ConvLaunch::default()
        };
        let mut blocks = 0;
        let mut cut = Vec::new();
        for ((c, shape), slot) in convs.iter().zip(&shapes).zip(&mut params.step) {
            let g = geometry(shape, &choice).expect("the choice was made for these shapes");
            let weight = &plan.tensors[c.weight.0];
            let packing = Packing::Conv(*shape, tile.bk, tile.bn);
            let weight = self.constants.put(c.weight.0, packing, || {
                let stem = if c.kernel == 6 { pack::stem(&weight.data, shape.cout) } else { vec![] };
                let data = if c.kernel == 6 { &stem } else { &weight.data };
                pack::conv(data, shape, tile, g.step.chunks as usize)
            })?;
            let (pre, pre_pitch, pre_image, pre_add) = match c.pre_add {
                PreAdd::None => (0, 0, 0, 0),
                PreAdd::Same(v) => (self.address(v), self.pitch(v), self.image(), 1),
                PreAdd::Upsampled(v) => (self.address(v), self.pitch(v), self.image(), 2),
                PreAdd::Table(t) => (self.constants.halves(plan, t)?, c.dst.c as i32, 0, 1),
            };
            *slot = ConvStep {
                src: self.address(c.src),
                weight,
                bias: self.constants.bias(plan, c, g.step.cout_pad as usize)?,
                pre,
                post: c.post_add.map_or(0, |v| self.address(v)),
                dst: self.address(c.dst),
                pre_image,
                src_pitch: self.pitch(c.src),
                pre_pitch,
                post_pitch: c.post_add.map_or(0, |v| self.pitch(v)),
                dst_pitch: self.pitch(c.dst),
                pre_add,
                first_block: blocks,
                ..g.step
            };
            blocks += (g.tiles * self.place.images) as i32;
            cut.push(g);
        }
        let shared = shared_bytes(&cut, &choice) as u32;
        let grid = grid(&self.constants.gpu.caps(), &cut, self.place.images, &choice);
        params.stages = stages(&cut, &choice) as i32;
        let params = Params::Conv(Box::new(params));
        let cluster = choice.split as u32;
        Ok(Launch {
            cluster,
            ..launch(tile.kernel(steps.len()), grid, tile.threads(), shared, params, steps.to_vec())
        })
    }

    fn predict(&mut self, steps: &[usize], convs: &[&Conv]) -> Result<Launch> {
        let plan = self.plan;
        let mut params = PredictLaunch {
            image: self.image(),
            steps: steps.len() as i32,
            images: self.place.images as i32,
            ..PredictLaunch::default()
        };
        let mut blocks = 0;
        for (c, slot) in convs.iter().zip(&mut params.step) {
            let pixels = plan.buffer_of(c.src).extent.pixels();
            *slot = PredictStep {
                src: self.address(c.src),
                weight: self.constants.halves(plan, c.weight)?,
                bias: self.constants.floats(plan, c.bias, c.dst.c)?,
                dst: self.address(c.dst),
                src_pitch: self.pitch(c.src),
                dst_pitch: self.pitch(c.dst),
                pixels: pixels as i32,
                cin: c.src.c as i32,
                cout: c.dst.c as i32,
                first_block: blocks,
            };
            blocks += pixels.div_ceil(32) as i32;
        }
        let grid = [blocks as u32, self.place.images as u32, 1];
        Ok(launch("predict", grid, 256, 0, Params::Predict(Box::new(params)), steps.to_vec()))
    }

    fn single(&mut self, step: usize, op: &Op) -> Result<Launch> {
        let plan = self.plan;
        let Place { images, capacity, survivors, counts, .. } = self.place;
        let (n, depth) = (images as i32, images as u32);
        let sms = self.constants.gpu.caps().sms;
        let (kernel, grid, threads, shared, params) = match op {
            Op::PoolPyramid { src, dst, window } => {
                let (h, w) = plan.hw(*src);
                let params = PoolLaunch {
                    src: self.address(*src),
                    dst: self.address(*dst),
                    image: self.image(),
                    src_pitch: self.pitch(*src),
                    dst_pitch: self.pitch(*dst),
                    h: h as i32,
                    w: w as i32,
                    c: src.c as i32,
                    radius: (window / 2) as i32,
                    images: n,
                    reserved: 0,
                };
                ("pool_pyramid", [(src.c / 8) as u32, depth, 1], 512, h * w * 32, Params::Pool(params))
            }
            Op::Attention { qkv, dst, heads } => {
                let (h, w) = plan.hw(*qkv);
                let tokens = h * w;
                let params = AttentionLaunch {
                    qkv: self.address(*qkv),
                    dst: self.address(*dst),
                    image: self.image(),
                    qkv_pitch: self.pitch(*qkv),
                    dst_pitch: self.pitch(*dst),
                    tokens: tokens as i32,
                    heads: *heads as i32,
                    images: n,
                    reserved: 0,
                };
                // queries, keys and values; later the sums of four slices of 32 queries
                let slots = tokens.next_multiple_of(16).min(ATTENTION_CHUNK) | 1;
                let shared = (4 * 33 * 16 + 2 * 4 * slots * 16).max(4 * 32 * 36 * 4);
                let grid = [tokens.div_ceil(32) as u32, *heads as u32, depth];
                ("attention", grid, 256, shared, Params::Attention(params))
            }
            Op::LayerNorm { src, dst, gamma, beta, eps } => {
                let pixels = plan.buffer_of(*src).extent.pixels();
                let params = LayerNormLaunch {
                    src: self.address(*src),
                    dst: self.address(*dst),
                    gamma: self.constants.floats(plan, *gamma, src.c)?,
                    beta: self.constants.floats(plan, *beta, src.c)?,
                    image: self.image(),
                    src_pitch: self.pitch(*src),
                    dst_pitch: self.pitch(*dst),
                    pixels: pixels as i32,
                    c: src.c as i32,
                    images: n,
                    eps: *eps,
                };
                ("layer_norm", [pixels.div_ceil(4) as u32, depth, 1], 128, 0, Params::LayerNorm(params))
            }
            Op::Pose(Pose::Select { levels }) => {
                let (_, slots) = cells(plan);
                let mut params = SelectLaunch {
                    frames: self.place.input,
                    survivors,
                    counts,
                    boxes: self.place.boxes,
                    keys: self.place.keys,
                    image: self.image(),
                    levels: levels.len() as i32,
                    capacity: capacity as i32,
                    images: n,
                    slots: slots as i32,
                    near: slots.min(NEAR) as i32,
                    ..SelectLaunch::default()
                };
                for (i, level) in levels.iter().enumerate() {
                    let (h, w) = plan.hw(level.cls);
                    params.cls[i] = self.address(level.cls);
                    params.bbox[i] = self.address(level.bbox);
                    params.cls_pitch[i] = self.pitch(level.cls);
                    params.bbox_pitch[i] = self.pitch(level.bbox);
                    params.w[i] = w as i32;
                    params.cells[i] = (h * w) as i32;
                    params.stride[i] = level.stride as i32;
                }
                let shared = slots.min(NEAR) * (16 + 8) + 16; // boxes, keys, counts (select.cu)
                ("select_people", [depth, 1, 1], 512, shared, Params::Select(params))
            }
            Op::Pose(Pose::SurvivorLinear { src, weight, bias, dst }) => {
                let cout = plan.tensors[weight[0].0].shape[0];
                let mut params = SurvivorLinearLaunch {
                    dst: self.address(*dst),
                    survivors,
                    counts,
                    image: self.image(),
                    cin: src[0].c as i32,
                    cout: cout as i32,
                    dst_pitch: self.pitch(*dst),
                    levels: src.len() as i32,
                    capacity: capacity as i32,
                    images: n,
                    ..SurvivorLinearLaunch::default()
                };
                for i in 0..src.len() {
                    params.src[i] = self.address(src[i]);
                    params.src_pitch[i] = self.pitch(src[i]);
                    params.weight[i] = self.constants.fragments(plan, weight[i])?;
                    params.bias[i] = self.constants.floats(plan, bias[i], cout)?;
                }
                // rows of 32 survivors, then the parts of four warps (survivor.cu)
                let shared = (src[0].c.div_ceil(16) * 32 * 32).max(4 * 32 * 17 * 4);
                // people in tiles of 32, as many of them at once as the GPU holds blocks
                let tiles = cout.div_ceil(16) as u32;
                let at_once = (4 * sms).div_ceil(tiles * depth).min(capacity.div_ceil(32) as u32);
                let grid = [tiles, depth, at_once];
                ("survivor_linear", grid, 128, shared, Params::SurvivorLinear(params))
            }
            Op::Pose(Pose::Gau(g)) => {
                // as gau.cu lays it out, without and with the constants of u, v, q and k
                let weights = (2 * g.expansion + g.key_dim) * g.dim * 2;
                let (working, constants) = (25088, weights + 2 * g.tokens * g.key_dim * 4);
                let staged = working + constants <= self.constants.gpu.caps().shared as usize;
                let shared = working + if staged { constants } else { 0 };
                let params = GauLaunch {
                    src: self.address(g.src),
                    dst: self.address(g.dst),
                    uv: self.constants.fragments(plan, g.uv)?,
                    out: self.constants.fragments(plan, g.out)?,
                    q_gain: self.constants.floats(plan, g.q_gain, g.key_dim)?,
                    q_bias: self.constants.floats(plan, g.q_bias, g.tokens * g.key_dim)?,
                    k_gain: self.constants.floats(plan, g.k_gain, g.key_dim)?,
                    k_bias: self.constants.floats(plan, g.k_bias, g.tokens * g.key_dim)?,
                    residual_gain: self.constants.floats(plan, g.residual_gain, g.dim)?,
                    counts,
                    norm_gain: plan.tensors[g.norm_gain.0].data[0],
                    tokens: g.tokens as i32,
                    src_pitch: self.pitch(g.src),
                    dst_pitch: self.pitch(g.dst),
                    capacity: capacity as i32,
                    images: n,
                    staged: i32::from(staged),
                    reserved: 0,
                };
                let grid = [(capacity as u32).min(sms.div_ceil(depth).max(4)), depth, 1];
                ("gau", grid, 256, shared, Params::Gau(params))
            }
            Op::Pose(Pose::BinDecode(b)) => {
                let half = b.pe_dim / 2;
                let matrix = |this: &mut Self, t: TensorId| -> Result<(u64, f32)> {
                    let data = &plan.tensors[t.0].data;
                    let scale = pack::turning_scale(data, b.dim);
                    let packed = || pack::turning(data, b.dim, scale);
                    Ok((this.constants.put(t.0, Packing::Turning, packed)?, 1.0 / scale))
                };
                let (x, y) = (matrix(self, b.x.weight)?, matrix(self, b.y.weight)?);
                let key = Packing::Frequencies(b.temperature.to_bits());
                let frequency = self.constants.put(usize::MAX, key, || {
                    pack::floats(&pack::frequencies(b.temperature, half), 2 * half)
                })?;
                // as dcc.cu lays it out, without and with W
                let (working, weights) = (27680, 2 * b.pe_dim * b.dim * 2);
                let staged = 2 * (working + weights) <= self.constants.gpu.caps().shared as usize;
                let shared = working + if staged { weights } else { 0 };
                let params = BinDecodeLaunch {
                    src: self.address(b.src),
                    dst: self.address(b.dst),
                    weight: [x.0, y.0],
                    heat: self.place.heat,
                    frequency,
                    survivors,
                    counts,
                    bins: [b.x.bins as i32, b.y.bins as i32],
                    tokens: b.tokens as i32,
                    src_pitch: self.pitch(b.src),
                    dst_pitch: self.pitch(b.dst),
                    capacity: capacity as i32,
                    images: n,
                    width: [b.x.bins, b.y.bins].map(|bins| b.padding / (bins - 1) as f32),
                    scale: [x.1, y.1],
                    staged: i32::from(staged),
                };
                // an even number of blocks, since a block does one axis: of each person, all keypoints or groups of eight
                let most = (2 * capacity * b.tokens.div_ceil(8)) as u32;
                let blocks = (2 * sms).div_ceil(depth).next_multiple_of(2);
                let grid = [most.min(blocks.max(8)), depth, 1];
                ("bin_decode", grid, 256, shared, Params::BinDecode(params))
            }
            Op::MaxPool { .. } => unreachable!("`Schedule::new` refuses max pools"),
            Op::Pose(Pose::Letterbox { .. }) | Op::Conv(_) => {
                unreachable!("scheduled in groups of their own")
            }
        };
        Ok(launch(kernel, grid, threads, shared as u32, params, vec![step]))
    }

    /// Hands people over to the host; nothing to hand over in plans without outputs.
    fn collect(&mut self) -> Result<Option<Launch>> {
        let (Some(xy), Some(vis)) = (self.plan.output(KEYPOINTS), self.plan.output(VISIBILITY)) else {
            return Ok(None);
        };
        let Place { images, capacity, survivors, counts, host_counts, host_rows, .. } = self.place;
        let params = CollectLaunch {
            survivors,
            counts,
            keypoints: self.address(xy),
            visibility: self.address(vis),
            host_counts,
            host_rows,
            keypoints_pitch: self.pitch(xy),
            visibility_pitch: self.pitch(vis),
            tokens: self.plan.keypoints() as i32,
            capacity: capacity as i32,
            images: images as i32,
            reserved: 0,
        };
        Ok(Some(launch(
            "collect",
            [16u32.div_ceil(images as u32), images as u32, 1],
            256,
            0,
            Params::Collect(params),
            vec![],
        )))
    }

    /// Lets wgmma convolutions pull the next convolution's weights into L2, where all weights do not stay there.
    fn prefetch(&self, launches: &mut [Launch]) {
        const STAYS: usize = 40 << 20;
        if self.constants.bytes < STAYS {
            return;
        }
        let mut next: Option<(u64, i32)> = None;
        for l in launches.iter_mut().rev() {
            let tile = TILES.iter().find(|t| t.name == l.kernel || t.several == l.kernel);
            let (Params::Conv(p), Some(tile)) = (&mut l.params, tile) else { continue };
            if let (Unit::Wgmma { .. } | Unit::PingPong { .. }, Some((address, bytes))) = (tile.unit, next) {
                p.prefetch = address;
                p.prefetch_bytes = bytes;
            }
            let s = &p.step[0];
            next = Some((s.weight, s.chunks * s.kernel * s.kernel * s.cout_pad * tile.bk as i32 * 2));
        }
    }
}

fn as_conv(op: &Op) -> &Conv {
    let Op::Conv(c) = op else { unreachable!("scheduled as such") };
    c
}

fn launch(
    kernel: &'static str,
    grid: [u32; 3],
    threads: u32,
    shared: u32,
    params: Params,
    steps: Vec<usize>,
) -> Launch {
    Launch { kernel, grid, cluster: 1, threads, shared, params, steps }
}
