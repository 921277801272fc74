//! Convolutions: every tile, every epilogue.

use super::*;
use crate::backend::cuda::emulator;
use crate::backend::cuda::ops::conv::params::Trigger;
use crate::backend::cuda::ops::conv::tiles::{Serves, Tile, possible, tile, tiles};
use crate::backend::{Frame, RunOptions};

/// A plan of one convolution with all that may surround it.
#[derive(Clone, Copy)]
pub(in crate::backend::cuda) struct Case {
    pub kernel: usize,
    pub stride: usize,
    pub cin: usize,
    pub cout: usize,
    pub h: usize,
    pub w: usize,
    pub groups: usize,
    pub act: Act,
    /// 0 none, 1 same, 2 upsampled, 3 table.
    pub pre: usize,
    pub post: bool,
}

pub(in crate::backend::cuda) const PLAIN: Case = Case {
    kernel: 3,
    stride: 1,
    cin: 16,
    cout: 32,
    h: 8,
    w: 8,
    groups: 1,
    act: Act::Silu,
    pre: 0,
    post: false,
};

/// Adds a case's buffers and step; input and output are slices of wider maps. Returns the views to fill and the output.
fn add(plan: &mut Plan, c: &Case, rng: &mut Rng, name: &str) -> (Vec<View>, View) {
    let (oh, ow) = (c.h.div_ceil(c.stride), c.w.div_ceil(c.stride));
    let src = plan.map(format!("{name} src"), c.h, c.w, c.cin + 24).slice(8, c.cin);
    let dst = plan.map(format!("{name} dst"), oh, ow, c.cout + 16).slice(8, c.cout);
    let per = c.cin / c.groups;
    let n = c.cout * c.kernel * c.kernel * per;
    // weights that fp16 represents: what is measured is the kernel, not the rounding of constants
    let round = |v: Vec<f32>| v.into_iter().map(|v| f16::from_f32(v).to_f32()).collect::<Vec<_>>();
    let scale = 1.0 / ((c.kernel * c.kernel * per) as f32).sqrt();
    let weight = plan.tensor("w", &[c.cout, c.kernel, c.kernel, per], round(rng.normals(n, scale)));
    let bias = plan.tensor("b", &[c.cout], rng.normals(c.cout, 0.5));
    let mut inputs = vec![src];
    let pre_add = match c.pre {
        0 => PreAdd::None,
        1 => PreAdd::Same(plan.map(format!("{name} pre"), oh, ow, c.cout + 8).slice(8, c.cout)),
        2 => PreAdd::Upsampled(plan.map(format!("{name} pre"), oh / 2, ow / 2, c.cout + 8).slice(0, c.cout)),
        _ => {
            PreAdd::Table(plan.tensor("table", &[oh, ow, c.cout], round(rng.normals(oh * ow * c.cout, 1.0))))
        }
    };
    if let PreAdd::Same(v) | PreAdd::Upsampled(v) = pre_add {
        inputs.push(v);
    }
    let post_add = c.post.then(|| plan.map(format!("{name} post"), oh, ow, c.cout + 8).slice(8, c.cout));
    inputs.extend(post_add);
    let (kernel, stride, pad, groups, act) = (c.kernel, c.stride, c.kernel / 2, c.groups, c.act);
    let conv = Conv { src, dst, weight, bias, kernel, stride, pad, groups, pre_add, act, post_add };
    plan.push(name, Op::Conv(conv));
    (inputs, dst)
}

/// fp16 output rounding is 2^-11 at most, 2.8e-4 rms; sums of fp16 products in fp32 add nothing of that size,
/// tanh.approx on a GPU adds 2^-11 of the half input.
const CONV: f64 = 6e-4;

