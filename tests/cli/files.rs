//! What a run reads is never lost to what it writes, and what will fail leaves nothing behind.

use super::{SMALL, expect, names, picture, workplace};
use rtmo_engine::vision::encode;
use std::fs;

#[test]
fn what_will_fail_fails_before_the_work() {
    let folder = workplace();
    let at = folder.path();
    fs::create_dir(at.join("empty")).unwrap();
    fs::write(at.join("file"), b"").unwrap();
    let (_, err) = expect(2, at, &["infer", "empty"]);
    assert!(err.contains("holds no image"), "{err}");
    let (_, err) = expect(1, at, &["infer", "a.png", "--out", "file/below"]);
    assert!(err.contains("file/below"), "{err}");
    let (_, err) = expect(1, at, &["infer", "a.png", "--no-draw", "--json", "no/such/folder/p.jsonl"]);
    assert!(err.contains("no/such/folder/p.jsonl"), "{err}");
    let (_, err) = expect(2, at, &["infer", "a.png", "--model", "rtmo-l"]);
    assert!(err.contains("no weights for model"), "{err}");
    let (_, err) = expect(2, at, &["infer", "a.png", "--coco", "c.json"]);
    assert!(err.contains("a.png: COCO results take") && err.contains("--coco-images FILE"), "{err}");
    let before = fs::read(at.join("a.png")).unwrap();
    let (_, err) = expect(2, at, &["infer", "a.png", "--out", "."]);
    assert!(err.contains("would replace a photo"), "{err}");
    assert_eq!(fs::read(at.join("a.png")).unwrap(), before);
    let (_, err) = expect(1, at, &["infer", "a.png", "-m", "rtmo-t", "--device", "cpu", "--fp16"]);
    assert!(err.contains("fp16"), "{err}");
    assert_eq!(names(at), ["a.png", "b.jpg", "empty", "file", "weights"]);
}

#[test]
fn pictures_replace_earlier_ones_only() {
    let folder = workplace();
    let at = folder.path();
    let infer = |status: i32, more: &[&str]| expect(status, at, &[&["infer"], more, &SMALL].concat());
    // An original beside the photo, which is not part of the run, has the name of its picture.
    fs::rename(at.join("b.jpg"), at.join("a.jpg")).unwrap();
    fs::copy(at.join("a.png"), at.join("a.bmp")).unwrap();
    let original = fs::read(at.join("a.jpg")).unwrap();
    let (_, err) = infer(2, &["a.bmp", "--out", "."]);
    assert!(err.contains("a.bmp: its picture, ./a.jpg, would replace a file that is no earlier"), "{err}");
    assert_eq!(fs::read(at.join("a.jpg")).unwrap(), original);

    // Of both kinds: written, replaced, and pages too.
    let pictures = || names(&at.join("out"));
    infer(0, &["a.bmp", "a.png", "--out", "out"]);
    assert_eq!(pictures(), ["a.jpg", "a.png"]);
    let forced = ["a.bmp", "a.png", "--out", "out", "--heatmaps", "--score-thr", "0"];
    infer(0, &forced);
    let pages: Vec<String> = pictures().into_iter().filter(|name| name.contains("person")).collect();
    assert!(!pages.is_empty());
    infer(0, &forced);

    // A page over an original: that photo fails, the other does not.
    let page = at.join("out").join(&pages[0]);
    fs::write(&page, &original).unwrap();
    let (_, err) = infer(1, &forced);
    assert!(err.contains(&pages[0]) && err.contains("would be lost"), "{err}");
    assert_eq!(fs::read(&page).unwrap(), original);
}

