//! Files that are good, and what is asked of them in vain.

use crate::writer::*;
use rtmo_engine::Error;
use rtmo_engine::weights::{Checkpoint, Dtype, Format};
use std::collections::BTreeMap;

const A: [f32; 6] = [1.0, -2.5, 3.25, 0.0, f32::MIN_POSITIVE, f32::MAX];
const B: [f32; 2] = [7.0, 8.0];

/// Tensors `a` [2, 3], its transpose `at`, a slice of it `tail` and `b`, over two storages.
fn sample() -> [(&'static str, Tensor<'static>); 4] {
    let a = Tensor { class: "FloatStorage", key: "0", len: 6, offset: 0, shape: &[2, 3], strides: &[3, 1] };
    [
        ("a", a),
        ("at", Tensor { shape: &[3, 2], strides: &[1, 3], ..a }),
        ("tail", Tensor { offset: 4, shape: &[1, 2, 1], strides: &[99, 1, 5], ..a }),
        ("b", Tensor::vector("1", &[2])),
    ]
}

fn check(checkpoint: &Checkpoint) {
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "at", "b", "tail"]);
    assert_eq!(checkpoint.tensor("a", &[2, 3]).unwrap(), A);
    assert_eq!(checkpoint.tensor("at", &[3, 2]).unwrap(), [A[0], A[3], A[1], A[4], A[2], A[5]]);
    assert_eq!(checkpoint.tensor("tail", &[1, 2, 1]).unwrap(), A[4..]);
    assert_eq!(checkpoint.tensor("b", &[2]).unwrap(), B);
    assert_eq!(checkpoint.shape("at"), Some(&[3, 2][..]));
    assert_eq!(checkpoint.dtype("at"), Some(&Dtype::F32));
    assert!(checkpoint.contains("b") && !checkpoint.contains("c"));
}

#[test]
fn zip_archives_of_all_protocols() {
    for protocol in 2..=5 {
        let pickle =
            Pickle::new(protocol).op(b"}").text("state_dict").state(&sample(), false).op(b"s").stop();
        let checkpoint = open(&pth(&pickle, &[("0", &bytes(&A)), ("1", &bytes(&B))])).unwrap();
        assert_eq!(checkpoint.format(), Format::TorchZip);
        check(&checkpoint);
    }
}

/// As torch writes them when they are large, and an archive without a folder.
#[test]
fn zip64_archives() {
    let pickle = Pickle::new(2).state(&sample(), false).stop();
    let (a, b) = (bytes(&A), bytes(&B));
    check(&open(&zip_with(&[("data.pkl", &pickle), ("data/0", &a), ("data/1", &b)], true)).unwrap());
}

/// Frames, memo and short strings, as protocol 4 writes them.
#[test]
fn protocol_4_opcodes() {
    let short = |p: Pickle, text: &str| p.op(&[0x8c, text.len() as u8]).op(text.as_bytes()).op(b"\x94");
    let p = short(Pickle::default().op(b"}\x94("), "a");
    let p = short(short(p, "torch._utils"), "_rebuild_tensor_v2").op(b"\x93\x94(");
    let p = short(short(short(p.op(b"("), "storage"), "torch"), "FloatStorage").op(b"\x93\x94");
    let p = short(short(p, "0"), "cpu").int(6).op(b"t\x94QK\x00");
    let body = p.int(2).int(3).op(b"\x86\x94").int(3).int(1).op(b"\x86\x94\x89}t\x94Ru").stop();
    let frame = [b"\x80\x04\x95".as_slice(), &(body.len() as u64).to_le_bytes(), &body].concat();
    let checkpoint = open(&pth(&frame, &[("0", &bytes(&A))])).unwrap();
    assert_eq!(checkpoint.tensor("a", &[2, 3]).unwrap(), A);
}

