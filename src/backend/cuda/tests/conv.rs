//! Convolutions: every tile, every epilogue.

use super::*;
use crate::backend::cuda::tiles::{TILES, Trigger, Unit};

/// A plan of one convolution with all that may surround it.
#[derive(Clone, Copy)]
struct Case {
    kernel: usize,
    stride: usize,
    cin: usize,
    cout: usize,
    h: usize,
    w: usize,
    groups: usize,
    act: Act,
    /// 0 none, 1 same, 2 upsampled, 3 table.
    pre: usize,
    post: bool,
}

const PLAIN: Case = Case {
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

/// fp16 output rounding is 2^-11 at most, 2.8e-4 rms; sums of fp16 products in fp32 add nothing of that size, tanh.approx
/// on a GPU adds 2^-11 of the half input.
const CONV: f64 = 6e-4;

fn check_conv(gpu: &Arc<dyn Gpu>, cases: &[Case], choice: Option<Choice>, what: &str) -> bool {
    let mut rng = Rng(7);
    let mut plan = Plan::default();
    let parts: Vec<_> =
        cases.iter().enumerate().map(|(i, c)| add(&mut plan, c, &mut rng, &format!("conv{i}"))).collect();
    let caps = gpu.caps();
    if let Some(choice) = choice {
        let conv = |s: &Step| {
            if let Op::Conv(c) = &s.op {
                crate::backend::cuda::lower::shape(&plan, c)
            } else {
                unreachable!()
            }
        };
        let shapes: Vec<Shape> = plan.steps.iter().map(conv).collect();
        if !tune::possible(&caps, &shapes, &choice) {
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
    let shapes = [(1, 1, 72, 40, 5, 7), (3, 1, 72, 40, 5, 9), (3, 2, 40, 72, 11, 9), (1, 1, 136, 136, 3, 3)];
    let gpus: Vec<_> = Emulator::start(HOPPER, 1).into_iter().chain(real()).collect();
    for gpu in gpus {
        let mut tested = vec![0; TILES.len()];
        for (tile, t) in TILES.iter().enumerate() {
            for (i, &(kernel, stride, cin, cout, h, w)) in shapes.iter().enumerate() {
                for (width, split, buffers) in [(0, 1, 5), (0, 2, 5), (8, 1, 2), (-1, 2, 2), (16, 1, 2)] {
                    // of each warpgroup
                    let buffers =
                        if matches!(t.unit, Unit::PingPong { .. }) { buffers.min(4) } else { buffers };
                    let trigger = [Trigger::Early, Trigger::Mid, Trigger::Late][i % 3];
                    let choice = Choice { tile, width, split, buffers, trigger };
                    let case = Case { kernel, stride, cin, cout, h, w, post: i % 2 == 0, ..PLAIN };
                    let what = format!("{} k{kernel}s{stride} {cin}->{cout} @{h}x{w} {choice:?}", t.name);
                    tested[tile] += usize::from(check_conv(&gpu, &[case], Some(choice), &what));
                }
            }
        }
        if gpu.caps() == HOPPER {
            for (n, t) in tested.iter().zip(TILES) {
                assert!(*n > 0, "{} was never tested", t.name);
            }
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
        ] {
            let tile = TILES.iter().position(|t| t.name == name).unwrap();
            for (width, split) in [(8, 1), (-1, 2), (8, 4)] {
                // more chunks than buffers, more steps than stages
                let case = Case { cin: 264, cout: 40, h: 6, w: 5, ..PLAIN };
                let choice = Choice { tile, width, split, buffers: 2, trigger: Trigger::Mid };
                check_conv(&gpu, &[case], Some(choice), &format!("{name} {choice:?} seed {seed}"));
            }
        }
        let tile = TILES.iter().position(|t| t.name == "conv_wg_1_1x2_64x64_4").unwrap();
        for split in [1, 2, 4] {
            let case = Case { kernel: 1, cin: 520, cout: 72, h: 9, w: 8, ..PLAIN };
            let choice = Choice { tile, width: 0, split, buffers: 2, trigger: Trigger::Early };
            assert!(check_conv(&gpu, &[case], Some(choice), &format!("1x1 split {split} seed {seed}")));
        }
    }
}

/// One convolution on a batch, every image with other values.
fn check_batch(gpu: &Arc<dyn Gpu>, case: &Case, choice: Choice, images: usize, what: &str) {
    let mut rng = Rng(11);
    let mut plan = Plan::default();
    let (inputs, dst) = add(&mut plan, case, &mut rng, "conv");
    let Op::Conv(c) = &plan.steps[0].op else { unreachable!() };
    let shape = crate::backend::cuda::lower::shape(&plan, c);
    assert!(tune::possible(&gpu.caps(), &[shape], &choice), "{what}: not possible");
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

/// Blocks that stay, with from one to many tiles each: rounds that are full and such that are not, blocks with fewer tiles
/// than others, tiles that end beyond the map; weights that fit into their ring and such that pass through it again and
/// again.
#[test]
fn blocks_that_stay_do_all_tiles() {
    let tile = |name: &str| TILES.iter().position(|t| t.name == name).unwrap();
    let k3 = Case { h: 19, w: 21, ..PLAIN };
    let k1 = Case { kernel: 1, ..k3 };
    let runs = [
        // kernel, width, buffers, images, case
        ("conv_pp_3_3_64x64", 8, 2, 2, Case { cin: 72, cout: 72, ..k3 }),
        ("conv_pp_3_3_64x64", -1, 2, 1, Case { cin: 40, cout: 64, post: true, ..k3 }),
        ("conv_pp_3_3_64x16", 8, 4, 3, Case { cin: 16, cout: 40, h: 9, w: 12, ..k3 }),
        ("conv_pp_3_3_64x16", 8, 1, 1, Case { cin: 16, cout: 64, h: 11, w: 30, ..k3 }),
        ("conv_pp_3_3_128x32", 8, 3, 1, Case { cin: 136, cout: 104, post: true, ..k3 }),
        ("conv_pp_3_3_128x32", 8, 2, 2, Case { cin: 40, cout: 136, stride: 2, ..k3 }),
        ("conv_pp_3_3_128x32", -1, 2, 2, Case { cin: 144, cout: 144, groups: 8, h: 10, w: 7, ..k3 }),
        ("conv_pp_3_3_128x64", 8, 2, 2, Case { cin: 136, cout: 128, h: 11, w: 9, ..k3 }),
        ("conv_pp_3_3_128x64", -1, 2, 3, Case { cin: 128, cout: 128, h: 6, w: 5, ..k3 }),
        ("conv_pp_3_2_256x32", 8, 4, 1, Case { cin: 72, cout: 264, h: 10, w: 12, ..k3 }),
        ("conv_pp_3_2_256x32", 8, 2, 2, Case { cin: 32, cout: 96, stride: 2, post: true, ..k3 }),
        ("conv_pp_1_3_128x64", 0, 3, 2, Case { cin: 264, cout: 136, post: true, ..k1 }),
        ("conv_pp_1_3_128x64", 0, 2, 3, Case { cin: 600, cout: 40, h: 9, w: 10, ..k1 }),
        ("conv_pp_1_2_256x64", 0, 4, 1, Case { cin: 200, cout: 264, ..k1 }),
        ("conv_pp_1_2_256x64", 0, 2, 2, Case { cin: 392, cout: 136, h: 9, w: 8, post: true, ..k1 }),
    ];
    for (seed, sms) in [(1, 1), (2, 2), (0, 3), (3, 5), (4, 4), (5, 1)] {
        for gpu in gpus(&[seed]) {
            if !gpu.caps().wgmma {
                continue;
            }
            let gpu: Arc<dyn Gpu> = Limited::new(gpu, sms);
            for (name, width, buffers, images, case) in &runs {
                let (tile, trigger) = (tile(name), [Trigger::Mid, Trigger::Late, Trigger::Early][images - 1]);
                let choice = Choice { tile, width: *width, split: 1, buffers: *buffers, trigger };
                let what = format!("{name} {choice:?} x{images}, {sms} multiprocessors, seed {seed}");
                check_batch(&gpu, case, choice, *images, &what);
            }
        }
    }
}

#[test]
fn epilogues_add_and_activate() {
    for gpu in gpus(&[3]) {
        for unit in [
            "conv_mma_64x32x32_3_4x1x1",
            "conv_wg_3_1x1_64x64_8",
            "conv_wg_1_1x2_64x64_4",
            "conv_pp_3_3_64x64",
            "conv_pp_3_3_128x32",
            "conv_pp_1_2_256x64",
        ] {
            let tile = TILES.iter().position(|t| t.name == unit).unwrap();
            for pre in 0..4 {
                for act in [Act::None, Act::Silu, Act::Gelu] {
                    let kernel = if unit[7..].starts_with("_1") { 1 } else { 3 };
                    let case = Case {
                        kernel,
                        cin: 32,
                        cout: 48,
                        h: 6,
                        w: 10,
                        act,
                        pre,
                        post: pre % 2 == 1,
                        ..PLAIN
                    };
                    let width = if kernel == 1 { 0 } else { 8 };
                    let choice = Choice { tile, width, split: 1, buffers: 2, trigger: Trigger::Mid };
                    let tested =
                        check_conv(&gpu, &[case], Some(choice), &format!("{unit} pre {pre} {act:?}"));
                    assert_eq!(tested, act != Act::Gelu || unit.starts_with("conv_mma"));
                }
            }
        }
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
                "conv_pp_3_3_64x64",
                "conv_pp_3_3_128x32",
            ] {
                let tile = TILES.iter().position(|t| t.name == name).unwrap();
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
        for (tile, t) in TILES.iter().enumerate().filter(|(_, t)| t.bk == 64 && t.bm <= 64) {
            if matches!(t.unit, Unit::Wgmma { kernel: 1, .. } | Unit::PingPong { .. }) {
                continue;
            }
            let choice = Choice { tile, width: 8, split: 1, buffers: 2, trigger: Trigger::Late };
            check_conv(&gpu, &cases, Some(choice), &format!("four in one launch of {}", t.name));
        }
    }
}

#[test]
fn older_gpus_have_a_tile_for_everything() {
    let Some(gpu) = Emulator::start(TURING, 6) else { return };
    for (kernel, stride) in [(1, 1), (3, 1), (3, 2)] {
        for (cin, cout) in [(16, 24), (24, 48), (96, 96), (264, 136)] {
            let case = Case { kernel, stride, cin, cout, h: 9, w: 10, ..PLAIN };
            check_conv(&gpu, &[case], None, &format!("k{kernel}s{stride} {cin}->{cout}"));
        }
    }
}

/// Each of these mistakes in a kernel must be noticed without a GPU: the tests are worth nothing otherwise.
#[test]
fn mistakes_in_kernels_are_noticed() {
    let Some(_) = Emulator::start(HOPPER, 0) else { return };
    let read = |file: &str| {
        std::fs::read_to_string(format!("{}/kernels/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    };
    let mutations: [(&str, &str, &str, &str); 14] = [
        ("conv_mma.cu", "cp_wait<DEPTH - 1>();", "cp_wait<DEPTH>();", "a wait count one too lax"),
        (
            "conv_mma.cu",
            "    cp_wait<DEPTH - 1>();\n    __syncthreads();",
            "    cp_wait<DEPTH - 1>();",
            "no barrier in the loop",
        ),
        (
            "conv_mma.cu",
            "  __syncthreads();   // the halo table is complete",
            "",
            "no barrier after the halo table",
        ),
        ("conv_mma.cu", "  pdl_wait();\n", "", "no wait for the kernel before"),
        ("conv_mma.cu", "(lane >> 4) * p.plane", "(lane >> 3) * p.plane", "a wrong fragment address"),
        ("conv_wg.cu", "mbar_wait(full_w + 8 * slot, phase);", "", "no wait for the weights"),
        (
            "conv_wg.cu",
            "if (c >= l.buffers) mbar_wait(empty_a + 8 * buffer, phase);",
            "",
            "activations overwritten too early",
        ),
        ("conv_wg.cu", "fence_async_proxy();", "", "no fence between the copies and wgmma"),
        (
            "conv_wg.cu",
            "wgmma_operand(weights + wn * WN * BK * 2, 8, PLANES * 8)",
            "wgmma_operand(weights + wn * WN * BK * 2, PLANES * 8, 8)",
            "swapped strides",
        ),
        (
            "conv_wg.cu",
            "mbar_init(empty_w + 8 * tid, NWG);",
            "mbar_init(empty_w + 8 * tid, NWG + 1);",
            "a barrier that never completes",
        ),
        (
            "conv_pp.cu",
            "if (loaded++ >= buffers)",
            "if (loaded++ > buffers)",
            "activations overwritten too early",
        ),
        (
            "conv_pp.cu",
            "if (stay || !leader) break;",
            "break;",
            "weights that a warpgroup without a tile keeps",
        ),
        ("conv_pp.cu", "wgmma_wait<0>();", "", "sums used before they are complete"),
        (
            "conv_pp.cu",
            "mbar_arrive(my_empty + 8 * last_buffer);\n    }",
            "}",
            "a tile's last buffer is kept",
        ),
    ];
    for (file, from, to, what) in mutations {
        let text = read(file);
        assert!(text.contains(from), "{what}: the kernel has changed, and so must the mistake");
        let unit = file.trim_end_matches(".cu");
        // the mistake's unit alone, with the one kernel that is run: quick to compile
        let (name, kept, (h, w)) = match unit {
            "conv_mma" => ("conv_mma_64x32x32_3_4x1x1", "CONV_MMA(64, 32, 32, 3, 4, 1, 1, 1)", (6, 5)),
            "conv_wg" => ("conv_wg_3_1x1_32x64_8", "CONV_WG(3, 1, 1, 32, 64, 8)", (6, 5)),
            // 8 tiles of one block: rounds of 3, 3 and 2
            _ => ("conv_pp_3_3_64x64", "CONV_PP(3, 3, 64, 64)", (11, 30)),
        };
        let keep = |line: &&str| !line.starts_with("CONV_") || *line == kept;
        let text: Vec<&str> = text.lines().collect();
        let text: String = text.into_iter().filter(keep).map(|l| format!("{l}\n")).collect();
        let text = text.replace(from, to);
        let tile = TILES.iter().position(|t| t.name == name).unwrap();
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
        assert!(noticed, "nobody noticed: {what}");
    }
}