pub(in crate::backend::cuda) fn check_conv(
    gpu: &Arc<dyn Gpu>,
    cases: &[Case],
    choice: Option<Choice>,
    what: &str,
) -> bool {
    let mut rng = Rng(7);
    let mut plan = Plan::default();
    let parts: Vec<_> =
        cases.iter().enumerate().map(|(i, c)| add(&mut plan, c, &mut rng, &format!("conv{i}"))).collect();
    let caps = gpu.caps();
    if let Some(choice) = choice {
        let conv = |s: &Step| {
            let Op::Conv(c) = &s.op else { unreachable!() };
            Shape::of(&plan, c)
        };
        let shapes: Vec<Shape> = plan.steps.iter().map(conv).collect();
        if !possible(&caps, &shapes, &choice) {
            return false;
        }
    }
    let mut rig = Rig::new(gpu, &plan);
    assert_eq!(rig.x.schedule.groups.len(), 1, "independent convolutions share a launch");
    for (inputs, _) in &parts {
        fill(&mut rig, inputs, &mut rng);
    }
    let done = rig.run_with(|shapes| choice.unwrap_or_else(|| tune::built_in(&caps, shapes, 1)));
    done.unwrap_or_else(|e| panic!("{what}: {e}"));
    for (_, dst) in parts {
        rig.close(dst, CONV, what);
    }
    true
}

#[test]
fn every_tile_computes_the_convolution() {
    // odd sizes, tails in pixels and channels, chunks that end early, both strides
    let shapes = [
        (1, 1, 72, 40, 5, 7),
        (3, 1, 72, 40, 5, 9),
        (3, 2, 40, 72, 11, 9),
        (1, 1, 136, 136, 3, 3),
        (1, 2, 72, 40, 9, 11),
        (1, 2, 136, 72, 2, 2),
    ];
    let ways = [(0, 1, 5), (0, 2, 5), (8, 1, 2), (-1, 2, 2), (16, 1, 2)];
    let gpus: Vec<_> = Emulator::start(HOPPER, 1).into_iter().chain(real()).collect();
    for gpu in gpus {
        // The stems' tiles are tested with letterboxes before them.
        for tile in tiles().filter(|tile| tile.serves != Serves::Cells) {
            let mut tested = [0; 2];
            for (i, &(kernel, stride, cin, cout, h, w)) in shapes.iter().enumerate() {
                for (j, (width, split, buffers)) in ways.into_iter().enumerate() {
                    for act in [Act::Silu, Act::Relu] {
                        // ReLU in every other way.
                        if act == Act::Relu && (i + j) % 2 == 1 {
                            continue;
                        }
                        let trigger = [Trigger::Early, Trigger::Mid, Trigger::Late][i % 3];
                        // Some families have buffers for fewer chunks.
                        let all = [buffers, 4].map(|buffers| Choice { tile, width, split, buffers, trigger });
                        // Some kernels are for one activation.
                        let act =
                            if act == Act::Relu || tile.acts.contains(&act) { act } else { tile.acts[0] };
                        let case = Case { kernel, stride, cin, cout, h, w, act, post: i % 2 == 0, ..PLAIN };
                        let what = |choice: &Choice| {
                            format!(
                                "{} k{kernel}s{stride} {cin}->{cout} @{h}x{w} {act:?} {choice:?}",
                                tile.name
                            )
                        };
                        let done = all.iter().any(|c| check_conv(&gpu, &[case], Some(*c), &what(c)));
                        tested[usize::from(act == Act::Relu)] += usize::from(done);
                    }
                }
            }
            if gpu.caps() == HOPPER {
                let relu = tile.relu.is_some() || tile.acts.contains(&Act::Relu);
                assert!(tested[0] > 0 && (tested[1] > 0) == relu, "{} was never tested", tile.name);
            }
        }
    }
}

