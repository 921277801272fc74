//! A file of COCO annotations, and the ids that it gives.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rtmo_engine::output::ImageIds;
use std::path::Path;

fuzz_target!(
    init: plant(),
    |file: &[u8]| {
        let Ok(ids) = ImageIds::read(file, Path::new("fuzzed.json")) else { return };
        for photo in ["a.jpg", "/data/a/1.jpg", "", "..", "/"] {
            let _ = ids.of(Path::new(photo));
        }
        // The first image of those that are plain JSON has the id that it says, if no other has its name.
        let Ok(plain) = serde_json::from_slice::<serde_json::Value>(file) else { return };
        let Some(images) = plain["images"].as_array() else { return };
        if let [image] = &images[..]
            && let Some(name) = image["file_name"].as_str()
            && !name.is_empty() && !name.contains(['/', '.', '\\', '\0'])
        {
            let said = image["id"].as_f64();
            match ids.of(Path::new(name)) {
                Ok(id) => assert_eq!(Some(id as f64), said),
                // An id that is no whole number, or beyond those that f64 counts one by one.
                Err(_) => assert!(!said.is_some_and(|id| id >= 0.0 && id.fract() == 0.0 && id < 9e15)),
            }
        }
    }
);

fn plant() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/coco");
    std::fs::create_dir_all(&corpus).expect("a folder for the corpus");
    let seeds = [
        r#"{"images": [{"id": 41, "file_name": "a.jpg"}, {"id": 5.0, "file_name": "a/1.jpg"}]}"#,
        r#"{"images": [{"file_name": "x", "id": 5e0}], "annotations": [{"area": NaN, "b": -Infinity}]}"#,
        "\u{feff}{\"images\": [{\"id\": 1, \"file_name\": \"\\u00e9\\\"\"}], \"x\": [[[[Infinity]]]]}",
    ];
    for (i, seed) in seeds.into_iter().enumerate() {
        std::fs::write(corpus.join(format!("seed{i}")), seed).expect("a corpus that can be written");
    }
}
