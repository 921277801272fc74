//! From checkpoint to plan: what is read off the tensors, what is refused, and what every plan promises.

use rtmo_engine::backend::cpu::{CpuExecutor, CpuOptions};
use rtmo_engine::plan::{BufferId, GridLevel, Op, Plan, Pose};
use rtmo_engine::pose::model::{self, Config, Variant};
use rtmo_engine::weights::{Architecture, Checkpoint};
use std::collections::BTreeMap;

type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// The tensors of generated weights, to be tampered with.
fn tensors(variant: Variant, keypoints: usize, levels: usize) -> Tensors {
    let checkpoint = model::random(variant, keypoints, levels, 0);
    let read = |name: &str| {
        let shape = checkpoint.shape(name).expect("listed").to_vec();
        let values = checkpoint.tensor(name, &shape).expect("generated");
        (name.to_string(), (shape, values))
    };
    checkpoint.names().map(read).collect()
}

fn build(tensors: Tensors) -> rtmo_engine::Result<Plan> {
    model::build(&Checkpoint::from_tensors("some.pth", tensors), (96, 64))
}

/// The message of the error that building must end in; it must name the file.
fn refusal(tensors: Tensors) -> String {
    let message = build(tensors).expect_err("should be refused").to_string();
    assert!(message.contains("some.pth"), "{message}");
    message
}

fn gflop(plan: &Plan) -> f64 {
    plan.steps.iter().map(|step| plan.flops(step)).sum::<u64>() as f64 / 1e9
}

#[test]
fn configurations_are_read_off_the_shapes() {
    for variant in Variant::ALL {
        for (keypoints, levels) in [(17, 2), (14, 3), (1, 2)] {
            let checkpoint = model::random(variant, keypoints, levels, 3);
            let config = Config::read(&checkpoint).unwrap();
            assert_eq!(config, variant.config(keypoints, levels));
            let architecture = Architecture::of(&checkpoint);
            assert_eq!(architecture.variant, Some(variant));
            assert_eq!(architecture.to_string(), variant.name());
            assert_eq!(architecture.input_size, variant.default_input());
        }
    }
}

#[test]
fn parameters_number_as_published() {
    // Millions, of RTMO-t, -s, -m, -l (`projects/rtmo/README.md`), and of RTMO-r50 as mmpose builds it (the paper's Table 1
    // says 41.7), without what only training uses: proxy regression
    // (2 K outputs a level) and deviations (K outputs); and without the batch norms' statistics, which are no
    // parameters.
    for (variant, millions) in Variant::ALL.into_iter().zip([6.83, 9.87, 22.53, 44.69, 41.58]) {
        let config = variant.config(17, 2);
        let counts = |(name, shape): &(String, Vec<usize>)| match name.contains(".running_") {
            true => 0,
            false => shape.iter().product::<usize>(),
        };
        let inference: usize = config.tensors().iter().map(counts).sum();
        let training = 2 * 34 * (config.head.pose + 1) + 17 * (config.head.vector + 1) + 1;
        let found = (inference + training) as f64 / 1e6;
        assert!((found - millions).abs() < 0.006, "{variant:?}: {found} M parameters, published {millions}");
    }
}

#[test]
fn every_plan_keeps_its_promises() {
    for variant in Variant::ALL {
        for levels in [2, 3] {
            let checkpoint = model::random(variant, 17, levels, 0);
            let inputs: &[_] = if variant == Variant::T {
                &[(32, 32), (96, 160), (224, 32), (416, 416)]
            } else {
                &[(64, 96)]
            };
            for &input in inputs {
                let plan = model::build(&checkpoint, input).unwrap();
                plan.check().unwrap_or_else(|what| panic!("{variant:?} {levels} {input:?}: {what}"));
                assert_eq!(plan.input_size(), input);
                assert!(plan.lifetimes().iter().all(Option::is_some), "a buffer that no step touches");
            }
        }
    }
}

