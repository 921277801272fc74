//! Writes small checkpoints as `torch.save` does, whole or broken on purpose.

use rtmo_engine::weights::Checkpoint;
use std::path::PathBuf;

/// Opcodes of a pickle, appended one by one.
#[derive(Clone, Default)]
pub struct Pickle(pub Vec<u8>);

impl Pickle {
    pub fn new(protocol: u8) -> Pickle {
        Pickle(vec![0x80, protocol])
    }

    pub fn op(mut self, bytes: &[u8]) -> Pickle {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn text(self, text: &str) -> Pickle {
        self.op(b"X").op(&(text.len() as u32).to_le_bytes()).op(text.as_bytes())
    }

    pub fn int(self, value: i64) -> Pickle {
        match value {
            0..=255 => self.op(&[b'K', value as u8]),
            256..=65535 => self.op(b"M").op(&(value as u16).to_le_bytes()),
            _ => self.op(&[0x8a, 8]).op(&value.to_le_bytes()),
        }
    }

    pub fn global(self, module: &str, name: &str) -> Pickle {
        self.op(format!("c{module}\n{name}\n").as_bytes())
    }

    pub fn ints(self, values: &[i64]) -> Pickle {
        values.iter().fold(self.op(b"("), |pickle, &value| pickle.int(value)).op(b"t")
    }

    /// `module.name(*args)`, where `args` pushes the arguments.
    pub fn call(self, module: &str, name: &str, args: impl FnOnce(Pickle) -> Pickle) -> Pickle {
        args(self.global(module, name).op(b"(")).op(b"tR")
    }

    /// A tensor as `torch.save` writes it.
    pub fn tensor(self, t: &Tensor, legacy: bool) -> Pickle {
        self.call("torch._utils", "_rebuild_tensor_v2", |p| {
            let p = p.op(b"(").text("storage").global("torch", t.class).text(t.key).text("cpu").int(t.len);
            let p = if legacy { p.op(b"N") } else { p };
            let p = p.op(b"tQ").int(t.offset).ints(t.shape).ints(t.strides);
            p.op(b"\x89").call("collections", "OrderedDict", |p| p)
        })
    }

    /// An OrderedDict of the tensors.
    pub fn state(self, tensors: &[(&str, Tensor)], legacy: bool) -> Pickle {
        let p = self.call("collections", "OrderedDict", |p| p).op(b"(");
        tensors.iter().fold(p, |p, (name, tensor)| p.text(name).tensor(tensor, legacy)).op(b"u")
    }

    pub fn stop(self) -> Vec<u8> {
        self.op(b".").0
    }
}

/// A tensor's description: `len` is the claimed number of elements of its storage.
#[derive(Clone, Copy)]
pub struct Tensor<'a> {
    pub class: &'a str,
    pub key: &'a str,
    pub len: i64,
    pub offset: i64,
    pub shape: &'a [i64],
    pub strides: &'a [i64],
}

impl<'a> Tensor<'a> {
    /// A vector of f32 that is all of storage `key`.
    pub fn vector(key: &'a str, shape: &'a [i64; 1]) -> Tensor<'a> {
        Tensor { class: "FloatStorage", key, len: shape[0], offset: 0, shape, strides: &[1] }
    }
}

pub fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A zip archive of stored entries. As torch does, it pads before the data with an extra field.
pub fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    zip_with(entries, false)
}

/// With `wide`, all sizes and offsets are where zip64 has them.
pub fn zip_with(entries: &[(&str, &[u8])], wide: bool) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    let narrow = |value: usize| if wide { u32::MAX } else { value as u32 }.to_le_bytes();
    let padding = b"FB\x03\x00ZZZ";
    for (name, data) in entries {
        let (at, len) = (file.len(), (name.len() as u16).to_le_bytes());
        file.extend(
            [b"PK\x03\x04".as_slice(), &[0; 22], &len, &[7, 0], name.as_bytes(), padding, data].concat(),
        );
        let size = (data.len() as u64).to_le_bytes();
        let extra =
            [b"FB\x00\x00\x01\x00\x18\x00".as_slice(), &size, &size, &(at as u64).to_le_bytes()].concat();
        let extra = if wide { extra } else { Vec::new() };
        directory.extend(
            [b"PK\x01\x02".as_slice(), &[0; 16], &narrow(data.len()), &narrow(data.len()), &len].concat(),
        );
        directory
            .extend([&[extra.len() as u8, 0], &[0; 10][..], &narrow(at), name.as_bytes(), &extra].concat());
    }
    let (at, size, count) = (file.len(), directory.len(), entries.len());
    file.extend(directory);
    if wide {
        let end = (file.len() as u64).to_le_bytes();
        let count = (count as u64).to_le_bytes();
        file.extend([b"PK\x06\x06".as_slice(), &44u64.to_le_bytes(), &[0; 12], &count, &count].concat());
        file.extend([(size as u64).to_le_bytes(), (at as u64).to_le_bytes()].concat());
        file.extend([b"PK\x06\x07".as_slice(), &[0; 4], &end, &[1, 0, 0, 0]].concat());
    }
    let count = if wide { u16::MAX } else { count as u16 }.to_le_bytes();
    file.extend(
        [b"PK\x05\x06".as_slice(), &[0; 4], &count, &count, &narrow(size), &narrow(at), &[0; 2]].concat(),
    );
    file
}

