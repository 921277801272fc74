//! Whole networks, from photos to people.

use super::*;
use crate::backend::cpu::{CpuExecutor, CpuOptions};
use crate::backend::cuda::launch::Launch;
use crate::backend::cuda::ops::conv;
use crate::backend::cuda::ops::conv::params::{ConvLaunch, Trigger};
use crate::backend::cuda::schedule::Schedule;
use crate::backend::cuda::workspace::ProgramKey;
use crate::backend::{Frame, Profiler, RunOptions, SelectParams, Survivors};
use crate::parity::{self, Tolerance};
use crate::pose::model;
use crate::weights::Checkpoint;
use approx::assert_abs_diff_eq;
use std::time::Duration;

#[test]
fn a_whole_network_finds_the_same_people() {
    for gpu in gpus(&[1]).into_iter().chain(Emulator::start(TURING, 0)) {
        let input = (64, 64);
        let checkpoint = model::random(model::Variant::T, 17, 2, 3);
        let plan = model::build(&checkpoint, input).unwrap();
        let mut x = CudaExecutor::on(gpu, plan.clone(), OPTIONS).unwrap();
        let (photo, letterbox) = photo(5, 90, 70, input);
        let frame = Frame::new(&photo, &letterbox);
        let options =
            RunOptions { select: SelectParams { force: Some(4), ..SelectParams::default() }, heatmaps: true };
        let got = x.run(&[frame], &options).unwrap().remove(0);

        let mut r = Reference::new(plan.clone());
        let mut pixels = vec![0u8; input.0 * input.1 * 3];
        for (y, row) in pixels.chunks_exact_mut(input.0 * 3).enumerate() {
            letterbox.sample_row(&photo, y, row);
        }
        let values: Vec<f32> = pixels.iter().map(|&v| f32::from(v)).collect();
        let want = r.run(&values, &options);
        let mut worst = (0.0, String::new());
        for step in &plan.steps {
            let Some(view) = step.op.writes() else { continue };
            if plan.buffer_of(view).extent == Extent::Rows {
                continue;
            }
            let (relative, _) = distance(&x.read(view, 0).unwrap(), &r.map(view));
            if relative > worst.0 {
                worst = (relative, step.name.clone());
            }
        }
        // the bound on maps that the engine states for fp16
        assert!(worst.0 < 1e-2, "relative error {:.2e} at {}", worst.0, worst.1);
        // the scores are more than a tenth apart
        assert_eq!(got.priors, want.priors, "the same grids, in the same order");
        // Random weights make boxes of any size and some softmaxes with two peaks of the same height, which fp16 may
        // tip: nearly all keypoints, measured by their box.
        let near = got.keypoints.iter().zip(&want.keypoints).enumerate().filter(|(i, (g, w))| {
            let b = want.boxes[i / 17];
            let side = (b[2] - b[0]).max(b[3] - b[1]);
            (g[0] - w[0]).hypot(g[1] - w[1]) < 0.5 + 0.02 * side
        });
        let (near, all) = (near.count(), want.keypoints.len());
        assert!(near * 100 >= all * 80, "{near} of {all} keypoints agree");
        // before the softmaxes nothing tips: keypoint vectors after the attention unit
        let gau = plan
            .steps
            .iter()
            .find_map(|s| if let Op::Pose(Pose::Gau(g)) = &s.op { Some(g.dst) } else { None })
            .unwrap();
        let Storage::Rows { pitch } = x.schedule.storage[gau.buffer.0] else { unreachable!("rows") };
        let mut vectors = vec![0f32; want.scores.len() * pitch];
        let at = x.schedule.offsets[gau.buffer.0] * x.workspaces[0].capacity * 4;
        x.workspaces[0].rows.read(at, bytemuck::cast_slice_mut(&mut vectors)).unwrap();
        let vectors: Vec<f32> = vectors.chunks_exact(pitch).flat_map(|r| &r[..gau.c]).copied().collect();
        let (relative, _) = distance(&vectors, &r.map(gau));
        assert!(relative < 1e-2, "keypoint vectors differ by {relative:.2e}");
        let wide = |v: &[f32]| -> Vec<f64> { v.iter().map(|&v| f64::from(v)).collect() };
        let (_, visible) = distance(&got.visibility, &wide(&want.visibility));
        assert!(visible < 0.02, "visibility differs by {visible:.3}");
        for (heat, bins) in [(&got.heatmaps_x, 192), (&got.heatmaps_y, 256)] {
            assert_eq!(heat.len(), all * bins);
            for probabilities in heat.chunks_exact(bins) {
                assert_abs_diff_eq!(probabilities.iter().sum::<f32>(), 1.0, epsilon = 1e-4);
            }
        }

        // buffers that share memory, launches one by one, batches: the same people. Other launches choose other tiles,
        // which add up in another order.
        let alike = |a: &Survivors| {
            assert_eq!(a.priors, got.priors);
            let (scores, _) = distance(&a.scores, &wide(&got.scores));
            let (boxes, _) = distance(&a.boxes.concat(), &wide(&got.boxes.concat()));
            assert!(scores < 1e-2 && boxes < 1e-2, "scores {scores:.1e} and boxes {boxes:.1e} apart");
        };
        let plain = Options { keep_all: false, group: false, ..OPTIONS };
        let mut y = CudaExecutor::on(x.gpu.clone(), plan, plain).unwrap();
        let options = RunOptions { heatmaps: false, ..options };
        let one = y.run(&[frame], &options).unwrap().remove(0);
        alike(&one);
        let (timed, steps) = y.run_timed(frame, &options).unwrap();
        assert_eq!(timed, one);
        assert_eq!(steps.len(), y.plan().steps.len());
        // again on what the device holds, and with the stages timed: nothing changes
        let (staged, times) = y.run_staged(&[frame], &options).unwrap();
        assert_eq!(staged, std::slice::from_ref(&one));
        let stages = [times.letterbox, times.network, times.select, times.dcc, times.download];
        assert!(stages.iter().all(|t| !t.is_zero()) && times.network > times.select, "{times:?}");
        // no input is resident at first: a plain run
        for _ in 0..2 {
            assert_eq!(y.run_again(&[frame], &options).unwrap(), std::slice::from_ref(&one));
            assert!(y.resident.is_some());
        }
        if x.gpu.caps() != TURING {
            y.run(&[frame, frame], &options).unwrap().iter().for_each(alike);
            // survivors that do not fit into a batch's memory: the frames run again, alone
            let batch = y.workspaces.iter().position(|s| s.images == 2).unwrap();
            y.workspaces[batch].capacity = 1;
            y.lower(batch).unwrap();
            for each in y.run(&[frame, frame], &options).unwrap() {
                assert_eq!(each, one);
            }
        }
    }
}

