//! Selection, and what follows for the people selected.

use super::*;
use crate::backend::cpu::pool::Pool;
use crate::backend::cuda::pose::frames::{Layout, SURVIVOR_BYTES};
use crate::backend::cuda::pose::params;
use crate::backend::{Frame, RunOptions, SelectParams};

/// Two head levels with boxes that overlap a good deal, and the selection.
fn selection(shapes: &[(usize, usize, usize)]) -> (Plan, Vec<GridLevel>) {
    let mut plan = Plan::default();
    let level = |plan: &mut Plan, &(h, w, stride): &(usize, usize, usize)| {
        let src = plan.map("features", h, w, 8);
        let mut predict = |name: &str, c: usize| {
            let dst = plan.map_f32(name, h, w, c);
            let (weight, bias) =
                (plan.tensor("w", &[c, 1, 1, 8], vec![0.0; c * 8]), plan.tensor("b", &[c], vec![0.0; c]));
            plan.push(name, Op::Conv(linear(src, dst, weight, bias)));
            dst
        };
        let (cls, bbox) = (predict("cls", 1), predict("bbox", 4));
        GridLevel { cls, bbox, stride }
    };
    let levels: Vec<GridLevel> = shapes.iter().map(|s| level(&mut plan, s)).collect();
    plan.push("select", Op::Pose(Pose::Select { levels: levels.clone() }));
    (plan, levels)
}

/// Leaves of a rig's launches the selection only.
fn keep_selection(rig: &mut Rig) {
    let plan = &rig.x.plan;
    rig.x.schedule.groups.retain(|g| plan.steps[g.steps[0]].op.fixes_rows());
}

fn frame_header(select: &SelectParams) -> params::Frame {
    // by way of the real writer
    let photo = Photo { width: 32, height: 32, bgr: vec![0; 32 * 32 * 3] };
    let letterbox = Letterbox::new((32, 32), (32, 32));
    let frames = [Frame::new(&photo, &letterbox)];
    let layout = Layout::new(&frames, (32, 32)).unwrap();
    let mut block = vec![0; layout.bytes];
    layout.write(&frames, select, &mut block, &mut Pool::new(1).unwrap());
    bytemuck::pod_read_unaligned(&block[..size_of::<params::Frame>()])
}

#[test]
fn selection_is_the_reference_s() {
    let cases = [
        SelectParams::default(),
        SelectParams { score_thr: 0.5, nms_thr: 0.3, ..SelectParams::default() },
        SelectParams { score_thr: 0.0, nms_thr: 1.0, ..SelectParams::default() },
        SelectParams { score_thr: 0.999999, ..SelectParams::default() },
        SelectParams { max_people: Some(3), ..SelectParams::default() },
        SelectParams { force: Some(7), ..SelectParams::default() },
        SelectParams { force: Some(10000), ..SelectParams::default() },
    ];
    for gpu in gpus(&[1]) {
        for shapes in [
            vec![(6, 9, 16), (3, 5, 32)],
            vec![(1, 1, 32)],
            vec![(3, 4, 8), (2, 2, 16), (1, 1, 32)],
            vec![(70, 70, 8)],
        ] {
            // more candidates than shared memory holds, where all of them count
            let many = shapes[0].0 == 70;
            for select in cases.iter().filter(|c| !many || c.score_thr == 0.0 || c.force == Some(10000)) {
                let (plan, levels) = selection(&shapes);
                let mut rig = Rig::new(&gpu, &plan);
                // only the selection runs
                keep_selection(&mut rig);
                let mut rng = Rng(11);
                for l in &levels {
                    let n = plan.buffer_of(l.cls).extent.pixels();
                    let logits = rng.normals(n, 3.0);
                    rig.set(l.cls, &logits);
                    let boxes: Vec<f32> = rng
                        .normals(n * 4, 0.7)
                        .chunks(4)
                        .flat_map(|b| [b[0], b[1], b[2] + 1.0, b[3] + 1.0])
                        .collect();
                    rig.set(l.bbox, &boxes);
                }
                let header = frame_header(select);
                rig.x.workspaces[0].input.write(0, bytemuck::bytes_of(&header)).unwrap();
                rig.r.set_options(&RunOptions { select: *select, heatmaps: false });
                let last = plan.steps.len() - 1;
                rig.run_device(|_| unreachable!("no convolutions")).unwrap();
                let workspace = &rig.x.workspaces[0];
                rig.r.run_steps(last..last + 1);

                let mut count = Count::default();
                workspace.counts.read(0, bytemuck::bytes_of_mut(&mut count)).unwrap();
                let mut list = vec![Survivor::default(); count.people as usize];
                let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut list);
                assert_eq!(bytes.len(), count.people as usize * SURVIVOR_BYTES);
                workspace.survivors.read(0, bytes).unwrap();
                let want = rig.r.people();
                let what = format!("{select:?} on {shapes:?}");
                assert_eq!((count.people as usize, count.lost), (want.len(), 0), "{what}");
                for (g, w) in list.iter().zip(want) {
                    assert_eq!((g.level as usize, g.cell as usize), (w.level, w.cell), "{what}");
                    let got = [g.score, g.cx, g.cy, g.w, g.h, g.gx, g.gy];
                    let want =
                        [w.score, w.center[0], w.center[1], w.size[0], w.size[1], w.prior[0], w.prior[1]];
                    let (relative, _) = distance(&got, &want);
                    assert!(relative < 1e-6, "{what}: {got:?}, expected {want:?}");
                }
            }
        }
    }
}

