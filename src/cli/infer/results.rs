//! Numbers: JSON lines and COCO results.

use super::reading::At;
use crate::cli::terminal::check_stdout;
use rtmo_engine::atomic_file::AtomicFile;
use rtmo_engine::output::{CocoWriter, ImageIds, write_json_line};
use rtmo_engine::{Error, People, Result, Skeleton, shown};
use std::io::{BufWriter, Stdout, Write};
use std::path::{Path, PathBuf};

/// Whose people they are.
#[derive(Clone, Copy, Debug)]
pub struct FrameInfo<'a> {
    /// The photo's or clip's name.
    pub image: &'a Path,
    /// Width and height in pixels.
    pub size: (usize, usize),
    /// Where it is in its clip.
    pub at: Option<At>,
}

impl<'a> FrameInfo<'a> {
    pub fn photo(image: &'a Path, size: (usize, usize)) -> FrameInfo<'a> {
        FrameInfo { image, size, at: None }
    }
}

/// Where numbers go.
pub struct Results {
    json: Option<Sink>,
    /// The skeleton whose names lines of JSON have.
    names: Option<Skeleton>,
    coco: Option<(PathBuf, CocoWriter<Sink>)>,
}

impl Results {
    /// Begins the files; those of COCO results know their images' ids.
    ///
    /// # Errors
    /// If one cannot be written.
    pub fn create(
        json: Option<&Path>,
        names: Option<Skeleton>,
        coco: Option<(&Path, ImageIds)>,
    ) -> Result<Results> {
        let begin = |(path, ids): (&Path, _)| Ok((path.into(), CocoWriter::new(Sink::create(path)?, ids)));
        Ok(Results { json: json.map(Sink::create).transpose()?, names, coco: coco.map(begin).transpose()? })
    }

    /// Adds a photo's people.
    ///
    /// # Errors
    /// If they cannot be written, or are no numbers.
    pub fn add(&mut self, frame: &FrameInfo<'_>, people: &People) -> Result<()> {
        let FrameInfo { image: photo, size, .. } = *frame;
        if let Some(sink) = &mut self.json {
            write_json_line(sink, photo, size, people, self.names.as_ref())?;
            sink.line()?;
        }
        match &mut self.coco {
            Some((_, coco)) => coco.add(photo, people),
            None => Ok(()),
        }
    }

    /// Whether anything is written.
    pub fn any(&self) -> bool {
        self.json.is_some() || self.coco.is_some()
    }

    /// Puts the files at their places.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn finish(self) -> Result<()> {
        self.json.map_or(Ok(()), Sink::commit)?;
        match self.coco {
            Some((path, coco)) => coco.finish().map_err(Error::io("cannot write", path))?.commit(),
            None => Ok(()),
        }
    }
}

/// Ids for COCO results, from annotations or from names.
///
/// # Errors
/// If the annotations cannot be read, or none of the photos that are known has an id.
pub fn image_ids(annotations: Option<&Path>, photos: &[PathBuf]) -> Result<ImageIds> {
    let ids = annotations.map_or_else(|| Ok(ImageIds::from_names()), ImageIds::from_annotations)?;
    match photos.first() {
        Some(first) if photos.iter().all(|photo| ids.of(photo).is_err()) => {
            Err(Error::Usage(match annotations {
                Some(_) => ids.of(first).err().map_or_else(String::new, |error| error.to_string()),
                None => format!(
                    "{}: --coco takes an image's id from a name that is a number (000000000785.jpg, \
                 COCO_val2014_000000000785.jpg), and no photo has one; --coco-images FILE takes ids from COCO annotations",
                    shown(first)
                ),
            }))
        }
        _ => Ok(ids),
    }
}

/// A file that appears when it is whole, or standard output.
enum Sink {
    Stdout(BufWriter<Stdout>),
    File(AtomicFile),
}

impl Sink {
    /// '-' is standard output.
    fn create(path: &Path) -> Result<Sink> {
        match path == Path::new("-") {
            true => {
                check_stdout()?;
                Ok(Sink::Stdout(BufWriter::new(std::io::stdout())))
            }
            false => AtomicFile::create(path).map(Sink::File),
        }
    }

    /// A line is complete: a reader of standard output gets it now.
    fn line(&mut self) -> Result<()> {
        match self {
            Sink::Stdout(out) => out.flush().map_err(Error::io("cannot write", "standard output")),
            Sink::File(_) => Ok(()),
        }
    }

    fn commit(self) -> Result<()> {
        match self {
            Sink::Stdout(mut out) => out.flush().map_err(Error::io("cannot write", "standard output")),
            Sink::File(file) => file.commit(),
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Sink::Stdout(out) => out.write(bytes),
            Sink::File(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Sink::Stdout(out) => out.flush(),
            Sink::File(file) => file.flush(),
        }
    }
}