/// What `rtmo-engine check` does: every map of a GPU against the CPU's in fp32, within the bounds that are promised.
#[test]
fn maps_are_within_the_promised_bounds() {
    within_the_promised_bounds(model::Variant::T, (96, 64));
}

/// Its 42 million weights make this the largest network under the emulator, at the smallest input.
#[test]
fn maps_of_a_whole_resnet_are_within_the_promised_bounds() {
    within_the_promised_bounds(model::Variant::R50, (32, 32));
}

/// Every map and everyone found, against the CPU in fp32.
fn within_the_promised_bounds(variant: model::Variant, input: (usize, usize)) {
    let checkpoint = model::random(variant, 17, 2, 3);
    let plan = model::build(&checkpoint, input).unwrap();
    let (photo, letterbox) = photo(5, 90, 70, input);
    let frame = Frame::new(&photo, &letterbox);
    for gpu in gpus(&[1]) {
        let cpu = CpuOptions { threads: 1, keep_maps: true, ..CpuOptions::detect().unwrap() };
        let mut cpu = CpuExecutor::new(plan.clone(), cpu).unwrap();
        let mut x = CudaExecutor::on(gpu, plan.clone(), OPTIONS).unwrap();
        let report = parity::compare(&mut cpu, &mut x, frame, &RunOptions::default()).unwrap();
        let maps = plan.steps.iter().filter_map(|s| s.op.writes());
        let maps = maps.filter(|v| plan.buffer_of(*v).extent != Extent::Rows).count();
        assert!(report.maps.len() > maps, "each step's, and the stages'");
        println!("{report}");
        report.check(&Tolerance::FP16.generated()).unwrap_or_else(|beyond| panic!("{beyond}"));
    }
}

