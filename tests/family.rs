//! Any widths and depths of the family: networks that nobody published, read off their tensors' shapes.

mod common;

use common::{Rng, difference, isas};
use proptest::prelude::*;
use rtmo_engine::backend::cpu::{CpuExecutor, CpuOptions};
use rtmo_engine::backend::reference::Reference;
use rtmo_engine::backend::{Executor, Precision, RunOptions, SelectParams};
use rtmo_engine::plan::Extent;
use rtmo_engine::pose::model::{self, Backbone, Config, Darknet, Dcc, Head, Neck, ResNet, Stage};
use rtmo_engine::weights::Checkpoint;

/// Width and height of the network input; odd maps of 3x5 at the coarsest level.
const SIZE: (usize, usize) = (96, 160);

/// Widths are `1 ..= widest`, or from 0 on if the network `may_be_impossible`.
fn networks(widest: usize, may_be_impossible: bool) -> impl Strategy<Value = Config> {
    // Each extent from a stream of its own: a strategy of thirty fields has no use for shrinking them one by one.
    any::<u64>().prop_map(move |seed| {
        let mut rng = Rng::new(seed);
        let mut any = |most: usize| match may_be_impossible {
            true => rng.below(most + 1),
            false => 1 + rng.below(most),
        };
        let times = |n: usize, factor: usize| if may_be_impossible { n } else { n * factor };
        let mut stage = || Stage { channels: any(widest), mid: any(widest), blocks: any(3) };
        let stages = [stage(), stage(), stage(), stage()];
        let dim = times(any(6), 8);
        let neck = Neck { dim, ffn: any(widest), layers: any(2), mid: any(widest), blocks: any(2) };
        let neck = Neck { mid: if any(3) == 1 { dim } else { neck.mid }, ..neck };
        let groups = any(4).max(1);
        let head = Head {
            projected: times(any(widest), 2),
            cls: any(widest),
            cls_convs: any(3),
            pose: times(any(8), groups),
            pose_convs: any(4),
            groups,
            vector: any(widest),
        };
        let dcc = Dcc {
            dim: any(widest),
            encoding: times(any(20), 2),
            bins: (192, 256),
            expansion: any(widest),
            key_dim: any(widest),
        };
        // A single pose convolution leaves its groups open.
        let head = Head { groups: if head.pose_convs == 1 { 1 } else { head.groups }, ..head };
        let (keypoints, levels) = (any(20), 2 + any(2) % 2);
        let (stem, spp_mid) = (any(widest), any(widest));
        let backbone = match any(3) {
            1 => Backbone::ResNet(ResNet { stem, stages }),
            _ => Backbone::Darknet(Darknet { stem, stages, spp_mid }),
        };
        Config { keypoints, levels, backbone, neck, head, dcc }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Every map and every person, on every instruction set.
    #[test]
    fn every_network_equals_the_reference(config in networks(40, false), seed: u64) {
        let checkpoint = Checkpoint::from_tensors("generated", model::random_tensors(&config, seed));
        prop_assert_eq!(&Config::read(&checkpoint).unwrap(), &config);
        let plan = model::build(&checkpoint, SIZE).unwrap();
        let input: Vec<f32> = model::noise_image(SIZE.0, SIZE.1, seed).into_iter().map(f32::from).collect();
        let select = SelectParams { force: Some(3), ..SelectParams::default() };
        let options = RunOptions { select, heatmaps: true };
        let mut reference = Reference::new(plan.clone());
        let expected = reference.run(&input, &options);
        for isa in isas() {
            let cpu = CpuOptions { threads: 2, isa, precision: Precision::Fp32, keep_maps: true };
            let mut cpu = CpuExecutor::new(plan.clone(), cpu).unwrap();
            cpu.fill_scratch(f32::NAN);
            cpu.write_input(&input);
            let found = cpu.run_steps(1..plan.steps.len(), &options);
            for step in &plan.steps {
                let Some(view) = step.op.writes() else { continue };
                if plan.buffer_of(view).extent == Extent::Rows {
                    continue;
                }
                let d = difference(&reference.map(view), &cpu.read(view, 0).unwrap());
                // Narrow networks may amplify roundings (6e-8) a hundredfold; a wrong index is off by about 1.
                prop_assert!(d.relative_l2 < 1e-4, "{}: {}: {:.1e}", isa.name(), step.name, d.relative_l2);
            }
            // Grids of equal scores may swap; the same ones must have the same people. Narrow heads have flat heatmaps, so
            // that a single keypoint may be off by tenths of a pixel.
            let (mut apart, k) = (vec![], config.keypoints);
            for (i, prior) in found.priors.iter().enumerate() {
                let Some(j) = expected.priors.iter().position(|p| p == prior) else { continue };
                let pairs = found.keypoints[i * k..][..k].iter().zip(&expected.keypoints[j * k..][..k]);
                apart.extend(pairs.map(|(a, b)| (a[0] - b[0]).hypot(a[1] - b[1])));
            }
            let mean = apart.iter().sum::<f32>() / apart.len() as f32;
            prop_assert!(mean < 0.1, "{}: {apart:?}", isa.name());
            prop_assert_eq!(found.scores.len(), 3);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Checkpoints whose shapes agree with each other, but not with arithmetic: a plan or an error that names the file.
    #[test]
    fn impossible_networks_are_refused(config in networks(9, true)) {
        let zeros = |(name, shape): (String, Vec<usize>)| {
            let values = vec![0.0; shape.iter().product()];
            (name, (shape, values))
        };
        let tensors = config.tensors().into_iter().map(zeros).collect();
        match model::build(&Checkpoint::from_tensors("some.pth", tensors), SIZE) {
            Ok(plan) => plan.check().unwrap(),
            Err(error) => prop_assert!(error.to_string().contains("some.pth"), "{error}"),
        }
    }
}