/// First layers on the photo's cells, by way of the letterbox: RTMO's of 6x6, ResNet's of 7x7.
#[test]
fn stems_read_the_photo_s_cells() {
    let mut rng = Rng(8);
    for (kernel, pad, cout, act, input) in [
        (6, 2, 24, Act::Silu, (40, 24)),
        (7, 3, 64, Act::Relu, (40, 24)),
        (7, 3, 40, Act::Silu, (22, 34)),
        (7, 3, 8, Act::None, (2, 2)),
        (7, 3, 16, Act::Gelu, (18, 4)),
    ] {
        for gpu in gpus(&[1]).into_iter().chain(Emulator::start(TURING, 2)) {
            let mut plan = Plan::default();
            let image = plan.letterbox(input.0, input.1);
            let n = cout * kernel * kernel * 3;
            // pixels are up to 255
            let weights = rng.normals(n, 1e-2).into_iter().map(|v| f16::from_f32(v).to_f32()).collect();
            let weight = plan.tensor("w", &[cout, kernel, kernel, 3], weights);
            let bias = plan.tensor("b", &[cout], rng.normals(cout, 0.5));
            let dst = plan.map("stem", input.1 / 2, input.0 / 2, cout);
            plan.push(
                "stem",
                Op::Conv(Conv { kernel, stride: 2, pad, act, ..linear(image, dst, weight, bias) }),
            );
            let mut x = CudaExecutor::on(gpu, plan.clone(), OPTIONS).unwrap();
            let (photo, letterbox) = photo(3, 61, 47, input);
            x.run(&[Frame::new(&photo, &letterbox)], &RunOptions::default()).unwrap();
            let mut r = Reference::new(plan);
            let mut pixels = vec![0u8; input.0 * input.1 * 3];
            for (y, row) in pixels.chunks_exact_mut(input.0 * 3).enumerate() {
                letterbox.sample_row(&photo, y, row);
            }
            r.set_map(image, &pixels.iter().map(|&v| f64::from(v)).collect::<Vec<_>>());
            r.run_steps(1..2);
            let (relative, _) = distance(&x.read(dst, 0).unwrap(), &r.map(dst));
            assert!(relative < CONV, "{kernel}x{kernel} {act:?} of {input:?}: relative error {relative:.2e}");
        }
    }
}

#[test]
fn threads_in_any_order_compute_the_convolution() {
    for seed in 2..5 {
        let Some(gpu) = Emulator::start(HOPPER, seed) else { return };
        for name in [
            "conv_mma_64x32x32_3_4x1x1",
            "conv_mma_32x32x64_5_2x1x2",
            "conv_wg_3_1x1_32x64_8",
            "conv_wg_3_1x2_128x64_6",
            "conv_wg_3_1x1_64x64_5_lean",
        ] {
            let tile = tile(name).unwrap();
            for (width, split) in [(8, 1), (-1, 2), (8, 4)] {
                // more chunks than buffers, more steps than stages
                let case = Case { cin: 264, cout: 40, h: 6, w: 5, ..PLAIN };
                let choice = Choice { tile, width, split, buffers: 2, trigger: Trigger::Mid };
                check_conv(&gpu, &[case], Some(choice), &format!("{name} {choice:?} seed {seed}"));
            }
        }
        let tile = tile("conv_wg_1_1x2_64x64_4").unwrap();
        for split in [1, 2, 4] {
            let case = Case { kernel: 1, cin: 520, cout: 72, h: 9, w: 8, ..PLAIN };
            let choice = Choice { tile, width: 0, split, buffers: 2, trigger: Trigger::Early };
            assert!(check_conv(&gpu, &[case], Some(choice), &format!("1x1 split {split} seed {seed}")));
        }
    }
}

/// One convolution on a batch, every image with other values.
pub(in crate::backend::cuda) fn check_batch(
    gpu: &Arc<dyn Gpu>,
    case: &Case,
    choice: Choice,
    images: usize,
    what: &str,
) {
    let mut rng = Rng(11);
    let mut plan = Plan::default();
    let (inputs, dst) = add(&mut plan, case, &mut rng, "conv");
    let Op::Conv(c) = &plan.steps[0].op else { unreachable!() };
    let shape = Shape::of(&plan, c);
    assert!(possible(&gpu.caps(), &[shape], &choice), "{what}: not possible");
    let mut rig = Rig::new(gpu, &plan);
    rig.batch(images);
    let mut want = Vec::new();
    for image in 0..images {
        rig.image = image;
        fill(&mut rig, &inputs, &mut rng);
        rig.r.run_steps(0..1);
        want.push(rig.r.map(dst));
    }
    rig.image = 0;
    rig.run_device(|_| choice).unwrap_or_else(|e| panic!("{what}: {e}"));
    for (image, want) in want.iter().enumerate() {
        let (relative, _) = distance(&rig.x.read(dst, image).unwrap(), want);
        assert!(relative < CONV, "{what}: image {image}: relative error {relative:.2e}");
    }
}