/// ResNet's stem, max pool, and first block with a stride, from a photo: convolutions with ReLU after a residual, 1x1
/// with stride 2.
#[test]
fn a_resnet_s_first_layers_are_the_reference_s() {
    let input = (72, 40);
    for gpu in gpus(&[1]).into_iter().chain(Emulator::start(TURING, 0)) {
        let mut rng = Rng(50);
        let mut plan = Plan::default();
        let image = plan.letterbox(input.0, input.1);
        let mut conv = |plan: &mut Plan, src: View, (h, w, cout): (usize, usize, usize), kernel: usize| {
            let stride = plan.hw(src).0.div_ceil(h);
            // each layer keeps the size of the values; pixels are some 100
            let n = kernel * kernel * src.c;
            let scale = if src == image { 0.02 } else { 1.4 } / (n as f32).sqrt();
            let weight = plan.tensor("w", &[cout, kernel, kernel, src.c], rng.normals(cout * n, scale));
            let bias = plan.tensor("b", &[cout], rng.normals(cout, 0.1));
            let dst = plan.map(format!("{kernel}x{kernel} of {}", plan.buffer_of(src).name), h, w, cout);
            let act = Act::Relu;
            Conv { kernel, stride, pad: kernel / 2, act, ..linear(src, dst, weight, bias) }
        };
        let stem = conv(&mut plan, image, (20, 36, 64), 7);
        plan.push("stem", Op::Conv(stem.clone()));
        let pooled = plan.map("pooled", 10, 18, 64);
        plan.push("pool", Op::MaxPool { src: stem.dst, dst: pooled, window: 3, stride: 2, pad: 1 });
        let reduce = conv(&mut plan, pooled, (10, 18, 32), 1);
        let middle = conv(&mut plan, reduce.dst, (5, 9, 32), 3);
        let skip = Conv { act: Act::None, ..conv(&mut plan, pooled, (5, 9, 128), 1) };
        let expand = Conv { pre_add: PreAdd::Same(skip.dst), ..conv(&mut plan, middle.dst, (5, 9, 128), 1) };
        for (name, conv) in [("reduce", reduce), ("middle", middle), ("skip", skip), ("expand", expand)] {
            plan.push(name, Op::Conv(conv));
        }
        plan.check().unwrap();
        let mut x = CudaExecutor::on(gpu, plan.clone(), OPTIONS).unwrap();
        let (photo, letterbox) = photo(5, 90, 70, input);
        x.run(&[Frame::new(&photo, &letterbox)], &RunOptions::default()).unwrap();
        let mut r = Reference::new(plan.clone());
        let mut pixels = vec![0u8; input.0 * input.1 * 3];
        for (y, row) in pixels.chunks_exact_mut(input.0 * 3).enumerate() {
            letterbox.sample_row(&photo, y, row);
        }
        r.set_map(image, &pixels.iter().map(|&v| f64::from(v)).collect::<Vec<_>>());
        r.run_steps(1..plan.steps.len());
        for step in &plan.steps[1..] {
            let dst = step.op.writes().unwrap();
            let (relative, _) = distance(&x.read(dst, 0).unwrap(), &r.map(dst));
            // weights and maps are rounded to fp16, and the rounding of one layer passes through the next ones
            assert!(relative < 2e-3, "{}: relative error {relative:.2e}", step.name);
        }
    }
}

/// The smallest input, a network for it, and a run that finds two people.
fn two_people() -> ((usize, usize), Plan, RunOptions, Options) {
    let input = (32, 32);
    let plan = model::build(&model::random(model::Variant::T, 17, 2, 3), input).unwrap();
    let select = SelectParams { force: Some(2), ..SelectParams::default() };
    (
        input,
        plan,
        RunOptions { select, ..RunOptions::default() },
        Options { tune: false, ..Options::default() },
    )
}