/// Grids with a NaN score and boxes that are not finite, among others, are left out and counted as on the CPU.
#[test]
fn what_is_not_finite_is_left_out_and_counted() {
    use crate::pose::select::{LevelMaps, select};
    let shapes = [(20, 21, 8), (6, 7, 16)];
    let (plan, levels) = selection(&shapes);
    let cases = [
        SelectParams::default(),
        SelectParams { score_thr: 0.0, nms_thr: 1.0, ..SelectParams::default() },
        SelectParams { max_people: Some(3), ..SelectParams::default() },
        SelectParams { force: Some(40), ..SelectParams::default() },
        SelectParams { force: Some(10000), ..SelectParams::default() },
    ];
    let broken = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    for gpu in gpus(&[1]) {
        // None, some, and all are broken.
        for (every, params) in [0, 3, 7, 1].into_iter().flat_map(|n| cases.map(|case| (n, case))) {
            let mut rig = Rig::new(&gpu, &plan);
            keep_selection(&mut rig);
            let mut rng = Rng(every + 3);
            let mut maps = Vec::new();
            for (level, &(h, w, stride)) in levels.iter().zip(&shapes) {
                let n = h * w;
                let mut cls = rng.normals(n, 3.0);
                let mut bbox = rng.normals(n * 4, 0.7);
                for i in (0..n).filter(|i| every > 0 && (*i as u64).is_multiple_of(every)) {
                    // A size overflows where its logarithm is large.
                    match rng.0 >> 40 & 3 {
                        0 => cls[i] = f32::NAN,
                        1 => bbox[i * 4 + 2] = 200.0,
                        _ => bbox[i * 4 + i % 4] = broken[i % 3],
                    }
                    rng.unit();
                }
                rig.set(level.cls, &cls);
                rig.set(level.bbox, &bbox);
                maps.push((cls, bbox, h, w, stride));
            }
            let maps: Vec<LevelMaps<'_>> = maps
                .iter()
                .map(|(cls, bbox, h, w, stride)| LevelMaps {
                    cls,
                    bbox,
                    cls_pitch: 1,
                    bbox_pitch: 4,
                    h: *h,
                    w: *w,
                    stride: *stride,
                })
                .collect();
            let mut want = Vec::new();
            let not_finite = select(&maps, &params, &mut Default::default(), &mut want);
            rig.x.workspaces[0].input.write(0, bytemuck::bytes_of(&frame_header(&params))).unwrap();
            rig.run_device(|_| unreachable!("no convolutions")).unwrap();
            let mut count = Count::default();
            rig.x.workspaces[0].counts.read(0, bytemuck::bytes_of_mut(&mut count)).unwrap();
            let what = format!("{params:?}, every {every}th");
            let found = count.not_finite as usize;
            // With a limit the GPU looks at 32 candidates at a time.
            let same = if params.max_people.is_some() { found >= not_finite } else { found == not_finite };
            assert!(same && (not_finite > 0 || every == 0), "{what}: {found}, expected {not_finite}");
            let mut list = vec![Survivor::default(); count.people as usize];
            rig.x.workspaces[0].survivors.read(0, bytemuck::cast_slice_mut(&mut list)).unwrap();
            let got: Vec<_> = list.iter().map(|s| (s.level as usize, s.cell as usize)).collect();
            assert_eq!(got, want.iter().map(|c| (c.level, c.index)).collect::<Vec<_>>(), "{what}");
        }
    }
}

