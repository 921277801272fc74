//! A hostile checkpoint all the way to one run: a network of any widths, some of its tensors of other shapes, names or values
//! than it asks for. It is refused, or it runs, in memory that its size bounds, and what it finds is finite.

#![no_main]

#[path = "../../../tests/weights/memory.rs"]
mod memory;

use libfuzzer_sys::fuzz_target;
use rtmo_engine::pose::model::{Backbone, Config, Darknet, Dcc, Head, Neck, ResNet, Stage, random_tensors};
use rtmo_engine::weights::Checkpoint;
use rtmo_engine::{Compat, Device, Engine, EngineOptions, Photo};
use std::collections::BTreeMap;

type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Extents that a file may claim instead of the right one.
const EXTENTS: [usize; 8] = [0, 1, 2, 3, 7, 1 << 14, 1 << 20, usize::MAX];
/// Widths of layers: a lane, a vector, and what does not fit either.
const WIDTHS: [usize; 8] = [8, 1, 2, 3, 4, 12, 16, 33];
const VALUES: [f32; 12] = [
    f32::NAN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::MAX,
    f32::MIN,
    f32::MIN_POSITIVE,
    1e-45,
    0.0,
    -1.0,
    1e4,
    65504.0,
    1e30,
];

/// The fuzzer's choices, one byte each; 0 behind the last.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn below(&mut self, n: usize) -> usize {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(*first) % n
    }

    fn of<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

fn config(c: &mut Choices<'_>) -> Config {
    let mut stages = [Stage { channels: 8, mid: 8, blocks: 1 }; 4];
    for stage in &mut stages {
        *stage = Stage { channels: c.of(&WIDTHS), mid: c.of(&WIDTHS), blocks: 1 + c.below(2) };
    }
    let stem = c.of(&WIDTHS);
    let backbone = match c.below(3) {
        0 => Backbone::ResNet(ResNet { stem, stages }),
        _ => Backbone::Darknet(Darknet { stem, stages, spp_mid: c.of(&WIDTHS) }),
    };
    let groups = c.of(&[1, 2, 8]);
    Config {
        keypoints: c.of(&[17, 1, 2, 14, 40]),
        levels: 2 + c.below(2),
        backbone,
        neck: Neck {
            dim: c.of(&[8, 16, 24]),
            ffn: c.of(&WIDTHS),
            layers: 1 + c.below(2),
            mid: c.of(&WIDTHS),
            blocks: 1 + c.below(2),
        },
        head: Head {
            projected: 2 * c.of(&WIDTHS),
            cls: c.of(&WIDTHS),
            cls_convs: 1 + c.below(2),
            pose: groups * c.of(&[1, 2, 3, 8]),
            pose_convs: 1 + c.below(3),
            groups,
            vector: c.of(&WIDTHS),
        },
        dcc: Dcc {
            dim: c.of(&[8, 16, 3]),
            encoding: 2 * c.of(&[1, 4, 8]),
            bins: (c.of(&[192, 1, 7]), c.of(&[256, 2, 33])),
            expansion: c.of(&WIDTHS),
            key_dim: c.of(&WIDTHS),
        },
    }
}

/// Makes one tensor another than the network asks for.
fn spoil(tensors: &mut Tensors, c: &mut Choices<'_>) {
    let at = c.below(256) * 256 + c.below(256);
    let Some(name) = tensors.keys().nth(at % tensors.len().max(1)).cloned() else { return };
    match c.below(6) {
        0 | 1 => {
            let value = c.of(&VALUES);
            let (step, first) = (1 + c.below(5), c.below(7));
            let (_, values) = tensors.get_mut(&name).expect("it is there");
            values.iter_mut().skip(first).step_by(step).for_each(|v| *v = value);
        }
        2 => {
            let factor = c.of(&[1e3, -1.0, 1e10, 1e-10, 1e38]);
            let (_, values) = tensors.get_mut(&name).expect("it is there");
            values.iter_mut().for_each(|v| *v *= factor);
        }
        3 => {
            let (shape, values) = tensors.get_mut(&name).expect("it is there");
            if let Some(i) = shape.len().checked_sub(1).map(|last| c.below(last + 1)) {
                shape[i] = c.of(&EXTENTS);
            }
            // Readers check that shapes and values agree, so that here they do.
            match shape.iter().try_fold(1_usize, |n, &extent| n.checked_mul(extent)) {
                Some(n) if n <= 1 << 16 => values.resize(n, 0.5),
                _ => _ = tensors.remove(&name),
            }
        }
        4 => _ = tensors.remove(&name),
        _ => {
            let other = name.replace(['0', '1'], c.of(&["1", "2", "7", "18446744073709551615", "x"]));
            let moved = tensors.remove(&name).expect("it is there");
            tensors.insert(other, moved);
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let c = &mut Choices(bytes);
    let mut tensors = random_tensors(&config(c), c.below(4) as u64);
    let sides = [64, 32, 96, 160];
    let options = EngineOptions::default()
        .with_input_size(c.of(&sides), c.of(&sides))
        .with_device(Device::Cpu)
        .with_threads(1 + c.below(2))
        .with_compat(c.of(&[Compat::Mmpose, Compat::Rtmlib]))
        .with_score_thr(c.of(&[0.0, 0.1, 0.9]))
        .with_max_people(c.of(&[3, 200, 10_000]));
    for _ in 0..c.below(4) {
        spoil(&mut tensors, c);
    }
    let (width, height) = c.of(&[(48, 40), (1, 1), (1, 300), (200, 3)]);
    let photo = Photo { width, height, bgr: (0..width * height * 3).map(|i| (i * 7 + i / 19) as u8).collect() };
    let size = tensors.values().map(|(_, values)| 4 * values.len()).sum::<usize>();
    let checkpoint = Checkpoint::from_tensors("fuzz", tensors);
    let ((), memory) = memory::peak(|| {
        let Ok(mut engine) = Engine::from_checkpoint(&checkpoint, options) else { return };
        let found = engine.infer(&[photo]).expect("a photo that can be read");
        for person in &found[0] {
            let joints = person.keypoints.iter().flat_map(|k| [k.x, k.y, k.score]);
            assert!(person.bbox.into_iter().chain([person.score]).chain(joints).all(f32::is_finite));
        }
    });
    assert!(memory < (64 << 20) + 8 * size, "{memory} bytes for weights of {size}");
});
