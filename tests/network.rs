//! Whole networks: the CPU backend against the f64 reference, from the network input to people.

mod common;

use common::{Report, Rng, difference, isas, wide};
use rtmo_engine::backend::cpu::{CpuExecutor, CpuOptions, Isa};
use rtmo_engine::backend::reference::Reference;
use rtmo_engine::backend::{Executor, Frame, Precision, Profiler, RunOptions, SelectParams, Survivors};
use rtmo_engine::plan::{Extent, Op, Plan, Pose, View};
use rtmo_engine::pose::Letterbox;
use rtmo_engine::pose::model::{self, Variant};
use rtmo_engine::vision::{ChannelOrder, Image, Photo};

/// A picture of soft blobs and some noise, `h * w * 3`.
fn picture((w, h): (usize, usize), seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    let blobs: Vec<[f32; 6]> = (0..12)
        .map(|_| {
            let (x, y) = (rng.uniform(0.0, w as f32), rng.uniform(0.0, h as f32));
            let mut color = || rng.uniform(-60.0, 60.0);
            let color = [color(), color(), color()];
            [x, y, rng.uniform(10.0, 80.0), color[0], color[1], color[2]]
        })
        .collect();
    let mut values = Vec::with_capacity(h * w * 3);
    for i in 0..h * w {
        let (x, y) = ((i % w) as f32, (i / w) as f32);
        for c in 0..3 {
            let sum: f32 = blobs
                .iter()
                .map(|b| b[3 + c] * (-((x - b[0]).powi(2) + (y - b[1]).powi(2)) / (2.0 * b[2] * b[2])).exp())
                .sum();
            values.push((114.0 + sum + rng.uniform(-40.0, 40.0)).round().clamp(0.0, 255.0));
        }
    }
    values
}

fn plan(variant: Variant, size: (usize, usize), keypoints: usize, levels: usize) -> Plan {
    let checkpoint = model::random(variant, keypoints, levels, 3);
    model::build(&checkpoint, size).expect("generated weights")
}

/// As many people as leave the next best grid clearly behind, so that rounding cannot change who they are.
fn people(reference: &mut Reference, input: &[f32]) -> usize {
    let options =
        |n| RunOptions { select: SelectParams { force: Some(n), ..Default::default() }, heatmaps: true };
    let scores = reference.run(input, &options(24)).scores;
    (5..20).rev().find(|&n| scores[n - 1] - scores[n] > 1e-4).expect("scores that differ")
}

fn forced(people: usize) -> RunOptions {
    RunOptions { select: SelectParams { force: Some(people), ..Default::default() }, heatmaps: true }
}

fn flat<const N: usize>(values: &[[f32; N]]) -> Vec<f32> {
    values.iter().flatten().copied().collect()
}

/// Everything that selection and the steps after it find: scores, boxes and keypoints in network-input pixels,
/// probabilities.
fn compare_people(name: &str, expected: &Survivors, got: &Survivors, report: &mut Report) {
    if got.priors != expected.priors {
        return report
            .fail(format!("{name}: other people: {:?}, expected {:?}", got.priors, expected.priors));
    }
    // Of f32's rounding in these networks came half of each at the most (1.1e-2 px of keypoints, 4e-6 of scores, 1.3e-4 of
    // heatmaps, on AVX2 and both widths of plain code); boxes and visibility stay below a tenth.
    let lists = [
        ("scores", &expected.scores, &got.scores, 1e-5),
        ("boxes", &flat(&expected.boxes), &flat(&got.boxes), 0.01),
        ("keypoints", &flat(&expected.keypoints), &flat(&got.keypoints), 0.02),
        ("visibility", &expected.visibility, &got.visibility, 1e-4),
        ("heatmaps x", &expected.heatmaps_x, &got.heatmaps_x, 3e-4),
        ("heatmaps y", &expected.heatmaps_y, &got.heatmaps_y, 3e-4),
    ];
    let mut errors = Vec::new();
    for (what, expected, got, tolerance) in lists {
        if expected.len() != got.len() {
            report.fail(format!("{name}: {} {what}, expected {}", got.len(), expected.len()));
            continue;
        }
        let d = difference(&wide(expected), got);
        errors.push(format!("{what} {:.1e}", d.max_abs));
        if d.max_abs > tolerance {
            let (at, e) = (d.at, d.max_abs);
            let (expected, got) = (expected[at], got[at]);
            report.fail(format!(
                "{name}: {what}[{at}]: expected {expected}, got {got}, error {e:.1e} > {tolerance}"
            ));
        }
    }
    println!("{name}: {} people, largest errors: {}", got.scores.len(), errors.join(", "));
}