/// Candidates by number, where the ways to sort them meet: logits above the threshold on so many grids, equal ones
/// among them, and boxes that suppress each other.
#[test]
fn any_number_of_candidates_is_sorted_and_suppressed() {
    let shapes = [(60, 60, 8), (10, 10, 32)];
    let (plan, levels) = selection(&shapes);
    for gpu in gpus(&[1]) {
        let mut rig = Rig::new(&gpu, &plan);
        keep_selection(&mut rig);
        for n in [
            0usize, 1, 2, 31, 32, 33, 63, 65, 128, 129, 256, 257, 500, 512, 513, 1024, 1025, 2000, 2048, 2049,
        ] {
            let mut rng = Rng(n as u64 + 5);
            let total = 3700;
            // a step without a common factor with the number of grids scatters the candidates
            let mut logits = vec![-4.0; total];
            for i in 0..n {
                // one of few values: many are equal
                logits[i * 1531 % total] = (rng.unit() * 40.0).floor() / 8.0 - 2.0;
            }
            let boxes: Vec<f32> = rng
                .normals(total * 4, 0.5)
                .chunks(4)
                .flat_map(|b| [b[0], b[1], b[2] + 1.2, b[3] + 1.2])
                .collect();
            for (level, (from, to)) in levels.iter().zip([(0, 3600), (3600, total)]) {
                rig.set(level.cls, &logits[from..to]);
                rig.set(level.bbox, &boxes[from * 4..to * 4]);
            }
            let plain = SelectParams::default();
            let selects = [
                plain,
                SelectParams { max_people: Some(n / 3), ..plain },
                SelectParams { force: Some(n), ..plain },
            ];
            for select in selects.into_iter().take(if n > 600 { 1 } else { 3 }) {
                let header = frame_header(&select);
                rig.x.workspaces[0].input.write(0, bytemuck::bytes_of(&header)).unwrap();
                rig.r.set_options(&RunOptions { select, heatmaps: false });
                let last = plan.steps.len() - 1;
                rig.run_device(|_| unreachable!("no convolutions")).unwrap();
                rig.r.run_steps(last..last + 1);
                let workspace = &rig.x.workspaces[0];
                let mut count = Count::default();
                workspace.counts.read(0, bytemuck::bytes_of_mut(&mut count)).unwrap();
                let mut list = vec![Survivor::default(); count.people as usize];
                workspace.survivors.read(0, bytemuck::cast_slice_mut(&mut list)).unwrap();
                let got: Vec<_> = list.iter().map(|s| (s.level as usize, s.cell as usize)).collect();
                let want: Vec<_> = rig.r.people().iter().map(|p| (p.level, p.cell)).collect();
                assert!(
                    got == want,
                    "{n} candidates, {select:?}: {} people, expected {}",
                    got.len(),
                    want.len()
                );
                assert!(n < 500 || select.force.is_some() || want.len() < n, "nothing was suppressed");
            }
        }
    }
}

