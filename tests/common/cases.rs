//! The case table: operations at the shapes where kernels change their ways, with the error that each arithmetic may have.
//! Every CPU instruction set, the CUDA emulator, a GPU and the benchmarks take their cases from here.

use super::{Case, Rng, signature};
use rtmo_engine::backend::{RunOptions, SelectParams};
use rtmo_engine::plan::{
    Act, BinAxis, BinDecode, Conv, Extent, Gau, GridLevel, Op, Plan, Pose, PreAdd, TensorId, View,
};

/// A row of the table.
pub struct Row {
    /// The step and its inputs.
    pub case: Case,
    /// Allowed error of f32 in units of `|expected| + rms`.
    pub fp32: f64,
    /// Allowed relative error of fp16, Euclidean norms.
    pub fp16: f64,
    /// Whether it is also run with NaN among its inputs.
    pub nans: bool,
}

impl Row {
    /// A case with the bounds that its operation has in general.
    pub fn new(case: Case) -> Row {
        // fp16 output rounding is 2^-11 at most, 2.8e-4 rms; sums of fp16 products in fp32 add nothing of that size,
        // tanh.approx on a GPU adds 2^-11 of the half input. Attention rounds its probabilities too.
        let fp16 = if matches!(case.op(), Op::Attention { .. }) { 1e-3 } else { 6e-4 };
        Row { fp32: tolerance(&case), fp16, nans: false, case }
    }

    /// The same with other bounds.
    fn within(self, fp32: f64, fp16: f64) -> Row {
        Row { fp32, fp16, ..self }
    }

    /// Whether CUDA's kernels take it: all views of maps begin and end between groups of eight channels, heads have 32, and
    /// no step is for survivors, whose kernels have tests of their own (`people.rs`).
    pub fn on_cuda(&self) -> bool {
        let op = self.case.op();
        let views = op.reads().into_iter().chain(op.writes());
        let aligned = |v: View| {
            v.c0.is_multiple_of(8) && v.c.is_multiple_of(8) && self.case.plan.buffer_of(v).c.is_multiple_of(8)
        };
        let heads = match op {
            Op::Attention { dst, heads, .. } => dst.c == 32 * heads,
            Op::Pose(_) => false,
            _ => true,
        };
        heads && views.into_iter().all(aligned)
    }
}

/// Every operation's rows, by the operation's name.
pub fn table() -> Vec<(&'static str, Vec<Row>)> {
    vec![
        ("convolution", convolutions()),
        ("pool pyramid", pool_pyramids()),
        ("max pool", max_pools()),
        ("layer norm", layer_norms()),
        ("attention", attentions()),
        ("survivor linear", survivor_linear_maps()),
        ("gated attention unit", gated_attention_units()),
        ("bins", bins()),
    ]
}

/// Channels beside a slice: as odd as they come, or a group of eight where CUDA's kernels shall take the case.
fn margin(channels: usize) -> usize {
    if channels.is_multiple_of(8) { 8 } else { 3 }
}

/// Half the distance of two neighbouring f32 values at 1: the largest relative error of one rounding.
pub const ROUNDING: f64 = f32::EPSILON as f64 / 2.0;

/// Allowed error in units of `|expected| + rms`.
///
/// A sum of `K` terms of random signs suffers `K` roundings of partial sums that grow as `sqrt(k)`: its error is
/// about `sqrt(K) / 2` roundings of its typical size, five times that at the worst of a million values, and half of
/// it again for the plain multiply-add of the portable kernels. Eight more roundings are for the activation. Winograd's
/// transforms amplify, but its sums are only as long as there are channels.
///
/// A softmax turns an absolute error of its logits into as large a relative one: logits of ten and more, each a sum
/// itself, cost ten times a sum's roundings.
pub fn tolerance(case: &Case) -> f64 {
    let sum = ROUNDING * (8.0 + 4.0 * (case.depth() as f64).sqrt());
    match &case.plan.steps[case.step].op {
        Op::Conv(c) if c.kernel == 3 && c.stride == 1 => 2.0 * sum,
        Op::Attention { .. } | Op::Pose(Pose::BinDecode(_)) => 10.0 * sum,
        // Matrix products in a row, and a square.
        Op::Pose(Pose::Gau(_)) => 4.0 * sum,
        _ => sum,
    }
}