/// Runs on the CPU and compares every map that a step leaves, and the people.
fn compare_network(variant: Variant, size: (usize, usize), keypoints: usize, levels: usize, isas: &[Isa]) {
    let plan = plan(variant, size, keypoints, levels);
    let input = picture(size, 1);
    let mut report = Report::default();
    let mut reference = Reference::new(plan.clone());
    let options = forced(people(&mut reference, &input));
    let expected = reference.run(&input, &options);
    for &isa in isas {
        let name = format!("{variant} {}x{}, {}", size.0, size.1, isa.name());
        let cpu = CpuOptions { threads: 2, isa, precision: Precision::Fp32, keep_maps: true };
        let mut cpu = CpuExecutor::new(plan.clone(), cpu).expect("an available instruction set");
        cpu.fill_scratch(f32::NAN);
        cpu.write_input(&input);
        let got = cpu.run_steps(1..plan.steps.len(), &options);
        let mut worst = (0.0, "");
        for step in &plan.steps {
            let Some(view) = step.op.writes().filter(|v| is_map(&plan, *v)) else { continue };
            let d = difference(&reference.map(view), &cpu.read(view, 0).expect("a map"));
            if d.relative_l2 > worst.0 {
                worst = (d.relative_l2, &step.name);
            }
            // A few roundings (6e-8) a layer, carried through up to a hundred layers.
            let error = format!("{name}: {}: relative error {:.2e}", step.name, d.relative_l2);
            report.check(d.relative_l2 < 2e-5, error);
        }
        println!("{name}: largest relative error of a map {:.1e}, of {}", worst.0, worst.1);
        compare_people(&name, &expected, &got, &mut report);
    }
    report.finish();
}

fn is_map(plan: &Plan, view: View) -> bool {
    plan.buffer_of(view).extent != Extent::Rows
}

#[test]
fn rtmo_t_equals_the_reference() {
    let all = isas();
    compare_network(Variant::T, (416, 416), 17, 2, &all);
}

#[test]
fn rtmo_s_equals_the_reference() {
    let all = isas();
    compare_network(Variant::S, (640, 640), 17, 2, &all[..1]);
}

#[test]
fn every_size_equals_the_reference_on_small_inputs() {
    let all = isas();
    compare_network(Variant::M, (256, 160), 17, 2, &all);
    compare_network(Variant::L, (160, 224), 17, 2, &all[..1]);
    compare_network(Variant::S, (224, 160), 14, 3, &all);
}

/// Reused memory, other threads, another run before: nothing of it may show.
#[test]
fn results_depend_on_the_input_only() {
    let size = (288, 224);
    let plan = plan(Variant::S, size, 17, 2);
    let (input, other) = (picture(size, 1), picture(size, 2));
    let options = forced(7);
    let run = |cpu: &mut CpuExecutor, input: &[f32], options: &RunOptions| {
        cpu.write_input(input);
        cpu.run_steps(1..plan.steps.len(), options)
    };
    for isa in isas() {
        let mut first: Option<Survivors> = None;
        for (threads, keep_maps) in [(1, true), (1, false), (2, false), (3, false), (8, false)] {
            let cpu = CpuOptions { threads, isa, precision: Precision::Fp32, keep_maps };
            let mut cpu = CpuExecutor::new(plan.clone(), cpu).expect("an available instruction set");
            let name = format!("{} x{threads}, maps kept: {keep_maps}", isa.name());
            let got = run(&mut cpu, &input, &options);
            assert_eq!(got.scores.len(), 7);
            let first = first.get_or_insert_with(|| got.clone());
            assert!(got == *first, "{name}: differs from one thread with all maps kept");
            // Another picture and more people in between.
            let else_where = run(&mut cpu, &other, &forced(13));
            assert!(else_where.scores != got.scores && else_where.scores.len() == 13);
            assert!(run(&mut cpu, &input, &options) == *first, "{name}: differs from its first run");
        }
    }
}

