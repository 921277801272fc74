//! Random files and random damage: an answer or an error, in bounded memory, whatever comes.

use crate::memory::peak;
use crate::writer::*;
use proptest::prelude::*;
use rtmo_engine::weights::Checkpoint;

/// Opens a file and reads all that it claims to hold. What it takes is bounded by the file's size: a small file may not
/// ask for more than the fixed overheads (64 kB for a file as it is, 1 MB for repeated values, 4 MB for deflated entries)
/// and a small multiple of itself.
fn digest(file: &[u8]) {
    thread_local!(static FOLDER: Folder = Folder::new());
    let path = &FOLDER.with(|folder| folder.write("w", file));
    let ((), memory) = peak(|| {
        let Ok(checkpoint) = Checkpoint::open(path) else { return };
        for name in checkpoint.names() {
            let shape = checkpoint.shape(name).unwrap();
            if let Ok(values) = checkpoint.tensor(name, shape) {
                assert_eq!(values.len(), shape.iter().product::<usize>());
            }
        }
    });
    assert!(memory < (6 << 20) + 200 * file.len(), "{memory} bytes for a file of {}", file.len());
}

#[test]
fn the_seeds_are_good() {
    for seed in seeds() {
        let checkpoint = open(&seed).unwrap();
        for name in checkpoint.names() {
            checkpoint.tensor(name, checkpoint.shape(name).unwrap()).unwrap();
        }
    }
}

/// One piece of damage; positions are fractions of the file.
#[derive(Clone, Debug)]
enum Damage {
    Byte(f64, u8),
    Word(f64, u32),
    Long(f64, u64),
    Cut(f64, f64),
    Copy(f64, f64, f64),
    End(f64),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = || 0.0..1.0f64;
    let word = prop_oneof![Just(0), Just(u32::MAX), Just(1 << 31), Just(0x7fff_ffff), any::<u32>()];
    let long = prop_oneof![Just(0), Just(u64::MAX), Just(1 << 63), Just(1 << 40), any::<u64>()];
    prop_oneof![
        4 => (at(), any::<u8>()).prop_map(|(a, v)| Damage::Byte(a, v)),
        // Opcodes.
        2 => (at(), prop::sample::select(b"(.012}])ldtesaubcRoQqrhjNJKMGUTXCB\x80\x81\x85\x86\x87\x88\x8a\x8b\x8c\x93\x94\x95".to_vec()))
            .prop_map(|(a, v)| Damage::Byte(a, v)),
        2 => (at(), word).prop_map(|(a, v)| Damage::Word(a, v)),
        2 => (at(), long).prop_map(|(a, v)| Damage::Long(a, v)),
        1 => (at(), 0.0..0.1f64).prop_map(|(a, n)| Damage::Cut(a, n)),
        1 => (at(), at(), 0.0..0.3f64).prop_map(|(a, b, n)| Damage::Copy(a, b, n)),
        1 => at().prop_map(Damage::End),
    ]
}

fn apply(file: &mut Vec<u8>, damage: &Damage) {
    let len = file.len() as f64;
    let place = |at: f64| (at * len) as usize;
    let mut put = |at: f64, bytes: &[u8]| {
        let at = place(at);
        let n = bytes.len().min(file.len() - at);
        file[at..at + n].copy_from_slice(&bytes[..n]);
    };
    match *damage {
        Damage::Byte(at, value) => put(at, &[value]),
        Damage::Word(at, value) => put(at, &value.to_le_bytes()),
        Damage::Long(at, value) => put(at, &value.to_le_bytes()),
        Damage::Cut(at, n) => drop(file.drain(place(at)..place((at + n).min(1.0)))),
        Damage::Copy(from, to, n) => {
            let piece = file[place(from)..place((from + n).min(1.0))].to_vec();
            let to = place(to);
            file.splice(to..to, piece);
        }
        Damage::End(at) => file.truncate(place(at)),
    }
}

/// Bits of pickles that make sense together more often than random bytes do.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let fragments: Vec<Vec<u8>> = vec![
        b"}".to_vec(),
        b"]".to_vec(),
        b")".to_vec(),
        b"(".to_vec(),
        b"t".to_vec(),
        b"\x85".to_vec(),
        b"\x86".to_vec(),
        b"R".to_vec(),
        b"b".to_vec(),
        b"s".to_vec(),
        b"u".to_vec(),
        b"a".to_vec(),
        b"e".to_vec(),
        b"0".to_vec(),
        b"1".to_vec(),
        b"2".to_vec(),
        b"N".to_vec(),
        b"\x88".to_vec(),
        b"Q".to_vec(),
        b"\x81".to_vec(),
        b"\x93".to_vec(),
        b"\x94".to_vec(),
        b"q\x00".to_vec(),
        b"q\x01".to_vec(),
        b"h\x00".to_vec(),
        b"h\x01".to_vec(),
        b"K\x02".to_vec(),
        Pickle::default().int(i64::MAX).0,
        Pickle::default().int(-1).0,
        Pickle::default().text("state_dict").0,
        Pickle::default().text("a").0,
        Pickle::default().ints(&[1, 2]).0,
        Pickle::default().global("torch._utils", "_rebuild_tensor_v2").0,
        Pickle::default().global("torch._utils", "_rebuild_parameter").0,
        Pickle::default().global("collections", "OrderedDict").0,
        Pickle::default().global("os", "system").0,
        Pickle::default()
            .op(b"(")
            .text("storage")
            .global("torch", "FloatStorage")
            .text("0")
            .text("cpu")
            .int(2)
            .op(b"tQ")
            .0,
        Pickle::default().tensor(&Tensor::vector("0", &[2]), false).0,
    ];
    prop::sample::select(fragments)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes(body in prop::collection::vec(any::<u8>(), 1..600), head in 0usize..5) {
        let heads: [&[u8]; 5] = [b"", b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", b"\x40\0\0\0\0\0\0\0{", b"\x80\x02"];
        digest(&[heads[head], &body[..]].concat());
    }

    #[test]
    fn damaged_files(seed in 0usize..5, damages in prop::collection::vec(damage(), 1..6)) {
        let mut file = seeds().swap_remove(seed);
        for damage in &damages {
            if !file.is_empty() {
                apply(&mut file, damage);
            }
        }
        digest(&file);
    }

    #[test]
    fn random_pickles(fragments in prop::collection::vec(fragment(), 0..60), protocol in 2u8..6) {
        let body = fragments.concat();
        let data: &[(&str, &[u8])] = &[("0", &[0; 8])];
        digest(&pth(&Pickle::new(protocol).op(&body).stop(), data));
        // As the contents of a state_dict, where more of it is looked at.
        let inside = Pickle::new(protocol).op(b"}").text("state_dict").op(b"}").text("a").op(&body).op(b"ss").stop();
        digest(&pth(&inside, data));
    }
}
