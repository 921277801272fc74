//! The CPU backend against the authors' PyTorch: every dump of tests/data/parity on the best instruction set, the
//! smallest on all, and with RTMO_PARITY_DUMP and RTMO_PARITY_WEIGHTS a dump of one's own (tools/dump_reference.py).
//! With RTMO_ISA set all of it runs on that one.

mod common;

use rtmo_engine::backend::Precision;
use rtmo_engine::backend::cpu::{CpuExecutor, CpuOptions, Isa};
use rtmo_engine::parity::{Dump, Tolerance};
use rtmo_engine::weights::Checkpoint;
use std::path::Path;

fn compare(name: &str, dump: &Dump, weights: &Checkpoint, isa: Isa, threads: usize) {
    let plan = dump.plan(weights).unwrap();
    let options = CpuOptions { threads, isa, precision: Precision::Fp32, keep_maps: true };
    let report = dump.compare(&mut CpuExecutor::new(plan, options).unwrap()).unwrap();
    println!("{name}, {}:\n{report}", isa.name());
    report.check(&Tolerance::F32).unwrap_or_else(|beyond| panic!("{name}, {}: {beyond}", isa.name()));
}

fn dump(name: &str) -> Dump {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity");
    Dump::open(folder.join(format!("{name}.safetensors"))).unwrap()
}

fn best() -> Isa {
    common::isas()[0]
}

macro_rules! best {
    ($($test:ident: $name:literal,)*) => {
        $(#[test]
        fn $test() {
            let dump = dump($name);
            compare($name, &dump, &dump.weights(), best(), 2);
        })*
    };
}

best! {
    rtmo_t: "t",
    rtmo_s: "s",
    rtmo_m: "m",
    rtmo_l: "l",
    rtmo_r50: "r50",
    crowdpose_keypoints_on_a_wide_input: "s14-wide",
    tall_input: "t-tall",
    three_levels: "s-three-levels",
    three_levels_of_crowdpose_keypoints: "m14-three-levels",
}

#[test]
fn every_instruction_set() {
    let dump = dump("t-tall");
    let weights = dump.weights();
    for (i, isa) in common::isas().into_iter().enumerate() {
        compare("t-tall", &dump, &weights, isa, 1 + i % 3);
    }
}

#[test]
fn a_dump_of_ones_own() {
    match (std::env::var("RTMO_PARITY_DUMP"), std::env::var("RTMO_PARITY_WEIGHTS")) {
        (Ok(path), Ok(weights)) => {
            compare(&path, &Dump::open(&path).unwrap(), &Checkpoint::open(weights).unwrap(), best(), 2);
        }
        (Err(_), Err(_)) => {
            common::not_run("RTMO_PARITY_DUMP and RTMO_PARITY_WEIGHTS name no dump and its weights");
        }
        _ => panic!("RTMO_PARITY_DUMP and RTMO_PARITY_WEIGHTS belong together, and one of them is not set"),
    }
}
