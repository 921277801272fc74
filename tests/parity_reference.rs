//! The f64 reference against the authors' PyTorch, for every dump of tests/data/parity.

use rtmo_engine::backend::reference::Reference;
use rtmo_engine::parity::{Dump, Tolerance};
use std::path::Path;

/// The reference computes in f64, as the dumps were made; what remains is the folded weights' rounding to f32, 6e-8
/// each, and the dumps' own rounding to f32.
const F64: Tolerance = Tolerance {
    map: 2e-6,
    head: 2e-6,
    score: 2e-6,
    undecided: 0.0,
    overlap: 0.0,
    keypoint_mean: 5e-4,
    keypoint_99: 1e-2,
    keypoint: 1e-2,
    bbox: 5e-4,
    heatmap: 1e-4,
};

fn check(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/parity/{name}.safetensors"));
    let dump = Dump::open(path).unwrap();
    let plan = dump.plan(&dump.weights()).unwrap();
    let report = dump.compare(&mut Reference::new(plan)).unwrap();
    println!("{name}:\n{report}");
    report.check(&F64).unwrap_or_else(|beyond| panic!("{name}: {beyond}"));
}

#[test]
fn rtmo_t() {
    check("t");
}

#[test]
fn rtmo_s() {
    check("s");
}

#[test]
fn rtmo_m() {
    check("m");
}

#[test]
fn rtmo_l() {
    check("l");
}

#[test]
fn rtmo_r50() {
    check("r50");
}

#[test]
fn crowdpose_keypoints_on_a_wide_input() {
    check("s14-wide");
}

#[test]
fn tall_input() {
    check("t-tall");
}

#[test]
fn three_levels() {
    check("s-three-levels");
}

#[test]
fn three_levels_of_crowdpose_keypoints() {
    check("m14-three-levels");
}