/// Every addend with every activation, of which a kernel has those given.
pub(in crate::backend::cuda) fn check_epilogues(gpu: &Arc<dyn Gpu>, name: &str, acts: &[Act]) {
    let tile = tile(name).unwrap();
    for pre in 0..4 {
        for act in [Act::None, Act::Silu, Act::Gelu, Act::Relu] {
            let kernel = if tile.serves == Serves::Size(1) { 1 } else { 3 };
            let post = pre % 2 == 1;
            let case = Case { kernel, cin: 32, cout: 48, h: 6, w: 10, act, pre, post, ..PLAIN };
            let width = if kernel == 1 { 0 } else { 8 };
            let choice = Choice { tile, width, split: 1, buffers: 2, trigger: Trigger::Mid };
            let tested = check_conv(gpu, &[case], Some(choice), &format!("{name} pre {pre} {act:?}"));
            assert_eq!(tested, acts.contains(&act), "{name} {act:?}");
        }
    }
}

#[test]
fn epilogues_add_and_activate() {
    let all = [Act::None, Act::Silu, Act::Relu, Act::Gelu];
    for gpu in gpus(&[3]) {
        check_epilogues(&gpu, "conv_mma_64x32x32_3_4x1x1", &all);
        for name in ["conv_wg_3_1x1_64x64_8", "conv_wg_1_1x2_64x64_4"] {
            check_epilogues(&gpu, name, &all[..3]);
        }
        check_epilogues(&gpu, "conv_wg_3_1x2_128x64_4_lean", &all[..2]);
        check_epilogues(&gpu, "conv_wg_1_1x2_64x64_4_gelu", &all[3..]);
    }
}

#[test]
fn grouped_convolutions_read_their_bands() {
    for gpu in gpus(&[4]) {
        for per in [13, 18, 27, 36] {
            let case = || Case { cin: per * 8, cout: per * 8, groups: 8, h: 5, w: 6, ..PLAIN };
            check_conv(&gpu, &[case()], None, &format!("8 groups of {per}"));
            for name in [
                "conv_mma_64x64x64_3_2x2x1",
                "conv_mma_64x32x32_3_4x1x1",
                "conv_wg_3_1x1_32x64_8",
                "conv_wg_3_1x2_128x64_6",
            ] {
                let tile = tile(name).unwrap();
                let choice = Choice { tile, width: 8, split: 1, buffers: 2, trigger: Trigger::Mid };
                check_conv(&gpu, &[case()], Some(choice), &format!("8 groups of {per}, {name}"));
            }
        }
    }
}

#[test]
fn independent_convolutions_share_a_launch() {
    for gpu in gpus(&[5]) {
        let cases = [
            Case { cin: 64, cout: 64, h: 10, w: 7, ..PLAIN },
            Case { cin: 144, cout: 144, groups: 8, h: 10, w: 7, post: true, ..PLAIN },
            Case { cin: 64, cout: 64, h: 5, w: 4, act: Act::None, ..PLAIN },
            Case { cin: 144, cout: 144, groups: 8, h: 5, w: 4, pre: 1, ..PLAIN },
        ];
        check_conv(&gpu, &cases, None, "four in one launch");
        let serves = |tile: &Tile| matches!(tile.serves, Serves::Usual | Serves::Size(3));
        for tile in tiles().filter(|t| t.bk == 64 && t.bm <= 64 && t.several.is_some() && serves(t)) {
            let choice = Choice { tile, width: 8, split: 1, buffers: 2, trigger: Trigger::Late };
            check_conv(&gpu, &cases, Some(choice), &format!("four in one launch of {}", tile.name));
        }
    }
}

