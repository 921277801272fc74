//! ONNX files as the authors publish them: what torch exports of mmpose's own modules (`tools/onnx_fixture.py`).

use crate::writer::*;
use rtmo_engine::pose::model::{self, Backbone, Config, Darknet, Dcc, Head, Neck, Stage};
use rtmo_engine::weights::{Architecture, Checkpoint, Format};
use rtmo_engine::{Device, Engine, EngineOptions, Photo};
use std::collections::BTreeMap;

const TINY: &[u8] = include_bytes!("../data/onnx/tiny.onnx");

/// The network of the file: its weights are the generated ones of seed 14.
fn config() -> Config {
    let stage = |channels, blocks| Stage { channels, mid: channels / 2, blocks };
    let stages = [stage(4, 1), stage(8, 3), stage(16, 3), stage(32, 1)];
    Config {
        keypoints: 17,
        levels: 2,
        backbone: Backbone::Darknet(Darknet { stem: 2, stages, spp_mid: 16 }),
        neck: Neck { dim: 16, ffn: 20, layers: 1, mid: 6, blocks: 1 },
        head: Head { projected: 16, cls: 8, cls_convs: 2, pose: 8, pose_convs: 4, groups: 8, vector: 12 },
        dcc: Dcc { dim: 10, encoding: 14, bins: (192, 256), expansion: 20, key_dim: 8 },
    }
}

fn trained() -> Checkpoint {
    Checkpoint::from_tensors("generated", model::random_tensors(&config(), 14))
}

#[test]
fn weights_are_those_of_the_checkpoint_that_was_exported() {
    let onnx = Checkpoint::from_bytes("tiny.onnx", TINY).unwrap();
    assert_eq!(onnx.format(), Format::Onnx);
    assert_eq!(onnx.warnings(), [""; 0]);
    let (found, expected) = (Architecture::of(&onnx), Architecture::of(&trained()));
    assert_eq!((found.width, found.keypoints, found.levels), (expected.width, Some(17), 2));
    assert_eq!(found.input_size, (64, 96));

    // Norms are folded in either: all constants of the two plans agree to f32's rounding in torch's folding (f32 all along) and
    // here (f64): 2^-22 of the largest weight of a layer, and for chained layers their sums.
    let plan = |checkpoint: &Checkpoint| model::build(checkpoint, (64, 96)).unwrap();
    let (onnx, trained) = (plan(&onnx), plan(&trained()));
    assert_eq!(onnx.tensors.len(), trained.tensors.len());
    for (a, b) in onnx.tensors.iter().zip(&trained.tensors) {
        assert_eq!((&a.name, &a.shape), (&b.name, &b.shape));
        let largest = b.data.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        let off = a.data.iter().zip(&b.data).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(off <= 2e-6 * largest.max(1.0), "{}: off by {off} of {largest}", a.name);
    }
}

#[test]
fn people_are_those_of_the_checkpoint_that_was_exported() {
    let photo = Photo { width: 64, height: 96, bgr: model::noise_image(64, 96, 1) };
    let options = EngineOptions::default().with_device(Device::Cpu).with_threads(1);
    let options = options.with_input_size(64, 96).with_score_thr(0.0).with_max_people(5);
    let infer = |checkpoint: &Checkpoint| {
        Engine::from_checkpoint(checkpoint, options)
            .unwrap()
            .infer(std::slice::from_ref(&photo))
            .unwrap()
            .remove(0)
    };
    let (onnx, trained) = (infer(&Checkpoint::from_bytes("tiny.onnx", TINY).unwrap()), infer(&trained()));
    assert_eq!((onnx.len(), trained.len()), (5, 5));
    for (a, b) in onnx.iter().zip(&trained) {
        // Weights differ in f32's last bits; a hundredth of a pixel is far below what any layer in the wrong place does.
        assert!((a.score - b.score).abs() < 1e-4, "{} {}", a.score, b.score);
        for (a, b) in a.keypoints.iter().zip(&b.keypoints) {
            assert!((a.x - b.x).abs() < 0.01 && (a.y - b.y).abs() < 0.01, "{a:?} {b:?}");
        }
    }
}

