//! Arrays that numpy reads: an `.npz` file, which is a zip archive of `.npy` files.
//!
//! Format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>, version 1.0.

use super::openpose::check_keypoints;
use super::sink::{FrameInfo, Output, ResultSink};
use crate::error::{Error, Result};
use crate::pose::{People, Person};
use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// No name is longer, in characters: an array of names has as much space for each as for the longest.
const LONGEST_NAME: usize = 4096;

/// Writes arrays of N rows, a row a person and frame:
///
/// | array | type | |
/// |---|---|---|
/// | `version` | int64 | 1 |
/// | `image` | int64 (N) | which of `images` |
/// | `frame` | int64 (N) | the frame's number, -1 for a photo |
/// | `time` | float64 (N) | seconds, NaN for a photo |
/// | `id` | int64 (N) | -1 without one |
/// | `score` | float32 (N) | |
/// | `box` | float32 (N, 4) | x1, y1, x2, y2 |
/// | `keypoints` | float32 (N, K, 3) | x, y, score |
/// | `images` | str (M) | names of photos and videos, in the order in which they came |
/// | `sizes` | int64 (M, 2) | their widths and heights |
///
/// Numbers are exact. A frame without people has no row, but its image is in `images`. Rows wait in temporary files until the end:
/// memory does not grow with them.
pub struct Npz {
    out: Box<dyn Output>,
    rows: Rows,
    keypoints: usize,
    images: Images,
}

/// The columns, each in a temporary file.
struct Rows {
    n: usize,
    image: Spool,
    frame: Spool,
    time: Spool,
    id: Spool,
    score: Spool,
    bbox: Spool,
    keypoints: Spool,
}

/// Photos and videos so far. Successive frames of one are one.
struct Images {
    n: usize,
    last: Option<(PathBuf, [i64; 2])>,
    /// Names as UTF-8 with its length before each, for their common length is known at the end only.
    names: Spool,
    sizes: Spool,
    /// Characters of the longest.
    longest: usize,
}

/// A file without a name, which goes when it is closed.
struct Spool(BufWriter<File>);

impl Spool {
    fn new() -> Result<Spool> {
        let file = tempfile::tempfile().map_err(Error::io("cannot make a file in", std::env::temp_dir()))?;
        Ok(Spool(BufWriter::new(file)))
    }

    fn put<const N: usize>(&mut self, bytes: [u8; N]) -> io::Result<()> {
        self.0.write_all(&bytes)
    }

    /// The file from its beginning.
    fn read(self) -> io::Result<File> {
        let mut file = self.0.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.rewind()?;
        Ok(file)
    }
}

impl Npz {
    /// Begins arrays of people with so many keypoints.
    ///
    /// # Errors
    /// If there can be no temporary files.
    pub fn new(out: Box<dyn Output>, keypoints: usize) -> Result<Npz> {
        let spool = Spool::new;
        let rows = Rows {
            n: 0,
            image: spool()?,
            frame: spool()?,
            time: spool()?,
            id: spool()?,
            score: spool()?,
            bbox: spool()?,
            keypoints: spool()?,
        };
        let images = Images { n: 0, last: None, names: spool()?, sizes: spool()?, longest: 1 };
        Ok(Npz { out, rows, keypoints, images })
    }

