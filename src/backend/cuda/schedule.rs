//! From steps to launches: what runs together, and where every buffer lives.

use super::params::{CONV_STEPS, LEVELS, PREDICT_STEPS};
use crate::error::{Error, Result};
use crate::plan::IMAGE;
use crate::plan::{Act, Conv, DType, Extent, Lifetime, Op, Plan, Pose, PreAdd, View, place};
use std::mem::discriminant;

/// Steps that one launch executes. Indices into the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Group {
    Letterbox(usize),
    /// Independent convolutions of one kernel size.
    Conv(Vec<usize>),
    /// Independent 1x1 convolutions with few outputs, kept in fp32.
    Predict(Vec<usize>),
    Pool(usize),
    Attention(usize),
    LayerNorm(usize),
    Select(usize),
    SurvivorLinear(usize),
    Gau(usize),
    BinDecode(usize),
}

impl Group {
    pub fn steps(&self) -> &[usize] {
        match self {
            Group::Conv(steps) | Group::Predict(steps) => steps,
            Group::Letterbox(step)
            | Group::Pool(step)
            | Group::Attention(step)
            | Group::LayerNorm(step)
            | Group::Select(step)
            | Group::SurvivorLinear(step)
            | Group::Gau(step)
            | Group::BinDecode(step) => std::slice::from_ref(step),
        }
    }
}

/// How a buffer is stored on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Storage {
    /// fp16 pixels, `pitch` halves each.
    Half { pitch: usize },
    /// fp32 pixels, `pitch` floats each: predictions.
    Float { pitch: usize },
    /// The network input as 2x2 cells of 16 halves.
    Cells,
    /// fp32 rows of survivors, `pitch` floats each.
    Rows { pitch: usize },
}

/// The order of a plan on the device.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    pub groups: Vec<Group>,
    /// By buffer.
    pub storage: Vec<Storage>,
    /// By buffer: offset in one image's memory, in halves; of survivor rows, in floats a survivor.
    pub offsets: Vec<usize>,
    /// Halves an image.
    pub image: usize,
    /// Floats a survivor.
    pub row: usize,
}

/// Whether a convolution belongs to the kernel of predictions, which are few and stay in fp32.
fn few(plan: &Plan, c: &Conv) -> bool {
    plan.buffer_of(c.dst).dtype == DType::F32
}

/// How far ahead a convolution may be drawn into a launch.
const LOOK_AHEAD: usize = 12;

fn overlap(a: View, b: View) -> bool {
    a.buffer == b.buffer && a.c0 < b.c0 + b.c && b.c0 < a.c0 + a.c
}

/// Whether `later` must wait for `earlier`.
fn depends(plan: &Plan, later: usize, earlier: usize) -> bool {
    let (a, b) = (&plan.steps[earlier].op, &plan.steps[later].op);
    if a.fixes_rows() || b.fixes_rows() {
        return true;
    }
    let hits = |w: Option<View>, views: &[View]| w.is_some_and(|w| views.iter().any(|v| overlap(w, *v)));
    hits(a.writes(), &b.reads()) || hits(b.writes(), &a.reads()) || hits(a.writes(), b.writes().as_slice())
}