#[test]
fn broken_promises_are_found() {
    let plan = build(tensors(Variant::T, 17, 2)).unwrap();
    let broken = |change: &dyn Fn(&mut Plan)| {
        let mut plan = plan.clone();
        change(&mut plan);
        plan.check().expect_err("should be found")
    };
    let conv = |plan: &mut Plan, i: usize, change: &dyn Fn(&mut rtmo_engine::plan::Conv)| match &mut plan
        .steps[i]
        .op
    {
        Op::Conv(conv) => change(conv),
        _ => panic!("step {i} is a convolution"),
    };
    assert!(broken(&|p| p.steps.swap(2, 3)).contains("before it is written"));
    assert!(broken(&|p| p.steps.push(p.steps[2].clone())).contains("once more"));
    assert!(broken(&|p| _ = p.map("idle", 1, 1, 1)).contains("never written"));
    assert!(broken(&|p| _ = p.tensor("idle", &[1], vec![0.0])).contains("never used"));
    assert!(broken(&|p| conv(p, 1, &|c| c.stride = 1)).contains("not ["));
    assert!(broken(&|p| conv(p, 2, &|c| c.dst.c -= 1)).contains("constant"));
    assert!(broken(&|p| conv(p, 3, &|c| c.bias = c.weight)).contains("constant"));
    assert!(broken(&|p| p.outputs[0].view.c = 16).contains("output"));

    // What memory accesses rely on is asked of every plan that is to be executed.
    let refused = |change: &dyn Fn(&mut Plan)| {
        let mut plan = plan.clone();
        change(&mut plan);
        match CpuExecutor::new(plan, CpuOptions::detect().unwrap()) {
            Ok(_) => panic!("should be refused"),
            Err(error) => error.to_string(),
        }
    };
    assert!(refused(&|p| conv(p, 2, &|c| c.src.c0 = 10_000)).contains("channels from 10000 on"));
    assert!(refused(&|p| conv(p, 2, &|c| c.src.c0 = usize::MAX)).contains("channels from"));
    assert!(refused(&|p| conv(p, 2, &|c| c.src.buffer = BufferId(10_000))).contains("no buffer 10000"));
    assert!(refused(&|p| conv(p, 2, &|c| c.src = c.dst)).contains("reads and writes"));
    assert!(refused(&|p| conv(p, 2, &|c| c.groups = 0)).contains("groups 0"));
    assert!(refused(&|p| conv(p, 2, &|c| c.pad = 0)).contains("pad 0"));
    assert!(refused(&|p| p.buffers[1].c = usize::MAX / 2).contains("x "));
    assert!(refused(&|p| p.tensors[0].data.truncate(5)).contains("of 5 values"));
    let select = plan.steps.iter().position(|s| matches!(s.op, Op::Pose(Pose::Select { .. }))).unwrap();
    let levels = |p: &mut Plan, change: &dyn Fn(&mut Vec<GridLevel>)| match &mut p.steps[select].op {
        Op::Pose(Pose::Select { levels }) => change(levels),
        _ => panic!("step {select} selects"),
    };
    assert!(refused(&|p| levels(p, &|l| l.clear())).contains("0 head levels"));
    assert!(refused(&|p| levels(p, &|l| l[0].stride = 0)).contains("stride 0"));
    assert!(refused(&|p| levels(p, &|l| l[0].stride = usize::MAX)).contains("stride"));
    assert!(refused(&|p| levels(p, &|l| l[0].stride = 8)).contains("cells of 8 pixels over"));
    // What a run has one of.
    assert!(refused(&|p| p.steps.push(p.steps[0].clone())).contains("2 letterboxes"));
    assert!(refused(&|p| p.steps.push(p.steps[select].clone())).contains("2 selections"));
    assert!(refused(&|p| p.steps.push(p.steps.last().unwrap().clone())).contains("2 decoders"));
    assert!(refused(&|p| p.inputs.clear()).contains("does not fill the input"));
    let features = plan.steps.iter().position(|s| matches!(s.op, Op::Pose(Pose::Gau(_)))).unwrap();
    let tokens = |p: &mut Plan, tokens: usize| match &mut p.steps[features].op {
        Op::Pose(Pose::Gau(gau)) => gau.tokens = tokens,
        _ => panic!("step {features} is the attention unit"),
    };
    assert!(refused(&|p| tokens(p, (1 << 57) + 17)).contains("channels"));
    // Cells of a level that the survivors' maps lack.
    assert!(refused(&|p| levels(p, &|l| l.swap(0, 1))).contains("not ["));
}

