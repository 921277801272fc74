//! Annotations, and results of theirs: what is read is judged, in memory that the files' size bounds.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rtmo_engine::eval::{Annotations, Benchmark, Results, Rule, evaluate};
use std::path::Path;

#[path = "../../../tests/weights/memory.rs"]
mod memory;

/// What both benchmarks' numbers are between.
fn judge(file: &[u8], benchmark: Benchmark) {
    let (annotations, memory) = memory::peak(|| Annotations::read(file, Path::new("fuzzed.json"), benchmark));
    assert!(memory <= 100_000 + Annotations::MEMORY * file.len(), "{memory} bytes for a file of {}", file.len());
    let Ok(annotations) = annotations else { return };
    let results = Results::new(&annotations);
    for rule in [Rule::Xtcocotools, Rule::Pycocotools] {
        let metrics = evaluate(&annotations, &results, rule).expect("no results");
        // Nobody is found.
        assert!(metrics.iter().all(|(_, value)| value.is_none_or(|value| value == 0.0)));
    }
    let _ = annotations.first(1);
}

fuzz_target!(
    init: plant(),
    |file: &[u8]| {
        judge(file, Benchmark::Coco);
        judge(file, Benchmark::CrowdPose);
    }
);

fn plant() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/annotations");
    std::fs::create_dir_all(&corpus).expect("a folder for the corpus");
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/eval");
    for case in std::fs::read_dir(cases).expect("the tests' cases").flatten() {
        if case.file_name().to_string_lossy().ends_with(".annotations.json") {
            std::fs::copy(case.path(), corpus.join(case.file_name())).expect("a corpus that can be written");
        }
    }
}