impl Schedule {
    /// Checks that the kernels can do every step, and arranges them. `keep_all`: no buffers share memory;
    /// `group`: independent convolutions share launches.
    ///
    /// # Errors
    /// A step that is beyond the kernels, by name and with the reason; steps after the selection in an order that the kernels
    /// do not expect.
    pub fn new(plan: &Plan, keep_all: bool, group: bool) -> Result<Schedule> {
        for step in &plan.steps {
            supported(plan, &step.op).map_err(|why| beyond(plan, &step.name, &why))?;
        }
        let groups = groups(plan, if group { LOOK_AHEAD } else { 0 });
        // plans without outputs are parts of networks, for tests, which do not run all of it
        if !plan.outputs.is_empty() && !ends_in_order(&groups) {
            let why =
                "expected the selection, then one survivor linear, gau and bin decode, and nothing else";
            return Err(beyond(plan, plan.steps.last().map_or("", |s| &s.name), why));
        }
        let storage = storage(plan);
        let mut lives: Vec<Option<Lifetime>> = vec![None; plan.buffers.len()];
        for (at, group) in groups.iter().enumerate() {
            for &step in group.steps() {
                let op = &plan.steps[step].op;
                for view in op.reads().into_iter().chain(op.writes()) {
                    lives[view.buffer.0].get_or_insert(Lifetime { first: at, last: at }).last = at;
                }
            }
        }
        let mut offsets = vec![0; plan.buffers.len()];
        let (mut blocks, mut placed, mut row) = (Vec::new(), Vec::new(), 0);
        for (i, buffer) in plan.buffers.iter().enumerate() {
            let Some(mut life) = lives[i] else { continue };
            if keep_all {
                life = Lifetime { first: 0, last: groups.len() };
            }
            let pixels = buffer.extent.pixels();
            let halves = match storage[i] {
                Storage::Half { pitch } => pixels * pitch,
                Storage::Float { pitch } => pixels * pitch * 2,
                Storage::Cells => pixels * 4,
                Storage::Rows { pitch } => {
                    offsets[i] = row;
                    row += pitch;
                    continue;
                }
            };
            blocks.push((life, halves.next_multiple_of(128)));
            placed.push(i);
        }
        let (places, image) = place(&blocks);
        for (i, at) in placed.into_iter().zip(places) {
            offsets[i] = at;
        }
        Ok(Schedule { groups, storage, offsets, image, row })
    }
}

fn storage(plan: &Plan) -> Vec<Storage> {
    let mut storage: Vec<Storage> = plan
        .buffers
        .iter()
        .map(|b| match b.extent {
            Extent::Map { .. } => Storage::Half { pitch: b.c.next_multiple_of(8) },
            Extent::Rows => Storage::Rows { pitch: b.c.next_multiple_of(4) },
        })
        .collect();
    for step in &plan.steps {
        match &step.op {
            Op::Pose(Pose::Letterbox { dst }) => storage[dst.buffer.0] = Storage::Cells,
            Op::Conv(c) if few(plan, c) => {
                storage[c.dst.buffer.0] = Storage::Float { pitch: plan.buffer_of(c.dst).c };
            }
            _ => {}
        }
    }
    storage
}

fn groups(plan: &Plan, look_ahead: usize) -> Vec<Group> {
    let n = plan.steps.len();
    let mut done = vec![false; n];
    let mut groups = Vec::new();
    for i in 0..n {
        if done[i] {
            continue;
        }
        done[i] = true;
        groups.push(match &plan.steps[i].op {
            Op::Pose(Pose::Letterbox { .. }) => Group::Letterbox(i),
            Op::Conv(c) => {
                let mut steps = vec![i];
                let most = if few(plan, c) { PREDICT_STEPS } else { CONV_STEPS };
                for j in i + 1..n.min(i + 1 + look_ahead) {
                    let Op::Conv(d) = &plan.steps[j].op else { continue };
                    let alike = few(plan, c) == few(plan, d)
                        && (c.kernel, c.stride) == (d.kernel, d.stride)
                        && (c.act == Act::Gelu) == (d.act == Act::Gelu);
                    // everything before `j` that it needs must have run in an earlier launch
                    let free = (0..j).all(|k| (done[k] && !steps.contains(&k)) || !depends(plan, j, k));
                    if steps.len() < most && !done[j] && alike && free {
                        steps.push(j);
                        done[j] = true;
                    }
                }
                if few(plan, c) { Group::Predict(steps) } else { Group::Conv(steps) }
            }
            Op::PoolPyramid { .. } => Group::Pool(i),
            Op::MaxPool { .. } => unreachable!("`supported` refuses max pools"),
            Op::Attention { .. } => Group::Attention(i),
            Op::LayerNorm { .. } => Group::LayerNorm(i),
            Op::Pose(Pose::Select { .. }) => Group::Select(i),
            Op::Pose(Pose::SurvivorLinear { .. }) => Group::SurvivorLinear(i),
            Op::Pose(Pose::Gau(_)) => Group::Gau(i),
            Op::Pose(Pose::BinDecode(_)) => Group::BinDecode(i),
        });
    }
    groups
}

