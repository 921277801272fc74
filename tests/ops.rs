//! Every CPU kernel against the f64 reference: the network's own steps, the edges of tiles, and memory that must stay
//! as it was.

mod common;

use common::{Case, Report, Rng, distinct, isas, isolate};
use rtmo_engine::backend::cpu::Isa;
use rtmo_engine::backend::{RunOptions, SelectParams};
use rtmo_engine::plan::{
    Act, BinAxis, BinDecode, Conv, Extent, Gau, GridLevel, Op, Plan, Pose, PreAdd, TensorId, View,
};
use rtmo_engine::pose::model::{self, Variant};

/// Half the distance of two neighbouring f32 values at 1: the largest relative error of one rounding.
const ROUNDING: f64 = f32::EPSILON as f64 / 2.0;

/// Allowed error in units of `|expected| + rms`.
///
/// A sum of `K` terms of random signs suffers `K` roundings of partial sums that grow as `sqrt(k)`: its error is
/// about `sqrt(K) / 2` roundings of its typical size, five times that at the worst of a million values, and half of
/// it again for the plain multiply-add of the portable kernels. Eight more roundings are for the activation. Winograd's
/// transforms amplify, but its sums are only as long as there are channels.
///
/// A softmax turns an absolute error of its logits into as large a relative one: logits of ten and more, each a sum
/// itself, cost ten times a sum's roundings.
fn tolerance(case: &Case) -> f64 {
    let sum = ROUNDING * (8.0 + 4.0 * (case.depth() as f64).sqrt());
    match &case.plan.steps[case.step].op {
        Op::Conv(c) if c.kernel == 3 && c.stride == 1 && c.groups == 1 => 2.0 * sum,
        Op::Attention { .. } | Op::Pose(Pose::BinDecode(_)) => 10.0 * sum,
        // Matrix products in a row, and a square.
        Op::Pose(Pose::Gau(_)) => 4.0 * sum,
        _ => sum,
    }
}

/// Steps of a network on random maps, each on its own.
fn network_steps(variant: Variant, size: (usize, usize), isas: &[Isa], threads: &[usize]) {
    let checkpoint = model::random(variant, 17, 2, 1);
    let plan = model::build(&checkpoint, size).expect("generated weights");
    let mut report = Report::default();
    let mut rng = Rng::new(variant as u64);
    for (step, signature) in distinct(&plan) {
        if let Some(case) = step_case(&plan, step, format!("{variant} {signature}"), &mut rng) {
            case.check_all(isas, threads, tolerance(&case), &mut report);
        }
    }
    report.finish();
}

/// A step of a network as a case; `None` for those that compute nothing of their own.
fn step_case(plan: &Plan, step: usize, name: String, rng: &mut Rng) -> Option<Case> {
    let op = &plan.steps[step].op;
    if matches!(op, Op::Pose(Pose::Letterbox { .. }) | Op::Pose(Pose::Select { .. })) {
        return None;
    }
    let select = plan
        .steps
        .iter()
        .position(|s| matches!(s.op, Op::Pose(Pose::Select { .. })))
        .expect("every network selects");
    let rows = |v: View| plan.buffer_of(v).extent == Extent::Rows;
    if !op.writes().is_some_and(rows) {
        let maps = inputs(plan, op, rng);
        let small = isolate(plan, &[step]);
        // The network input is kept with a border, so give the stem another map of three channels.
        return Some(Case::new(name, small, maps));
    }
    let mut case =
        Case::new(name, isolate(plan, &[select, step]), select_inputs(plan, &plan.steps[select].op, rng));
    for view in op.reads() {
        match rows(view) {
            true => case.rows.push((view, rng.values(3 * view.c, 1.0))),
            false => case.maps.push((view, map_values(plan, view, rng))),
        }
    }
    case.options = forced(5);
    Some(case)
}

fn forced(people: usize) -> RunOptions {
    RunOptions { select: SelectParams { force: Some(people), ..SelectParams::default() }, heatmaps: true }
}

fn map_values(plan: &Plan, view: View, rng: &mut Rng) -> Vec<f32> {
    let (h, w) = plan.hw(view);
    rng.values(h * w * view.c, 1.0)
}

fn inputs(plan: &Plan, op: &Op, rng: &mut Rng) -> Vec<(View, Vec<f32>)> {
    op.reads().into_iter().map(|view| (view, map_values(plan, view, rng))).collect()
}