#[test]
fn the_older_stream_of_pickles() {
    let pickle = Pickle::new(2).op(b"}").text("state_dict").state(&sample(), true).op(b"s").stop();
    let storages: [(&str, i64, &[u8]); 2] = [("0", 6, &bytes(&A)), ("1", 2, &bytes(&B))];
    let file = legacy(&pickle, &storages);
    let checkpoint = open(&file).unwrap();
    assert_eq!(checkpoint.format(), Format::TorchLegacy);
    check(&checkpoint);

    assert!(refusal(&file[..file.len() - 1]).contains("claims 2 elements, 7 bytes are left"));
    assert!(
        refusal(&file[..file.len() - 17]).contains("truncated")
            || refusal(&file[..file.len() - 17]).contains("claims")
    );
    assert!(refusal(&legacy(&pickle, &storages[..1])).contains("storage '1' is missing"));
    let huge = legacy(&pickle, &[("0", 1 << 40, &bytes(&A)), ("1", 2, &bytes(&B))]);
    assert!(refusal(&huge).contains("claims 1099511627776 elements"));
    let negative = legacy(&pickle, &[("0", -1, &bytes(&A)), ("1", 2, &bytes(&B))]);
    assert!(refusal(&negative).contains("claims"));
}

#[test]
fn wrappers_around_the_model() {
    let storages: [(&str, &[u8]); 2] = [("0", &bytes(&A)), ("1", &bytes(&B))];
    let wrapped = sample().map(|(name, tensor)| (["module.", name].concat(), tensor));
    let wrapped: Vec<(&str, Tensor)> = wrapped.iter().map(|(name, tensor)| (&name[..], *tensor)).collect();

    let bare = Pickle::new(2).state(&sample(), false).stop();
    check(&open(&pth(&bare, &storages)).unwrap());
    let parallel = Pickle::new(2).op(b"}").text("state_dict").state(&wrapped, false).op(b"s").stop();
    check(&open(&pth(&parallel, &storages)).unwrap());
    let averaged = Pickle::new(2).op(b"}").text("ema_state_dict").state(&wrapped, false).op(b"s").stop();
    check(&open(&pth(&averaged, &storages)).unwrap());

    // mmengine's EMAHook swaps before it saves: `state_dict` holds the averaged weights.
    let raw = [("module.a", Tensor::vector("1", &[2]))];
    let both = Pickle::new(2).op(b"}").text("ema_state_dict").state(&raw, false).op(b"s");
    let both = both.text("state_dict").state(&sample(), false).op(b"s").stop();
    check(&open(&pth(&both, &storages)).unwrap());
}

/// What mmengine saves beside the weights: scalars become metadata, Python objects stay unbuilt.
#[test]
fn a_training_checkpoint() {
    let array = |p: Pickle| {
        let p = p.call("numpy.core.multiarray", "_reconstruct", |p| {
            p.global("numpy", "ndarray").ints(&[0]).text("b")
        });
        let p = p.op(b"(").int(1).ints(&[3]).call("numpy", "dtype", |p| p.text("f4").op(b"\x89\x88"));
        p.op(b"\x89").call("_codecs", "encode", |p| p.text("\u{80}\u{3f}").text("latin1")).op(b"tb")
    };
    let buffer = |p: Pickle| {
        let p = p.global("mmengine.logging.history_buffer", "HistoryBuffer").op(b")\x81}");
        array(p.text("_log_history")).op(b"sb")
    };
    let p = Pickle::new(2).op(b"}(").text("meta").op(b"}(");
    let p = p
        .text("epoch")
        .int(600)
        .text("time")
        .text("20231211_170000")
        .text("lr")
        .op(b"G")
        .op(&0.5f64.to_be_bytes());
    let p = p.text("cfg").text(&"x = 1\n".repeat(100)).text("iter").call(
        "numpy.core.multiarray",
        "scalar",
        |p| p,
    );
    let p = p.text("dataset_meta").op(b"}(").text("dataset_name").text("coco");
    let p = array(p.text("sigmas")).text("skeleton").op(b"](").ints(&[1, 2]).op(b"eu");
    let p = p.text("now").call("datetime", "datetime", |p| p.op(b"U\x02ab")).op(b"u");
    let p = buffer(p.text("message_hub").op(b"}").text("loss")).op(b"s").text("device");
    let p = p.call("torch", "device", |p| p.text("cpu")).text("state_dict").state(&sample(), false);
    // torch keeps the state_dict's `_metadata` as attributes.
    let p = p.op(b"}").text("_metadata").call("collections", "OrderedDict", |p| p).op(b"sb").op(b"u");
    let checkpoint = open(&pth(&p.stop(), &[("0", &bytes(&A)), ("1", &bytes(&B))])).unwrap();
    check(&checkpoint);
    let expected = [("dataset", "coco"), ("epoch", "600"), ("lr", "0.5"), ("time", "20231211_170000")];
    let expected: BTreeMap<String, String> = expected.map(|(k, v)| (k.into(), v.into())).into();
    assert_eq!(*checkpoint.metadata(), expected);
}

