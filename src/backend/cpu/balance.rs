//! How much of many threads' time the cut into items leaves for work.

use super::isa::with_isa;
use super::phase::{Context, Rows, State};
use super::prepare::{GUARD, prepare};
use super::{CpuOptions, Isa};
use crate::backend::{Frame, Precision, RunOptions};
use crate::plan::{Op, Plan, Pose};
use crate::pose::Letterbox;
use crate::pose::model::{self, Variant};
use crate::vision::Photo;
use std::cell::UnsafeCell;

/// The part of `threads` times the run's time in which threads have items, if all items of a phase take the same time and
/// multiply-adds of all phases do. Steps for survivors are left out.
fn busy(plan: &Plan, isa: Isa, threads: usize) -> f64 {
    let mut plan = plan.clone();
    let flops: Vec<u64> = plan.steps.iter().map(|step| plan.flops(step)).collect();
    let dense: Vec<bool> = plan
        .steps
        .iter()
        .map(|step| {
            !matches!(step.op, Op::Pose(Pose::SurvivorLinear { .. } | Pose::Gau(_) | Pose::BinDecode(_)))
        })
        .collect();
    let options = CpuOptions { threads, isa, precision: Precision::Fp32, keep_maps: false };
    let arena = plan.arena(16, GUARD, false);
    let prepared = with_isa!(isa, simd => prepare(simd, &mut plan, &arena, &options));
    let photo = Photo { width: 1, height: 1, bgr: vec![0; 3] };
    let letterbox = Letterbox::new((1, 1), plan.input_size());
    let state = UnsafeCell::new(State {
        selection: Default::default(),
        survivors: Vec::new(),
        not_finite: 0,
        rows: Vec::new(),
        heatmaps: Rows::new(0),
    });
    let options = RunOptions::default();
    let frame = Frame::new(&photo, &letterbox);
    let context = Context { base: std::ptr::null_mut(), options: &options, frame, state: &state };
    let (mut work, mut time) = (0.0, 0.0);
    for (i, phase) in prepared.phases.iter().enumerate().filter(|(_, phase)| dense[phase.step]) {
        // The first phase of a step is taken for all of it.
        if i > 0 && prepared.phases[i - 1].step == phase.step {
            continue;
        }
        // SAFETY: no phase runs, and those for survivors are left out.
        let items = unsafe { phase.work.items(&context) };
        let flops = flops[phase.step] as f64;
        work += flops;
        time += flops * items.div_ceil(threads) as f64 * threads as f64 / items as f64;
    }
    work / time
}

/// docs/performance.md has the table that this prints.
#[test]
fn items_keep_many_threads_busy() {
    println!("threads        8    16    32    64");
    for variant in [Variant::T, Variant::S, Variant::L] {
        let checkpoint = model::random(variant, 17, 2, 0);
        let size = variant.default_input();
        let plan = model::build(&checkpoint, size).unwrap();
        // Vectors of 16 lanes, which have the fewest panels to share.
        let isa = Isa::all().find(|isa| isa.name() == "portable16").unwrap();
        let busy: Vec<f64> = [8, 16, 32, 64].map(|threads| busy(&plan, isa, threads)).to_vec();
        println!("{variant:10} {}", busy.iter().map(|b| format!("{:5.0}%", 100.0 * b)).collect::<String>());
        assert!(busy.iter().all(|&busy| busy > 0.9), "{variant}: {busy:?}");
    }
}
