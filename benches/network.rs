//! Whole networks of every published size at their default inputs, from the letterbox to keypoints.
//!
//! ```text
//! cargo bench --bench network            all four
//! cargo bench --bench network -- s       RTMO-s
//! ```
//!
//! Elements are floating-point operations of the plain algorithm: `Gelem/s` reads as GFLOP/s.

#![allow(missing_docs)] // of the function that criterion_group! makes

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rtmo_engine::backend::cpu::{CpuExecutor, CpuOptions};
use rtmo_engine::backend::{Executor, Frame, RunOptions, SelectParams};
use rtmo_engine::pose::Letterbox;
use rtmo_engine::pose::model::{self, Variant};
use rtmo_engine::vision::Photo;
use std::time::Duration;

fn networks(criterion: &mut Criterion) {
    let options = CpuOptions::detect().expect("RTMO_ISA names an instruction set");
    println!("{}, {} threads", options.isa.name(), options.threads);
    let select = SelectParams { force: Some(4), ..SelectParams::default() };
    let run = RunOptions { select, heatmaps: false };
    let mut group = criterion.benchmark_group("network");
    group.sample_size(20).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(4));
    for variant in Variant::ALL {
        let size = variant.default_input();
        let plan = model::build(&model::random(variant, 17, 2, 1), size).expect("generated weights");
        let flops = plan.steps.iter().map(|step| plan.flops(step)).sum();
        group.throughput(Throughput::Elements(flops));
        let (width, height) = (640, 480);
        let bgr = (0..width * height * 3).map(|i| (i * 7 % 251) as u8).collect();
        let photo = Photo { width, height, bgr };
        let letterbox = Letterbox::new((width, height), size);
        let mut cpu = None;
        group.bench_function(variant.name(), |bencher| {
            let cpu = cpu.get_or_insert_with(|| {
                CpuExecutor::new(plan.clone(), options).expect("an available instruction set")
            });
            let frame = Frame::new(&photo, &letterbox);
            bencher.iter(|| cpu.run(&[frame], &run).expect("a run"));
        });
    }
    group.finish();
}

criterion_group!(benches, networks);
criterion_main!(benches);
