//! A skeleton's JSON: what is read has ends for all bones and a counterpart for each keypoint.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rtmo_engine::Skeleton;
use std::path::Path;

fuzz_target!(
    init: plant(),
    |text: &str| {
        let Ok(skeleton) = Skeleton::from_json(text) else { return };
        let n = skeleton.len();
        assert_eq!(skeleton.keypoints().len(), n);
        assert!(skeleton.bones().iter().all(|bone| bone.from < n && bone.to < n && bone.from != bone.to));
        for k in 0..n {
            assert_eq!(skeleton.mirrored(skeleton.mirrored(k)), k);
        }
    }
);

fn plant() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/skeleton");
    std::fs::create_dir_all(&corpus).expect("a folder for the corpus");
    let seeds = [
        r##"{"name": "arm", "keypoints": ["a", {"name": "b", "color": "#0102ff"}, "left_c", "right_c"],
            "bones": [["a", "b"], ["b", "left_c", "#ffffff"]], "flip": [["left_c", "right_c"]]}"##,
        r#"{"categories": [{"id": 1, "keypoints": ["a", "b"], "skeleton": [[1, 2]]}, {"id": 2}]}"#,
    ];
    for (i, seed) in seeds.into_iter().enumerate() {
        std::fs::write(corpus.join(format!("seed{i}")), seed).expect("a corpus that can be written");
    }
}