#[test]
fn no_output_replaces_an_input() {
    let folder = workplace();
    let at = folder.path();
    fs::copy(at.join("b.jpg"), at.join("a.jpg")).unwrap();
    fs::create_dir(at.join("x")).unwrap();
    fs::copy(at.join("b.jpg"), at.join("x/p.jpg")).unwrap();
    fs::copy(at.join("a.png"), at.join("p.person1.png")).unwrap();
    fs::copy(at.join("a.png"), at.join("a.bmp")).unwrap();
    fs::write(at.join("list.json"), r#"{"images": [{"id": 41, "file_name": "a.png"}]}"#).unwrap();
    let before: Vec<_> = names(at).into_iter().filter(|name| name.contains('.')).collect();
    let bytes = || before.iter().map(|name| fs::read(at.join(name)).unwrap()).collect::<Vec<_>>();
    let (contents, weights) = (bytes(), fs::read(at.join("weights/rtmo-t.safetensors")).unwrap());

    let refused = |arguments: &[&str], parts: &[&str]| {
        let (_, err) = expect(2, at, &[&["infer"], arguments, &SMALL].concat());
        assert!(parts.iter().all(|part| err.contains(part)), "{arguments:?}: {err}");
    };
    // A picture over another photo; a page of heatmaps over a photo.
    refused(&["a.bmp", "a.jpg", "--out", "."], &["a.bmp: its picture, ./a.jpg, would replace a photo"]);
    let page =
        &["p.person1.png: a page of --heatmaps could replace it", "a photo of this run", "another --out"];
    refused(&["x/p.jpg", "p.person1.png", "--heatmaps", "--out", "."], page);
    refused(&["p.person1.png", "x/p.jpg", "--out", "."], &["would replace a photo"]);
    // Numbers over a photo, the weights, annotations, a picture, a page, and each other.
    refused(
        &["a.png", "--no-draw", "--json", "./a.png"],
        &["--json would replace it", "a photo of this run"],
    );
    refused(&["a.png", "--json", "weights/rtmo-t.safetensors"], &["--json would replace it", "the weights"]);
    let coco = ["a.png", "--coco", "list.json", "--coco-images", "list.json"];
    refused(&coco, &["--coco would replace it", "what --coco-images reads"]);
    refused(
        &["a.png", "--json", "rtmo-out/a.png"],
        &["a.png: its picture, rtmo-out/a.png, would replace what --json writes"],
    );
    refused(
        &["a.png", "--heatmaps", "--json", "rtmo-out/a.person3.png"],
        &["a page of --heatmaps could replace it", "what --json writes"],
    );
    refused(
        &["a.png", "--json", "n", "--coco", "./n", "--coco-images", "list.json"],
        &["--coco would replace it", "what --json writes"],
    );
    refused(
        &["a.png", "--json", "-", "--coco", "-", "--coco-images", "list.json"],
        &["standard output: --coco would replace it, but it is what --json writes"],
    );
    #[cfg(unix)]
    {
        // Whoever writes to a link writes to what it points to.
        fs::create_dir(at.join("links")).unwrap();
        std::os::unix::fs::symlink("../b.jpg", at.join("links/a.jpg")).unwrap();
        refused(
            &["a.bmp", "b.jpg", "--out", "links"],
            &["a.bmp: its picture, links/a.jpg, would replace a photo"],
        );
    }
    let (_, err) = expect(2, at, &["bench", "--json", "x.svg", "--plot", "x.svg"]);
    assert!(err.contains("--plot would replace it, but it is what --json writes"), "{err}");
    let (_, err) = expect(2, at, &["bench", "--image", "a.png", "--json", "a.png"]);
    assert!(err.contains("--json would replace it, but it is the photo to run on"), "{err}");
    let (_, err) = expect(2, at, &["bench", "--sweep", "--json", "weights/rtmo-t.safetensors"]);
    assert!(err.contains("--json would replace it, but it is the weights"), "{err}");

    assert_eq!(bytes(), contents);
    assert_eq!(fs::read(at.join("weights/rtmo-t.safetensors")).unwrap(), weights);
    assert!(!at.join("rtmo-out").exists());
}

#[test]
fn every_photo_has_its_own_picture_and_pages() {
    let folder = workplace();
    let at = folder.path();
    fs::create_dir(at.join("x")).unwrap();
    encode::save(&picture(70, 70), at.join("x/B.JPG")).unwrap();
    encode::save(&picture(70, 70), at.join("b.person1.png")).unwrap();
    let arguments = ["infer", "b.jpg", "x/B.JPG", "b.person1.png", "-m", "rtmo-t", "--max-people", "1"];
    let more = ["--heatmaps", "--score-thr", "0"];
    let (_, out) = expect(0, at, &[&arguments[..], &more, &SMALL].concat());
    let pictures = [
        "B-2.jpg",
        "B-2.person1.png",
        "b.jpg",
        "b.person1-2.person1.png",
        "b.person1-2.png",
        "b.person1.png",
    ];
    assert_eq!(names(&at.join("rtmo-out")), pictures);
    // What is not called as its photo is told.
    let line = |start: &str| out.lines().find(|line| line.starts_with(start)).unwrap().to_string();
    assert!(line("b.jpg: ").ends_with(" ms"), "{out}");
    assert!(line("x/B.JPG: ").ends_with(" ms -> rtmo-out/B-2.jpg"), "{out}");
    assert!(line("b.person1.png: ").ends_with(" ms -> rtmo-out/b.person1-2.png"), "{out}");
}

#[test]
fn numbers_may_lie_among_the_pictures() {
    let folder = workplace();
    let arguments = ["infer", "a.png", "-m", "rtmo-t", "--json", "new/out/p.jsonl", "--out", "new/out"];
    expect(0, folder.path(), &[&arguments[..], &SMALL].concat());
    assert_eq!(names(&folder.path().join("new/out")), ["a.png", "p.jsonl"]);
}

#[test]
fn results_need_names_that_say_what_they_are() {
    let folder = workplace();
    let at = folder.path();
    for name in ["-", "o.pth"] {
        let (_, err) = expect(2, at, &["convert", "weights/rtmo-t.safetensors", name]);
        assert!(err.contains(&format!("{name}: the file to write needs a name that ends in .safetensors")));
    }
    let (_, err) = expect(2, at, &["bench", "--plot", "x.png"]);
    assert!(err.contains("x.png: --plot needs a name that ends in .svg"), "{err}");
    assert_eq!(names(at), ["a.png", "b.jpg", "weights"]);
}