#[test]
fn parameters_are_their_data() {
    let p = Pickle::new(2).op(b"}(").text("a").call("torch._utils", "_rebuild_parameter", |p| {
        p.tensor(&Tensor::vector("1", &[2]), false).op(b"\x88").call("collections", "OrderedDict", |p| p)
    });
    let checkpoint = open(&pth(&p.op(b"u").stop(), &[("1", &bytes(&B))])).unwrap();
    assert_eq!(checkpoint.tensor("a", &[2]).unwrap(), B);
}

#[test]
fn element_types() {
    let storages: [(&str, &str, Vec<u8>); 6] = [
        ("f64", "DoubleStorage", [1.5f64, -2.0].iter().flat_map(|v| v.to_le_bytes()).collect()),
        ("f16", "HalfStorage", vec![0x00, 0x3c, 0x01, 0x00]),
        ("bf16", "BFloat16Storage", vec![0x80, 0x3f, 0xc0, 0xbf]),
        ("num_batches_tracked", "LongStorage", [5i64, -1].iter().flat_map(|v| v.to_le_bytes()).collect()),
        ("labels", "IntStorage", vec![1, 0, 0, 0, 2, 0, 0, 0]),
        ("wave", "ComplexFloatStorage", vec![0; 16]),
    ];
    let tensors: Vec<(&str, Tensor)> = storages
        .iter()
        .map(|(key, class, _)| (*key, Tensor { class, ..Tensor::vector(key, &[2]) }))
        .collect();
    let data: Vec<(&str, &[u8])> = storages.iter().map(|(key, _, data)| (*key, &data[..])).collect();
    let checkpoint = open(&pth(&Pickle::new(2).state(&tensors, false).stop(), &data)).unwrap();
    let values = |name| checkpoint.tensor(name, &[2]).unwrap();
    assert_eq!(values("f64"), [1.5, -2.0]);
    assert_eq!(values("f16"), [1.0, 2.0f32.powi(-24)]);
    assert_eq!(values("bf16"), [1.0, -1.5]);
    assert_eq!(values("num_batches_tracked"), [5.0, -1.0]);
    let message = |name| checkpoint.tensor(name, &[2]).unwrap_err().to_string();
    assert!(message("labels").ends_with("tensor 'labels': expected F32, F16, BF16 or F64, got I32"));
    assert!(message("wave").ends_with("got torch.ComplexFloatStorage"));
}

#[test]
fn big_endian_files() {
    let pickle = Pickle::new(2).state(&[("b", Tensor::vector("1", &[2]))], false).stop();
    let data: Vec<u8> = B.iter().flat_map(|value| value.to_be_bytes()).collect();
    let file = |order: &[u8]| zip(&[("x/data.pkl", &pickle), ("x/byteorder", order), ("x/data/1", &data)]);
    assert_eq!(open(&file(b"big")).unwrap().tensor("b", &[2]).unwrap(), B);
    assert!(refusal(&file(b"pdp-11")).contains("unknown byte order 'pdp-11'"));
}