/// Whether what follows the selection is what the kernels from there on rely on: each reads, before the one that it depends
/// on has ended, what the ones before that wrote (`counted` in `kernels/params.cuh`). gau may do so with what the selection
/// wrote since survivor_linear is between, collect with visibilities since gau and bin_decode are.
fn ends_in_order(groups: &[Group]) -> bool {
    let select = groups.iter().position(|g| matches!(g, Group::Select(_))).unwrap_or(groups.len());
    let expected = [Group::SurvivorLinear(0), Group::Gau(0), Group::BinDecode(0)].map(|g| discriminant(&g));
    groups[select..].iter().skip(1).map(discriminant).eq(expected)
}

/// The error for a step that the kernels cannot do.
pub(super) fn beyond(plan: &Plan, step: &str, why: &str) -> Error {
    let (w, h) = plan.input_size();
    Error::Usage(format!(
        "step {step}: not possible on CUDA: {why} (with an input of {w}x{h} pixels; --device cpu has no such limits)"
    ))
}

/// Why a step is beyond the kernels.
fn supported(plan: &Plan, op: &Op) -> std::result::Result<(), String> {
    let require = |ok: bool, what: String| if ok { Ok(()) } else { Err(what) };
    let aligned = |v: View| {
        let what = format!("channels {}..{} of {}", v.c0, v.c0 + v.c, plan.buffer_of(v).name);
        require(v.c0.is_multiple_of(8), format!("{what} do not start at a multiple of 8"))
    };
    match op {
        Op::Pose(Pose::Letterbox { dst }) => {
            let (h, w) = plan.hw(*dst);
            require(h % 2 == 0 && w % 2 == 0 && dst.c == 3, format!("an input of {w}x{h} pixels"))?;
            let readers = plan.steps.iter().filter(|s| s.op.reads().iter().any(|v| v.buffer == dst.buffer));
            for step in readers {
                let stem = matches!(&step.op, Op::Conv(c) if c.kernel == 6);
                require(stem, format!("{} reads the photo, expected the 6x6 stem only", step.name))?;
            }
            Ok(())
        }
        Op::Conv(c) => conv_supported(plan, c, &require, &aligned),
        Op::PoolPyramid { src, dst, window } => {
            aligned(*src)?;
            aligned(*dst)?;
            require(src.c % 8 == 0 && window % 2 == 1, format!("{} channels, window {window}", src.c))
        }
        Op::MaxPool { .. } => Err("there is no max pool with strides yet".into()),
        Op::Attention { qkv, dst, heads } => {
            aligned(*qkv)?;
            aligned(*dst)?;
            require(dst.c == heads * 32, format!("{} channels in {heads} heads, expected 32 each", dst.c))
        }
        Op::LayerNorm { src, dst, .. } => {
            aligned(*src)?;
            aligned(*dst)?;
            require(src.c % 8 == 0 && src.c <= 1024, format!("{} channels, expected 8, 16, .. 1024", src.c))
        }
        Op::Pose(Pose::Select { levels }) => {
            require(
                levels.len() <= LEVELS,
                format!("{} head levels, expected at most {LEVELS}", levels.len()),
            )?;
            let cells: usize = levels.iter().map(|l| plan.buffer_of(l.cls).extent.pixels()).sum();
            require(cells <= MAX_CELLS, format!("{cells} grid cells, expected at most {MAX_CELLS}"))
        }
        Op::Pose(Pose::SurvivorLinear { src, .. }) => {
            require(src.len() <= LEVELS, format!("{} head levels, expected at most {LEVELS}", src.len()))?;
            src.iter().try_for_each(|v| aligned(*v))?;
            require(src.iter().all(|v| v.c % 8 == 0 && v.c <= 1024), format!("{} channels", src[0].c))
        }
        Op::Pose(Pose::Gau(g)) => {
            let (d, e, s) = (g.dim, g.expansion, g.key_dim);
            require(
                (d, e, s) == (128, 256, 128),
                format!("d = {d}, e = {e}, s = {s}, expected 128, 256, 128"),
            )?;
            require(g.src.c0 % 4 == 0 && g.dst.c0 % 4 == 0, "rows that are not aligned".into())?;
            require(g.tokens <= MAX_TOKENS, format!("{} keypoints, expected at most {MAX_TOKENS}", g.tokens))
        }
        Op::Pose(Pose::BinDecode(b)) => {
            let (x, y) = (b.x.bins, b.y.bins);
            require(x.max(y) <= 256 && x.min(y) >= 2, format!("{x} and {y} bins, expected 2 to 256"))?;
            let (d, pe) = (b.dim, b.pe_dim);
            require((d, pe) == (128, 128), format!("d = {d} and {pe} encoding channels, expected 128"))?;
            require(b.src.c0 % 4 == 0, "rows that are not aligned".into())?;
            require(b.tokens <= MAX_TOKENS, format!("{} keypoints, expected at most {MAX_TOKENS}", b.tokens))
        }
    }
}