    fn archive(self) -> Result<()> {
        let Npz { mut out, rows, keypoints, images } = self;
        let (n, k, m, longest) = (rows.n, keypoints, images.n, images.longest);
        let write = |out: &mut Box<dyn Output>| -> io::Result<()> {
            let mut archive = Archive(ZipWriter::new_stream(out));
            archive.add("version", "<i8", "()", &mut &1i64.to_le_bytes()[..])?;
            let column = format!("({n},)");
            for (name, kind, shape, spool) in [
                ("image", "<i8", column.clone(), rows.image),
                ("frame", "<i8", column.clone(), rows.frame),
                ("time", "<f8", column.clone(), rows.time),
                ("id", "<i8", column.clone(), rows.id),
                ("score", "<f4", column.clone(), rows.score),
                ("box", "<f4", format!("({n}, 4)"), rows.bbox),
                ("keypoints", "<f4", format!("({n}, {k}, 3)"), rows.keypoints),
                ("sizes", "<i8", format!("({m}, 2)"), images.sizes),
            ] {
                archive.add(name, kind, &shape, &mut spool.read()?)?;
            }
            let mut names =
                Padded { names: io::BufReader::new(images.names.read()?), longest, ready: Vec::new(), at: 0 };
            archive.add("images", &format!("<U{longest}"), &format!("({m},)"), &mut names)?;
            archive.0.finish()?;
            Ok(())
        };
        write(&mut out).map_err(Error::io("cannot write", "the arrays of an .npz file"))?;
        out.commit()
    }
}

/// The zip archive.
struct Archive<W: Write>(ZipWriter<zip::write::StreamWriter<W>>);

impl<W: Write> Archive<W> {
    /// Adds `NAME.npy` with its header.
    fn add(&mut self, name: &str, kind: &str, shape: &str, values: &mut dyn io::Read) -> io::Result<()> {
        let options = SimpleFileOptions::default().large_file(true);
        self.0.start_file(format!("{name}.npy"), options)?;
        let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}");
        // Values begin at a multiple of 64 bytes; ten bytes come before the header's text, a line's end is its last.
        let length = (10 + header.len() + 1).next_multiple_of(64) - 10;
        let padded = format!("{header:<width$}\n", width = length - 1);
        self.0.write_all(b"\x93NUMPY\x01\x00")?;
        self.0.write_all(&u16::try_from(length).expect("a short header").to_le_bytes())?;
        self.0.write_all(padded.as_bytes())?;
        io::copy(values, &mut self.0)?;
        Ok(())
    }
}

/// Names as numpy has them: four bytes a character, zeros up to the length of the longest.
struct Padded {
    names: io::BufReader<File>,
    longest: usize,
    ready: Vec<u8>,
    at: usize,
}

impl io::Read for Padded {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.at == self.ready.len() {
            let mut length = [0; 8];
            match self.names.read_exact(&mut length) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                read => read?,
            }
            let mut name = vec![0; u64::from_le_bytes(length) as usize];
            self.names.read_exact(&mut name)?;
            let name = String::from_utf8(name).map_err(io::Error::other)?;
            self.ready = name.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect();
            self.ready.resize(4 * self.longest, 0);
            self.at = 0;
        }
        let n = to.len().min(self.ready.len() - self.at);
        to[..n].copy_from_slice(&self.ready[self.at..][..n]);
        self.at += n;
        Ok(n)
    }
}

/// A number as int64, -1 where there is none.
fn signed(image: &Path, what: &str, value: Option<u64>) -> Result<i64> {
    value.map_or(Ok(-1), |value| {
        let wrong = || Error::image(image, format!("{what} {value}: expected at most {}", i64::MAX));
        i64::try_from(value).map_err(|_| wrong())
    })
}

impl Rows {
    fn add(&mut self, image: usize, frame: i64, time: f64, id: i64, person: &Person) -> io::Result<()> {
        self.n += 1;
        self.image.put((image as i64).to_le_bytes())?;
        self.frame.put(frame.to_le_bytes())?;
        self.time.put(time.to_le_bytes())?;
        self.id.put(id.to_le_bytes())?;
        self.score.put(person.score.to_le_bytes())?;
        person.bbox.iter().try_for_each(|v| self.bbox.put(v.to_le_bytes()))?;
        let joints = person.keypoints.iter().flat_map(|k| [k.x, k.y, k.score]);
        joints.map(f32::to_le_bytes).try_for_each(|bytes| self.keypoints.put(bytes))
    }
}