/// The best `people` grids survive.
pub fn forced(people: usize) -> RunOptions {
    RunOptions { select: SelectParams { force: Some(people), ..SelectParams::default() }, heatmaps: true }
}

/// Random values for a map.
pub fn map_values(plan: &Plan, view: View, rng: &mut Rng) -> Vec<f32> {
    let (h, w) = plan.hw(view);
    rng.values(h * w * view.c, 1.0)
}

/// Random values for all maps that an operation reads.
pub fn inputs(plan: &Plan, op: &Op, rng: &mut Rng) -> Vec<(View, Vec<f32>)> {
    op.reads().into_iter().map(|view| (view, map_values(plan, view, rng))).collect()
}

/// Logits, and boxes of one to ten cells.
pub fn select_inputs(plan: &Plan, select: &Op, rng: &mut Rng) -> Vec<(View, Vec<f32>)> {
    let Op::Pose(Pose::Select { levels }) = select else { unreachable!("a selection") };
    let mut maps = Vec::new();
    for level in levels {
        let (h, w) = plan.hw(level.cls);
        maps.push((level.cls, rng.values(h * w, 2.0)));
        let bbox = (0..h * w * 4).map(|i| match i % 4 {
            0 | 1 => rng.uniform(-0.5, 0.5),
            _ => rng.uniform(0.0, 2.3),
        });
        maps.push((level.bbox, bbox.collect()));
    }
    maps
}

/// A convolution between slices of wider maps.
#[derive(Clone, Copy)]
pub struct Shape {
    /// Rows of the input.
    pub h: usize,
    /// Columns of the input.
    pub w: usize,
    /// Input channels.
    pub cin: usize,
    /// Output channels.
    pub cout: usize,
    /// Side of the window.
    pub kernel: usize,
    /// Step of the window.
    pub stride: usize,
    /// Groups of channels.
    pub groups: usize,
    /// Activation.
    pub act: Act,
    /// 0: none, 1: same, 2: upsampled, 3: table.
    pub pre_add: usize,
    /// Whether a map is added behind the activation.
    pub post_add: bool,
    /// Channels before and behind every slice.
    pub margin: (usize, usize),
}

/// A 1x1 convolution without extras.
pub const PLAIN: Shape = Shape {
    h: 5,
    w: 7,
    cin: 16,
    cout: 16,
    kernel: 1,
    stride: 1,
    groups: 1,
    act: Act::None,
    pre_add: 0,
    post_add: false,
    margin: (0, 0),
};

impl Shape {
    /// The convolution as a case.
    pub fn case(self, rng: &mut Rng) -> Case {
        let Shape { h, w, cin, cout, kernel, stride, groups, act, margin, .. } = self;
        let (oh, ow) = (h.div_ceil(stride), w.div_ceil(stride));
        let mut plan = Plan::default();
        let mut map = |name: &str, h, w, c| plan.map(name, h, w, margin.0 + c + margin.1).slice(margin.0, c);
        let src = map("src", h, w, cin);
        let dst = map("dst", oh, ow, cout);
        let same = map("same", oh, ow, cout);
        let half = map("half", oh / 2, ow / 2, cout);
        let residual = map("residual", oh, ow, cout);
        let fan_in = kernel * kernel * cin / groups;
        // Values that fp16 represents: what is measured is the kernel, not the rounding of constants.
        let weight = halves(rng.values(cout * fan_in, (fan_in as f32).sqrt().recip()));
        let weight = plan.tensor("weight", &[cout, kernel, kernel, cin / groups], weight);
        let bias = plan.tensor("bias", &[cout], rng.values(cout, 1.0));
        let pre_add = match self.pre_add {
            0 => PreAdd::None,
            1 => PreAdd::Same(same),
            2 => PreAdd::Upsampled(half),
            _ => {
                PreAdd::Table(plan.tensor("table", &[oh, ow, cout], halves(rng.values(oh * ow * cout, 1.0))))
            }
        };
        let post_add = self.post_add.then_some(residual);
        let pad = if kernel == 6 { 2 } else { kernel / 2 };
        let conv = Conv { src, dst, weight, bias, kernel, stride, pad, groups, pre_add, act, post_add };
        plan.push("conv", Op::Conv(conv));
        let name = signature(&plan, &plan.steps[0]);
        let maps = inputs(&plan, &plan.steps[0].op, rng);
        Case::new(name, plan, maps)
    }
}

