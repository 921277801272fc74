//! The other kernels that work on maps.

use super::*;
use crate::backend::{Frame, RunOptions};

#[test]
fn pyramids_pool() {
    for gpu in gpus(&[1, 2]) {
        // the largest is the map of a 2048x2048 input
        for (h, w, window) in [(20, 20, 5), (3, 7, 5), (1, 1, 5), (9, 4, 3), (64, 64, 5)] {
            let mut plan = Plan::default();
            let all = plan.map("all", h, w, 8 + 4 * 24);
            let (src, dst) = (all.slice(8, 24), all.slice(32, 72));
            plan.push("pool", Op::PoolPyramid { src, dst, window });
            let mut rig = Rig::new(&gpu, &plan);
            fill(&mut rig, &[src], &mut Rng(h as u64));
            rig.run().unwrap();
            rig.close(dst, 1e-9, &format!("{h}x{w}, window {window}"));
        }
    }
}

#[test]
fn max_pools_stride() {
    for gpu in gpus(&[1, 2]) {
        // even and odd maps, smaller than a window, and ResNet's
        for (h, w, window, stride) in [(8, 12, 3, 2), (7, 5, 3, 2), (1, 1, 3, 2), (2, 3, 5, 1), (9, 10, 5, 3)]
        {
            let mut plan = Plan::default();
            let src = plan.map("in", h, w, 24 + 16).slice(8, 24);
            let dst = plan.map("out", h.div_ceil(stride), w.div_ceil(stride), 24 + 8).slice(8, 24);
            plan.push("pool", Op::MaxPool { src, dst, window, stride, pad: window / 2 });
            let mut rig = Rig::new(&gpu, &plan);
            rig.batch(2);
            let mut want = Vec::new();
            for image in 0..2 {
                rig.image = image;
                // negative at every border: the outside is no zero
                let values = Rng(9 + image as u64).normals(h * w * 24, 1.0);
                rig.set(src, &values.iter().map(|v| v - 5.0).collect::<Vec<_>>());
                rig.r.run_steps(0..1);
                want.push(rig.r.map(dst));
            }
            rig.image = 0;
            rig.run_device(|_| unreachable!("no convolutions")).unwrap();
            for (image, want) in want.iter().enumerate() {
                let (_, largest) = distance(&rig.x.read(dst, image).unwrap(), want);
                assert_eq!(largest, 0.0, "image {image} of {h}x{w}, window {window}, stride {stride}");
            }
        }
    }
}

#[test]
fn attention_attends() {
    // below, at and above one chunk of 448 keys, tails of queries and keys; 17x30 is the map of a 960x544 input
    for (seed, h, w, scale) in [
        (1, 20, 20, 1.0),
        (2, 3, 5, 1.0),
        (3, 1, 1, 1.0),
        (0, 19, 28, 0.5),
        (4, 4, 8, 6.0),
        (5, 17, 30, 1.0),
        (6, 16, 28, 1.0),
    ] {
        for gpu in gpus(&[seed]) {
            let heads = if h * w > 300 { 1 } else { 3 };
            let mut plan = Plan::default();
            let qkv = plan.map("qkv", h, w, 3 * heads * 32 + 8).slice(8, 3 * heads * 32);
            let dst = plan.map("out", h, w, heads * 32 + 8).slice(8, heads * 32);
            plan.push("attention", Op::Attention { qkv, dst, heads });
            let mut rig = Rig::new(&gpu, &plan);
            let values = Rng(seed + 9).normals(h * w * qkv.c, scale * 0.6);
            rig.set(qkv, &values);
            rig.run().unwrap();
            // probabilities and results are rounded to fp16
            rig.close(dst, 1e-3, &format!("{h}x{w} tokens, scale {scale}"));
        }
    }
}

#[test]
fn layer_norms_normalise() {
    for gpu in gpus(&[1]) {
        for c in [8, 256, 264, 1024] {
            let mut rng = Rng(c as u64);
            let mut plan = Plan::default();
            let src = plan.map("in", 3, 3, c + 8).slice(8, c);
            let dst = plan.map("out", 3, 3, c);
            let gamma = plan.tensor("gamma", &[c], rng.normals(c, 1.0));
            let beta = plan.tensor("beta", &[c], rng.normals(c, 1.0));
            plan.push("norm", Op::LayerNorm { src, dst, gamma, beta, eps: 1e-5 });
            let mut rig = Rig::new(&gpu, &plan);
            // a large mean: what the two-pass variance is for
            let values: Vec<f32> = rng.normals(9 * c, 1.0).iter().map(|v| v + 50.0).collect();
            rig.set(src, &values);
            rig.run().unwrap();
            rig.close(dst, 5e-4, &format!("{c} channels"));
        }
    }
}