#[test]
#[ignore = "takes minutes in the emulator; .ci/run has a step for these"]
fn engines_in_several_threads_do_not_mix() {
    let (input, plan, options, plain) = two_people();
    let emulated = || Emulator::start(HOPPER, 1);
    for open in [&emulated as &(dyn Fn() -> Option<Arc<dyn Gpu>> + Sync), &real] {
        let Some(first) = open() else { continue };
        let engine = |_| CudaExecutor::on(open().unwrap(), plan.clone(), plain).unwrap();
        let photos: Vec<(Photo, Letterbox)> = (0..3).map(|i| photo(i, 40 + i as usize, 30, input)).collect();
        let people = |x: &mut CudaExecutor, (photo, letterbox): &(Photo, Letterbox)| {
            x.run(&[Frame::new(photo, letterbox)], &options).unwrap().remove(0)
        };
        let alone: Vec<_> = photos.iter().map(|p| people(&mut engine(0), p)).collect();
        assert!(alone[0] != alone[1] && alone[1] != alone[2], "on {}", first.describe());
        std::thread::scope(|scope| {
            for i in 0..photos.len() {
                let (photos, alone, engine, people) = (&photos, &alone, &engine, &people);
                scope.spawn(move || {
                    // made here, run here, and once more in another thread
                    let mut x = engine(i);
                    assert_eq!(people(&mut x, &photos[i]), alone[i]);
                    let moved = std::thread::spawn(move || x);
                    let mut x = moved.join().unwrap();
                    let next = (i + 1) % photos.len();
                    assert_eq!(people(&mut x, &photos[next]), alone[next]);
                });
            }
        });
    }
}