/// From the photo on, by the public interface.
#[test]
fn a_frame_gives_what_its_network_input_gives() {
    let size = (160, 128);
    let plan = plan(Variant::T, size, 17, 2);
    let options = forced(5);
    // A photo that the letterbox neither scales nor moves.
    let bgr: Vec<u8> = picture(size, 4).into_iter().map(|v| v as u8).collect();
    let photo = Photo { width: size.0, height: size.1, bgr };
    let letterbox = Letterbox::new(size, size);
    let frame = Frame::new(&photo, &letterbox);
    let mut row = vec![0; size.0 * 3];
    let mut input = Vec::new();
    for y in 0..size.1 {
        letterbox.sample_row(&photo, y, &mut row);
        input.extend(row.iter().map(|&v| f32::from(v)));
    }
    for isa in isas() {
        let cpu = CpuOptions { threads: 2, isa, precision: Precision::Fp32, keep_maps: true };
        let mut cpu = CpuExecutor::new(plan.clone(), cpu).expect("an available instruction set");
        let runs = cpu.run(&[frame, frame], &options).expect("a run");
        let Op::Pose(Pose::Letterbox { dst }) = plan.steps[0].op else {
            panic!("a network starts with its input")
        };
        assert_eq!(cpu.read(dst, 1).expect("the network input"), input);
        assert!(cpu.read(dst, 0).is_err(), "only the last image's maps are there");
        cpu.write_input(&input);
        let expected = cpu.run_steps(1..plan.steps.len(), &options);
        assert_eq!(runs, [expected.clone(), expected.clone()], "{}", isa.name());
        let (timed, times) = cpu.run_timed(frame, &options).expect("a run");
        assert_eq!(timed, expected);
        assert!(times.iter().map(|t| t.step).eq(0..plan.steps.len()), "a time for every step, in order");
    }
}

/// The letterboxes of both conventions read rows with gaps, and red before blue, as if copied to a photo first.
#[test]
fn borrowed_pictures_are_read_where_they_are() {
    let (w, h, stride) = (90, 70, 90 * 3 + 11);
    let data: Vec<u8> = (0..stride * h).map(|i| (i * 7919 % 251) as u8).collect();
    for (letterbox, input) in [
        (Letterbox::new((w, h), (64, 96)), (64, 96)),
        (Letterbox::rtmlib((w, h), (64, 96)), (64, 96)),
        (Letterbox::rtmlib((w, h), (45, 35)), (45, 35)),
    ] {
        for order in [ChannelOrder::Bgr, ChannelOrder::Rgb] {
            let image = Image::new(w, h, order, &data).unwrap().with_stride(stride).unwrap();
            let photo = image.to_photo();
            let (mut got, mut want) = (vec![0; input.0 * 3], vec![1; input.0 * 3]);
            for y in 0..input.1 {
                letterbox.sample_row(image, y, &mut got);
                letterbox.sample_row(&photo, y, &mut want);
                assert_eq!(got, want, "row {y}, {order:?}");
            }
        }
    }
}

/// A letterbox of another photo or network, or a photo that is not whole, is refused and not read.
#[test]
fn frames_that_do_not_fit_are_refused() {
    let size = (64, 32);
    let plan = plan(Variant::T, size, 17, 2);
    let whole = Photo::filled(90, 70, [1, 2, 3]);
    let torn = Photo { bgr: vec![0; 90 * 70], ..whole.clone() };
    let good = Letterbox::new((90, 70), size);
    let options = CpuOptions::detect().expect("RTMO_ISA names an instruction set");
    let executors: [Box<dyn Executor>; 2] =
        [Box::new(CpuExecutor::new(plan.clone(), options).expect("a CPU")), Box::new(Reference::new(plan))];
    for mut executor in executors {
        let mut error = |photo: &Photo, letterbox: &Letterbox| {
            let frame = Frame::new(photo, letterbox);
            let timed = executor
                .profiler()
                .run_timed(frame, &RunOptions::default())
                .map(|(survivors, _)| vec![survivors]);
            let run = executor.run(&[frame], &RunOptions::default());
            let messages = [run, timed].map(|result| result.err().map(|error| error.to_string()));
            assert_eq!(messages[0], messages[1]);
            messages.into_iter().next().flatten()
        };
        assert_eq!(error(&whole, &good), None);
        assert!(error(&torn, &good).expect("torn").contains("expected 18900 bytes, got 6300"));
        let other = Letterbox::new((70, 90), size);
        assert!(error(&whole, &other).expect("another photo's").contains("expects 70x90"));
        for input in [(32, 32), (64, 64), (64, 96)] {
            let other = Letterbox::new((90, 70), input);
            assert!(error(&whole, &other).expect("another network's").contains("expected 64x32"));
        }
    }
}