/// A `.pth` archive of a pickle and storages.
pub fn pth(pickle: &[u8], storages: &[(&str, &[u8])]) -> Vec<u8> {
    let names: Vec<String> = storages.iter().map(|(key, _)| format!("x/data/{key}")).collect();
    let mut entries = vec![("x/data.pkl", pickle), ("x/byteorder", b"little"), ("x/version", b"3\n")];
    entries.extend(names.iter().zip(storages).map(|(name, (_, data))| (&name[..], *data)));
    zip(&entries)
}

/// A `.pth` archive that was unpacked and packed again, compressed.
pub fn repacked(pickle: &[u8], storages: &[(&str, &[u8])]) -> Vec<u8> {
    use std::io::Write;
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let deflated =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    let names: Vec<String> = storages.iter().map(|(key, _)| format!("x/data/{key}")).collect();
    let mut entries = vec![("x/data.pkl", pickle), ("x/byteorder", b"little"), ("x/version", b"3\n")];
    entries.extend(names.iter().zip(storages).map(|(name, (_, data))| (&name[..], *data)));
    for (name, data) in entries {
        writer.start_file(name, deflated).unwrap();
        writer.write_all(data).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// The older stream of pickles: `(key, elements, bytes)` of each storage.
pub fn legacy(pickle: &[u8], storages: &[(&str, i64, &[u8])]) -> Vec<u8> {
    let magic = [0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
    let mut file = Pickle::new(2).op(&magic).stop();
    file.extend(Pickle::new(2).int(1001).stop());
    file.extend(Pickle::new(2).op(b"}").text("little_endian").op(b"\x88s").stop());
    file.extend_from_slice(pickle);
    file.extend(storages.iter().fold(Pickle::new(2).op(b"]("), |p, (key, ..)| p.text(key)).op(b"e").stop());
    for (_, len, data) in storages {
        file.extend(len.to_le_bytes());
        file.extend_from_slice(data);
    }
    file
}

/// A safetensors file with this header.
pub fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// Small good files of every format; safetensors last.
pub fn seeds() -> Vec<Vec<u8>> {
    let [plain, framed, old] = pickles().try_into().expect("three");
    let floats = bytes(&[1.0; 12]);
    let header = r#"{"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[3,4],"data_offsets":[0,48]},"b":{"dtype":"BF16","shape":[2],"data_offsets":[48,52]}}"#;
    vec![
        repacked(&plain, &[("0", &floats), ("1", &[0; 6]), ("2", &[0; 8])]),
        pth(&plain, &[("0", &floats), ("1", &[0; 6]), ("2", &[0; 8])]),
        zip_with(
            &[("data.pkl", &framed), ("data/0", &floats), ("data/1", &[0; 6]), ("data/2", &[0; 8])],
            true,
        ),
        legacy(&old, &[("0", 12, &floats), ("1", 3, &[0; 6]), ("2", 1, &[0; 8])]),
        safetensors(header, &[&floats[..], &[0; 4]].concat()),
    ]
}

/// Pickles of a checkpoint with storages 0 (12 floats), 1 (3 halves) and 2 (an integer): protocols 2 and 4, and the
/// older stream's.
pub fn pickles() -> Vec<Vec<u8>> {
    let a = Tensor { class: "FloatStorage", key: "0", len: 12, offset: 1, shape: &[2, 5], strides: &[5, 1] };
    let tensors = [
        ("module.a.weight", a),
        ("view", Tensor { offset: 0, shape: &[3, 4], strides: &[1, 3], ..a }),
        ("half", Tensor { class: "HalfStorage", ..Tensor::vector("1", &[3]) }),
        (
            "bn.num_batches_tracked",
            Tensor { class: "LongStorage", shape: &[], strides: &[], ..Tensor::vector("2", &[1]) },
        ),
    ];
    let pickle = |(protocol, old)| {
        let p = Pickle::new(protocol).op(b"}(").text("meta").op(b"}").text("epoch").int(600).op(b"s");
        let p = p.text("hub").call("numpy", "scalar", |p| p.text("f4")).op(b"}b");
        p.text("state_dict").state(&tensors, old).op(b"u").stop()
    };
    [(2, false), (4, false), (2, true)].map(pickle).into()
}

/// A folder for one test.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, data: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, data).unwrap();
        path
    }

    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// Opens a file with this content.
pub fn open(data: &[u8]) -> rtmo_engine::Result<Checkpoint> {
    let folder = Folder::new();
    Checkpoint::open(folder.write("w.pth", data))
}

/// The message of the error that opening a file with this content gives.
pub fn refusal(data: &[u8]) -> String {
    open(data).expect_err("the file should be refused").to_string()
}