#[test]
fn rewrites_save_work() {
    // GFLOP of the network as upstream writes it, counted by its authors' code at the default input sizes (RTMO-r50's by
    // PyTorch's FlopCounterMode).
    for (variant, upstream) in Variant::ALL.into_iter().zip([6.6, 23.8, 61.6, 130.8, 127.3]) {
        let plan = model::build(&model::random(variant, 17, 2, 0), variant.default_input()).unwrap();
        let found = gflop(&plan);
        println!("{variant}: {found:.2} GFLOP, {} steps; upstream {upstream}", plan.steps.len());
        assert!(found < upstream - 0.4, "{variant:?}: {found}");
        assert!(found > 0.85 * upstream, "{variant:?}: {found} GFLOP are too few to be the same network");
    }
}

#[test]
fn missing_tensors_are_named() {
    for name in ["backbone.stem.conv.bn.weight", "neck.encoder.0.layers.0.norms.1.bias", "head.dcc.gau.ln.g"]
    {
        let mut t = tensors(Variant::T, 17, 2);
        t.remove(name);
        let message = refusal(t);
        assert!(message.contains(name) && message.contains("no such tensor"), "{message}");
    }
    let message = refusal(Tensors::new());
    assert!(message.contains("backbone.stem.conv.conv.weight"), "{message}");
}

#[test]
fn wrong_shapes_are_named() {
    let mut t = tensors(Variant::T, 17, 2);
    t.insert("head.head_module.conv_pose.1.2.conv.weight".into(), (vec![104, 13, 3, 1], vec![0.0; 104 * 39]));
    let message = refusal(t);
    assert!(message.contains("conv_pose.1.2.conv.weight"), "{message}");
    assert!(message.contains("[104, 13, 3, 3]") && message.contains("[104, 13, 3, 1]"), "{message}");

    let mut t = tensors(Variant::T, 17, 2);
    t.insert("head.dcc.pos_enc".into(), (vec![0, 128], vec![]));
    assert!(refusal(t).contains("head.dcc.pos_enc"));

    // A group width that does not divide the pose width.
    let mut t = tensors(Variant::T, 17, 2);
    t.insert(
        "head.head_module.conv_pose.0.1.conv.weight".into(),
        (vec![104, 15, 3, 3], vec![0.0; 104 * 135]),
    );
    assert!(refusal(t).contains("conv_pose"));
}

#[test]
fn unexpected_tensors_are_refused_and_training_only_ones_are_not() {
    let mut t = tensors(Variant::T, 17, 2);
    for (name, shape) in [
        ("backbone.stem.conv.bn.num_batches_tracked", vec![]),
        ("head.head_module.out_kpt_reg.0.weight", vec![34, 104, 1, 1]),
        ("head.dcc.sigma_fc.2.scale", vec![]),
        ("head.loss_oks.sigmas", vec![17]),
        ("data_preprocessor.mean", vec![3, 1, 1]),
    ] {
        let values = vec![0.5; shape.iter().product()];
        t.insert(name.into(), (shape, values));
    }
    build(t.clone()).unwrap();
    let mut r50 = tensors(Variant::R50, 17, 2);
    for name in ["backbone.fc.weight", "backbone.layer4.2.bn3.num_batches_tracked"] {
        r50.insert(name.into(), (vec![2], vec![0.5; 2]));
    }
    build(r50).unwrap();
    t.insert("backbone.stage5.0.conv.weight".into(), (vec![1], vec![1.0]));
    let message = refusal(t);
    assert!(message.contains("backbone.stage5.0.conv.weight") && message.contains("[1]"), "{message}");
}

