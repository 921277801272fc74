//! Files made to harm: nothing may be run, claimed sizes may not be believed, and no file may cost more than it weighs.

use crate::memory::peak;
use crate::writer::*;
use std::path::Path;

/// A `.pth` whose state_dict has one entry, `a`, pushed by `value`.
fn with_value(value: impl FnOnce(Pickle) -> Pickle) -> Vec<u8> {
    let p = value(Pickle::new(2).op(b"}").text("state_dict").op(b"}").text("a")).op(b"ss").stop();
    pth(&p, &[("0", &bytes(&[1.0, 2.0]))])
}

fn good(p: Pickle) -> Pickle {
    p.tensor(&Tensor::vector("0", &[2]), false)
}

/// Every way in which a pickle can ask for a function to be called.
#[test]
fn no_function_is_ever_called() {
    let folder = Folder::new();
    let marker = folder.path("called");
    let command = format!("touch {}", marker.display());
    let arg = |p: Pickle| p.text(&command);
    type Attack<'a> = Box<dyn Fn(Pickle) -> Pickle + 'a>;
    let attacks: Vec<Attack> = vec![
        Box::new(|p| p.call("os", "system", arg)),
        Box::new(|p| p.call("posix", "system", arg)),
        Box::new(|p| p.call("builtins", "eval", |p| p.text("__import__('os').system('touch x')"))),
        Box::new(|p| arg(p.global("subprocess", "Popen").op(b"(")).op(b"t\x81")),
        Box::new(|p| arg(p.global("subprocess", "Popen").op(b"(")).op(b"t}\x92")),
        Box::new(|p| arg(p.op(b"(")).op(b"ios\nsystem\n")),
        Box::new(|p| arg(p.op(b"(").global("os", "system")).op(b"o")),
        Box::new(|p| arg(p.text("os").text("system").op(b"\x93").op(b"(")).op(b"tR")),
        // The result of a call, called.
        Box::new(|p| {
            arg(p.call("builtins", "getattr", |p| p.global("os", "os").text("system")).op(b"(")).op(b"tR")
        }),
        // Known names with foreign arguments or states.
        Box::new(|p| p.call("collections", "OrderedDict", |p| p.op(b"]").call("os", "system", arg).op(b"a"))),
        Box::new(|p| {
            p.call("torch._utils", "_rebuild_parameter", |p| p.call("os", "system", arg).op(b"\x88N"))
        }),
        Box::new(|p| p.call("os", "system", arg).op(b"}").text("__setstate__").text("x").op(b"sb")),
        Box::new(|p| p.call("torch._utils", "_rebuild_qtensor", |p| good(p).op(b"NNNNNN"))),
    ];
    for (i, attack) in attacks.iter().enumerate() {
        let message = refusal(&with_value(attack));
        assert!(
            message.contains("tensor 'a' is built by") && message.contains("never called"),
            "{i}: {message}"
        );
        // Elsewhere in the file the same is inert.
        let p = attack(Pickle::new(2).op(b"}").text("meta")).op(b"s").text("state_dict").op(b"}").text("a");
        let checkpoint = open(&pth(&good(p).op(b"ss").stop(), &[("0", &bytes(&[1.0, 2.0]))])).unwrap();
        assert_eq!(checkpoint.tensor("a", &[2]).unwrap(), [1.0, 2.0]);
    }
    assert!(!marker.exists() && !Path::new("x").exists());
}

