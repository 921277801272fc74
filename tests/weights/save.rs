//! Writing: safetensors that others can read, conversion, and files that are whole or not there.

use crate::writer::*;
use rtmo_engine::atomic_file::AtomicFile;
use rtmo_engine::weights::{Checkpoint, Dtype, Format, SaveType, convert, inspect, save_safetensors};
use std::collections::BTreeMap;
use std::io::Write;

fn list<'a>(
    tensors: &'a [(&'a str, &'a [usize], &'a [f32])],
) -> impl Iterator<Item = (&'a str, &'a [usize], &'a [f32])> {
    tensors.iter().copied()
}

#[test]
fn saved_files_read_back_alike() {
    let folder = Folder::new();
    let path = folder.path("w.safetensors");
    let weight: Vec<f32> = (0..40_000).map(|i| (i as f32 - 20_000.0) * 0.01).collect();
    let tensors: [(&str, &[usize], &[f32]); 4] = [
        ("conv.weight", &[200, 200], &weight),
        ("bn.running_var", &[2], &[1e-7, 123456.78]),
        ("scale", &[], &[0.1]),
        ("wide", &[1, 2], &[65536.0, 1.0]),
    ];
    let metadata: BTreeMap<String, String> = [("arch".into(), "a \"quoted\"\n\u{e9}".into())].into();
    save_safetensors(&path, list(&tensors), &metadata, SaveType::F32).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(checkpoint.metadata(), &metadata);
    for (name, shape, values) in tensors {
        assert_eq!(checkpoint.tensor(name, shape).unwrap(), values);
    }

    // The reference implementation reads the same.
    let file = std::fs::read(&path).unwrap();
    let theirs = safetensors::SafeTensors::deserialize(&file).unwrap();
    assert_eq!(theirs.names().len(), 4);
    for (name, shape, values) in tensors {
        let view = theirs.tensor(name).unwrap();
        assert_eq!((view.shape(), view.dtype()), (shape, safetensors::Dtype::F32));
        assert_eq!(view.data(), bytes(values));
    }
    let (_, header) = safetensors::SafeTensors::read_metadata(&file).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap()["arch"], metadata["arch"]);

    // Half precision: matrices only, and only those that fit.
    save_safetensors(&path, list(&tensors), &metadata, SaveType::F16).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let dtypes = tensors.map(|(name, ..)| checkpoint.dtype(name).unwrap().clone());
    assert_eq!(dtypes, [Dtype::F16, Dtype::F32, Dtype::F32, Dtype::F32]);
    let halves = checkpoint.tensor("conv.weight", &[200, 200]).unwrap();
    // F16 has 11 significant bits, and 2^-24 as its smallest step.
    assert!(
        halves.iter().zip(&weight).all(|(h, w)| (h - w).abs() <= w.abs() * 2f32.powi(-11) + 2f32.powi(-25))
    );
    assert_eq!(checkpoint.tensor("wide", &[1, 2]).unwrap(), [65536.0, 1.0]);
    assert!(safetensors::SafeTensors::deserialize(&std::fs::read(&path).unwrap()).is_ok());
}

/// Files that the reference implementation writes.
#[test]
fn their_files_are_read() {
    let data: Vec<u8> = bytes(&[1.0, 2.0, 3.0]);
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![3, 1], &data).unwrap();
    let info = Some([("k".to_string(), "v".to_string())].into());
    let file = safetensors::serialize([("a.b", &view)], info).unwrap();
    let checkpoint = open(&file).unwrap();
    assert_eq!(checkpoint.tensor("a.b", &[3, 1]).unwrap(), [1.0, 2.0, 3.0]);
    assert_eq!(checkpoint.metadata()["k"], "v");
}

