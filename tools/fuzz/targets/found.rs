//! COCO results for annotations of three images: what is read is judged, in memory that the file's size bounds.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rtmo_engine::eval::{Annotations, Benchmark, Results, Rule, evaluate};
use std::path::Path;

#[path = "../../../tests/weights/memory.rs"]
mod memory;

fn annotations() -> Annotations {
    let keypoints = vec!["9,8,2"; 17].join(",");
    let person = |id: u32, image: u32, crowd: u32| {
        format!(
            r#"{{"id":{id},"image_id":{image},"category_id":1,"bbox":[1,2,30,40],"area":1024,"iscrowd":{crowd},"keypoints":[{keypoints}]}}"#
        )
    };
    let people = [person(1, 1, 0), person(2, 1, 1), person(3, 2, 0)].join(",");
    let text = format!(
        r#"{{"images":[{{"id":1}},{{"id":2}},{{"id":3}}],"categories":[{{"id":1}}],"annotations":[{people}]}}"#
    );
    Annotations::read(text.as_bytes(), Path::new("annotations.json"), Benchmark::Coco).expect("annotations")
}

fuzz_target!(
    init: plant(),
    |file: &[u8]| {
        let annotations = annotations();
        let (results, memory) = memory::peak(|| Results::read(file, Path::new("fuzzed.json"), &annotations));
        assert!(memory <= 100_000 + Results::MEMORY * file.len(), "{memory} bytes for a file of {}", file.len());
        let Ok(results) = results else { return };
        for rule in [Rule::Xtcocotools, Rule::Pycocotools] {
            let metrics = evaluate(&annotations, &results, rule).expect("results of these annotations");
            assert!(metrics.iter().all(|(_, value)| value.is_none_or(|value| (0.0..=1.0).contains(&value))));
        }
    }
);

fn plant() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/found");
    std::fs::create_dir_all(&corpus).expect("a folder for the corpus");
    let keypoints = |at: &str| vec![at; 17].join(",");
    let (near, far) = (keypoints("9,8,0.5"), keypoints("90,-8,0"));
    let seeds = [
        format!(r#"[{{"image_id":1,"category_id":1,"keypoints":[{near}],"score":0.5,"bbox":[1,2,30,40]}}]"#),
        format!(
            r#"[{{"score":1e0,"image_id":2.0,"category_id":1,"keypoints":[{far}]}},{{"image_id":3,"category_id":1,"keypoints":[{near}],"score":-1,"x":NaN}}]"#
        ),
    ];
    for (i, seed) in seeds.into_iter().enumerate() {
        std::fs::write(corpus.join(format!("seed{i}")), seed).expect("a corpus that can be written");
    }
}