/// The nearest values that fp16 represents.
fn halves(values: Vec<f32>) -> Vec<f32> {
    values.into_iter().map(|v| half::f16::from_f32(v).to_f32()).collect()
}

/// Convolutions with every window, stride, activation and addend. The edges of CPU tiles and vectors are in `ops.rs`, those
/// of CUDA's tiles beside their kernels.
pub fn convolutions() -> Vec<Row> {
    let mut shapes = Vec::new();
    for kernel in [1, 3] {
        for act in [Act::None, Act::Relu, Act::Silu, Act::Gelu] {
            for pre_add in 0..4 {
                for post_add in [false, true] {
                    for (cin, cout, margin) in [(16, 40, (8, 16)), (10, 21, (3, 6))] {
                        let (h, w) = (6, 10);
                        shapes.push(Shape {
                            h,
                            w,
                            cin,
                            cout,
                            kernel,
                            act,
                            pre_add,
                            post_add,
                            margin,
                            ..PLAIN
                        });
                    }
                }
            }
        }
    }
    for (kernel, cin) in [(3, 16), (3, 5), (6, 3), (7, 3), (7, 10), (1, 8), (1, 40)] {
        for (h, w) in [(1, 1), (2, 2), (1, 9), (8, 8), (9, 8), (8, 9), (9, 9), (13, 27), (32, 40)] {
            let (stride, act) = (2, Act::Silu);
            let (cout, margin) = if cin % 8 == 0 { (40, (8, 8)) } else { (37, (2, 3)) };
            shapes.push(Shape { h, w, kernel, cin, stride, cout, act, margin, ..PLAIN });
        }
    }
    let mut rng = Rng::new(7);
    shapes.into_iter().map(|shape| Row::new(shape.case(&mut rng))).collect()
}

/// The case with NaN in two values of its last input, of both signs: x86-64 makes negative ones.
pub fn with_nans(mut case: Case, rng: &mut Rng) -> Case {
    // Of survivors, in the first one's row, which every case has.
    let inputs = if case.rows.is_empty() { &mut case.maps } else { &mut case.rows };
    let (view, values) = inputs.last_mut().expect("an input");
    let len = if case.plan.buffer_of(*view).extent == Extent::Rows { view.c } else { values.len() };
    for nan in [f32::NAN, -f32::NAN] {
        values[rng.below(len)] = nan;
    }
    case
}

/// Max pools of one window, two and three: what is pooled and the results are slices of one buffer, as in the network.
pub fn pool_pyramids() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut rng = Rng::new(2);
    let shapes = [
        (1, 1, 1, 5),
        (2, 7, 3, 5),
        (13, 13, 192, 5),
        (20, 20, 17, 5),
        (3, 20, 33, 3),
        (9, 4, 65, 7),
        (30, 17, 16, 5),
        (5, 5, 8, 1),
        (20, 20, 24, 5),
        (9, 4, 24, 3),
        // The map of a 2048x2048 input.
        (64, 64, 8, 5),
    ];
    for (h, w, c, window) in shapes {
        // As in the network: what is pooled and the results are slices of one buffer.
        let mut plan = Plan::default();
        let margin = margin(c);
        let all = plan.map("concat", h, w, margin + 4 * c + margin).slice(margin, 4 * c);
        let (src, dst) = (all.slice(0, c), all.slice(c, 3 * c));
        plan.push("pool", Op::PoolPyramid { src, dst, window });
        let mut values = map_values(&plan, src, &mut rng);
        // All negative somewhere: the outside must not count as zero.
        values.iter_mut().filter(|v| **v > -1.0).for_each(|v| *v -= 3.0);
        let case = Case::new(format!("pool {window} of {h}x{w}x{c}"), plan, vec![(src, values)]);
        // A maximum is one of its inputs, exactly.
        rows.push(Row { nans: h * w > 100, ..Row::new(case).within(f64::MIN_POSITIVE, 0.0) });
    }
    rows
}