#[test]
fn safetensors_files() {
    let header = r#"{"__metadata__":{"arch":"rtmo-s"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},
        "b":{"dtype":"BF16","shape":[2],"data_offsets":[24,28]},"e":{"dtype":"F32","shape":[0,9],"data_offsets":[24,24]},
        "f":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[28,29]}}"#;
    let data = [&bytes(&A)[..], &[0x80, 0x3f, 0xc0, 0xbf, 0]].concat();
    let checkpoint = open(&safetensors(header, &data)).unwrap();
    assert_eq!(checkpoint.format(), Format::Safetensors);
    assert_eq!(checkpoint.metadata()["arch"], "rtmo-s");
    assert_eq!(checkpoint.tensor("a", &[2, 3]).unwrap(), A);
    assert_eq!(checkpoint.tensor("b", &[2]).unwrap(), [1.0, -1.5]);
    assert!(checkpoint.tensor("e", &[0, 9]).unwrap().is_empty());
    assert!(checkpoint.tensor("f", &[1]).unwrap_err().to_string().ends_with("got F8_E4M3"));
}

/// A file that is mapped, and one that is in memory already, hold what one does that is read.
#[test]
fn mapped_files_and_bytes() {
    let folder = Folder::new();
    for seed in seeds() {
        let path = folder.write("w", &seed);
        let read = Checkpoint::open(&path).unwrap();
        // SAFETY: nobody else knows the file.
        let mapped = unsafe { Checkpoint::open_mapped(&path) }.unwrap();
        let bytes = Checkpoint::from_bytes("in memory", seed).unwrap();
        for other in [&mapped, &bytes] {
            assert!(other.names().eq(read.names()) && other.metadata() == read.metadata());
            // Dropping the pages must not change what is read next.
            for _ in 0..2 {
                for name in read.names() {
                    let shape = read.shape(name).unwrap();
                    assert_eq!(other.tensor(name, shape).unwrap(), read.tensor(name, shape).unwrap());
                }
                other.release();
            }
        }
        assert_eq!(bytes.path(), "in memory");
    }
    // A file that is read may be cut while it is in use.
    let path = folder.write("w", &seeds()[1]);
    let checkpoint = Checkpoint::open(&path).unwrap();
    std::fs::write(&path, b"").unwrap();
    assert_eq!(checkpoint.tensor("view", &[3, 4]).unwrap(), [1.0; 12]);
}

/// One that was unpacked and packed again has compressed entries.
#[test]
fn repacked_archives() {
    let pickle = Pickle::new(2).op(b"}").text("state_dict").state(&sample(), false).op(b"s").stop();
    let checkpoint = open(&repacked(&pickle, &[("0", &bytes(&A)), ("1", &bytes(&B))])).unwrap();
    assert_eq!(checkpoint.format(), Format::TorchZip);
    check(&checkpoint);
}

/// `torch.tensor(1.5).expand(3, 2)`.
#[test]
fn strides_of_zero_repeat_a_value() {
    let one = Tensor { class: "FloatStorage", key: "0", len: 6, offset: 1, shape: &[3, 2], strides: &[0, 0] };
    let tensors = [
        ("all", one),
        ("rows", Tensor { strides: &[0, 1], ..one }),
        ("columns", Tensor { strides: &[1, 0], ..one }),
    ];
    for legacy_format in [false, true] {
        let pickle = Pickle::new(2).state(&tensors, legacy_format).stop();
        let file = match legacy_format {
            true => legacy(&pickle, &[("0", 6, &bytes(&A))]),
            false => pth(&pickle, &[("0", &bytes(&A))]),
        };
        let checkpoint = open(&file).unwrap();
        assert_eq!(checkpoint.tensor("all", &[3, 2]).unwrap(), [A[1]; 6]);
        assert_eq!(checkpoint.tensor("rows", &[3, 2]).unwrap(), [A[1], A[2], A[1], A[2], A[1], A[2]]);
        assert_eq!(checkpoint.tensor("columns", &[3, 2]).unwrap(), [A[1], A[1], A[2], A[2], A[3], A[3]]);
    }
}

