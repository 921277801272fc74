//! The table of published checkpoints, and the search for weights.

use crate::writer::Folder;
use rtmo_engine::weights::registry::{PUBLISHED, Search, find, find_by_file, near, not_published};
use std::collections::HashSet;
use std::path::Path;

#[test]
fn the_table_is_consistent() {
    assert_eq!(PUBLISHED.len(), 11);
    let mut names = HashSet::new();
    let mut files = HashSet::new();
    for p in &PUBLISHED {
        for name in p.aliases.iter().chain([&p.name]) {
            assert!(names.insert(*name), "{name} twice");
            assert_eq!(find(name), Some(p));
        }
        assert!(files.insert(p.file_name()));
        assert!(p.url.starts_with("https://download.openmmlab.com/mmpose/v1/projects/rtmo/r"));
        assert_eq!(find(p.config_name()), Some(p));
        assert_eq!(find_by_file(Path::new(p.file_name())), Some(p));
        // The file name says the same as the row: arch, size, data, hash.
        assert!(p.config_name().starts_with(&format!("{}_", &p.name[..6])), "{}", p.config_name());
        assert!(p.file_name().contains(&format!("-{}x{}-", p.input_size.0, p.input_size.1)));
        assert!(p.file_name().contains(&format!("_{}", p.training_data.to_lowercase())));
        assert_eq!(p.file_name().contains("crowdpose"), p.benchmark.starts_with("CrowdPose"));
        assert_eq!(p.keypoints, if p.benchmark.starts_with("CrowdPose") { 14 } else { 17 });
        assert!(p.sha256_prefix().len() == 8 && p.sha256_prefix().bytes().all(|b| b.is_ascii_hexdigit()));
        assert!((0.5..0.9).contains(&p.ap));
        if let Some((sha256, bytes)) = p.content {
            assert!(sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_hexdigit()));
            assert!(sha256.starts_with(p.sha256_prefix()) && bytes > 1 << 20);
        }
    }
    assert_eq!(PUBLISHED.iter().filter(|p| p.content.is_some()).count(), 2);
    assert_eq!(
        find("rtmo-m-crowdpose").unwrap().file_name(),
        "rrtmo-m_16xb16-700e_crowdpose-640x640-0eaf670d_20231211.pth"
    );
    assert_eq!(find("RTMO-S"), find("rtmo-s_8xb32-600e_body7-640x640"));
    assert_eq!(find("rtmo-x"), None);
}

#[test]
fn places_are_searched_in_order() {
    let folder = Folder::new();
    let official = find("rtmo-s").unwrap().file_name();
    let search = Search { variable: None, folders: vec![folder.path("weights"), folder.path("cache")] };
    let resolve = |search: &Search, model| search.resolve(model, None);

    let error = resolve(&search, Some("rtmo-s")).unwrap_err().to_string();
    assert!(error.contains("no weights for model 'rtmo-s'") && error.contains(official), "{error}");
    assert!(error.contains(find("rtmo-s").unwrap().url), "{error}");
    for place in [
        "$RTMO_WEIGHTS (not set)".to_string(),
        folder.path("weights").display().to_string(),
        folder.path("cache").display().to_string(),
    ] {
        assert!(error.contains(&place), "{place}: {error}");
    }

    let cached = folder.write(&format!("cache/{official}"), b"");
    assert_eq!(resolve(&search, Some("rtmo-s")).unwrap(), cached);
    assert_eq!(resolve(&search, None).unwrap(), cached);
    assert_eq!(resolve(&search, Some("rtmo-s-body7")).unwrap(), cached);
    let local = folder.write("weights/rtmo-s.pth", b"");
    assert_eq!(resolve(&search, Some("rtmo-s")).unwrap(), local);
    let better = folder.write("weights/rtmo-s.safetensors", b"");
    assert_eq!(resolve(&search, Some("rtmo-s")).unwrap(), better);

    // The variable goes first: a folder, or a file that does not say that it is another model.
    let other = folder.write("env/rtmo-s.pth", b"");
    let own = folder.write("env/mine.pth", b"");
    let with = |path: &Path| Search { variable: Some(path.into()), ..search.clone() };
    assert_eq!(resolve(&with(&folder.path("env")), Some("rtmo-s")).unwrap(), other);
    assert_eq!(resolve(&with(&other), Some("rtmo-s")).unwrap(), other);
    assert_eq!(resolve(&with(&own), Some("rtmo-s")).unwrap(), own);
    let error = resolve(&with(&other), Some("rtmo-l")).unwrap_err().to_string();
    assert!(error.contains("$RTMO_WEIGHTS, is rtmo-s"), "{error}");
    let error = resolve(&with(&folder.path("gone")), Some("rtmo-l")).unwrap_err().to_string();
    assert!(error.contains("gone: no such file or folder, and RTMO_WEIGHTS names it"), "{error}");

    // --weights before all.
    assert_eq!(search.resolve(Some("rtmo-s"), Some(&own)).unwrap(), own);
    assert_eq!(search.resolve(Some("rtmo-s"), Some(&folder.path("env"))).unwrap(), other);
    let error = search.resolve(None, Some(&folder.path(official))).unwrap_err().to_string();
    assert!(error.contains("no such weights file; it can be downloaded from https://"), "{error}");
    let error = search.resolve(Some("rtmo-l"), Some(&folder.path("env"))).unwrap_err().to_string();
    assert!(error.contains("env (--weights)"), "{error}");
}

