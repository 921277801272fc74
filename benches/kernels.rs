//! Kernels at the network's own shapes: every distinct step of RTMO-t, -s and -l, alone, its weights and maps warm in
//! the caches.
//!
//! ```text
//! cargo bench --bench kernels                         everything (some minutes)
//! cargo bench --bench kernels -- 's/.*conv 3x3'       what matches a regular expression
//! RTMO_ISA=portable cargo bench --bench kernels -- l/ another instruction set
//! ```
//!
//! Elements are floating-point operations of the plain algorithm, two a multiply-add: `Gelem/s` reads as GFLOP/s, and
//! Winograd may exceed the machine's peak.

#![allow(missing_docs)] // of the function that criterion_group! makes

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Rng, distinct, isolate, write};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rtmo_engine::backend::cpu::{CpuExecutor, CpuOptions};
use rtmo_engine::backend::{RunOptions, SelectParams};
use rtmo_engine::plan::{Extent, Op, Pose};
use rtmo_engine::pose::model::{self, Variant};
use std::time::Duration;

/// Survivors of the steps after selection.
const PEOPLE: usize = 4;

fn kernels(criterion: &mut Criterion) {
    let options =
        CpuOptions { keep_maps: true, ..CpuOptions::detect().expect("RTMO_ISA names an instruction set") };
    println!("{}, {} threads", options.isa.name(), options.threads);
    for variant in [Variant::T, Variant::S, Variant::L] {
        let plan = model::build(&model::random(variant, 17, 2, 1), variant.default_input())
            .expect("generated weights");
        let mut group = criterion.benchmark_group(variant.name());
        group
            .sample_size(20)
            .warm_up_time(Duration::from_millis(200))
            .measurement_time(Duration::from_millis(600));
        let select = plan
            .steps
            .iter()
            .position(|s| matches!(s.op, Op::Pose(Pose::Select { .. })))
            .expect("a network selects");
        for (step, name) in distinct(&plan) {
            let op = &plan.steps[step].op;
            if matches!(op, Op::Pose(Pose::Letterbox { .. }) | Op::Pose(Pose::Select { .. })) {
                continue;
            }
            let survivors = op.writes().is_some_and(|v| plan.buffer_of(v).extent == Extent::Rows);
            let times = if survivors { PEOPLE as u64 } else { 1 };
            let flops = times * plan.flops(&plan.steps[step]);
            if flops > 0 {
                group.throughput(Throughput::Elements(flops));
            }
            // Prepared only if the filter lets it run.
            let mut prepared = None;
            let name = name.replace('/', " stride ");
            group.bench_function(name, |bencher| {
                let cpu = prepared.get_or_insert_with(|| {
                    let steps = if survivors { vec![select, step] } else { vec![step] };
                    let small = isolate(&plan, &steps);
                    let mut cpu =
                        CpuExecutor::new(small.clone(), options).expect("an available instruction set");
                    let mut rng = Rng::new(1);
                    for view in small.steps.iter().flat_map(|s| s.op.reads()) {
                        if let Extent::Map { h, w } = plan.buffer_of(view).extent
                            && cpu.locate(view).is_some()
                        {
                            write(&mut cpu, view, &rng.values(h * w * view.c, 1.0));
                        }
                    }
                    if survivors {
                        cpu.run_steps(0..1, &forced());
                    }
                    cpu
                });
                let last = usize::from(survivors);
                bencher.iter(|| cpu.run_steps(last..last + 1, &forced()));
            });
        }
        group.finish();
    }
}

fn forced() -> RunOptions {
    RunOptions { select: SelectParams { force: Some(PEOPLE), ..SelectParams::default() }, heatmaps: false }
}

criterion_group!(benches, kernels);
criterion_main!(benches);