#[test]
fn survivors_beyond_the_capacity_are_counted() {
    for gpu in gpus(&[1]) {
        let (plan, levels) = selection(&[(3, 3, 16)]);
        let mut rig = Rig::new(&gpu, &plan);
        keep_selection(&mut rig);
        rig.set(levels[0].cls, &[1.0; 9]);
        rig.set(levels[0].bbox, &[0.0; 36]);
        let header = frame_header(&SelectParams { force: Some(7), ..SelectParams::default() });
        rig.x.workspaces[0].input.write(0, bytemuck::bytes_of(&header)).unwrap();
        rig.x.workspaces[0].capacity = 2;
        rig.run_device(|_| unreachable!("no convolutions")).unwrap();
        let mut count = Count::default();
        rig.x.workspaces[0].counts.read(0, bytemuck::bytes_of_mut(&mut count)).unwrap();
        assert_eq!((count.people, count.lost), (2, 5));
    }
}

fn people(n: usize, levels: &[(usize, usize, usize)], rng: &mut Rng) -> Vec<Person> {
    let person = |_| {
        let level = (rng.unit() * levels.len() as f32) as usize;
        let (h, w, stride) = levels[level];
        let cell = (rng.unit() * (h * w) as f32) as usize;
        // what fp32 represents, so that both sides see the same numbers
        let v: Vec<f64> = rng.normals(4, 1.0).iter().map(|&v| f64::from(v)).collect();
        let prior = [(cell % w * stride) as f64 + 7.5, (cell / w * stride) as f64 + 7.5];
        let round = |v: f64| f64::from(v as f32);
        Person {
            level,
            cell,
            score: 0.5,
            center: [round(prior[0] + 9.0 * v[0]), round(prior[1] + 9.0 * v[1])],
            size: [round((v[2] + 4.0).exp()), round((v[3] + 4.5).exp())],
            prior,
        }
    };
    (0..n).map(person).collect()
}

#[test]
fn survivors_get_their_level_s_linear_map() {
    let levels = [(3, 4, 16), (2, 2, 32)];
    // of the third, two tiles of people, which a single multiprocessor's blocks take in turn
    for (seed, n, cin, cout) in [(1, 1, 144, 50), (2, 0, 16, 16), (3, 61, 104, 67), (4, 16, 288, 33)] {
        for gpu in gpus_of_all_sizes(seed) {
            let mut rng = Rng(seed);
            let (mut plan, _) = selection(&[(8, 8, 16)]); // gives room for 64 survivors
            let (mut src, mut weight, mut bias) = (vec![], vec![], vec![]);
            for (h, w, _) in levels {
                src.push(plan.map("features", h, w, cin + 16).slice(8, cin));
                let values: Vec<f32> =
                    rng.normals(cin * cout, 0.1).iter().map(|&v| f16::from_f32(v).to_f32()).collect();
                weight.push(plan.tensor("w", &[cout, cin], values));
                bias.push(plan.tensor("b", &[cout], rng.normals(cout, 1.0)));
            }
            let dst = plan.rows("out", cout);
            plan.push("linear", Op::Pose(Pose::SurvivorLinear { src: src.clone(), weight, bias, dst }));
            let mut rig = survivor_rig(&gpu, &plan);
            fill(&mut rig, &src, &mut rng);
            let list = people(n, &levels, &mut rng);
            rig.set_people(&list);
            run_last(&mut rig);
            // tensor cores cut their fp32 sums off where the emulator rounds
            rig.close(dst, 5e-6, &format!("{n} survivors, {cin}->{cout}"));
        }
    }
}

/// A rig that runs a plan's last step only, on people given by hand.
fn survivor_rig(gpu: &Arc<dyn Gpu>, plan: &Plan) -> Rig {
    let mut rig = Rig::new(gpu, plan);
    let last = rig.x.schedule.groups.len() - 1;
    rig.x.schedule.groups.drain(..last);
    rig
}

fn run_last(rig: &mut Rig) {
    rig.run_device(|_| unreachable!("no convolutions")).unwrap();
    let steps = rig.r.plan().steps.len();
    rig.r.run_steps(steps - 1..steps);
}