#[test]
fn any_published_one_will_do_when_none_is_named() {
    let folder = Folder::new();
    let search = Search { variable: None, folders: vec![folder.path("weights"), folder.path("cache")] };
    assert_eq!(search.look(None, None).unwrap(), None);
    let error = search.resolve(None, None).unwrap_err().to_string();
    assert!(error.contains("'rtmo-s', nor for another published one"), "{error}");
    // The default, then the table's order, wherever they are.
    for name in
        ["weights/rtmo-l-crowdpose.pth", "cache/rtmo-m.safetensors", "weights/t.pth", "cache/rtmo-s.pth"]
    {
        let path = folder.write(name, b"");
        assert_eq!(search.look(None, None).unwrap(), Some(path));
    }
    let weights = folder.path("weights");
    assert_eq!(search.resolve(None, Some(&weights)).unwrap(), folder.path("weights/t.pth"));
    // A file in the variable is what is meant, whatever its name; a folder goes before the others.
    let file = folder.write("env/rtmo-l.pth", b"");
    let with = |variable: &Path| Search { variable: Some(variable.into()), ..search.clone() };
    assert_eq!(with(&file).resolve(None, None).unwrap(), file);
    assert_eq!(with(&folder.path("env")).resolve(Some("rtmo-l"), None).unwrap(), file);
    assert_eq!(with(&folder.path("env")).resolve(None, None).unwrap(), folder.path("cache/rtmo-s.pth"));
}

#[test]
fn models_of_ones_own() {
    let folder = Folder::new();
    let demo = folder.write("weights/rtmo-t-demo.safetensors", b"");
    let search = Search { variable: None, folders: vec![folder.path("weights")] };
    assert_eq!(search.resolve(Some("rtmo-t-demo"), None).unwrap(), demo);
    let error = search.resolve(Some("rtmo-x"), None).unwrap_err().to_string();
    assert!(
        error.contains("rtmo-x.{safetensors,pth}") && error.contains("model 'rtmo-x' is not a published one"),
        "{error}"
    );
    // What is called so, not what was meant for another model.
    let other = folder.write("env/other.safetensors", b"");
    let with = Search { variable: Some(other.clone()), ..search.clone() };
    assert_eq!(with.resolve(Some("rtmo-t-demo"), None).unwrap(), demo);
    assert_eq!(with.resolve(Some("other"), None).unwrap(), other);
    assert_eq!(search.resolve(Some("other"), Some(&other)).unwrap(), other);
    let error = search.resolve(Some("rtmo-t-demo"), Some(&other)).unwrap_err().to_string();
    assert!(error.contains("is not a published one, and --weights names another file"), "{error}");
    for name in ["", "../secret", "a/b", "..", "a\\b", "rtmo-s.pth", "mine.safetensors"] {
        let error = search.resolve(Some(name), None).unwrap_err().to_string();
        assert!(error.contains("is not a name"), "{error}");
    }
}

#[test]
fn names_like_published_ones_are_listed() {
    for (name, first) in [
        ("rtmo-ss", "rtmo-s"),
        ("RTMO_S", "rtmo-s"),
        ("rmto-l", "rtmo-l"),
        ("rtmo-m-cocco", "rtmo-m-coco"),
        ("rtmo-l-crowdpos", "rtmo-l-crowdpose"),
        ("rtmo-s-body-7", "rtmo-s-body7"),
    ] {
        assert_eq!(near(name).first(), Some(&first), "{name}");
        assert!(not_published(name).contains(&format!("'{name}' is not a published one; near it: {first}")));
    }
    for name in ["yolo11x-pose", "x", "", "openpose"] {
        assert!(near(name).is_empty(), "{name}: {:?}", near(name));
        assert!(not_published(name).contains("rtmo-l-body7-crowdpose"));
    }
}