/// Max pools with strides.
pub fn max_pools() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut rng = Rng::new(6);
    let shapes = [
        (1, 1, 1, 3, 2),
        (2, 7, 3, 3, 2),
        (12, 17, 64, 3, 2),
        (7, 6, 33, 3, 1),
        (9, 4, 65, 5, 3),
        (5, 5, 8, 1, 2),
        (4, 3, 16, 7, 2),
        (8, 12, 24, 3, 2),
        (7, 5, 24, 3, 2),
        (1, 1, 24, 3, 2),
        (2, 3, 24, 5, 1),
        (9, 10, 24, 5, 3),
        // ResNet's, whole and in part.
        (320, 320, 65, 3, 2),
        (32, 24, 64, 3, 2),
    ];
    for (h, w, c, window, stride) in shapes {
        let mut plan = Plan::default();
        let src = plan.map("src", h, w, c + 2 * margin(c)).slice(margin(c), c);
        let dst = plan.map("dst", h.div_ceil(stride), w.div_ceil(stride), c + margin(c)).slice(margin(c), c);
        plan.push("pool", Op::MaxPool { src, dst, window, stride, pad: window / 2 });
        let mut values = map_values(&plan, src, &mut rng);
        // All negative somewhere: the outside must not count as zero.
        values.iter_mut().filter(|v| **v > -1.0).for_each(|v| *v -= 3.0);
        let name = format!("max pool {window}/{stride} of {h}x{w}x{c}");
        // A maximum is one of its inputs, exactly.
        let case = Case::new(name, plan, vec![(src, values)]);
        rows.push(Row { nans: h * w > 40, ..Row::new(case).within(f64::MIN_POSITIVE, 0.0) });
    }
    rows
}

/// Root of the variance and `eps`.
fn deviation(values: &[f32], eps: f64) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    (values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n + eps).sqrt()
}

/// Layer norms of any width.
pub fn layer_norms() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut rng = Rng::new(3);
    for c in (1..=34).chain([63, 64, 65, 256, 264, 1024]) {
        let mut plan = Plan::default();
        let src = plan.map("src", 5, 9, c + 2 * margin(c)).slice(margin(c), c);
        let dst = plan.map("dst", 5, 9, c + margin(c)).slice(margin(c), c);
        let gamma = plan.tensor("gamma", &[c], rng.values(c, 1.0));
        let beta = plan.tensor("beta", &[c], rng.values(c, 1.0));
        plan.push("norm", Op::LayerNorm { src, dst, gamma, beta, eps: 1e-5 });
        // A mean far from zero: the variance must not be the difference of two large numbers. The mean of c values of up to
        // 16 comes of as many roundings of a sum of up to 16 c, sqrt(c) of which add up: 16 sqrt(c) roundings of 1. They
        // count by the pixel's deviation, which is small where two channels happen to be close.
        let values: Vec<f32> = map_values(&plan, src, &mut rng).into_iter().map(|v| v + 10.0).collect();
        let least = values.chunks_exact(c).map(|pixel| deviation(pixel, 1e-5)).fold(f64::INFINITY, f64::min);
        let case = Case::new(format!("layer norm of {c}"), plan, vec![(src, values)]);
        let tolerance = ROUNDING * (8.0 + 16.0 * (c as f64).sqrt() / least);
        // Results are rounded to fp16, 2.8e-4 rms.
        rows.push(Row { nans: true, ..Row::new(case).within(tolerance, 5e-4) });
    }
    rows
}

