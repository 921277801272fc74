//! Where numbers go: one sink for each format and file.

use crate::cli::terminal::check_stdout;
use clap::ValueEnum;
use rtmo_engine::atomic_file::AtomicFile;
use rtmo_engine::output::{
    CocoResults, Csv, FrameInfo, ImageIds, JointOrder, JsonLines, Npz, OpenPose, Output, ResultSink,
};
use rtmo_engine::{Error, People, Result, Skeleton, shown};
use std::io::{BufWriter, Stdout, Write};
use std::path::{Path, PathBuf};

/// A format of results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub enum Format {
    /// people.jsonl: an object a line and photo or frame; nothing is lost
    Jsonl,
    /// people.coco.json: a COCO results array
    Coco,
    /// openpose/: a file a photo or frame, joints in the order of BODY_25
    Openpose,
    /// openpose/: the same in the order of COCO's 18 joints
    OpenposeCoco,
    /// people.csv: a row a person and frame
    Csv,
    /// people.npz: arrays for numpy
    Npz,
}

impl Format {
    /// The file, or folder, of a run's results in the folder `out`.
    pub fn path(self, out: &Path) -> PathBuf {
        out.join(match self {
            Format::Jsonl => "people.jsonl",
            Format::Coco => "people.coco.json",
            Format::Openpose | Format::OpenposeCoco => "openpose",
            Format::Csv => "people.csv",
            Format::Npz => "people.npz",
        })
    }
}

/// What results are of, beside people.
pub struct About<'a> {
    /// Keypoints a person.
    pub keypoints: usize,
    /// The skeleton that the user gave.
    pub own: Option<&'a Skeleton>,
    /// Keypoints of a lower score are missing in formats that know no scores.
    pub keypoint_thr: f32,
}

/// All sinks of a run, each with the file that it writes; OpenPose's name their files themselves.
#[derive(Default)]
pub struct Results(Vec<(Option<PathBuf>, Box<dyn ResultSink>)>);

impl Results {
    /// Begins a file, or folder, of a format; '-' is standard output. COCO results know their images' `ids`.
    ///
    /// # Errors
    /// If it cannot be written; if the format needs the names of keypoints, and there are none.
    pub fn add(
        &mut self,
        format: Format,
        path: &Path,
        ids: Option<ImageIds>,
        about: &About<'_>,
    ) -> Result<()> {
        let names = || {
            about.own.or_else(|| Skeleton::of(about.keypoints)).ok_or_else(|| {
                let n = about.keypoints;
                Error::Usage(format!(
                    "{n} keypoints without names: --skeleton gives them, as this format needs"
                ))
            })
        };
        let order = if format == Format::OpenposeCoco { JointOrder::Coco18 } else { JointOrder::Body25 };
        let sink: Box<dyn ResultSink> = match format {
            Format::Jsonl => Box::new(JsonLines::new(output(path)?, about.own.cloned())),
            Format::Coco => Box::new(CocoResults::new(output(path)?, ids.unwrap_or_default())),
            Format::Openpose | Format::OpenposeCoco => {
                Box::new(OpenPose::new(path, names()?, order, about.keypoint_thr)?)
            }
            Format::Csv => Box::new(Csv::new(output(path)?, names()?.keypoints())?),
            Format::Npz => Box::new(Npz::new(output(path)?, about.keypoints)?),
        };
        let one_file = !matches!(format, Format::Openpose | Format::OpenposeCoco);
        self.0.push((one_file.then(|| path.into()), sink));
        Ok(())
    }

    /// Adds the people of a photo or frame to each.
    ///
    /// # Errors
    /// If they cannot be written, or a format cannot say them.
    pub fn frame(&mut self, frame: &FrameInfo<'_>, people: &People) -> Result<()> {
        let mut failed = Ok(());
        for (file, sink) in &mut self.0 {
            failed = failed.and(sink.frame(frame, people).map_err(of(file.as_deref())));
        }
        failed
    }

    /// Whether anything is written.
    pub fn any(&self) -> bool {
        !self.0.is_empty()
    }

    /// Puts the files at their places.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn finish(self) -> Result<()> {
        self.0.into_iter().try_for_each(|(file, sink)| sink.finish().map_err(of(file.as_deref())))
    }
}

/// An error of writing as one of the file that is written, rather than of the photo whose results it was.
fn of(file: Option<&Path>) -> impl FnOnce(Error) -> Error {
    let file =
        file.map(|file| if file == Path::new("-") { "standard output".into() } else { file.to_path_buf() });
    move |error| match (error, file) {
        (Error::Io { source, .. }, Some(file)) => Error::io("cannot write", file)(source),
        (error, _) => error,
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
                    "{}: COCO results take an image's id from a name that is a number (000000000785.jpg, \
                 COCO_val2014_000000000785.jpg), and no photo has one; --coco-images FILE takes ids from COCO annotations",
                    shown(first)
                ),
            }))
        }
        _ => Ok(ids),
    }
}

/// A file that appears when it is whole, or standard output.
fn output(path: &Path) -> Result<Box<dyn Output>> {
    if path == Path::new("-") {
        check_stdout()?;
        return Ok(Box::new(StandardOutput(BufWriter::new(std::io::stdout()))));
    }
    Ok(Box::new(AtomicFile::create(path)?))
}

/// Standard output, of which nothing can be taken back.
struct StandardOutput(BufWriter<Stdout>);

impl Write for StandardOutput {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

impl Output for StandardOutput {
    fn commit(mut self: Box<Self>) -> Result<()> {
        self.0.flush().map_err(Error::io("cannot write", "standard output"))
    }
}