/// Keypoints that the survivor kernels hold in registers.
const MAX_TOKENS: usize = 20;
/// Grid cells that one block sorts: each of its 512 threads keeps a bit for 64 of them.
const MAX_CELLS: usize = 32768;

fn conv_supported(
    plan: &Plan,
    c: &Conv,
    require: &dyn Fn(bool, String) -> std::result::Result<(), String>,
    aligned: &dyn Fn(View) -> std::result::Result<(), String>,
) -> std::result::Result<(), String> {
    let (kernel, stride, pad) = (c.kernel, c.stride, c.pad);
    require(c.act != Act::Relu, "there is no ReLU yet".into())?;
    if kernel == 6 {
        let photo = plan.input(IMAGE) == Some(c.src);
        require(
            photo && (stride, pad, c.groups) == (2, 2, 1),
            "a 6x6 convolution that is not the stem".into(),
        )?;
    } else {
        let what = format!("kernel {kernel}, stride {stride}, padding {pad}");
        require(matches!((kernel, stride, pad), (1, 1, 0) | (3, 1, 1) | (3, 2, 1)), what)?;
        aligned(c.src)?;
        require(c.src.c.is_multiple_of(8), format!("{} input channels, expected a multiple of 8", c.src.c))?;
    }
    require(c.src.buffer != c.dst.buffer || !overlap(c.src, c.dst), "it writes what it reads".into())?;
    if few(plan, c) {
        let plain = kernel == 1 && c.groups == 1 && c.act == Act::None && c.post_add.is_none();
        let plain = plain && c.pre_add == PreAdd::None && c.dst.c <= 4 && c.dst.c0 == 0;
        let what =
            format!("{} output channels, expected a multiple of 8 or a plain 1x1 with up to 4", c.dst.c);
        return require(plain && c.dst.c == plan.buffer_of(c.dst).c, what);
    }
    aligned(c.dst)?;
    if let PreAdd::Same(v) | PreAdd::Upsampled(v) = c.pre_add {
        aligned(v)?;
    }
    c.post_add.map_or(Ok(()), aligned)?;
    let group = c.src.c / c.groups;
    let square = c.groups == 1 || (c.src.c == c.dst.c && kernel == 3);
    require(square, format!("{} groups of {group} channels", c.groups))
}