/// A zip archive of files, stored or deflated.
fn archive(files: &[(&str, &[u8])], deflated: bool) -> Vec<u8> {
    use std::io::{Cursor, Write};
    let method = if deflated { zip::CompressionMethod::Deflated } else { zip::CompressionMethod::Stored };
    let options = zip::write::SimpleFileOptions::default().compression_method(method);
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in files {
        zip.start_file(*name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// All values of a checkpoint by name.
fn values(checkpoint: &Checkpoint) -> BTreeMap<String, Vec<f32>> {
    let read = |name: &str| checkpoint.tensor(name, checkpoint.shape(name).unwrap()).unwrap();
    checkpoint.names().map(|name| (name.to_string(), read(name))).collect()
}

#[test]
fn the_authors_archives_are_read() {
    let bare = values(&Checkpoint::from_bytes("tiny.onnx", TINY).unwrap());
    for deflated in [false, true] {
        // As mmdeploy's SDK archives are.
        let files =
            [("deploy.json", &b"{}"[..]), ("20231211/rtmo/end2end.onnx", TINY), ("pipeline.json", b"{}")];
        let folder = Folder::new();
        let checkpoint = Checkpoint::open(folder.write("rtmo.zip", &archive(&files, deflated))).unwrap();
        assert!(values(&checkpoint) == bare);
        let two = archive(&[("a.onnx", TINY), ("b.onnx", TINY)], deflated);
        let error = Checkpoint::from_bytes("two.zip", two).unwrap_err().to_string();
        assert!(error.contains("several ONNX models"), "{error}");
    }
}

#[test]
fn damage_is_an_error() {
    // Every cut in the head and at many places behind; bytes of the structure changed to extremes.
    let cuts = (3..200).chain((200..TINY.len()).step_by(997));
    for cut in cuts {
        let error = Checkpoint::from_bytes("cut.onnx", TINY[..cut].to_vec()).unwrap_err().to_string();
        assert!(error.starts_with("cut.onnx: "), "{error}");
    }
    let mut kept = 0;
    for at in (0..TINY.len()).step_by(211) {
        for byte in [0, 0x7f, 0xff] {
            let mut file = TINY.to_vec();
            file[at] = byte;
            let Ok(checkpoint) = Checkpoint::from_bytes("damaged.onnx", file) else { continue };
            kept += 1;
            // Values may have changed; nothing else.
            for name in checkpoint.names() {
                checkpoint.tensor(name, checkpoint.shape(name).unwrap()).ok();
            }
        }
    }
    assert!(kept > 1000, "most bytes are weights");
}

/// A message of protocol buffers.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut message = vec![number << 3 | 2];
    let mut len = bytes.len();
    while len >= 0x80 {
        message.push(len as u8 | 0x80);
        len >>= 7;
    }
    message.push(len as u8);
    [&message, bytes].concat()
}

fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> Vec<u8> {
    let names =
        |number, names: &[&str]| names.iter().flat_map(|n| field(number, n.as_bytes())).collect::<Vec<_>>();
    field(1, &[names(1, inputs), names(2, outputs), field(4, op.as_bytes())].concat())
}

/// A file of these nodes and constants.
fn onnx(graph: &[Vec<u8>]) -> Vec<u8> {
    [vec![0x08, 6], field(2, b"test"), field(7, &graph.concat())].concat()
}

#[test]
fn other_networks_and_traps_are_errors() {
    let tensor = |name: &str, dims: &[u8], kind: u8, raw: &[u8]| {
        let dims: Vec<u8> = dims.iter().flat_map(|&n| [0x08, n]).collect();
        field(5, &[dims, vec![0x10, kind], field(8, name.as_bytes()), field(9, raw)].concat())
    };
    let cases: [(Vec<u8>, &str); 11] = [
        (onnx(&[]), "no coordinate classifier"),
        ([vec![0x08, 6], field(2, b"test")].concat(), "it has no graph"),
        ([onnx(&[]), field(7, b"")].concat(), "two graphs"),
        (onnx(&[node("Relu", &["a"], &["b"]), node("Relu", &["c"], &["b"])]), "two nodes make 'b'"),
        (
            onnx(&[tensor("w", &[2], 1, &[0; 8]), tensor("w", &[2], 1, &[0; 8])]),
            "two constants are named 'w'",
        ),
        (onnx(&[tensor("w", &[3], 1, &[0; 8])]), "shape [3] of F32 in 8 bytes"),
        (onnx(&[field(5, &[0x70, 1])]), "in other files"),
        (onnx(&[field(1, &[0xff])]), "damaged or truncated"),
        (onnx(&[node("Relu", &["a\x1b[2J"], &["b"]), node("Relu", &[""], &["b"])]), "two nodes make"),
        (onnx(&vec![node("Relu", &[], &[]); 40_000]), "more than 8192 nodes"),
        (onnx(&vec![node("Add", &[""; 60], &[]); 4_000]), "more than 131072 inputs"),
    ];
    for (file, part) in cases {
        let error = Checkpoint::from_bytes("other.onnx", file).unwrap_err().to_string();
        assert!(error.contains("ONNX: ") && error.contains(part), "{part}: {error}");
    }
    // A circle of nodes ends.
    let circle = onnx(&[
        node("Concat", &["c", "s"], &["e"]),
        node("Cos", &["d"], &["c"]),
        node("Sin", &["d"], &["s"]),
        node("Identity", &["f"], &["d"]),
        node("Identity", &["d"], &["f"]),
    ]);
    assert!(Checkpoint::from_bytes("circle.onnx", circle).is_err());
}