/// Self-attention of several heads.
pub fn attentions() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut rng = Rng::new(4);
    let shapes = [
        (1, 1, 8, 8),
        (1, 2, 24, 3),
        (3, 5, 256, 8),
        (13, 13, 256, 8),
        (20, 20, 256, 8),
        (17, 30, 64, 2),
        (4, 6, 10, 2),
        (5, 5, 51, 3),
        (7, 7, 66, 1),
        // Heads of 32, as CUDA's; below, at and above one chunk of its 448 keys.
        (1, 1, 96, 3),
        (3, 5, 96, 3),
        (16, 28, 32, 1),
        (19, 28, 32, 1),
    ];
    for (h, w, c, heads) in shapes {
        let mut plan = Plan::default();
        let qkv = plan.map("qkv", h, w, 3 * c + margin(c)).slice(margin(c), 3 * c);
        let dst = plan.map("dst", h, w, c + 2 * margin(c)).slice(margin(c), c);
        plan.push("attention", Op::Attention { qkv, dst, heads });
        let mut values = map_values(&plan, qkv, &mut rng);
        // Queries come scaled; some of them large, so that the softmax saturates.
        let scale = (c as f32 / heads as f32).sqrt().recip();
        for (i, pixel) in values.chunks_exact_mut(3 * c).enumerate() {
            let scale = if i % 3 == 0 { 10.0 * scale } else { scale };
            pixel[..c].iter_mut().for_each(|q| *q *= scale);
        }
        let case = Case::new(format!("attention {h}x{w}x{c}, {heads} heads"), plan, vec![(qkv, values)]);
        // A NaN in a query, a key or a value of a head: that query, or all queries, of this head. Another head has none.
        rows.push(Row { nans: h * w > 100 && heads > 1, ..Row::new(case) });
    }
    rows
}

/// A plan that selects from two small levels, with `rows` of survivors to start from.
fn selecting(rng: &mut Rng, rows: usize) -> (Plan, View, Vec<(View, Vec<f32>)>) {
    let mut plan = Plan::default();
    let mut levels = Vec::new();
    for stride in [16, 32] {
        let (h, w) = (160 / stride, 192 / stride);
        let cls = plan.map(format!("cls {stride}"), h, w, 2).slice(1, 1);
        let bbox = plan.map(format!("bbox {stride}"), h, w, 4);
        levels.push(GridLevel { cls, bbox, stride });
    }
    plan.push("select", Op::Pose(Pose::Select { levels }));
    let src = plan.rows("src", rows + 5).slice(2, rows);
    let maps = select_inputs(&plan, &plan.steps[0].op, rng);
    (plan, src, maps)
}

/// Linear maps of the survivors' pixels.
pub fn survivor_linear_maps() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut rng = Rng::new(6);
    for (cin, cout, people) in [(16, 33, 1), (104, 17 * 129, 5), (5, 1, 7), (27, 64, 13), (288, 100, 0)] {
        let (mut plan, _, mut maps) = selecting(&mut rng, 1);
        let Op::Pose(Pose::Select { levels }) = plan.steps[0].op.clone() else { unreachable!("a selection") };
        let (mut src, mut weight, mut bias) = (vec![], vec![], vec![]);
        for level in &levels {
            let (h, w) = plan.hw(level.cls);
            let map = plan.map("pose", h, w, cin + 3).slice(1, cin);
            maps.push((map, map_values(&plan, map, &mut rng)));
            src.push(map);
            weight.push(plan.tensor("weight", &[cout, cin], rng.values(cout * cin, (cin as f32).powf(-0.5))));
            bias.push(plan.tensor("bias", &[cout], rng.values(cout, 1.0)));
        }
        let dst = plan.rows("dst", cout + 4).slice(3, cout);
        plan.push("linear", Op::Pose(Pose::SurvivorLinear { src, weight, bias, dst }));
        let mut case = Case::new(format!("survivor linear {cin} -> {cout}, {people} people"), plan, maps);
        case.options = forced(people);
        rows.push(Row::new(case));
    }
    rows
}

