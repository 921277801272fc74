//! An image file, as far as the network input: decoder, Exif orientation, both letterboxes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rtmo_engine::vision::decode::MAX_PIXELS;
use rtmo_engine::pose::Letterbox;
use rtmo_engine::vision::Photo;
use std::path::Path;

fuzz_target!(
    init: plant(),
    |file: &[u8]| {
        let Ok(photo) = Photo::decode(file, Path::new("fuzzed")) else { return };
        let size = (photo.width, photo.height);
        assert!(size.0 > 0 && size.1 > 0 && size.0 * size.1 <= MAX_PIXELS);
        assert_eq!(photo.bgr.len(), size.0 * size.1 * 3);
        let input = (96, 64);
        let mut row = vec![0; input.0 * 3];
        for letterbox in [Letterbox::new(size, input), Letterbox::rtmlib(size, input)] {
            for y in 0..input.1 {
                letterbox.sample_row(&photo, y, &mut row);
            }
            assert!(letterbox.to_photo([48.0, 32.0]).iter().all(|v| v.is_finite()));
        }
    }
);

/// The tests' small pictures of every format.
fn plant() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let corpus = here.join("corpus/photo");
    std::fs::create_dir_all(&corpus).expect("a folder for the corpus");
    for file in std::fs::read_dir(here.join("../../tests/data/vision")).expect("the tests' pictures") {
        let file = file.expect("a folder that can be read");
        if file.path().extension().is_none_or(|suffix| suffix != "json") {
            std::fs::copy(file.path(), corpus.join(file.file_name())).expect("a corpus that can be written");
        }
    }
}