/// Runs in flight together give the same results as each alone, in the order in which they were started, for all sizes
/// of photos and batches, on a GPU that works at once (odd seeds) and on one that works only when waited for (even
/// seeds).
#[test]
#[ignore = "takes minutes in the emulator; .ci/run has a step for these"]
fn runs_in_flight_do_not_mix() {
    let (input, plan, options, plain) = two_people();
    // the third is larger than the memory that was set aside for photos
    let sizes = [(40, 30), (33, 47), (300, 200), (20, 20)];
    let photos: Vec<(Photo, Letterbox)> = (0..).zip(sizes).map(|(i, (w, h))| photo(i, w, h, input)).collect();
    let frames: Vec<Frame<'_>> =
        photos.iter().map(|(photo, letterbox)| Frame::new(photo, letterbox)).collect();
    for gpu in gpus(&[1, 2]) {
        let mut x = CudaExecutor::on(gpu, plan.clone(), plain).unwrap();
        let mut run = |of: &[Frame<'_>]| x.run(of, &options).unwrap();
        let alone: Vec<Survivors> = frames.iter().flat_map(|f| run(std::slice::from_ref(f))).collect();
        let pairs: Vec<Survivors> = frames.chunks(2).flat_map(run).collect();
        assert!((1..frames.len()).all(|i| alone[i] != alone[i - 1]), "photos that can be told apart");

        // single photos, each begun before the one before is finished
        x.start(&frames[..1], &options).unwrap();
        for (i, want) in alone.iter().enumerate() {
            if let Some(next) = frames.get(i + 1..i + 2) {
                x.start(next, &options).unwrap();
                assert!(x.start(next, &options).is_err(), "two at most");
                assert!(x.run(next, &options).is_err(), "not between them");
            }
            assert!(x.finish(&frames[..2], &options).is_err(), "another number of frames");
            assert_eq!(x.finish(&frames[i..=i], &options).unwrap(), std::slice::from_ref(want), "photo {i}");
        }
        assert!(x.finish(&frames[..1], &options).is_err(), "none is in flight");

        // batches among them, one of nothing, and one whose people do not fit at first
        x.start(&frames[..2], &options).unwrap();
        x.start(&frames[2..3], &options).unwrap();
        assert_eq!(x.finish(&frames[..2], &options).unwrap(), pairs[..2]);
        x.start(&frames[2..4], &options).unwrap();
        assert_eq!(x.finish(&frames[2..3], &options).unwrap(), alone[2..3]);
        x.start(&[], &options).unwrap();
        assert_eq!(x.finish(&frames[2..4], &options).unwrap(), pairs[2..4]);
        assert_eq!(x.finish(&[], &options).unwrap(), []);
        let small = x.workspace(2, 0).unwrap();
        x.workspaces[small].capacity = 1;
        x.lower(small).unwrap();
        x.start(&frames[..2], &options).unwrap();
        x.start(&frames[2..3], &options).unwrap();
        assert_eq!(x.finish(&frames[..2], &options).unwrap(), alone[..2], "again, alone");
        assert_eq!(x.finish(&frames[2..3], &options).unwrap(), alone[2..3]);

        // Dropping the engine waits for the runs in flight.
        x.start(&frames[..1], &options).unwrap();
        x.start(&frames[1..2], &options).unwrap();
        drop(x);
    }
}

/// After a run that failed for lack of memory, later runs must not use launches with old addresses: neither of memory
/// that was freed, nor without memory that was added.
#[test]
#[ignore = "takes minutes in the emulator; .ci/run has a step for these"]
fn runs_go_on_after_one_that_found_no_memory() {
    let (input, plan, options, plain) = two_people();
    let sizes = [(40, 30), (300, 200)]; // the second needs more memory than was set aside
    let photos = sizes.map(|(w, h)| photo(3, w, h, input));
    let [small, large] = [0, 1].map(|i| Frame::new(&photos[i].0, &photos[i].1));
    let heat = RunOptions { heatmaps: true, ..options };
    for gpu in gpus(&[1]) {
        let fresh = |frame: Frame<'_>, options: &RunOptions| {
            let mut x = CudaExecutor::on(gpu.clone(), plan.clone(), plain).unwrap();
            x.run(&[frame], options).unwrap()
        };
        let want = [fresh(small, &options), fresh(large, &options), fresh(large, &heat)];
        assert!(want[0] != want[1] && !want[2][0].heatmaps_x.is_empty());
        // a growth takes a buffer for the photo and one for each axis of the heatmaps
        for buffers in 0..3 {
            let limited = Limited::new(gpu.clone(), gpu.caps().sms);
            let mut x = CudaExecutor::on(limited.clone(), plan.clone(), plain).unwrap();
            assert_eq!(x.run(&[small], &options).unwrap(), want[0]);
            limited.buffers.store(buffers, Ordering::Relaxed);
            assert!(x.run(&[large], &heat).is_err(), "{buffers} buffers suffice");
            limited.buffers.store(usize::MAX, Ordering::Relaxed);
            assert_eq!(x.run(&[small], &options).unwrap(), want[0], "after {buffers} buffers");
            assert_eq!(x.run(&[large], &options).unwrap(), want[1], "after {buffers} buffers");
            assert_eq!(x.run(&[large], &heat).unwrap(), want[2], "after {buffers} buffers");
        }
    }
}

/// Weights that are broken say so in the results, as on a CPU: a photo without people is another thing.
#[test]
fn broken_weights_are_reported() {
    let (input, mut plan, mut options, plain) = two_people();
    options.select = SelectParams::default();
    let levels = plan.grid_levels().unwrap().to_vec();
    let bias = plan.steps.iter().find_map(|step| match &step.op {
        Op::Conv(c) if c.dst.overlaps(levels[0].cls) => Some(c.bias),
        _ => None,
    });
    plan.tensors[bias.unwrap().0].data.fill(f32::NAN);
    let cells = plan.buffer_of(levels[0].cls).extent.pixels();
    let (photo, letterbox) = photo(1, 40, 30, input);
    for gpu in gpus(&[1]) {
        let mut x = CudaExecutor::on(gpu, plan.clone(), plain).unwrap();
        let found = x.run(&[Frame::new(&photo, &letterbox)], &options).unwrap().remove(0);
        assert!(found.not_finite >= cells, "{} of {cells}", found.not_finite);
        let people = crate::pose::people::people(&found, &letterbox);
        assert!(people.not_finite() >= cells);
    }
}