/// A checkpoint of vectors of two with these names.
fn named(names: &[&str]) -> Vec<u8> {
    let tensors: Vec<(&str, Tensor)> = names.iter().map(|name| (*name, Tensor::vector("1", &[2]))).collect();
    pth(&Pickle::new(2).state(&tensors, false).stop(), &[("1", &bytes(&B))])
}

#[test]
fn names_lose_their_wrappers() {
    for name in [
        "_orig_mod.backbone.x",
        "module.backbone.x",
        "model.backbone.x",
        "module._orig_mod.backbone.x",
        "_orig_mod.module.model.backbone.x",
        "model.model.backbone.x",
        "backbone._orig_mod.x",
        "model.backbone._orig_mod._orig_mod.x",
    ] {
        assert_eq!(open(&named(&[name])).unwrap().names().collect::<Vec<_>>(), ["backbone.x"], "{name}");
    }
    // In safetensors, too; and nothing else is taken away.
    let header = r#"{"model.neck.head_module.x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    let checkpoint = open(&safetensors(header, &bytes(&B))).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["neck.head_module.x"]);
}

#[test]
fn tensors_of_other_parts_are_ignored_with_a_warning() {
    let checkpoint = open(&named(&["backbone.x", "neck.x", "head.x"])).unwrap();
    assert!(checkpoint.warnings().is_empty() && checkpoint.names().count() == 3);
    let checkpoint = open(&named(&["backbone.x", "teacher.backbone.x", "ema.steps", "headless.x"])).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["backbone.x"]);
    assert_eq!(
        checkpoint.warnings(),
        ["3 tensors outside backbone, neck and head ignored: 'ema.steps', and others"]
    );
    let checkpoint = open(&named(&["backbone.x", "teacher.x"])).unwrap();
    assert_eq!(checkpoint.warnings(), ["1 tensor outside backbone, neck and head ignored: 'teacher.x'"]);
    // What is no model at all is not looked through.
    assert_eq!(open(&named(&["teacher.x", "ema.steps"])).unwrap().names().count(), 2);
}

#[test]
fn a_preprocessor_that_normalises_is_told() {
    let with = |mean: [f32; 3], std: [f32; 3]| {
        let tensors = [
            ("backbone.x", Tensor::vector("1", &[2])),
            ("data_preprocessor.mean", Tensor::vector("m", &[3])),
            ("data_preprocessor.std", Tensor::vector("s", &[3])),
        ];
        let storages: [(&str, &[u8]); 3] = [("1", &bytes(&B)), ("m", &bytes(&mean)), ("s", &bytes(&std))];
        open(&pth(&Pickle::new(2).state(&tensors, false).stop(), &storages)).unwrap()
    };
    assert!(with([0.0; 3], [1.0; 3]).warnings().is_empty());
    let checkpoint = with([103.5, 116.25, 123.5], [57.0; 3]);
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["backbone.x"]);
    let warnings = checkpoint.warnings().join("; ");
    assert!(
        warnings.contains("'data_preprocessor.mean' [103.5, 116.25, 123.5]: it was trained on normalised"),
        "{warnings}"
    );
    assert!(warnings.contains("'data_preprocessor.std' [57.0, 57.0, 57.0]"), "{warnings}");
}

#[test]
fn several_classes_are_refused() {
    let with = |shape: &'static [i64; 1]| {
        let class = ("head.head_module.out_cls.1.weight", Tensor::vector("1", shape));
        let first = ("head.head_module.out_cls.0.weight", Tensor::vector("0", &[1]));
        let tensors = [("backbone.x", Tensor::vector("0", &[1])), first, class];
        pth(&Pickle::new(2).state(&tensors, false).stop(), &[("0", &[0; 4]), ("1", &[0; 8])])
    };
    assert!(open(&with(&[1])).is_ok());
    assert!(refusal(&with(&[2])).contains("tells 2 classes apart; one, persons, is supported"));
}