/// Gated attention units between the keypoints of each survivor.
pub fn gated_attention_units() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut rng = Rng::new(8);
    let shapes = [
        (17, 128, 256, 128, 4),
        (14, 128, 256, 128, 1),
        (1, 8, 16, 8, 3),
        (5, 12, 20, 7, 2),
        (17, 9, 33, 17, 20),
    ];
    for (tokens, dim, expansion, key_dim, people) in shapes {
        let (mut plan, src, maps) = selecting(&mut rng, tokens * dim);
        let dst = plan.rows("dst", tokens * dim + 3).slice(1, tokens * dim);
        let mut tensor = |shape: &[usize], mean: f32, deviation: f32| -> TensorId {
            let values = rng.values(shape.iter().product(), deviation).into_iter().map(|v| v + mean);
            plan.tensor("constant", shape, values.collect())
        };
        let gau = Gau {
            src,
            dst,
            tokens,
            dim,
            expansion,
            key_dim,
            norm_gain: tensor(&[1], 1.0, 0.1),
            uv: tensor(&[2 * expansion + key_dim, dim], 0.0, (dim as f32).powf(-0.5)),
            q_gain: tensor(&[key_dim], 1.0, 0.3),
            q_bias: tensor(&[tokens, key_dim], 0.0, 0.5),
            k_gain: tensor(&[key_dim], 1.0, 0.3),
            k_bias: tensor(&[tokens, key_dim], 0.0, 0.5),
            out: tensor(&[dim, expansion], 0.0, (expansion as f32).powf(-0.5)),
            residual_gain: tensor(&[dim], 1.0, 0.3),
        };
        plan.push("gau", Op::Pose(Pose::Gau(gau)));
        let mut case = Case::new(format!("gau {tokens} tokens {dim} {expansion} {key_dim}"), plan, maps);
        case.options = forced(people);
        let mut values = rng.values(3 * src.c, 1.0);
        // A token of zeros: its norm is bounded from below.
        values[..dim].fill(0.0);
        case.rows = vec![(src, values)];
        // The first survivor has the NaN, and all its tokens attend to it.
        rows.push(Row { nans: people == 4, ..Row::new(case) });
    }
    rows
}

/// The coordinate classifier: probabilities of bins, and their means.
pub fn bins() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut rng = Rng::new(9);
    let shapes = [
        (17, 128, 128, 192, 256, 4),
        (14, 128, 128, 192, 256, 1),
        (1, 8, 2, 2, 3, 3),
        (3, 5, 6, 33, 17, 2),
        (17, 16, 32, 1, 64, 9),
        (2, 20, 8, 1000, 15, 2),
    ];
    for (tokens, dim, pe_dim, x, y, people) in shapes {
        for heatmaps in [false, true] {
            let (mut plan, src, maps) = selecting(&mut rng, tokens * dim);
            let dst = plan.rows("dst", tokens * 2 + 3).slice(1, tokens * 2);
            let mut axis = |bins| {
                // Logits of a standard deviation of three.
                let weight = rng.values(pe_dim * dim, 3.0 / (0.5 * (pe_dim * dim) as f32).sqrt());
                BinAxis { bins, weight: plan.tensor("fc", &[pe_dim, dim], weight) }
            };
            let (x_axis, y_axis) = (axis(x), axis(y));
            let (temperature, padding) = (300.0, 1.25);
            let decode =
                BinDecode { src, dst, tokens, dim, pe_dim, temperature, padding, x: x_axis, y: y_axis };
            plan.push("bins", Op::Pose(Pose::BinDecode(decode)));
            let name = format!("bins {x} {y} of {tokens} tokens {dim} {pe_dim}, heatmaps: {heatmaps}");
            let mut case = Case::new(name, plan, maps);
            case.options = RunOptions { heatmaps, ..forced(people) };
            case.rows = vec![(src, rng.values(3 * src.c, 1.0))];
            // The codes are chains of up to bins / 4 rotations.
            let fp32 = tolerance(&case).max(ROUNDING * x.max(y) as f64);
            rows.push(Row { nans: true, fp32, ..Row::new(case) });
        }
    }
    rows
}