#[test]
fn predictions_stay_in_fp32() {
    for gpu in gpus(&[1, 2]) {
        let mut rng = Rng(5);
        let mut plan = Plan::default();
        let mut outputs = Vec::new();
        let mut inputs = Vec::new();
        for (h, w, cin, cout) in [(5, 7, 264, 1), (5, 7, 144, 4), (2, 3, 8, 1), (2, 3, 512, 3)] {
            let src = plan.map("in", h, w, cin + 8).slice(8, cin);
            let dst = plan.map_f32("out", h, w, cout);
            let w: Vec<f32> =
                rng.normals(cin * cout, 0.1).iter().map(|&v| f16::from_f32(v).to_f32()).collect();
            let weight = plan.tensor("w", &[cout, 1, 1, cin], w);
            let bias = plan.tensor("b", &[cout], rng.normals(cout, 1.0));
            plan.push("predict", Op::Conv(linear(src, dst, weight, bias)));
            inputs.push(src);
            outputs.push(dst);
        }
        let mut rig = Rig::new(&gpu, &plan);
        let launched: Vec<_> = rig.x.schedule.groups.iter().map(|g| g.steps.len()).collect();
        assert_eq!(launched, [4], "one launch");
        fill(&mut rig, &inputs, &mut rng);
        rig.run().unwrap();
        for dst in outputs {
            rig.close(dst, 1e-6, "prediction");
        }
    }
}

#[test]
fn letterboxes_are_the_cpu_s_to_the_bit() {
    let input = (64, 32);
    for gpu in gpus(&[1, 2]) {
        let mut plan = Plan::default();
        let image = plan.letterbox(input.0, input.1);
        let (weight, bias) =
            (plan.tensor("w", &[8, 6, 6, 3], vec![0.01; 8 * 108]), plan.tensor("b", &[8], vec![0.0; 8]));
        let dst = plan.map("stem", input.1 / 2, input.0 / 2, 8);
        let (pre_add, act, post_add) = (PreAdd::None, Act::None, None);
        let conv = Conv {
            src: image,
            dst,
            weight,
            bias,
            kernel: 6,
            stride: 2,
            pad: 2,
            groups: 1,
            pre_add,
            act,
            post_add,
        };
        plan.push("stem", Op::Conv(conv));
        let mut x = CudaExecutor::on(gpu.clone(), plan, OPTIONS).unwrap();
        let sizes = [(61, 47), (1, 1), (200, 30), (7, 90), (64, 32), (128, 64)];
        let photos: Vec<(Photo, Letterbox)> = sizes
            .iter()
            .flat_map(|&(w, h)| {
                let (p, l) = photo(1, w, h, input);
                [(p.clone(), l), (p, Letterbox::rtmlib((w, h), input))]
            })
            .collect();
        // together as one batch, and one by one
        let frames: Vec<Frame<'_>> =
            photos.iter().map(|(photo, letterbox)| Frame::new(photo, letterbox)).collect();
        let check = |x: &mut CudaExecutor, image_index: usize, (photo, letterbox): &(Photo, Letterbox)| {
            let mut row = vec![0; input.0 * 3];
            let got = x.read(image, image_index).unwrap();
            for (y, got) in got.chunks_exact(row.len()).enumerate() {
                letterbox.sample_row(photo, y, &mut row);
                let want: Vec<f32> = row.iter().map(|&v| f32::from(v)).collect();
                assert_eq!(got, want, "row {y} of {}x{}", photo.width, photo.height);
            }
        };
        x.run(&frames, &RunOptions::default()).unwrap();
        for (i, p) in photos.iter().enumerate() {
            check(&mut x, i, p);
        }
        for (i, p) in photos.iter().enumerate() {
            x.run(&frames[i..=i], &RunOptions::default()).unwrap();
            check(&mut x, 0, p);
        }
    }
}