/// A program is made once, not for each size of photo: making one takes a GPU longer than running it.
#[test]
fn photos_of_all_sizes_share_a_program() {
    let (input, plan, options, plain) = two_people();
    for gpu in gpus(&[1]) {
        let counted = Limited::new(gpu.clone(), gpu.caps().sms);
        let mut x = CudaExecutor::on(counted.clone(), plan.clone(), plain).unwrap();
        let sizes = (0..30).map(|i| (16 + i * 37 % 200, 20 + i * 53 % 170));
        let photos: Vec<(Photo, Letterbox)> = sizes.map(|(w, h)| photo(w as u64, w, h, input)).collect();
        for (photo, letterbox) in &photos {
            let workspace = x.prepare(0, &[Frame::new(photo, letterbox)], &options).unwrap().index;
            let key = ProgramKey { heatmaps: false, staged: None };
            x.workspaces[workspace].program(&x.gpu, &plan, key).unwrap();
        }
        // One before the memory for photos has grown for the first time, one after.
        assert_eq!(counted.programs.load(Ordering::Relaxed), 2);
        // From 1 MB to 36 MB the memory for photos grows by a half at least each time, and 1.5^9 is 38.
        let workspace = &mut x.workspaces[0];
        let mut sizes = vec![];
        for side in (600..=3450).step_by(150) {
            workspace.make_room(&x.gpu, side * side * 3).unwrap();
            assert!(workspace.input.bytes >= side * side * 3);
            sizes.push(workspace.input.bytes);
        }
        sizes.dedup();
        assert!(sizes.len() <= 10, "moved for most of 20 photos: {sizes:?}");
    }
}

/// Trained weights on the photo that they know: the whole promise of fp16, people too.
#[test]
fn trained_weights_keep_the_promise() {
    // Tests run in the repository's root, wherever they were built.
    let checkpoint = Checkpoint::open("weights/rtmo-n-demo.safetensors").unwrap();
    let plan = model::build(&checkpoint, (128, 128)).unwrap();
    let photo = Photo::open("examples/rendered.jpg").unwrap();
    let letterbox = Letterbox::new((photo.width, photo.height), plan.input_size());
    let frame = Frame::new(&photo, &letterbox);
    for gpu in gpus(&[2]) {
        let cpu = CpuOptions { keep_maps: true, ..CpuOptions::detect().unwrap() };
        let mut exact = CpuExecutor::new(plan.clone(), cpu).unwrap();
        let mut x = CudaExecutor::on(gpu, plan.clone(), OPTIONS).unwrap();
        let options = RunOptions { heatmaps: true, ..RunOptions::default() };
        let report = parity::compare(&mut exact, &mut x, frame, &options).unwrap();
        println!("{report}");
        report.check(&Tolerance::FP16).unwrap_or_else(|beyond| panic!("{beyond}"));
        // Half the keypoints of a network that merely looks alike would be pixels away.
        let mut keypoints = report.people.keypoints.clone();
        keypoints.sort_by(f64::total_cmp);
        assert!(report.people.expected > 2 && keypoints[keypoints.len() / 2] < 0.05, "{report}");
    }
}

/// RTMO-l is the largest.
#[test]
fn one_engine_takes_less_than_300_mb() {
    for gpu in gpus(&[1]) {
        let plan = model::build(&model::random(model::Variant::L, 17, 2, 0), (640, 640)).unwrap();
        let mut x = CudaExecutor::on(gpu, plan, Options { keep_all: false, ..OPTIONS }).unwrap();
        let prepared = x.device_memory().unwrap();
        assert!(prepared > 80 << 20, "less than the weights take: {prepared} bytes");
        // a large photo
        x.workspaces[0].make_room(&x.gpu, 4000 * 3000 * 3).unwrap();
        let bytes = x.device_memory().unwrap();
        assert!(bytes >= prepared + 30_000_000, "the photo is not counted: {bytes} after {prepared}");
        println!("{prepared} bytes, {bytes} with a photo of 12 megapixels");
        assert!(bytes < 300_000_000, "{bytes} bytes");
    }
}