#[test]
fn broken_pickles() {
    let refused = |pickle: &[u8], why: &str| {
        let (message, memory) = peak(|| refusal(&pth(pickle, &[])));
        assert!(message.contains(why), "{message}");
        assert!(memory < 1 << 20, "{why}: {memory} bytes");
    };
    refused(b"", "truncated");
    refused(b"\x80\x02}", "ends without STOP");
    refused(b"\x80\x09.", "protocol 9");
    refused(b"\x80\x02.", "stack is empty");
    refused(b"\x80\x02t.", "no mark");
    refused(b"\x80\x02(}(}(.", "stack is empty");
    refused(b"\x80\x02h\x07.", "nothing was memorised as 7");
    refused(b"\x80\x02}j\xff\xff\xff\xff.", "nothing was memorised");
    refused(b"\x80\x02\x8b\x00\x00\x00\x80.", "2147483648 bytes expected");
    refused(b"\x80\x02\x8b\xff\xff\xff\x7f.", "2147483647 bytes expected");
    refused(b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xff.", "bytes expected");
    refused(b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x01}.", "a frame of 72057594037927936 bytes");
    refused(b"\x80\x05\x96\x00\x00\x00\x00\x00\x00\x00\x01.", "bytes expected");
    refused(b"\x80\x02ccollections", "unfinished line");
    refused(b"\x80\x02}Ns.", "stack is empty");
    refused(b"\x80\x02}(Nu.", "a key without a value");
    refused(b"\x80\x02](NNu.", "not a dictionary");
    refused(b"\x80\x02K\x01K\x02a.", "a container was expected");
    refused(b"\x80\x02K\x01)R.", "not a function");
    refused(b"\x80\x02\x82\x01.", "extension registry");
    refused(b"\x80\x05\x97.", "out-of-band");
    refused(b"\x80\x02I1\n.", "protocols 0 and 1");
    refused(b"\x80\x02\xff.", "unknown opcode 0xff");
    refused(b"\x80\x02U\x03abcQ.", "a tuple was expected");
    refused(b"\x80\x02(X\x04\x00\x00\x00diskttQ.", "no mark");
    refused(b"\x80\x02X\x04\x00\x00\x00disk\x85Q.", "unknown kind of persistent id");
}

#[test]
fn deep_and_circular_structures() {
    // A list in a list in a list, and a dictionary that holds itself.
    let deep = [b"\x80\x02".as_slice(), &b"]".repeat(100_000), &b"a".repeat(99_999), b"."].concat();
    assert!(refusal(&pth(&deep, &[])).contains("no dictionary"));
    let p = Pickle::new(2).op(b"}q\x00").text("state_dict").op(b"h\x00s").text("a");
    let checkpoint = open(&pth(&good(p).op(b"s").stop(), &[("0", &bytes(&[1.0, 2.0]))])).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a"]);
}

/// Long pickles of the opcodes that cost most memory a byte.
#[test]
fn long_pickles_stay_within_bounds() {
    let mut tuple = vec![b'('];
    tuple.extend(std::iter::repeat_n(b'N', 10_000));
    tuple.extend(b"tq\x010");
    let mut memo = vec![b'N'];
    for i in 0..(1u32 << 19) - 3 {
        memo.push(b'r');
        memo.extend(i.wrapping_mul(0x9e37_79b9).to_le_bytes());
    }
    // A long tuple as the argument of many calls.
    let calls = |call: &[u8]| [tuple.clone(), call.repeat(100_000)].concat();
    let mut storms = vec![("more than 524288 opcodes", b"]".repeat(3 << 20))];
    storms.push(("more than 524288 opcodes", b"(".repeat(3 << 20)));
    storms.push(("no dictionary", memo));
    storms.push(("holds a os.system", calls(b"cos\nsystem\nh\x01R")));
    storms.push(("holds a collections.OrderedDict", calls(b"ccollections\nOrderedDict\nh\x01\x85R")));
    // Empty tuples after the stack has grown.
    let empty = [b"(".to_vec(), b"N".repeat(260_000), b"1".to_vec(), b"(t0".repeat(80_000)].concat();
    storms.push(("stack is empty", empty));
    // Tuples of one, and dictionaries of one.
    storms.push(("more than 524288 opcodes", [b"N".to_vec(), b"\x85".repeat(1 << 19)].concat()));
    storms.push(("more than 524288 opcodes", b"}NNs".repeat(1 << 17)));
    for (why, storm) in storms {
        let file = pth(&[b"\x80\x02", &storm[..], b"."].concat(), &[]);
        let (message, memory) = peak(|| refusal(&file));
        assert!(message.contains(why), "{why}: {message}");
        assert!(memory < allowance(&file), "{why}: {} MB", memory >> 20);
    }
}

/// What reading a file may take, the file itself included.
fn allowance(file: &[u8]) -> usize {
    (64 << 20) + 8 * file.len()
}

/// The pickles of the older format share one allowance.
#[test]
fn several_long_pickles_stay_within_bounds() {
    let half = b"]".repeat(300_000);
    let pickle = |body: &[u8]| [b"\x80\x02}0", body, b"}."].concat();
    let mut file = legacy(&pickle(&half), &[]);
    assert!(refusal(&file).contains("no state_dict and no tensors"));
    // The list of keys comes last.
    file.truncate(file.len() - 6);
    file.extend(pickle(&half));
    let (message, memory) = peak(|| refusal(&file));
    assert!(message.contains("more than 524288 opcodes"), "{message}");
    assert!(memory < allowance(&file), "{} MB", memory >> 20);
}

/// Two megabytes of a file's own took 17 s when such a key was looked up 250,000 times.
#[test]
fn storage_keys_are_short_and_come_once() {
    let listed = |key: &str, times: usize| {
        let pickle = Pickle::new(2).state(&[("a", Tensor::vector(key, &[2]))], true).stop();
        let storages: Vec<(&str, i64, &[u8])> = vec![(key, 2, &[0; 8]); times];
        legacy(&pickle, &storages)
    };
    assert!(open(&listed("0", 1)).is_ok());
    assert!(open(&listed(&"k".repeat(256), 1)).is_ok());
    assert!(refusal(&listed("0", 2)).contains("storage '0' is listed twice"));
    let start = std::time::Instant::now();
    assert!(refusal(&listed(&"k".repeat(257), 1)).contains("a storage key of 257 bytes, at most 256"));
    let key = b"k".repeat(1 << 20);
    let long = |p: Pickle| p.op(b"X").op(&(key.len() as u32).to_le_bytes()).op(&key);
    let p = long(Pickle::new(2).op(b"}").text("a").op(b"(").text("storage").global("torch", "FloatStorage"));
    let pickle = p.text("cpu").int(0).op(b"tQs").stop();
    let keys = long(Pickle::new(2).op(b"](")).op(b"q\x00").op(&b"h\x00".repeat(120_000)).op(b"e").stop();
    let file = [&legacy(&pickle, &[])[..], &keys].concat();
    assert!(refusal(&file).contains("a storage key of 1048576 bytes"));
    // Each takes milliseconds; the machine may be busy.
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}

#[test]
fn tensors_that_claim_too_much() {
    let v = Tensor::vector("0", &[2]);
    let huge = 1_000_000_000_000;
    let refused = |tensor: Tensor, why: &str| {
        let (message, memory) = peak(|| refusal(&with_value(|p| p.tensor(&tensor, false))));
        assert!(message.contains("tensor 'a': ") && message.contains(why), "{message}");
        assert!(memory < 1 << 20, "{why}: {memory} bytes");
    };
    refused(Tensor { len: huge, ..v }, "its storage claims 4000000000000 bytes, the file has 8");
    refused(Tensor { len: i64::MAX, ..v }, "its storage claims");
    refused(Tensor { len: -2, ..v }, "a size of -2");
    refused(Tensor { shape: &[huge], ..v }, "leaves its storage");
    refused(Tensor { shape: &[i64::MAX, i64::MAX], strides: &[1, 1], ..v }, "too large");
    refused(Tensor { offset: 1, ..v }, "leaves its storage");
    refused(Tensor { offset: i64::MAX, ..v }, "leaves its storage");
    refused(Tensor { offset: -1, ..v }, "a size of -1");
    refused(Tensor { strides: &[2], ..v }, "leaves its storage");
    refused(Tensor { strides: &[i64::MAX], ..v }, "leaves its storage");
    refused(Tensor { strides: &[-1], ..v }, "a size of -1");
    refused(Tensor { strides: &[1, 1], ..v }, "1 extents and 2 strides");
    refused(Tensor { shape: &[1; 65], strides: &[1; 65], ..v }, "65 dimensions");
    refused(Tensor { key: "9", ..v }, "record 'data/9' is missing");
    refused(Tensor { key: "../../etc/passwd", ..v }, "is missing");
    // Nothing in it, however large the other extents.
    let empty = Tensor { shape: &[i64::MAX, 0, i64::MAX], strides: &[1, 1, 1], ..v };
    let checkpoint = open(&with_value(|p| p.tensor(&empty, false))).unwrap();
    assert!(checkpoint.tensor("a", checkpoint.shape("a").unwrap()).unwrap().is_empty());
}

#[test]
fn tensors_that_share_too_much() {
    // A thousand names for one storage of 4 kB are 4 MB from a file of 150 kB.
    let names: Vec<String> = (0..1000).map(|i| i.to_string()).collect();
    let tensors: Vec<(&str, Tensor)> =
        names.iter().map(|name| (&name[..], Tensor::vector("0", &[1024]))).collect();
    let file = pth(&Pickle::new(2).state(&tensors, false).stop(), &[("0", &[0; 4096])]);
    assert!(refusal(&file).contains("its tensors claim 4096000 bytes, the file has"));
    // One value, repeated by a stride of 0.
    for count in [1 << 40, i64::MAX] {
        let repeated = Tensor { shape: &[count], strides: &[0], ..Tensor::vector("0", &[1]) };
        let (message, memory) = peak(|| refusal(&with_value(|p| p.tensor(&repeated, false))));
        assert!(message.contains("its tensors claim"), "{message}");
        assert!(memory < 1 << 20, "{memory} bytes");
    }
}

#[test]
fn too_many_tensors() {
    // One tensor of a kilobyte in memory, and a name and a reference of a few bytes for each further.
    let mut pickle =
        Pickle::new(2).op(b"}(").text("first").tensor(&Tensor::vector("0", &[1]), false).op(b"q\xc8");
    for i in 0..1 << 14 {
        pickle = pickle.text(&i.to_string()).op(b"h\xc8");
    }
    let file = pth(&pickle.op(b"u").stop(), &[("0", &[0; 4])]);
    let (message, memory) = peak(|| refusal(&file));
    assert!(message.contains("more than 16384 tensors"), "{message}");
    assert!(memory < allowance(&file), "{} MB", memory >> 20);
}

#[test]
fn odd_names() {
    let named = |name: &str| {
        pth(&Pickle::new(2).state(&[(name, Tensor::vector("0", &[2]))], false).stop(), &[("0", &[0; 8])])
    };
    assert!(open(&named("ünïcode.weight")).is_ok());
    assert!(refusal(&named("a\x1b[2Jb")).contains("not plain text: 'a\\x1b[2Jb'"));
    assert!(refusal(&named(&"x".repeat(10_000))).len() < 400);
    let twice = [("a", Tensor::vector("0", &[2])), ("module._orig_mod.a", Tensor::vector("0", &[2]))];
    assert!(
        refusal(&pth(&Pickle::new(2).state(&twice, false).stop(), &[("0", &[0; 8])]))
            .contains("two tensors are named 'a'")
    );
}

/// Overwrites bytes of `file` at the last place where `pattern` is found, `at` bytes on.
fn patch(file: &[u8], pattern: &[u8], at: usize, with: &[u8]) -> Vec<u8> {
    let found = file.windows(pattern.len()).rposition(|window| window == pattern).unwrap();
    let mut file = file.to_vec();
    file[found + at..][..with.len()].copy_from_slice(with);
    file
}

#[test]
fn broken_archives() {
    let file = with_value(good);
    let all = &[0xff; 8];
    let (entry, end) = (b"PK\x01\x02".as_slice(), b"PK\x05\x06".as_slice());
    let name = b"x/data/0".as_slice();
    for (file, why) in [
        (file[..file.len() - 1].to_vec(), "zip: "),
        (file[..40].to_vec(), "zip: "),
        (patch(&file, end, 10, &all[..2]), "zip: "),
        (patch(&file, end, 16, &all[..4]), "zip: "),
        (patch(&file, entry, 28, &all[..2]), "zip: "),
        (patch(&file, entry, 30, &all[..2]), "zip: "),
        (patch(&file, entry, 32, &all[..2]), "zip: "),
        // The last directory entry is data/0: not deflated, encrypted, one that is not there.
        (patch(&file, entry, 10, &[8]), "zip: entry 'x/data/0': cannot be inflated"),
        (patch(&file, entry, 10, &[99]), "zip: entry 'x/data/0': "),
        (patch(&file, entry, 8, &[1]), "zip: entry 'x/data/0': is encrypted"),
        (patch(&file, entry, 24, &all[..3]), "is stored in 8 bytes, but has 16777215"),
        (patch(&file, entry, 20, &[0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0]), "outside the file"),
        (patch(&file, entry, 42, &all[..3]), "zip: entry 'x/data/0': "),
        (patch(&file, entry, 42, &[1, 0, 0, 0]), "zip: entry 'x/data/0': "),
        (patch(&file, name, 0, b"x/versio"), "record 'data/0' is missing"),
    ] {
        let (message, memory) = peak(|| refusal(&file));
        assert!(message.contains(why), "{why}: {message}");
        assert!(memory < 1 << 20, "{why}: {memory} bytes");
    }
    // The directory's size is told by its entries.
    assert!(open(&patch(&file, end, 12, &all[..4])).is_ok());
    let twice = zip(&[("x/data.pkl", b"}."), ("x/data.pkl", b"}.")]);
    assert!(refusal(&twice).contains("two entries have the same name"));
    let two = zip(&[("x/data.pkl", b"}."), ("y/data.pkl", b"}.")]);
    assert!(refusal(&two).contains("not one that torch.save writes"));
}

/// Compressed entries may not become many times the file.
#[test]
fn archives_that_inflate_too_much() {
    let zeros = vec![0; 24 << 20];
    let tensors = [("a", Tensor::vector("0", &[6 << 20]))];
    let pickle = Pickle::new(2).state(&tensors, false).stop();
    let bomb = repacked(&pickle, &[("0", &zeros)]);
    assert!(bomb.len() < 1 << 20);
    let (message, memory) = peak(|| refusal(&bomb));
    assert!(message.contains("entry 'x/data/0': inflates to 25165824 bytes"), "{message}");
    assert!(memory < 2 << 20, "{memory} bytes");
    // Several together, each small enough.
    let tensors: Vec<(String, Tensor)> =
        (0..20).map(|i| (format!("t{i}"), Tensor::vector(&KEYS[i..=i], &[1 << 18]))).collect();
    let tensors: Vec<(&str, Tensor)> = tensors.iter().map(|(name, tensor)| (&name[..], *tensor)).collect();
    let storages: Vec<(&str, &[u8])> = (0..20).map(|i| (&KEYS[i..=i], &zeros[..1 << 20])).collect();
    let file = repacked(&Pickle::new(2).state(&tensors, false).stop(), &storages);
    let (message, memory) = peak(|| refusal(&file));
    assert!(message.contains("are left of what this file may take"), "{message}");
    assert!(memory < allowance(&file), "{memory} bytes");
    // A pickle, too.
    let long = [b"\x80\x02}", &b"N0".repeat(1 << 24)[..], b"."].concat();
    let (message, memory) = peak(|| refusal(&repacked(&long, &[])));
    assert!(message.contains("inflates to"), "{message}");
    assert!(memory < 2 << 20, "{memory} bytes");
    // One that says it is shorter than it is.
    let file = repacked(&pickle, &[("0", &[0; 4096])]);
    let entry = file.windows(4).rposition(|w| w == b"PK\x01\x02").unwrap();
    let mut short = file.clone();
    short[entry + 24..][..4].copy_from_slice(&4095u32.to_le_bytes());
    assert!(refusal(&short).contains("entry 'x/data/0': "), "{}", refusal(&short));
}

const KEYS: &str = "abcdefghijklmnopqrstuvwxyz";

/// A directory of entries of which each is some bytes in the file, and more in memory.
#[test]
fn directories_stay_within_bounds() {
    let names: Vec<String> = (0..60_000).map(|i| format!("{i:x}")).collect();
    let entries: Vec<(&str, &[u8])> = names.iter().map(|name| (&name[..], &b""[..])).collect();
    let file = zip(&entries);
    let (message, memory) = peak(|| refusal(&file));
    assert!(message.contains("not one that torch.save writes"), "{message}");
    assert!(memory < allowance(&file), "{} of {} MB", memory >> 20, file.len() >> 20);
    // zip64 can claim more.
    let names: Vec<String> = (0..70_000).map(|i| format!("{i:x}")).collect();
    let entries: Vec<(&str, &[u8])> = names.iter().map(|name| (&name[..], &b""[..])).collect();
    let file = zip_with(&entries, true);
    let (message, memory) = peak(|| refusal(&file));
    assert!(message.contains("more than 65535 entries"), "{message}");
    assert!(memory < allowance(&file), "{} of {} MB", memory >> 20, file.len() >> 20);
}

#[test]
fn overlapping_entries() {
    let (a, b) = (Tensor::vector("0", &[2]), Tensor::vector("1", &[2]));
    let pickle = Pickle::new(2).state(&[("a", a), ("b", b)], false).stop();
    // An archive within storage 0 whose entry storage 1 is.
    let inner = zip(&[("x/data/1", &[0; 8])]);
    let file = pth(&pickle, &[("0", &inner), ("1", &[0; 8])]);
    let at = file.windows(38).position(|w| w == &inner[..38]).unwrap() as u32;
    let file = patch(&file, b"PK\x01\x02", 42, &at.to_le_bytes());
    let message = refusal(&file);
    assert!(message.contains("entry 'x/data/1': overlaps another"), "{message}");
}

#[test]
fn broken_safetensors() {
    let claim = r#"{"a":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4000000000000]}}"#;
    let nested = format!("{{\"a\":{}", "[".repeat(100_000));
    let wide = format!("{{\"a\":[{}0]}}", "0,".repeat(2 << 20));
    let cases: [(Vec<u8>, &str); 17] = [
        (safetensors(claim, b""), "the file has 0 bytes of data, its tensors claim more or fewer"),
        (
            safetensors(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, b"123"),
            "the file has 3 bytes of data",
        ),
        (
            safetensors(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, b"12345"),
            "the file has 5 bytes of data",
        ),
        (
            safetensors(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#, b"1234"),
            "shape [2] of F32 in 4 bytes",
        ),
        (
            safetensors(r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#, b""),
            "in 0 bytes",
        ),
        (safetensors(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#, b"1234"), "make no sense"),
        (
            safetensors(
                r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[18446744073709551614,18446744073709551615]}}"#,
                b"1",
            ),
            "overlap another's, or leave a hole",
        ),
        (
            safetensors(r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#, b"1234"),
            "tensor 'a': invalid value",
        ),
        (
            safetensors(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}}"#, b"1234"),
            "tensor 'a': invalid length 1",
        ),
        (
            safetensors(
                r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
                b"1234",
            ),
            "overlap",
        ),
        (
            safetensors(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#, b"12345678"),
            "leave a hole",
        ),
        (safetensors(r#"{"a":7}"#, b""), "tensor 'a': "),
        (safetensors(r#"{"__metadata__":{"a":7}}"#, b""), "invalid JSON in header"),
        (safetensors("{}", b""), "no tensors"),
        (safetensors(&nested, b""), "damaged header"),
        (safetensors(&wide, b""), "tensor 'a': "),
        ([&(1u64 << 62).to_le_bytes()[..], b"{}"].concat(), "at most"),
    ];
    for (file, why) in cases {
        let (message, memory) = peak(|| refusal(&file));
        assert!(message.contains(why), "{why}: {message}");
        assert!(memory < (1 << 20) + 2 * file.len(), "{why}: {memory} bytes");
    }
    // Of names, and of what a name says, the first would be lost.
    let a = r#""a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    for (header, why) in [
        (format!("{{{a},{a}}}"), "two tensors are named 'a'"),
        (
            format!(r#"{{"__metadata__":{{}},"__metadata__":{{}},{a}}}"#),
            "two tensors are named '__metadata__'",
        ),
        (format!(r#"{{"__metadata__":{{"k":"1","k":"2"}},{a}}}"#), "two metadata are named 'k'"),
        (r#"{"a":{"dtype":"F32","dtype":"F16","shape":[1],"data_offsets":[0,4]}}"#.into(), "duplicate field"),
        (r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":[]}}"#.into(), "unknown field"),
        (r#"{"a":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}}"#.into(), "unknown variant"),
        (format!("{{{a}}} x"), "damaged header"),
    ] {
        let message = refusal(&safetensors(&header, &[0; 4]));
        assert!(message.contains(why), "{why}: {message}");
    }
    let cut = [&100u64.to_le_bytes()[..], b"{}"].concat();
    assert!(refusal(&cut).contains("cut off"));
}

/// The format's largest header, in memory that is bounded: of every kind of content that may be long.
#[test]
fn large_safetensors_headers_stay_within_bounds() {
    let of = |body: &str, n: usize| body.repeat(n);
    let a = r#""a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}"#;
    let tensors: String = (0..17_000).map(|i| a.replace("a\"", &format!("{i}\"")) + ",").collect();
    let metadata: String = (0..5000).map(|i| format!(r#""{i}":"","#)).collect();
    for (header, why) in [
        (
            format!(r#"{{"a":{{"dtype":"F32","shape":[{}0],"data_offsets":[0,0]}}}}"#, of("0,", 4 << 20)),
            "64 dimensions",
        ),
        (format!("{{{tensors}{a}}}"), "more than 16384 tensors"),
        (format!(r#"{{"__metadata__":{{{metadata}"k":""}},{a}}}"#), "more than 4096 metadata"),
        (format!(r#"{{"{}":{{}}}}"#, of("x", 8 << 20)), "missing field"),
        (format!("{{{a}}}{}", of(" ", 100_000_000)), "a header of"),
    ] {
        let file = safetensors(&header, b"");
        let (message, memory) = peak(|| refusal(&file));
        assert!(message.contains(why) && message.len() < 400, "{why}: {message}");
        assert!(memory < allowance(&file), "{why}: {} of {} MB", memory >> 20, file.len() >> 20);
    }
    // Metadata may be long.
    let text = of("x", 32 << 20);
    let file = safetensors(&format!(r#"{{"__metadata__":{{"k":"{text}"}},{a}}}"#), b"");
    let (checkpoint, memory) = peak(|| open(&file));
    assert_eq!(checkpoint.unwrap().metadata()["k"].len(), text.len());
    assert!(memory < allowance(&file), "{} MB", memory >> 20);
}