#[test]
fn gated_attention_units_gate() {
    let (d, e, s) = (128, 256, 128);
    for (seed, tokens, n, scale) in [(1, 17, 3, 1.0), (2, 14, 1, 1.0), (3, 1, 2, 30.0), (0, 20, 2, 0.1)] {
        for gpu in gpus_of_all_sizes(seed) {
            let mut rng = Rng(seed + 20);
            let (mut plan, _) = selection(&[(4, 4, 16)]);
            let src = plan.rows("in", tokens * (d + 1)).slice(0, tokens * d);
            let dst = plan.rows("out", tokens * d);
            let round = |v: Vec<f32>| v.into_iter().map(|v| f16::from_f32(v).to_f32()).collect::<Vec<_>>();
            let gau = Gau {
                src,
                dst,
                tokens,
                dim: d,
                expansion: e,
                key_dim: s,
                norm_gain: plan.tensor("g", &[1], vec![1.3]),
                uv: plan.tensor("uv", &[2 * e + s, d], round(rng.normals((2 * e + s) * d, 0.15))),
                q_gain: plan.tensor("qg", &[s], rng.normals(s, 1.0)),
                q_bias: plan.tensor("qb", &[tokens, s], rng.normals(tokens * s, 1.0)),
                k_gain: plan.tensor("kg", &[s], rng.normals(s, 1.0)),
                k_bias: plan.tensor("kb", &[tokens, s], rng.normals(tokens * s, 1.0)),
                out: plan.tensor("o", &[d, e], round(rng.normals(d * e, 0.1))),
                residual_gain: plan.tensor("r", &[d], rng.normals(d, 1.0)),
            };
            plan.push("gau", Op::Pose(Pose::Gau(gau)));
            let mut rig = survivor_rig(&gpu, &plan);
            let list = people(n, &[(4, 4, 16)], &mut rng);
            rig.set_people(&list);
            let values = rng.normals(n * tokens * d, scale);
            rig.set(src, &values);
            run_last(&mut rig);
            // normalised tokens enter as fp16, and attention squares the rounding error
            rig.close(dst, 2e-3, &format!("{tokens} tokens, {n} people, scale {scale}"));
        }
    }
}

#[test]
fn bins_decode_to_pixels() {
    for (seed, tokens, n, bins, scale) in [
        (1, 17, 3, (192, 256), 0.3),
        (2, 14, 1, (192, 256), 1.5),
        (0, 3, 5, (7, 2), 0.3),
        (2, 20, 3, (33, 255), 5.0),
        (3, 17, 6, (191, 34), 1e-3),
    ] {
        for gpu in gpus_of_all_sizes(seed) {
            let mut rng = Rng(seed + 30);
            let (mut plan, _) = selection(&[(40, 40, 16)]);
            let src = plan.rows("in", tokens * 128);
            let dst = plan.rows("out", tokens * 2);
            let mut axis =
                |bins| BinAxis { bins, weight: plan.tensor("w", &[128, 128], rng.normals(128 * 128, 0.1)) };
            let (x, y) = (axis(bins.0), axis(bins.1));
            let (dim, pe_dim, temperature, padding) = (128, 128, 300.0, 1.25);
            let decode = BinDecode { src, dst, tokens, dim, pe_dim, temperature, padding, x, y };
            plan.push("dcc", Op::Pose(Pose::BinDecode(decode)));
            let mut rig = survivor_rig(&gpu, &plan);
            let list = people(n, &[(40, 40, 16)], &mut rng);
            rig.set_people(&list);
            let values = rng.normals(n * tokens * 128, scale);
            rig.set(src, &values);
            let memory = |bins: usize| Memory::new(&gpu, n * tokens * bins * 4, Purpose::Working).unwrap();
            rig.heat = Some([memory(bins.0), memory(bins.1)]);
            run_last(&mut rig);
            for (memory, want) in rig.heat.as_ref().unwrap().iter().zip(rig.r.heatmaps()) {
                let mut got = vec![0f32; want.len()];
                memory.read(0, bytemuck::cast_slice_mut(&mut got)).unwrap();
                let (relative, _) = distance(&got, want);
                // a GPU's fast sine and cosine are off by 5e-7, over 128 of them with factors of up to 20
                assert!(relative < 2e-4, "{tokens} keypoints, {bins:?} bins: heatmaps {relative:.2e}");
            }
            let (_, largest) = rig.error(dst);
            assert!(largest < 5e-3, "{tokens} keypoints, {bins:?} bins: {largest:.2e} px");
        }
    }
}