/// A T4 has the least shared memory of the GPUs that are supported; a wide input has more tokens for attention than the
/// usual one.
#[test]
fn wide_inputs_fit_into_the_smallest_gpu() {
    let plan = model::build(&model::random(model::Variant::T, 17, 2, 0), (960, 544)).unwrap();
    let Some(gpu) = Emulator::start(TURING, 0) else { return };
    let x = CudaExecutor::on(gpu, plan, Options { keep_all: false, ..OPTIONS }).unwrap();
    let attention = x.workspaces[0].launches.iter().find(|l| l.kernel.name == "attention").unwrap();
    assert_eq!(attention.shared, 59_584);
}

/// The last batch of many photos may have any size: it takes the choices of the larger batches before it.
#[test]
fn a_batch_after_a_larger_one_is_not_measured() {
    let (_, plan, ..) = two_people();
    for gpu in gpus(&[1]) {
        let mut x =
            CudaExecutor::on(gpu.clone(), plan.clone(), Options { keep_all: false, ..OPTIONS }).unwrap();
        // as if batches of four had been measured
        let shapes: Vec<Vec<Shape>> =
            x.schedule.groups.iter().filter_map(|g| conv::shapes(&plan, &g.steps)).collect();
        for shapes in &shapes {
            let choice = Choice { trigger: Trigger::Late, ..tune::built_in(&gpu.caps(), shapes, 4) };
            x.cache.insert(shapes, 4, choice, Duration::from_micros(1));
        }
        x.options.tune = true;
        for images in [4, 3] {
            let workspace = x.workspace(images, 0).unwrap();
            let conv = |l: &Launch| l.params.clone().get_mut::<ConvLaunch>().copied();
            let late = |l: &&Launch| conv(l).is_some_and(|p| p.trigger == Trigger::Late as i32);
            assert_eq!(
                x.workspaces[workspace].launches.iter().filter(late).count(),
                shapes.len(),
                "{images} images"
            );
        }
        assert!(shapes.iter().all(|s| x.cache.get(&gpu.caps(), s, 3).is_none()), "measured");
    }
}

/// A GPU on which some kernels do nothing.
struct Faulty {
    gpu: Arc<dyn Gpu>,
    kernels: Vec<&'static str>,
}

impl Gpu for Faulty {
    fn caps(&self) -> Caps {
        self.gpu.caps()
    }
    fn describe(&self) -> String {
        self.gpu.describe()
    }
    fn identity(&self) -> String {
        self.gpu.identity()
    }
    fn alloc(&self, bytes: usize, purpose: Purpose) -> Result<u64> {
        self.gpu.alloc(bytes, purpose)
    }
    unsafe fn free(&self, address: u64) {
        // SAFETY: the caller's promise.
        unsafe { self.gpu.free(address) };
    }
    fn alloc_host(&self, bytes: usize) -> Result<(u64, u64)> {
        self.gpu.alloc_host(bytes)
    }
    unsafe fn free_host(&self, host: u64) {
        // SAFETY: the caller's promise.
        unsafe { self.gpu.free_host(host) };
    }
    unsafe fn upload(&self, to: u64, from: &[u8]) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.gpu.upload(to, from) }
    }
    unsafe fn fill(&self, to: u64, value: u8, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.gpu.fill(to, value, bytes) }
    }
    unsafe fn download(&self, from: u64, to: &mut [u8]) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.gpu.download(from, to) }
    }
    unsafe fn compile(&self, mut recipe: GraphRecipe) -> Result<Box<dyn Program>> {
        recipe.launches.retain(|launch| !self.kernels.contains(&launch.kernel.name));
        // SAFETY: the caller's promise.
        unsafe { self.gpu.compile(recipe) }
    }
}