#[test]
fn saving_refuses_nonsense() {
    let folder = Folder::new();
    let path = folder.path("w.safetensors");
    let save = |tensors: &[(&str, &[usize], &[f32])]| {
        save_safetensors(&path, list(tensors), &BTreeMap::new(), SaveType::F32).unwrap_err().to_string()
    };
    assert!(save(&[("a", &[2], &[1.0])]).contains("tensor 'a': 1 values for shape [2]"));
    assert!(save(&[("a", &[1], &[1.0]), ("a", &[1], &[1.0])]).contains("two tensors are named 'a'"));
    assert_eq!(folder.names(), [""; 0]);
    let one: [(&str, &[usize], &[f32]); 1] = [("a", &[1], &[1.0])];
    let save =
        |path| save_safetensors(path, list(&one), &BTreeMap::new(), SaveType::F32).unwrap_err().to_string();
    assert!(save(folder.path("")).contains("cannot replace: is a directory"));
    assert!(save(folder.path("missing/w.safetensors")).contains("cannot create"));
}

#[test]
fn a_file_is_whole_or_not_there() {
    let folder = Folder::new();
    let path = folder.write("w", b"old");
    let mut file = AtomicFile::create(&path).unwrap();
    file.write_all(&[1; 100_000]).unwrap();
    // Where the system can write files without a name, not even a killed process leaves anything.
    if cfg!(target_os = "linux") {
        assert_eq!(folder.names(), ["w"]);
    }
    drop(file);
    assert_eq!(folder.names(), ["w"]);
    assert_eq!(std::fs::read(&path).unwrap(), b"old");

    for name in ["w", "fresh"] {
        let mut file = AtomicFile::create(folder.path(name)).unwrap();
        file.write_all(b"new").unwrap();
        file.commit().unwrap();
        assert_eq!(std::fs::read(folder.path(name)).unwrap(), b"new");
    }
    assert_eq!(folder.names(), ["fresh", "w"]);
    // A file in the current folder has no parent to speak of.
    let name = format!("atomic-{}.tmp", std::process::id());
    AtomicFile::create(&name).unwrap().commit().unwrap();
    std::fs::remove_file(name).unwrap();
}

/// A checkpoint with the tensors that tell an architecture apart.
fn model(width: i64, keypoints: i64) -> Vec<u8> {
    let stem = [width, 12, 3, 3];
    let vis = [keypoints, 8, 1, 1];
    let full = |key, shape: &'static [i64]| Tensor {
        class: "FloatStorage",
        key,
        len: 0,
        offset: 0,
        shape,
        strides: &[],
    };
    let stem: &'static [i64] = Vec::leak(stem.to_vec());
    let vis: &'static [i64] = Vec::leak(vis.to_vec());
    let stem_len: i64 = stem.iter().product();
    let vis_len: i64 = vis.iter().product();
    let tensors = [
        (
            "backbone.stem.conv.conv.weight",
            Tensor { len: stem_len, strides: &[108, 9, 3, 1], ..full("0", stem) },
        ),
        (
            "head.head_module.out_kpt_vis.0.weight",
            Tensor { len: vis_len, strides: &[8, 1, 1, 1], ..full("1", vis) },
        ),
        (
            "head.head_module.out_cls.0.weight",
            Tensor { len: vis_len, strides: &[8, 1], ..full("1", &[1, 8]) },
        ),
        (
            "head.head_module.out_cls.1.weight",
            Tensor { len: vis_len, strides: &[8, 1], ..full("1", &[1, 8]) },
        ),
        (
            "backbone.stem.conv.bn.num_batches_tracked",
            Tensor { class: "LongStorage", len: 1, strides: &[], ..full("2", &[]) },
        ),
    ];
    let p = Pickle::new(2).op(b"}(").text("meta").op(b"}").text("epoch").int(600).op(b"s");
    let p = p.text("state_dict").state(&tensors, false).op(b"u").stop();
    let (a, b) = (vec![0.25; stem_len as usize], vec![0.5; vis_len as usize]);
    pth(&p, &[("0", &bytes(&a)), ("1", &bytes(&b)), ("2", &[0; 8])])
}