#[test]
fn older_gpus_have_a_tile_for_everything() {
    let Some(gpu) = Emulator::start(TURING, 6) else { return };
    for (kernel, stride) in [(1, 1), (1, 2), (3, 1), (3, 2)] {
        for (cin, cout) in [(16, 24), (24, 48), (96, 96), (264, 136)] {
            let case = Case { kernel, stride, cin, cout, h: 9, w: 10, ..PLAIN };
            check_conv(&gpu, &[case], None, &format!("k{kernel}s{stride} {cin}->{cout}"));
        }
    }
}

/// The tests must notice each of these mistakes in a kernel without a GPU. A mistake
/// is a file, what it says, what it says by mistake, and why that is one.
///
/// The file is compiled with one kernel only, `name`, whose line begins with `CONV_` and says `kept`.
pub(in crate::backend::cuda) fn check_mistake(
    [file, from, to, what]: [&str; 4],
    (name, kept): (&str, &str),
    (h, w): (usize, usize),
) {
    let Some(_) = Emulator::start(HOPPER, 0) else { return };
    let text = emulator::source(file);
    assert!(text.contains(from), "{what}: the kernel has changed, and so must the mistake");
    assert!(text.lines().any(|line| line == kept), "{kept}: no such line");
    let keep = |line: &&str| !line.starts_with("CONV_") || *line == kept;
    let text: String = text.lines().filter(keep).map(|l| format!("{l}\n")).collect();
    let text = text.replace(from, to);
    let tile = tile(name).unwrap();
    let choice = Choice { tile, width: 8, split: 1, buffers: 2, trigger: Trigger::Mid };
    let mut noticed = false;
    for seed in [0, 1, 2, 3] {
        let Some(gpu) = Emulator::mutated(file, &text, seed) else { return };
        let gpu: Arc<dyn Gpu> = Limited::new(gpu, 1);
        let case = Case { cin: 264, cout: 40, h, w, ..PLAIN };
        let run = std::panic::AssertUnwindSafe(|| check_conv(&gpu, &[case], Some(choice), what));
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        noticed |= std::panic::catch_unwind(run).is_err();
        std::panic::set_hook(hook);
    }
    assert!(noticed, "no test noticed: {what}");
}

#[test]
fn mistakes_in_kernels_are_noticed() {
    let mutations = [
        ("conv_mma", "cp_wait<DEPTH - 1>();", "cp_wait<DEPTH>();", "a wait count one too lax"),
        (
            "conv_mma",
            "    cp_wait<DEPTH - 1>();\n    __syncthreads();",
            "    cp_wait<DEPTH - 1>();",
            "no barrier in the loop",
        ),
        (
            "conv_mma",
            "  __syncthreads();   // the halo table is complete",
            "",
            "no barrier after the halo table",
        ),
        ("conv_mma", "  pdl_wait();\n", "", "no wait for the kernel before"),
        ("conv_mma", "(lane >> 4) * p.plane", "(lane >> 3) * p.plane", "a wrong fragment address"),
        ("conv_wg", "mbar_wait(full_w + 8 * slot, phase);", "", "no wait for the weights"),
        (
            "conv_wg",
            "if (c >= l.buffers) mbar_wait(empty_a + 8 * buffer, phase);",
            "",
            "activations overwritten too early",
        ),
        ("conv_wg", "fence_async_proxy();", "", "no fence between the copies and wgmma"),
        (
            "conv_wg",
            "wgmma_operand(weights + wn * WN * BK * 2, 8, PLANES * 8)",
            "wgmma_operand(weights + wn * WN * BK * 2, PLANES * 8, 8)",
            "swapped strides",
        ),
        (
            "conv_wg",
            "mbar_init(empty_w + 8 * i, NWG);",
            "mbar_init(empty_w + 8 * i, NWG + 1);",
            "a barrier that never completes",
        ),
    ];
    for mistake in mutations {
        let kept = match mistake.0 {
            "conv_mma" => ("conv_mma_64x32x32_3_4x1x1", "CONV_MMA(64, 32, 32, 3, 4, 1, 1, 1)"),
            _ => ("conv_wg_3_1x1_32x64_8", "CONV_WG(3, 1, 1, 32, 64, 8)"),
        };
        check_mistake(mistake.into(), kept, (6, 5));
    }
}
