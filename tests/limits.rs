//! What a checkpoint may ask for: whatever its shapes say, from its file to a prepared engine (or a refusal) it takes no
//! more than 64 MB and eight times the file's own size.

use rtmo_engine::backend::{Device, Placement};
use rtmo_engine::pose::model::{Backbone, Config, Darknet, Dcc, Head, Neck, Stage, Variant};
use rtmo_engine::weights::{SaveType, save_safetensors};
use rtmo_engine::{Engine, EngineOptions, Photo};
use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Counts what the process allocates, on all threads.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(LIVE.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: the caller's promises about `layout` are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: `at` came from `alloc` above with this layout, hence from `System`.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A network of narrow layers, to be widened where a case wants it.
fn narrow() -> Config {
    let stage = Stage { channels: 8, mid: 4, blocks: 1 };
    Config {
        keypoints: 1,
        levels: 2,
        backbone: Backbone::Darknet(Darknet { stem: 8, stages: [stage; 4], spp_mid: 4 }),
        neck: Neck { dim: 8, ffn: 8, layers: 1, mid: 8, blocks: 1 },
        head: Head { projected: 2, cls: 1, cls_convs: 1, pose: 8, pose_convs: 1, groups: 1, vector: 1 },
        dcc: Dcc { dim: 8, encoding: 2, bins: (192, 256), expansion: 1, key_dim: 1 },
    }
}

/// Writes a network of zeros in half precision.
fn write(folder: &Path, config: &Config, input: &str) -> PathBuf {
    let values = |(name, shape): (String, Vec<usize>)| {
        let value = if name.ends_with("running_var") { 1.0 } else { 0.0 };
        let values = vec![value; shape.iter().product()];
        (name, shape, values)
    };
    let tensors: Vec<(String, Vec<usize>, Vec<f32>)> = config.tensors().into_iter().map(values).collect();
    let metadata = BTreeMap::from([("input_size".to_string(), input.to_string())]);
    let path = folder.join("some.safetensors");
    let tensors = tensors.iter().map(|(name, shape, values)| (&name[..], &shape[..], &values[..]));
    save_safetensors(&path, tensors, &metadata, SaveType::F16).unwrap();
    path
}

/// Loads a network; its error, if it is refused. Holds it to the bound.
fn load(case: &str, config: &Config, input: &str, asked: Option<(usize, usize)>) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), config, input);
    let file = std::fs::metadata(&path).unwrap().len() as usize;
    let placement = Placement { device: Device::Cpu, threads: Some(2), ..Placement::default() };
    let mut options = EngineOptions::default().with_placement(placement);
    options.input_size = asked;
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let result = Engine::load(&path, options);
    let taken = PEAK.load(Relaxed) - before;
    let megabytes = |bytes: usize| bytes as f64 / 1e6;
    println!("{case}: {:.1} MB for a file of {:.1} MB", megabytes(taken), megabytes(file));
    if asked.is_none() {
        assert!(taken < 64_000_000 + 8 * file, "{case}: {taken} bytes for a file of {file}");
    }
    match result {
        Ok(mut engine) => {
            engine.infer(&[Photo::filled(64, 48, [114; 3])]).unwrap();
            Ok(())
        }
        Err(error) => {
            let message = error.to_string();
            assert!(message.contains("some.safetensors"), "{case}: {message}");
            Err(message)
        }
    }
}

/// One test, because the allocator counts for the whole process.
#[test]
fn memory_follows_the_file() {
    let refused = |case: &str, input: &str, why: &str, change: &dyn Fn(&mut Config)| {
        let mut config = narrow();
        change(&mut config);
        let message = load(case, &config, input, None).expect_err(case);
        assert!(message.contains(why), "{case}: {message}");
    };
    let with_darknet = |config: &mut Config, change: &dyn Fn(&mut Darknet)| match &mut config.backbone {
        Backbone::Darknet(darknet) => change(darknet),
        Backbone::ResNet(_) => unreachable!("narrow networks have a CSPDarknet"),
    };

    assert_eq!(load("narrow", &narrow(), "64x64", None), Ok(()));
    // The input: a file sets 1536 pixels at most; who wants more says so.
    for input in ["1568x64", "64x8192", "4096x4096", "100x64", "0x64"] {
        refused(input, input, "metadata 'input_size'", &|_| {});
    }
    assert_eq!(load("asked", &narrow(), "4096x4096", Some((64, 96))), Ok(()));
    assert_eq!(load("large", &narrow(), "64x64", Some((2048, 1024))), Ok(()));

    // Extents and counts.
    refused("channels", "64x64", "at most 16384", &|c| c.neck.ffn = 16385);
    refused("keypoints", "64x64", "at most 1024", &|c| c.keypoints = 1025);
    refused("blocks", "64x64", "at most 64", &|c| with_darknet(c, &|d| d.stages[1].blocks = 65));
    refused("layers", "64x64", "at most 64", &|c| c.neck.layers = 65);
    refused("convolutions", "64x64", "at most 64", &|c| c.head.cls_convs = 65);
    // Two thin layers that become a thick one: 1 GB of 1 MB.
    refused("low rank", "32x32", "constants would take", &|c| (c.dcc.dim, c.head.pose) = (1 << 13, 1 << 14));
    // Wide maps of few weights.
    refused("wide stem", "640x640", "maps would take", &|c| with_darknet(c, &|d| d.stem = 1 << 13));
    refused("wide tokens", "1536x1536", "would take", &|c| c.neck.dim = 1 << 9);
    refused("rows", "64x64", "rows of a person would take", &|c| {
        (c.keypoints, c.dcc.dim) = (1 << 10, 1 << 8)
    });

    // Networks that run: layers whose transformed weights are largest, and a published shape.
    let mut thick = narrow();
    (thick.head.projected, thick.head.cls, thick.head.cls_convs) = (512, 512, 3);
    assert_eq!(load("thick 3x3 layers", &thick, "64x64", None), Ok(()));
    let published = Variant::T.config(17, 2);
    assert_eq!(load("rtmo-t", &published, "416x416", None), Ok(()));
    assert_eq!(load("rtmo-t of whole bodies", &Variant::T.config(133, 2), "416x416", None), Ok(()));
}