#[test]
fn constants_of_the_method_are_checked() {
    let line =
        |n: usize, span: f32| (0..n).map(|i| (i as f32 / (n - 1) as f32 - 0.5) * span).collect::<Vec<_>>();
    let mut t = tensors(Variant::T, 17, 2);
    t.insert("head.dcc.x_bins".into(), (vec![192], line(192, 1.0)));
    t.insert("head.dcc.y_bins".into(), (vec![100], line(100, 1.0)));
    let powers = (0..64).map(|i| 300f32.powf(i as f32 / 64.0)).collect::<Vec<_>>();
    t.insert("head.dcc.spe.dim_t".into(), (vec![64], powers));
    let plan = build(t.clone()).unwrap();
    let bins = plan.steps.iter().find_map(|s| match &s.op {
        Op::Pose(Pose::BinDecode(d)) => Some((d.x.bins, d.y.bins)),
        _ => None,
    });
    assert_eq!(bins, Some((192, 100)));
    // Shapes that promise more than any memory holds.
    for bins in [1 << 33, 1 << 40, 1 << 61, usize::MAX] {
        let mut t = t.clone();
        t.insert("head.dcc.x_bins".into(), (vec![bins, 0], vec![]));
        let message = refusal(t);
        assert!(message.contains("head.dcc.x_bins") && message.contains("at most 4096"), "{message}");
    }
    t.insert("head.dcc.x_bins".into(), (vec![192], line(192, 2.0)));
    let message = refusal(t);
    assert!(message.contains("head.dcc.x_bins") && message.contains("-0.5"), "{message}");
}

#[test]
fn values_that_are_no_weights_are_refused() {
    let mut t = tensors(Variant::T, 17, 2);
    t.get_mut("neck.projector.convs.1.bn.running_var").unwrap().1[3] = -1.0;
    assert!(refusal(t).contains("neck.projector.convs.1.bn.running_var"));

    let mut t = tensors(Variant::T, 17, 2);
    t.get_mut("backbone.stage2.0.bn.weight").unwrap().1[0] = 3e38;
    t.get_mut("backbone.stage2.0.bn.running_var").unwrap().1[0] = 0.0;
    assert!(refusal(t).contains("backbone.stage2.0"));
}

#[test]
fn other_networks_are_refused() {
    let mut t = tensors(Variant::T, 17, 2);
    t.insert("backbone.layer1.0.conv1.weight".into(), (vec![1], vec![1.0]));
    assert!(refusal(t).contains("backbone.conv1.weight"));

    // Both backbones.
    let mut t = tensors(Variant::R50, 17, 2);
    t.insert("backbone.stem.conv.bn.weight".into(), (vec![1], vec![1.0]));
    let message = refusal(t);
    assert!(message.contains("'backbone.stem.conv.bn.weight'"), "{message}");

    let mut t = tensors(Variant::T, 17, 2);
    t.retain(|name, _| !name.starts_with("head.head_module.out_cls.1"));
    assert!(refusal(t).contains("1 levels"));
}

#[test]
fn input_sizes_are_checked() {
    let checkpoint = model::random(Variant::T, 17, 2, 0);
    for input in [(0, 64), (64, 0), (100, 64), (64, 48), (1 << 20, 64), (usize::MAX - 31, 32)] {
        let message = model::build(&checkpoint, input).expect_err("should be refused").to_string();
        assert!(message.contains("multiples of 32"), "{message}");
    }
}

#[test]
fn published_sizes_run_at_any_input_that_a_caller_asks_for() {
    // Memory is granted by the size that is asked for.
    for variant in [Variant::T, Variant::S] {
        let checkpoint = model::random(variant, 17, 2, 0);
        for input in [(1280, 1280), (1536, 1536), (2560, 1440 / 32 * 32)] {
            model::build(&checkpoint, input).unwrap();
        }
    }
}
