//! The other kernels that work on maps.

use super::common::cases::{self, Row};
use super::*;
use crate::backend::{Frame, RunOptions};
use crate::vision::{ChannelOrder, DeviceImage, Image, YuvColours, YuvMatrix};

/// The rows of the case table that CUDA's kernels take, each alone; two images a batch is in the tests below.
#[test]
fn the_case_table() {
    for (seed, gpu) in gpus(&[1, 2]).into_iter().enumerate() {
        for (operation, rows) in cases::table() {
            let mut taken = 0;
            // The second emulator interleaves threads differently, which concerns kernels and not their epilogues.
            let rows = rows.into_iter().filter(cases::Row::on_cuda);
            for Row { case, fp16, .. } in
                rows.step_by(if seed == 1 && operation == "convolution" { 5 } else { 1 })
            {
                let mut rig = Rig::new(&gpu, &case.plan);
                for (view, values) in &case.maps {
                    rig.set(*view, values);
                }
                rig.run().unwrap_or_else(|e| panic!("{}: {e}", case.name));
                // Where the result must be exact, as a maximum's, the bound is 0; `close` asks for less than its bound.
                rig.close(case.op().writes().unwrap(), fp16.max(f64::MIN_POSITIVE), &case.name);
                taken += 1;
            }
            let survivors = ["survivor linear", "gated attention unit", "bins"].contains(&operation);
            assert!(survivors || taken >= 4, "{operation}: {taken} rows on CUDA");
        }
    }
}

#[test]
fn max_pools_of_two_images() {
    for gpu in gpus(&[1, 2]) {
        for (h, w, window, stride) in [(8, 12, 3, 2), (9, 10, 5, 3)] {
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

/// A NaN in a window makes the maximum NaN, as on the CPU, and no other.
#[test]
fn not_a_number_passes_through_pools() {
    for gpu in gpus(&[1]).into_iter().chain(Emulator::start(TURING, 2)) {
        let mut plan = Plan::default();
        let src = plan.map("in", 6, 9, 16);
        let (pooled, pyramid) = (plan.map("pooled", 3, 5, 16), plan.map("pyramid", 6, 9, 48));
        plan.push("pool", Op::MaxPool { src, dst: pooled, window: 3, stride: 2, pad: 1 });
        plan.push("pyramid", Op::PoolPyramid { src, dst: pyramid, window: 3 });
        let mut values = Rng(3).normals(6 * 9 * 16, 1.0);
        // One channel of a pixel, in the low half of a word, and another in the high half.
        (values[(2 * 9 + 3) * 16 + 4], values[(5 * 9 + 8) * 16 + 7]) = (f32::NAN, -f32::NAN);
        let mut rig = Rig::new(&gpu, &plan);
        rig.set(src, &values);
        rig.run().unwrap();
        for dst in [pooled, pyramid] {
            let (got, want) = (rig.x.read(dst, 0).unwrap(), rig.r.map(dst));
            let known = want.iter().filter(|v| v.is_nan()).count();
            assert!(known > 0 && known < want.len() / 4, "{known} of {}", want.len());
            let alike = |(g, w): (&f32, &f64)| f64::from(*g) == *w || g.is_nan() && w.is_nan();
            assert!(got.iter().zip(&want).all(alike));
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
        // NV12 of the same sizes, of even and odd sides, with gaps between rows: as the photo that the host makes of it. The
        // batch holds NV12 and BGR in turns.
        let data: Vec<[Vec<u8>; 2]> = photos
            .iter()
            .map(|(photo, _)| {
                let (w, h) = (photo.width.div_ceil(2) * 2 + 6, photo.height);
                let noise =
                    |n: usize| photo.bgr.iter().cycle().map(|b| b.wrapping_mul(167)).take(n).collect();
                [noise(w * h), noise(w * h.div_ceil(2))]
            })
            .collect();
        let colours = [YuvMatrix::Bt601, YuvMatrix::Bt709, YuvMatrix::Bt2020]
            .map(|m| [false, true].map(|full| YuvColours::default().with_matrix(m).with_full_range(full)));
        let pictures: Vec<(Image<'_>, Photo)> = photos
            .iter()
            .zip(&data)
            .zip(colours.concat().iter().cycle())
            .map(|(((photo, _), [luma, chroma]), &colours)| {
                let (w, h) = (photo.width, photo.height);
                let image = Image::nv12(w, h, luma, chroma, colours).unwrap();
                let image = image.with_stride(w.div_ceil(2) * 2 + 6).unwrap();
                (image, image.to_photo())
            })
            .collect();
        let mixed: Vec<Frame<'_>> = pictures
            .iter()
            .zip(&frames)
            .enumerate()
            .map(
                |(i, ((image, _), frame))| {
                    if i % 3 < 2 { Frame::new(image, frame.letterbox) } else { *frame }
                },
            )
            .collect();
        x.run(&mixed, &RunOptions::default()).unwrap();
        for (i, ((_, converted), (photo, letterbox))) in pictures.iter().zip(&photos).enumerate() {
            let photo = if i % 3 < 2 { converted } else { photo };
            check(&mut x, i, &(photo.clone(), letterbox.clone()));
        }
        // Photos in the device's memory, of both orders, with and without gaps between rows, and others from the host.
        let orders = [ChannelOrder::Bgr, ChannelOrder::Rgb];
        let memory: Vec<(Memory, usize)> = photos
            .iter()
            .enumerate()
            .map(|(i, (photo, _))| {
                let (row, stride) = (photo.width * 3, photo.width * 3 + i % 4 * 5);
                let mut bytes = vec![9; stride * photo.height];
                for (to, from) in bytes.chunks_exact_mut(stride).zip(photo.bgr.chunks_exact(row)) {
                    to[..row].copy_from_slice(from);
                    if i % 2 == 1 {
                        to[..row].chunks_exact_mut(3).for_each(<[u8]>::reverse);
                    }
                }
                let memory = Memory::new(&gpu, bytes.len(), Purpose::Working).unwrap();
                memory.write(0, &bytes).unwrap();
                (memory, stride)
            })
            .collect();
        let on_device: Vec<Frame<'_>> = photos
            .iter()
            .zip(&memory)
            .enumerate()
            .map(|(i, ((photo, letterbox), (memory, stride)))| {
                // SAFETY: the memory has these rows and outlives the runs; nothing writes to it.
                let image = unsafe {
                    DeviceImage::new(memory.address, photo.width, photo.height, orders[i % 2])
                        .and_then(|image| image.with_stride(*stride))
                };
                Frame::on_device(image.unwrap(), letterbox)
            })
            .collect();
        let mixed: Vec<Frame<'_>> =
            (0..frames.len()).map(|i| if i % 5 == 3 { frames[i] } else { on_device[i] }).collect();
        for of in [&on_device, &mixed] {
            x.run(of, &RunOptions::default()).unwrap();
            for (i, p) in photos.iter().enumerate() {
                check(&mut x, i, p);
            }
        }
        for (i, p) in photos.iter().enumerate() {
            x.run(&frames[i..=i], &RunOptions::default()).unwrap();
            check(&mut x, 0, p);
            x.run(&on_device[i..=i], &RunOptions::default()).unwrap();
            check(&mut x, 0, p);
        }
        let error = x.start(&on_device[..1], &RunOptions::default()).unwrap_err().to_string();
        assert!(error.contains("cannot be submitted"), "{error}");
    }
}
