//! Every CPU kernel against the f64 reference: the network's own steps, the edges of tiles, and memory that must stay
//! as it was.

mod common;

use common::cases::{
    self, PLAIN, Row, Shape, forced, inputs, map_values, select_inputs, tolerance, with_nans,
};
use common::{Case, Report, Rng, distinct, isas, isolate};
use rtmo_engine::backend::RunOptions;
use rtmo_engine::backend::cpu::Isa;
use rtmo_engine::plan::{Act, Conv, Extent, Op, Plan, Pose, PreAdd, View};
use rtmo_engine::pose::model::{self, Variant};

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

#[test]
fn steps_of_rtmo_t_at_full_size() {
    // Nine threads cut small maps by output channels.
    network_steps(Variant::T, (416, 416), &isas()[..1], &[2, 9]);
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

/// Rows of the case table on every instruction set, with one thread and with several.
fn check_rows(rows: Vec<Row>) {
    let mut report = Report::default();
    let mut rng = Rng::new(10);
    for row in rows {
        row.case.check_all(&isas(), &[1, 2, 3], row.fp32, &mut report);
        if row.nans {
            with_nans(row.case, &mut rng).check_nans(&isas(), row.fp32, &mut report);
        }
    }
    report.finish();
}

#[test]
fn convolutions() {
    check_rows(cases::convolutions());
}

#[test]
fn pool_pyramids() {
    check_rows(cases::pool_pyramids());
}

#[test]
fn max_pools() {
    check_rows(cases::max_pools());
}

#[test]
fn layer_norms() {
    check_rows(cases::layer_norms());
}

#[test]
fn attentions() {
    check_rows(cases::attentions());
}

#[test]
fn survivor_linear_maps() {
    check_rows(cases::survivor_linear_maps());
}

#[test]
fn gated_attention_units() {
    check_rows(cases::gated_attention_units());
}

#[test]
fn bins() {
    check_rows(cases::bins());
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