impl Images {
    fn add(&mut self, image: &Path, name: &str, size: [i64; 2]) -> io::Result<()> {
        if self.last.as_ref().is_some_and(|(last, of)| last == image && *of == size) {
            return Ok(());
        }
        self.last = Some((image.to_path_buf(), size));
        self.n += 1;
        self.longest = self.longest.max(name.chars().count());
        self.names.put((name.len() as u64).to_le_bytes())?;
        self.names.0.write_all(name.as_bytes())?;
        size.iter().try_for_each(|v| self.sizes.put(v.to_le_bytes()))
    }
}

impl ResultSink for Npz {
    fn frame(&mut self, frame: &FrameInfo<'_>, people: &People) -> Result<()> {
        frame.check(people)?;
        let image = frame.image;
        let name = image.to_string_lossy();
        let length = name.chars().count();
        if length > LONGEST_NAME {
            return Err(Error::image(
                image,
                format!("a name of {length} characters: expected at most {LONGEST_NAME}"),
            ));
        }
        let index = signed(image, "frame", frame.frame)?;
        let size = [frame.width, frame.height].map(|side| signed(image, "size", Some(side as u64)));
        let [width, height] = size;
        let size = [width?, height?];
        let mut ids = Vec::new();
        for (i, person) in people.iter().enumerate() {
            check_keypoints(image, i, person.keypoints.len(), self.keypoints)?;
            ids.push(signed(image, &format!("person {}, id", i + 1), person.id)?);
        }
        let mut add = || -> io::Result<()> {
            self.images.add(image, &name, size)?;
            let of = self.images.n - 1;
            let time = frame.time.unwrap_or(f64::NAN);
            people.iter().zip(&ids).try_for_each(|(person, &id)| self.rows.add(of, index, time, id, person))
        };
        add().map_err(Error::io("cannot write results of", image))
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.archive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::sink::testing::{Memory, person};
    use super::*;
    use std::io::Read;
    use std::process::Command;

    fn written(frames: &[(FrameInfo<'_>, People)]) -> Vec<u8> {
        let memory = Memory::default();
        let mut sink = Box::new(Npz::new(Box::new(memory.clone()), 2).unwrap());
        frames.iter().for_each(|(frame, people)| sink.frame(frame, people).unwrap());
        sink.finish().unwrap();
        memory.bytes()
    }

    fn example() -> Vec<u8> {
        let video = |frame: u64| {
            FrameInfo::new(Path::new("ü.mp4"), (64, 48)).with_frame(frame).with_time(0.5 * frame as f64)
        };
        written(&[
            (video(0), vec![person(Some(7), 2), person(None, 2)].into()),
            (video(1), People::default()),
            (video(2), vec![person(Some(7), 2)].into()),
            (FrameInfo::new(Path::new("a/nobody.jpg"), (5, 6)), People::default()),
            (FrameInfo::new(Path::new("p.jpg"), (7, 8)), vec![person(None, 2)].into()),
        ])
    }

    /// The header and the values of an array.
    fn array(archive: &[u8], name: &str) -> (String, Vec<u8>) {
        let mut archive = zip::ZipArchive::new(io::Cursor::new(archive)).unwrap();
        let mut bytes = Vec::new();
        archive.by_name(&format!("{name}.npy")).unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes[..8], *b"\x93NUMPY\x01\x00");
        let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        assert!(start % 64 == 0 && bytes[start - 1] == b'\n', "{name}");
        (String::from_utf8(bytes[10..start].to_vec()).unwrap().trim_end().into(), bytes[start..].to_vec())
    }

    fn header(kind: &str, shape: &str) -> String {
        format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}")
    }

    #[test]
    fn arrays_have_their_headers_and_values() {
        let archive = example();
        let i64s = |values: &[i64]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let f32s = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let times: Vec<u8> = [0.0, 0.0, 1.0, f64::NAN].iter().flat_map(|v: &f64| v.to_le_bytes()).collect();
        let names: Vec<u8> = ["ü.mp4", "a/nobody.jpg", "p.jpg"]
            .iter()
            .flat_map(|name| {
                let name = name.chars().map(u32::from).chain(std::iter::repeat(0));
                name.take(12).flat_map(u32::to_le_bytes).collect::<Vec<u8>>()
            })
            .collect();
        for (name, kind, shape, values) in [
            ("version", "<i8", "()", i64s(&[1])),
            ("image", "<i8", "(4,)", i64s(&[0, 0, 0, 2])),
            ("frame", "<i8", "(4,)", i64s(&[0, 0, 2, -1])),
            ("time", "<f8", "(4,)", times),
            ("id", "<i8", "(4,)", i64s(&[7, -1, 7, -1])),
            ("score", "<f4", "(4,)", f32s(&[0.5; 4])),
            ("box", "<f4", "(4, 4)", f32s(&[[1.0, 2.0, 30.0, 40.25]; 4].concat())),
            ("keypoints", "<f4", "(4, 2, 3)", f32s(&[[0.0, 0.5, 0.75, 10.0, 10.5, 0.75]; 4].concat())),
            ("images", "<U12", "(3,)", names),
            ("sizes", "<i8", "(3, 2)", i64s(&[64, 48, 5, 6, 7, 8])),
        ] {
            assert_eq!(array(&archive, name), (header(kind, shape), values), "{name}");
        }
        let nothing = written(&[]);
        assert_eq!(array(&nothing, "keypoints"), (header("<f4", "(0, 2, 3)"), Vec::new()));
        assert_eq!(array(&nothing, "images"), (header("<U1", "(0,)"), Vec::new()));
    }

    #[test]
    fn what_int64_cannot_hold_is_an_error_and_adds_nothing() {
        let memory = Memory::default();
        let mut sink = Box::new(Npz::new(Box::new(memory.clone()), 1).unwrap());
        let long = "x".repeat(LONGEST_NAME + 1);
        let photo = FrameInfo::new(Path::new("p.jpg"), (64, 48));
        for (frame, people, part) in [
            (
                photo,
                vec![person(None, 1), person(Some(u64::MAX), 1)],
                "p.jpg: person 2, id 18446744073709551615",
            ),
            (photo.with_frame(1 << 63), vec![], "frame 9223372036854775808: expected at most"),
            (photo, vec![person(None, 2)], "person 1: 2 keypoints, expected 1"),
            (FrameInfo::new(Path::new(&long), (64, 48)), vec![], "a name of 4097 characters"),
        ] {
            let error = sink.frame(&frame, &people.into()).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        sink.finish().unwrap();
        assert_eq!(array(&memory.bytes(), "images").0, header("<U1", "(0,)"));
    }

    #[test]
    fn numpy_reads_it() {
        let python = |code: &str, file: &Path| Command::new("python3").arg("-c").arg(code).arg(file).output();
        if !python("import numpy", Path::new("")).is_ok_and(|done| done.status.success()) {
            println!("not run: there is no python3 with numpy");
            return;
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), example()).unwrap();
        let code = "import numpy, sys; a = numpy.load(sys.argv[1]); \
             print(*(f'{k}:{a[k].dtype}{a[k].shape}' for k in a), a['images'].tolist(), a['id'].tolist(), \
             a['keypoints'][3].tolist(), numpy.isnan(a['time']).tolist())";
        let done = python(code, file.path()).unwrap();
        let error = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{error}");
        assert_eq!(
            String::from_utf8(done.stdout).unwrap().trim_end(),
            "version:int64() image:int64(4,) frame:int64(4,) time:float64(4,) id:int64(4,) score:float32(4,) \
             box:float32(4, 4) keypoints:float32(4, 2, 3) sizes:int64(3, 2) images:<U12(3,) \
             ['ü.mp4', 'a/nobody.jpg', 'p.jpg'] [7, -1, 7, -1] [[0.0, 0.5, 0.75], [10.0, 10.5, 0.75]] \
             [False, False, False, True]"
        );
    }
}