/// Logits, and boxes of one to ten cells.
fn select_inputs(plan: &Plan, select: &Op, rng: &mut Rng) -> Vec<(View, Vec<f32>)> {
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

#[test]
fn steps_of_rtmo_t_at_full_size() {
    network_steps(Variant::T, (416, 416), &isas()[..1], &[2]);
}

#[test]
fn steps_of_rtmo_s_at_full_size() {
    network_steps(Variant::S, (640, 640), &isas()[..1], &[2]);
}

#[test]
fn steps_of_every_size_on_small_maps() {
    for variant in Variant::ALL {
        network_steps(variant, (160, 96), &isas(), &[1, 3]);
    }
}

/// A convolution between slices of wider maps.
#[derive(Clone, Copy)]
struct Shape {
    h: usize,
    w: usize,
    cin: usize,
    cout: usize,
    kernel: usize,
    stride: usize,
    groups: usize,
    act: Act,
    /// 0: none, 1: same, 2: upsampled, 3: table.
    pre_add: usize,
    post_add: bool,
    /// Channels before and behind every slice.
    margin: (usize, usize),
}

const PLAIN: Shape = Shape {
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
    fn case(self, rng: &mut Rng) -> Case {
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
        let weight = rng.values(cout * fan_in, (fan_in as f32).sqrt().recip());
        let weight = plan.tensor("weight", &[cout, kernel, kernel, cin / groups], weight);
        let bias = plan.tensor("bias", &[cout], rng.values(cout, 1.0));
        let pre_add = match self.pre_add {
            0 => PreAdd::None,
            1 => PreAdd::Same(same),
            2 => PreAdd::Upsampled(half),
            _ => PreAdd::Table(plan.tensor("table", &[oh, ow, cout], rng.values(oh * ow * cout, 1.0))),
        };
        let post_add = self.post_add.then_some(residual);
        let pad = if kernel == 6 { 2 } else { kernel / 2 };
        let conv = Conv { src, dst, weight, bias, kernel, stride, pad, groups, pre_add, act, post_add };
        plan.push("conv", Op::Conv(conv));
        let name = common::signature(&plan, &plan.steps[0]);
        let maps = inputs(&plan, &plan.steps[0].op, rng);
        Case::new(name, plan, maps)
    }
}

fn check_shapes(shapes: impl IntoIterator<Item = Shape>, threads: &[usize]) {
    let mut report = Report::default();
    let mut rng = Rng::new(7);
    for shape in shapes {
        let case = shape.case(&mut rng);
        case.check_all(&isas(), threads, tolerance(&case), &mut report);
    }
    report.finish();
}

/// Panels are up to four vectors of sixteen channels wide.
const WIDEST: usize = 64;

#[test]
fn output_channels_at_every_panel_edge() {
    for (kernel, cin) in [(1, 16), (1, 5), (3, 16), (3, 7)] {
        let shapes =
            (1..=WIDEST + 1).map(|cout| Shape { cout, kernel, cin, margin: (3, 2), act: Act::Silu, ..PLAIN });
        check_shapes(shapes, &[1]);
    }
    // Large enough for every way to compute stride 2.
    let shapes = [1, 7, 8, 9, 15, 16, 17, 31, 33, 48, 63, 65];
    check_shapes(
        shapes.map(|cout| Shape { h: 32, w: 24, cout, kernel: 3, stride: 2, margin: (3, 2), ..PLAIN }),
        &[1],
    );
    let wide = [66, 79, 80, 81, 96, 127, 128, 129, 144, 192, 216, 257];
    check_shapes(wide.map(|cout| Shape { cout, margin: (1, 0), ..PLAIN }), &[2]);
    check_shapes(wide.map(|cout| Shape { cout, kernel: 3, margin: (1, 0), ..PLAIN }), &[2]);
}

#[test]
fn input_channels_at_every_vector_edge() {
    let cin = |kernel| move |cin| Shape { cin, kernel, cout: 9, margin: (0, 1), ..PLAIN };
    check_shapes((1..=33).map(cin(1)), &[1]);
    check_shapes((1..=33).map(cin(3)), &[1]);
    check_shapes(
        [8, 16, 24, 48, 64].map(|cin| Shape { h: 32, w: 24, cin, kernel: 3, stride: 2, ..PLAIN }),
        &[2],
    );
}

#[test]
fn maps_at_every_patch_and_tile_edge() {
    let sides = [1, 2, 3, 4, 5, 6, 7, 8, 9, 13];
    for kernel in [1, 3] {
        let sizes = sides.into_iter().flat_map(|h| sides.map(|w| (h, w)));
        let shapes =
            sizes.map(|(h, w)| Shape { h, w, kernel, cout: 24, act: Act::Silu, margin: (4, 4), ..PLAIN });
        check_shapes(shapes, &[1]);
    }
    for kernel in [1, 3] {
        let sizes = [(1, 1), (1, 150), (150, 1), (13, 13), (20, 20), (26, 26), (31, 17), (52, 3)];
        let shapes = sizes.map(|(h, w)| Shape { h, w, kernel, cin: 48, cout: 80, post_add: true, ..PLAIN });
        check_shapes(shapes, &[1, 2, 3]);
    }
    // Every remainder of an output of stride 2.
    let sizes = (25..=32).flat_map(|h| (37..=44).map(move |w| (h, w)));
    let shapes = sizes.map(|(h, w)| Shape { h, w, kernel: 3, stride: 2, cout: 20, margin: (0, 4), ..PLAIN });
    check_shapes(shapes, &[1]);
}

#[test]
fn strides_on_even_and_odd_sizes() {
    for (kernel, cin) in [(3, 16), (3, 5), (6, 3), (7, 3), (7, 10), (1, 8), (1, 40)] {
        let sizes = [(1, 1), (2, 2), (1, 9), (8, 8), (9, 8), (8, 9), (9, 9), (13, 27), (32, 40)];
        let shapes = sizes.map(|(h, w)| Shape {
            h,
            w,
            kernel,
            cin,
            stride: 2,
            cout: 37,
            act: Act::Silu,
            margin: (2, 3),
            ..PLAIN
        });
        check_shapes(shapes, &[1, 3]);
    }
}

#[test]
fn groups_of_uneven_width() {
    let mut shapes = Vec::new();
    for width in [1, 3, 13, 16, 18, 27, 36] {
        for (groups, h, w) in [(8, 5, 7), (2, 13, 13), (8, 1, 1), (3, 20, 9)] {
            let c = width * groups;
            shapes.push(Shape {
                h,
                w,
                cin: c,
                cout: c,
                kernel: 3,
                groups,
                act: Act::Silu,
                margin: (2, 5),
                ..PLAIN
            });
        }
    }
    // Groups that widen or narrow.
    shapes.push(Shape { cin: 24, cout: 40, groups: 8, kernel: 3, ..PLAIN });
    shapes.push(Shape { cin: 40, cout: 24, groups: 8, kernel: 1, ..PLAIN });
    shapes.push(Shape { cin: 40, cout: 24, groups: 4, kernel: 3, stride: 2, ..PLAIN });
    check_shapes(shapes, &[1, 2]);
}

#[test]
fn every_epilogue() {
    let mut shapes = Vec::new();
    for kernel in [1, 3] {
        for act in [Act::None, Act::Relu, Act::Silu, Act::Gelu] {
            for pre_add in 0..4 {
                for post_add in [false, true] {
                    for (cin, cout) in [(16, 40), (10, 21)] {
                        let (h, w, margin) = (6, 10, (3, 6));
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
    check_shapes(shapes, &[1, 2]);
}

#[test]
fn slices_of_one_buffer() {
    // A cross-stage layer writes beside what it reads.
    let mut report = Report::default();
    let mut rng = Rng::new(11);
    for kernel in [1, 3] {
        for c in [16, 24, 27] {
            let mut plan = Plan::default();
            let concat = plan.map("concat", 9, 11, 3 * c);
            let weight = rng.values(c * kernel * kernel * c, 0.2);
            let weight = plan.tensor("weight", &[c, kernel, kernel, c], weight);
            let bias = plan.tensor("bias", &[c], rng.values(c, 1.0));
            let src = concat.slice(0, c);
            let conv = Conv {
                src,
                dst: concat.slice(2 * c, c),
                weight,
                bias,
                kernel,
                stride: 1,
                pad: kernel / 2,
                groups: 1,
                pre_add: PreAdd::None,
                act: Act::Silu,
                post_add: Some(src),
            };
            plan.push("conv", Op::Conv(conv));
            let maps = vec![(src, map_values(&plan, src, &mut rng))];
            let case = Case::new(format!("conv {kernel} within a buffer of 3 x {c}"), plan, maps);
            case.check_all(&isas(), &[1, 2], tolerance(&case), &mut report);
        }
    }
    report.finish();
}

#[test]
fn the_stem_reads_the_bordered_input() {
    let mut report = Report::default();
    let mut rng = Rng::new(5);
    for (h, w, cout, kernel, stride) in [
        (32, 64, 24, 6, 2),
        (31, 33, 32, 6, 2),
        (32, 64, 64, 7, 2),
        (31, 33, 40, 7, 2),
        (9, 7, 17, 7, 1),
        (8, 8, 9, 3, 1),
        (5, 6, 16, 1, 1),
    ] {
        let mut plan = Plan::default();
        let src = plan.letterbox(w, h);
        let fan_in = kernel * kernel * 3;
        let weight = rng.values(cout * fan_in, 1.0 / 255.0);
        let weight = plan.tensor("weight", &[cout, kernel, kernel, 3], weight);
        let bias = plan.tensor("bias", &[cout], rng.values(cout, 1.0));
        let dst = plan.map("dst", h.div_ceil(stride), w.div_ceil(stride), cout + 2).slice(1, cout);
        let pad = if kernel == 6 { 2 } else { kernel / 2 };
        let (pre_add, act) = (PreAdd::None, Act::Silu);
        let conv =
            Conv { src, dst, weight, bias, kernel, stride, pad, groups: 1, pre_add, act, post_add: None };
        plan.push("stem", Op::Conv(conv));
        let input: Vec<f32> = (0..h * w * 3).map(|_| rng.below(256) as f32).collect();
        let case = Case::new(format!("stem {kernel}x{kernel}/{stride} {h}x{w} -> {cout}"), plan, vec![]);
        let mut reference = rtmo_engine::backend::reference::Reference::new(case.plan.clone());
        reference.run(&input, &RunOptions::default());
        for isa in isas() {
            for threads in [1, 2, 3] {
                let mut cpu = case.prepare(isa, threads);
                cpu.memory().fill(f32::NAN);
                cpu.fill_scratch(f32::NAN);
                cpu.write_input(&input);
                cpu.run_steps(1..2, &RunOptions::default());
                let name = format!("{} [{} x{threads}]", case.name, isa.name());
                let got = common::read(&mut cpu, dst);
                report.compare(&name, &reference.map(dst), &got, tolerance(&case), &|i| format!("value {i}"));
                let map = cpu.locate(dst).expect("a map");
                let beside = |p: usize| [map.offset + p * map.pitch - 1, map.offset + p * map.pitch + cout];
                if !(0..map.pixels()).flat_map(beside).all(|at| cpu.memory()[at].is_nan()) {
                    report.fail(format!("{name}: wrote beside its slice"));
                }
            }
        }
    }
    report.finish();
}

#[test]
fn pool_pyramids() {
    let mut report = Report::default();
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
    ];
    for (h, w, c, window) in shapes {
        // As in the network: what is pooled and the results are slices of one buffer.
        let mut plan = Plan::default();
        let all = plan.map("concat", h, w, 2 + 4 * c + 1).slice(2, 4 * c);
        let (src, dst) = (all.slice(0, c), all.slice(c, 3 * c));
        plan.push("pool", Op::PoolPyramid { src, dst, window });
        let mut values = map_values(&plan, src, &mut rng);
        // All negative somewhere: the outside must not count as zero.
        values.iter_mut().filter(|v| **v > -1.0).for_each(|v| *v -= 3.0);
        let case = Case::new(format!("pool {window} of {h}x{w}x{c}"), plan, vec![(src, values)]);
        // A maximum is one of its inputs, exactly.
        case.check_all(&isas(), &[1, 2], f64::MIN_POSITIVE, &mut report);
        if h * w > 100 {
            with_nans(case, &mut rng).check_nans(&isas(), f64::MIN_POSITIVE, &mut report);
        }
    }
    report.finish();
}

/// The case with NaN in two values of its last input, of both signs: x86-64 makes negative ones.
fn with_nans(mut case: Case, rng: &mut Rng) -> Case {
    // Of survivors, in the first one's row, which every case has.
    let inputs = if case.rows.is_empty() { &mut case.maps } else { &mut case.rows };
    let (view, values) = inputs.last_mut().expect("an input");
    let len = if case.plan.buffer_of(*view).extent == Extent::Rows { view.c } else { values.len() };
    for nan in [f32::NAN, -f32::NAN] {
        values[rng.below(len)] = nan;
    }
    case
}

#[test]
fn max_pools() {
    let mut report = Report::default();
    let mut rng = Rng::new(6);
    let shapes = [
        (1, 1, 1, 3, 2),
        (2, 7, 3, 3, 2),
        (12, 17, 64, 3, 2),
        (7, 6, 33, 3, 1),
        (9, 4, 65, 5, 3),
        (5, 5, 8, 1, 2),
        (4, 3, 16, 7, 2),
        // ResNet's.
        (320, 320, 64, 3, 2),
    ];
    for (h, w, c, window, stride) in shapes {
        let mut plan = Plan::default();
        let src = plan.map("src", h, w, c + 3).slice(1, c);
        let dst = plan.map("dst", h.div_ceil(stride), w.div_ceil(stride), c + 3).slice(2, c);
        plan.push("pool", Op::MaxPool { src, dst, window, stride, pad: window / 2 });
        let mut values = map_values(&plan, src, &mut rng);
        // All negative somewhere: the outside must not count as zero.
        values.iter_mut().filter(|v| **v > -1.0).for_each(|v| *v -= 3.0);
        let name = format!("max pool {window}/{stride} of {h}x{w}x{c}");
        // A maximum is one of its inputs, exactly.
        let case = Case::new(name, plan, vec![(src, values)]);
        case.check_all(&isas(), &[1, 2], f64::MIN_POSITIVE, &mut report);
        if h * w > 40 {
            with_nans(case, &mut rng).check_nans(&isas(), f64::MIN_POSITIVE, &mut report);
        }
    }
    report.finish();
}

/// Root of the variance and `eps`.
fn deviation(values: &[f32], eps: f64) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    (values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n + eps).sqrt()
}

#[test]
fn layer_norms() {
    let mut report = Report::default();
    let mut rng = Rng::new(3);
    for c in (1..=34).chain([63, 64, 65, 256]) {
        let mut plan = Plan::default();
        let src = plan.map("src", 5, 9, c + 3).slice(1, c);
        let dst = plan.map("dst", 5, 9, c + 3).slice(2, c);
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
        case.check_all(&isas(), &[1, 3], tolerance, &mut report);
        with_nans(case, &mut rng).check_nans(&isas(), tolerance, &mut report);
    }
    report.finish();
}

#[test]
fn attentions() {
    let mut report = Report::default();
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
    ];
    for (h, w, c, heads) in shapes {
        let mut plan = Plan::default();
        let qkv = plan.map("qkv", h, w, 3 * c + 2).slice(1, 3 * c);
        let dst = plan.map("dst", h, w, c + 5).slice(3, c);
        plan.push("attention", Op::Attention { qkv, dst, heads });
        let mut values = map_values(&plan, qkv, &mut rng);
        // Queries come scaled; some of them large, so that the softmax saturates.
        let scale = (c as f32 / heads as f32).sqrt().recip();
        for (i, pixel) in values.chunks_exact_mut(3 * c).enumerate() {
            let scale = if i % 3 == 0 { 10.0 * scale } else { scale };
            pixel[..c].iter_mut().for_each(|q| *q *= scale);
        }
        let case = Case::new(format!("attention {h}x{w}x{c}, {heads} heads"), plan, vec![(qkv, values)]);
        case.check_all(&isas(), &[1, 2, 3], tolerance(&case), &mut report);
        if h * w > 100 {
            // In a query, a key or a value of a head: that query, or all queries, of this head.
            let tolerance = tolerance(&case);
            with_nans(case, &mut rng).check_nans(&isas(), tolerance, &mut report);
        }
    }
    report.finish();
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

#[test]
fn survivor_linear_maps() {
    let mut report = Report::default();
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
        case.check_all(&isas(), &[1, 2, 3], tolerance(&case), &mut report);
    }
    report.finish();
}

#[test]
fn gated_attention_units() {
    let mut report = Report::default();
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
        case.check_all(&isas(), &[1, 2, 3], tolerance(&case), &mut report);
        if people == 4 {
            // The first survivor has them, and all its tokens attend to them.
            let tolerance = tolerance(&case);
            with_nans(case, &mut rng).check_nans(&isas(), tolerance, &mut report);
        }
    }
    report.finish();
}

#[test]
fn bins() {
    let mut report = Report::default();
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
            let tolerance = tolerance(&case).max(ROUNDING * x.max(y) as f64);
            case.check_all(&isas(), &[1, 2], tolerance, &mut report);
            with_nans(case, &mut rng).check_nans(&isas(), tolerance, &mut report);
        }
    }
    report.finish();
}