#[test]
fn architectures_are_told_by_their_shapes() {
    let folder = Folder::new();
    for (width, keypoints, arch, size) in [
        (24, 17, "rtmo-t", (416, 416)),
        (32, 14, "rtmo-s", (640, 640)),
        (48, 17, "rtmo-m", (640, 640)),
        (64, 17, "rtmo-l", (640, 640)),
        (40, 21, "custom 40", (640, 640)),
    ] {
        let found = inspect(folder.write("w.pth", &model(width, keypoints))).unwrap();
        assert_eq!(found.architecture.to_string(), arch);
        assert_eq!(found.architecture.keypoints, Some(keypoints as usize));
        assert_eq!((found.architecture.levels, found.architecture.input_size), (2, size));
        assert_eq!(found.dtypes, [("F32".to_string(), 4), ("I64".to_string(), 1)].into());
        assert!(found.to_string().contains(&format!("{arch}, {keypoints} keypoints, 2 levels")));
    }
}

#[test]
fn conversion_keeps_names_values_and_origin() {
    let folder = Folder::new();
    let file = model(24, 17);
    let source = folder.write("rtmo-t_8xb32-600e_body7-416x416-f48f75cb_20231219.pth", &file);
    let target = folder.path("t.safetensors");
    let done = convert(&source, &target, false).unwrap();
    assert_eq!((done.tensors, done.values), (4, 24 * 108 + 17 * 8 + 16));
    assert_eq!(done.dropped, ["backbone.stem.conv.bn.num_batches_tracked"]);
    // It bears an official name, but is not that file.
    assert_eq!(done.genuine, Some(false));
    assert!(done.to_string().contains("does not agree with the official file"));
    assert_eq!(convert(folder.write("own.pth", &file), &target, false).unwrap().genuine, None);

    let (before, after) = (Checkpoint::open(&source).unwrap(), Checkpoint::open(&target).unwrap());
    assert_eq!(after.format(), Format::Safetensors);
    for name in after.names() {
        let shape = before.shape(name).unwrap();
        assert_eq!(before.tensor(name, shape).unwrap(), after.tensor(name, shape).unwrap());
    }
    let metadata = after.metadata();
    let expected = [
        ("arch", "rtmo-t"),
        ("keypoints", "17"),
        ("input_size", "416x416"),
        ("epoch", "600"),
        ("source_file", "own.pth"),
    ];
    for (key, value) in expected {
        assert_eq!(metadata[key], value);
    }
    assert_eq!(metadata["source_sha256"], done.sha256);
    assert_eq!(done.sha256.len(), 64);

    // Again from the result, halved: four values are F16 now, and the input size is the noted one.
    let half = convert(&target, folder.path("h.safetensors"), true).unwrap();
    assert!(half.destination_bytes < done.destination_bytes * 6 / 10);
    assert_eq!(half.architecture, done.architecture);
    assert!(convert(&target, &target, true).unwrap_err().to_string().contains("same file"));
}

#[test]
fn conversion_writes_nothing_when_it_fails() {
    let folder = Folder::new();
    let tensor = Tensor::vector("0", &[1]);
    let bad = pth(&Pickle::new(2).state(&[("a", tensor)], false).stop(), &[("0", &bytes(&[f32::NAN]))]);
    let source = folder.write("bad.pth", &bad);
    let target = folder.write("t.safetensors", b"old");
    assert!(convert(&source, &target, false).unwrap_err().to_string().contains("finite values"));
    let odd = Tensor { class: "ComplexFloatStorage", ..tensor };
    let odd = pth(&Pickle::new(2).state(&[("a", odd)], false).stop(), &[("0", &[0; 8])]);
    let error = convert(folder.write("odd.pth", &odd), &target, false).unwrap_err().to_string();
    assert!(error.contains("got torch.ComplexFloatStorage"), "{error}");
    let counter = Tensor { class: "LongStorage", ..tensor };
    let counter = pth(&Pickle::new(2).state(&[("a", counter)], false).stop(), &[("0", &[0; 8])]);
    assert!(
        convert(folder.write("int.pth", &counter), &target, false)
            .unwrap_err()
            .to_string()
            .contains("integers only")
    );
    assert_eq!(std::fs::read(&target).unwrap(), b"old");
    assert_eq!(folder.names(), ["bad.pth", "int.pth", "odd.pth", "t.safetensors"]);
}