#[test]
fn what_a_tensor_is_checked_for() {
    let tensors = [
        ("good", (vec![2, 1], vec![1.0, 2.0])),
        ("nan", (vec![3], vec![0.0, 0.0, f32::NAN])),
        ("inf", (vec![1], vec![f32::NEG_INFINITY])),
        ("short", (vec![4], vec![1.0])),
    ];
    let checkpoint =
        Checkpoint::from_tensors("generated", tensors.map(|(name, t)| (name.to_string(), t)).into());
    assert_eq!(checkpoint.tensor("good", &[2, 1]).unwrap(), [1.0, 2.0]);
    let message = |name, shape: &[usize]| checkpoint.tensor(name, shape).unwrap_err().to_string();
    assert_eq!(
        message("gone", &[2]),
        "generated: tensor 'gone': expected shape [2], got no tensor of this name"
    );
    assert_eq!(message("good", &[1, 2]), "generated: tensor 'good': expected shape [1, 2], got shape [2, 1]");
    assert_eq!(message("nan", &[3]), "generated: tensor 'nan': expected finite values, got NaN at element 2");
    assert_eq!(
        message("inf", &[1]),
        "generated: tensor 'inf': expected finite values, got -inf at element 0"
    );
    assert_eq!(
        message("short", &[4]),
        "generated: tensor 'short': expected the values of shape [4], got 1 values"
    );
    assert!(matches!(checkpoint.tensor("nan", &[3]), Err(Error::Tensor { .. })));
    // An f64 beyond f32's range is not finite as f32.
    let tensor = Tensor { class: "DoubleStorage", ..Tensor::vector("0", &[1]) };
    let file = pth(&Pickle::new(2).state(&[("a", tensor)], false).stop(), &[("0", &1e300f64.to_le_bytes())]);
    assert!(open(&file).unwrap().tensor("a", &[1]).unwrap_err().to_string().contains("inf at element 0"));
}

#[test]
fn files_that_are_something_else() {
    let folder = Folder::new();
    let message = |path: std::path::PathBuf| Checkpoint::open(path).unwrap_err().to_string();
    assert!(message(folder.path("none.pth")).contains("none.pth: cannot open weights: "));
    assert!(message(folder.path("")).contains("is a folder"));
    assert!(message(folder.write("empty", b"")).contains("is empty"));
    assert!(refusal(b"x").contains("not a safetensors file, a torch checkpoint or an ONNX model"));
    assert!(refusal(b"<!DOCTYPE html><html>").contains("a web page"));
    assert!(refusal(b"version https://git-lfs.github.com/spec/v1\n").contains("Git LFS"));
    assert!(refusal(&Pickle::new(4).int(1).stop()).contains("a pickle, but not one that torch.save writes"));
    assert!(refusal(&zip(&[("end2end.onnx", b"x")])).contains("ONNX"));
    assert!(refusal(&zip(&[("readme.txt", b"x")])).contains("not one that torch.save writes"));
    assert!(refusal(&zip(&[("x/data.pkl", b"x"), ("x/constants.pkl", b"x")])).contains("TorchScript"));
    let whole_model = Pickle::new(2).global("models", "RTMO").op(b")\x81}b").stop();
    assert!(refusal(&pth(&whole_model, &[])).contains("holds a models.RTMO, not a checkpoint"));
    let no_tensors = Pickle::new(2).op(b"}").text("weights").op(b"}s").stop();
    assert!(refusal(&pth(&no_tensors, &[])).contains("no state_dict and no tensors; its keys are: weights"));
}

#[cfg(unix)]
#[test]
fn a_pipe_is_refused_without_waiting() {
    let (reader, _writer) = std::io::pipe().unwrap();
    let path = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
    assert!(Checkpoint::open(path).unwrap_err().to_string().contains("is not a regular file"));
}