/// After measuring, the whole network is compared with the same of `conv_mma` alone, and tiles that make a difference are
/// given up.
#[test]
fn tiles_that_are_wrong_in_the_network_are_given_up() {
    let (_, plan, _, plain) = two_people();
    for gpu in gpus(&[1]) {
        let prepared = |kernels: Vec<&'static str>| {
            let gpu = Arc::new(Faulty { gpu: gpu.clone(), kernels });
            let mut x = CudaExecutor::on(gpu, plan.clone(), plain).unwrap();
            x.confirm(0);
            x
        };
        let x = prepared(vec![]);
        assert_eq!(x.cache.forbidden(), 0, "rounding alone");
        // The kernel of the fewest launches, which are still several.
        let convs: Vec<Vec<Shape>> =
            x.schedule.groups.iter().filter_map(|g| conv::shapes(&plan, &g.steps)).collect();
        let kernel = |s: &Vec<Shape>| tune::built_in(&gpu.caps(), s, 1).tile.kernel(s).unwrap();
        let wgmma: Vec<&Vec<Shape>> = convs.iter().filter(|s| kernel(s).file == "conv_wg").collect();
        let uses = |name: &str| wgmma.iter().filter(|s| kernel(s).name == name).count();
        let names = wgmma.iter().map(|s| kernel(s).name).filter(|name| uses(name) >= 2);
        let name = names.min_by_key(|name| uses(name)).unwrap();
        let x = prepared(vec![name]);
        let caps = gpu.caps();
        for shapes in &convs {
            let forbidden = x.cache.forbids(shapes, 1, &tune::built_in(&caps, shapes, 1));
            assert_eq!(forbidden, kernel(shapes).name == name, "{shapes:?}");
            if forbidden {
                assert_eq!(x.cache.get(&caps, shapes, 1), Some(tune::fallback(&caps, shapes, 1)));
            }
        }
        assert!(x.cache.forbidden() >= 1 && x.describe().contains("left out"), "{}", x.describe());
    }
}

/// What a GPU has no room for is refused by name, with what can be done about it.
#[test]
fn inputs_beyond_a_gpu_are_refused() {
    for (caps, side) in [(TURING, 1472), (HOPPER, 2752)] {
        let plan = |side: usize| {
            let mut plan = Plan::default();
            plan.letterbox(side, side);
            let (src, dst) =
                (plan.map("src", side / 32, side / 32, 8), plan.map("dst", side / 32, side / 32, 24));
            plan.push("spp", Op::PoolPyramid { src, dst, window: 5 });
            plan
        };
        let Some(gpu) = Emulator::start(caps, 0) else { return };
        CudaExecutor::on(gpu.clone(), plan(side - 32), OPTIONS).unwrap();
        let error = CudaExecutor::on(gpu, plan(side), OPTIONS).err().unwrap().to_string();
        let size = format!("{side}x{side}");
        for part in ["step spp", "shared memory", size.as_str(), "--device cpu"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}

/// Kernels after the selection read early what they know to be there, because of what runs between.
#[test]
fn what_follows_the_selection_keeps_its_order() {
    let (_, plan, ..) = two_people();
    let schedule = |plan: &Plan| Schedule::new(plan, false, true);
    assert!(schedule(&plan).is_ok());
    let at = plan.steps.iter().position(|s| matches!(s.op, Op::Pose(Pose::Select { .. }))).unwrap();
    for (a, b) in [(at, at + 1), (at + 1, at + 2), (at + 2, at + 3)] {
        let mut other = plan.clone();
        other.steps.swap(a, b);
        assert!(schedule(&other).is_err(), "{} and {} exchanged", plan.steps[a].name, plan.steps[b].name);
    }
    for missing in at..at + 4 {
        let mut other = plan.clone();
        other.steps.remove(missing);
        assert!(schedule(&other).is_err(), "without {}", plan.steps[missing].name);
    }
    let mut longer = plan.clone();
    longer.steps.push(plan.steps[at - 1].clone());
    assert!(schedule(&longer).is_err(), "with {} after them", plan.steps[at - 1].name);
}
