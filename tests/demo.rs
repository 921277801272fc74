//! Trained weights, `weights/rtmo-n-demo.safetensors`, on `examples/rendered.jpg` and photos: real scores, real suppression. The
//! scene's exact keypoints are in tests/data/demo (tools/synth/example.py).

mod common;

use rtmo_engine::backend::cpu::{CpuExecutor, CpuOptions, Isa};
use rtmo_engine::backend::reference::Reference;
use rtmo_engine::backend::{Device, Executor, Frame, Placement, Precision, RunOptions};
use rtmo_engine::parity::{self, Tolerance};
use rtmo_engine::pose::Letterbox;
use rtmo_engine::pose::model;
use rtmo_engine::weights::Checkpoint;
use rtmo_engine::{Engine, EngineOptions, Person, Photo};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Deviations of COCO's keypoints: k of its OKS, halved.
const SIGMAS: [f64; 17] = [
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087,
    0.089, 0.089,
];

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The input on which precisions are compared: the reference in f64 takes minutes on the model's own.
const SMALL: (usize, usize) = (160, 160);

fn checkpoint() -> Checkpoint {
    Checkpoint::open(file("weights/rtmo-n-demo.safetensors")).unwrap()
}

fn scene() -> (Photo, Vec<Value>) {
    let text = std::fs::read_to_string(file("tests/data/demo/rendered.json")).unwrap();
    let scene: Value = serde_json::from_str(&text).unwrap();
    (Photo::open(file("examples/rendered.jpg")).unwrap(), scene["people"].as_array().unwrap().clone())
}

/// Object keypoint similarity over the annotated keypoints.
fn oks(person: &Person, truth: &Value) -> f64 {
    let area = truth["area"].as_f64().unwrap();
    let (mut sum, mut count) = (0.0, 0.0);
    for ((found, exact), sigma) in
        person.keypoints.iter().zip(truth["keypoints"].as_array().unwrap()).zip(SIGMAS)
    {
        let at = |i: usize| exact[i].as_f64().unwrap();
        if at(2) > 0.0 {
            let squared = (f64::from(found.x) - at(0)).powi(2) + (f64::from(found.y) - at(1)).powi(2);
            sum += (-squared / (2.0 * area * (2.0 * sigma).powi(2))).exp();
            count += 1.0;
        }
    }
    sum / count
}

#[test]
fn finds_the_people_of_the_rendered_scene() {
    let placement = Placement { device: Device::Cpu, ..Placement::default() };
    let options = EngineOptions::default().with_placement(placement).with_score_thr(0.5);
    let mut engine = Engine::from_checkpoint(&checkpoint(), options).unwrap();
    let (photo, truths) = scene();
    let people = engine.infer(&[photo]).unwrap().remove(0);
    println!("{} people at {:?}, {} in the scene", people.len(), engine.input_size(), truths.len());
    assert_eq!(people.len(), truths.len());
    let best = |truth| people.iter().map(|person| oks(person, truth)).fold(0.0, f64::max);
    let found: Vec<f64> = truths.iter().map(best).collect();
    println!("OKS {found:.3?}");
    // Chance gives less than 0.1, and COCO's AP50 counts a person from 0.5 on. The model has seen no rendered people: of the one
    // with a long stride it sees the legs closed.
    assert!(
        found.iter().all(|&oks| oks > 0.2) && found.iter().filter(|&&oks| oks > 0.5).count() >= 2,
        "{found:?}"
    );
}

/// Every instruction set in f32 against the reference in f64, maps, people and heatmaps, on a scene and on photos.
#[test]
fn single_precision_agrees_with_double_on_trained_weights() {
    let checkpoint = checkpoint();
    let plan = || model::build(&checkpoint, SMALL).unwrap();
    for name in ["rendered", "astronaut", "apollo11"] {
        let photo = Photo::open(file(&format!("examples/{name}.jpg"))).unwrap();
        let mut exact = Reference::new(plan());
        let letterbox = Letterbox::new((photo.width, photo.height), exact.plan().input_size());
        let frame = Frame::new(&photo, &letterbox);
        let options = RunOptions { heatmaps: true, ..RunOptions::default() };
        for isa in Isa::all() {
            let cpu = CpuOptions { threads: 2, isa, precision: Precision::Fp32, keep_maps: true };
            let mut found = CpuExecutor::new(plan(), cpu).unwrap();
            let report = parity::compare(&mut exact, &mut found, frame, &options).unwrap();
            println!("{name}, {}:\n{report}", isa.name());
            assert!(
                !report.people.keypoints.is_empty() && !report.people.heatmaps.is_empty(),
                "{name}: nobody"
            );
            let tolerance = Tolerance::of(Precision::Fp32);
            report.check(&tolerance).unwrap_or_else(|beyond| panic!("{name}, {}:\n{beyond}", isa.name()));
            // Single precision has 24 bits; seventy layers and a softmax over coordinates up to the input's side of some
            // 200 px leave three digits after the point.
            let worst = report.people.keypoints.iter().copied().fold(0.0, f64::max);
            assert!(worst < 0.02, "{name}, {}: a keypoint is {worst} px off", isa.name());
        }
    }
}

/// bf16, by the instructions or by their emulation, within its promise.
#[test]
fn bf16_keeps_its_promise_on_trained_weights() {
    let checkpoint = checkpoint();
    let (photo, _) = scene();
    let prepare = |isa, precision| {
        let plan = model::build(&checkpoint, SMALL).unwrap();
        CpuExecutor::new(plan, CpuOptions { threads: 2, isa, precision, keep_maps: true }).unwrap()
    };
    let isas = common::isas_bf16();
    if isas.is_empty() {
        common::not_run("RTMO_ISA names an instruction set without bf16");
    }
    for isa in isas {
        let (mut exact, mut found) = (prepare(isa, Precision::Fp32), prepare(isa, Precision::Bf16));
        let letterbox = Letterbox::new((photo.width, photo.height), exact.plan().input_size());
        let frame = Frame::new(&photo, &letterbox);
        let report = parity::compare(&mut exact, &mut found, frame, &RunOptions::default()).unwrap();
        println!("{}:\n{report}", isa.name());
        report.check(&Tolerance::BF16).unwrap_or_else(|beyond| panic!("{}:\n{beyond}", isa.name()));
        // The median of a network that merely looks alike would be pixels.
        let mut keypoints = report.people.keypoints.clone();
        keypoints.sort_by(f64::total_cmp);
        assert!(keypoints[keypoints.len() / 2] < 0.1, "{}: half the keypoints are off", isa.name());
    }
}
