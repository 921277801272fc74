//! The engine: photos in, people out.

use crate::backend::{
    Device, Executor, Frame, Kernels, Placement, Precision, RunOptions, SelectParams, StageTimes, StepTime,
    Survivors,
};
use crate::error::{Error, Result};
use crate::heap;
use crate::plan::Plan;
use crate::pose::model;
use crate::pose::people::rtmlib_nms;
use crate::pose::{self, Letterbox, People};
use crate::vision::{DeviceImage, Image, Photo, Picture};
use crate::weights::{Architecture, Checkpoint};
use std::collections::VecDeque;
use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// Whose conventions the engine follows around the network: geometry, thresholds, suppression.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compat {
    /// mmpose's test configuration, which the published AP was measured with: centred letterbox, score 0.1, NMS 0.65,
    /// boxes clamped to the network input.
    #[default]
    Mmpose,
    /// rtmlib's `RTMO` class: letterbox at the top left, score 0.7, and a second NMS (0.45, pixels counted inclusively)
    /// after the network's own of 0.65; boxes are not clamped.
    Rtmlib,
}

impl FromStr for Compat {
    type Err = Error;

    /// `mmpose` or `rtmlib`.
    fn from_str(text: &str) -> Result<Compat> {
        match text {
            "mmpose" => Ok(Compat::Mmpose),
            "rtmlib" => Ok(Compat::Rtmlib),
            _ => Err(Error::Usage(format!("compat '{text}': expected mmpose or rtmlib"))),
        }
    }
}

impl Compat {
    /// Score that a person must exceed.
    pub fn score_thr(self) -> f32 {
        match self {
            Compat::Mmpose => 0.1,
            Compat::Rtmlib => 0.7,
        }
    }

    /// Overlap (IoU) from which on the lesser of two people is dropped.
    pub fn nms_thr(self) -> f32 {
        match self {
            Compat::Mmpose => 0.65,
            Compat::Rtmlib => 0.45,
        }
    }
}

/// How an [`Engine`] is set up. `EngineOptions::default()` does what mmpose does, on the fastest device.
///
/// ```
/// use rtmo_engine::{Device, EngineOptions};
///
/// let options = EngineOptions::default().with_device(Device::Cpu).with_threads(2).with_score_thr(0.3);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct EngineOptions {
    /// Network input, width and height, multiples of 32 up to 8192; `None`: what the checkpoint was trained for.
    pub input_size: Option<(usize, usize)>,
    /// Device, precision, threads.
    pub placement: Placement,
    /// Conventions around the network.
    pub compat: Compat,
    /// Score that a person must exceed, 0 to 1; `None`: as `compat` says.
    pub score_thr: Option<f32>,
    /// Overlap from which on the lesser of two people is dropped, 0 to 1; `None`: as `compat` says.
    pub nms_thr: Option<f32>,
    /// At most this many people a photo, best first; `None`: all. Ignored if `force_people` is given.
    pub max_people: Option<usize>,
    /// For latency studies: the best `n` grids are people, whatever their scores and overlaps.
    #[doc(hidden)]
    pub force_people: Option<usize>,
    /// Return each person's 1-D heatmaps too.
    pub heatmaps: bool,
}

impl EngineOptions {
    /// Sets [`EngineOptions::input_size`].
    pub fn with_input_size(self, width: usize, height: usize) -> EngineOptions {
        EngineOptions { input_size: Some((width, height)), ..self }
    }

    /// Sets the device in [`EngineOptions::placement`].
    pub fn with_device(self, device: Device) -> EngineOptions {
        EngineOptions { placement: Placement { device, ..self.placement }, ..self }
    }

    /// Sets the precision in [`EngineOptions::placement`].
    pub fn with_precision(self, precision: Precision) -> EngineOptions {
        EngineOptions { placement: Placement { precision: Some(precision), ..self.placement }, ..self }
    }

    /// Sets the number of CPU threads in [`EngineOptions::placement`].
    pub fn with_threads(self, threads: usize) -> EngineOptions {
        EngineOptions { placement: Placement { threads: Some(threads), ..self.placement }, ..self }
    }

    /// Sets the kernels to choose among on a GPU in [`EngineOptions::placement`].
    pub fn with_kernels(self, kernels: Kernels) -> EngineOptions {
        EngineOptions { placement: Placement { kernels, ..self.placement }, ..self }
    }

    /// Sets [`EngineOptions::placement`].
    pub fn with_placement(self, placement: Placement) -> EngineOptions {
        EngineOptions { placement, ..self }
    }

    /// Sets [`EngineOptions::compat`].
    pub fn with_compat(self, compat: Compat) -> EngineOptions {
        EngineOptions { compat, ..self }
    }

    /// Sets [`EngineOptions::score_thr`].
    pub fn with_score_thr(self, score_thr: f32) -> EngineOptions {
        EngineOptions { score_thr: Some(score_thr), ..self }
    }

    /// Sets [`EngineOptions::nms_thr`].
    pub fn with_nms_thr(self, nms_thr: f32) -> EngineOptions {
        EngineOptions { nms_thr: Some(nms_thr), ..self }
    }

    /// Sets [`EngineOptions::max_people`].
    pub fn with_max_people(self, max_people: usize) -> EngineOptions {
        EngineOptions { max_people: Some(max_people), ..self }
    }

    /// Sets [`EngineOptions::heatmaps`].
    pub fn with_heatmaps(self, heatmaps: bool) -> EngineOptions {
        EngineOptions { heatmaps, ..self }
    }

    fn run_options(&self) -> Result<RunOptions> {
        let fraction = |what: &str, value: Option<f32>| match value {
            Some(v) if !(0.0..=1.0).contains(&v) => {
                Err(Error::Usage(format!("{what} {v}: expected a number from 0 to 1")))
            }
            _ => Ok(value),
        };
        let score_thr = fraction("score threshold", self.score_thr)?.unwrap_or(self.compat.score_thr());
        let nms_thr = fraction("NMS threshold", self.nms_thr)?.unwrap_or(self.compat.nms_thr());
        let select = match self.compat {
            Compat::Mmpose => {
                SelectParams { score_thr, nms_thr, max_people: self.max_people, force: self.force_people }
            }
            // The exported graph's own NMS comes first; the second one, and the cap, in `people`.
            Compat::Rtmlib => SelectParams {
                score_thr,
                nms_thr: Compat::Mmpose.nms_thr(),
                max_people: None,
                force: self.force_people,
            },
        };
        Ok(RunOptions { select, heatmaps: self.heatmaps })
    }
}

/// Time that one call took, summed over its photos.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timings {
    /// Parts of the executor's work.
    pub stages: StageTimes,
    /// From decoded photos to people.
    pub total: Duration,
}

/// Photos, and the people on each of them.
pub type Detections = (Vec<Photo>, Vec<People>);

/// A network, prepared for a device: photos in, people out.
///
/// ```
/// use rtmo_engine::{Engine, EngineOptions, Photo, Variant, pose::model};
///
/// # fn main() -> rtmo_engine::Result<()> {
/// // With weights on disk: Engine::load("weights/rtmo-s.safetensors", EngineOptions::default())?
/// let checkpoint = model::random(Variant::T, 17, 2, 0);
/// let options = EngineOptions::default().with_input_size(96, 64);
/// let mut engine = Engine::from_checkpoint(&checkpoint, options)?;
///
/// // Photo::open("family.jpg")? reads JPEG, PNG, WebP, BMP, TIFF, GIF and PNM.
/// let photo = Photo::filled(200, 150, [114, 120, 90]);
/// for people in engine.infer(&[photo])? {
///     for person in people {
///         println!("{:.2} at {:?}: {:?}", person.score, person.bbox, person.keypoints);
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct Engine {
    executor: Box<dyn Executor>,
    options: EngineOptions,
    run: RunOptions,
    name: String,
    flops: u64,
    letterboxes: Vec<Letterbox>,
    submitted: VecDeque<Vec<Picture>>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Engine({}, {:?}, {})", self.name, self.input_size(), self.describe())
    }
}

impl Engine {
    /// Reads a weights file (`.safetensors`, or a published `.pth`) and prepares its network.
    ///
    /// # Errors
    /// As [`Checkpoint::open`] and [`Engine::from_checkpoint`].
    pub fn load(weights: impl AsRef<Path>, options: EngineOptions) -> Result<Engine> {
        Engine::from_checkpoint(&Checkpoint::open(weights)?, options)
    }

    /// Prepares the network of an opened checkpoint, which is not needed afterwards.
    ///
    /// # Errors
    /// As [`model::build`] and [`Placement::prepare`]; thresholds out of range.
    pub fn from_checkpoint(checkpoint: &Checkpoint, options: EngineOptions) -> Result<Engine> {
        let run = options.run_options()?;
        let plan = model::build(checkpoint, options.input_size)?;
        let dense = plan.dense_steps();
        let flops = dense.iter().map(|step| plan.flops(step)).sum();
        let (executor, placement) = options.placement.prepare(plan)?;
        heap::trim();
        Ok(Engine {
            executor,
            options: EngineOptions { placement, ..options },
            run,
            name: Architecture::of(checkpoint).to_string(),
            flops,
            letterboxes: Vec::new(),
            submitted: VecDeque::new(),
        })
    }

    /// The people on each picture, best first, in its pixels. Takes [`Photo`]s, [`Picture`]s or borrowed [`Image`]s, which may
    /// differ in size. A call with several is one batch.
    ///
    /// # Errors
    /// A photo without pixels, or whose bytes do not fill its size; failures of the device; photos that were submitted
    /// and not collected.
    pub fn infer<'a, T>(&mut self, photos: &'a [T]) -> Result<Vec<People>>
    where
        Image<'a>: From<&'a T>,
    {
        self.infer_with(&images(photos), |executor, frames, run| executor.run(frames, run))
    }

    /// As [`Engine::infer`], for pictures in the memory of the engine's GPU: of a decoder, or of another library. They are read
    /// there, after what was enqueued before in their streams, and are free again when the call returns. The context that is
    /// current in the calling thread stays current.
    ///
    /// ```no_run
    /// # use rtmo_engine::{ChannelOrder, Device, DeviceImage, DeviceStream, Engine, EngineOptions};
    /// # let (address, stream) = (0, 0);
    /// let options = EngineOptions::default().with_device(Device::Cuda(0));
    /// let mut engine = Engine::load("weights/rtmo-s.safetensors", options)?;
    /// // SAFETY: 1080 rows of 1920 RGB pixels begin at `address`, 5888 bytes apart, and are written in `stream`.
    /// let frame = unsafe {
    ///     DeviceImage::new(address, 1920, 1080, ChannelOrder::Rgb)?
    ///         .with_stride(5888)?
    ///         .with_stream(DeviceStream::Handle(stream))
    /// };
    /// let people = engine.infer_device(&[frame])?;
    /// # rtmo_engine::Result::Ok(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Usage`] if the engine is not on a GPU, or a picture is not in memory that its GPU can read; else as
    /// [`Engine::infer`].
    pub fn infer_device(&mut self, images: &[DeviceImage]) -> Result<Vec<People>> {
        if !self.executor.takes_device_images() {
            return Err(Error::Usage(
                "pictures in GPU memory: expected an engine on a GPU, this one computes on the CPU".into(),
            ));
        }
        self.nothing_submitted()?;
        self.forget_letterboxes();
        let places: Vec<usize> = images.iter().map(|image| self.letterbox_of(image.size())).collect();
        let letterboxes = &self.letterboxes;
        let frames: Vec<Frame<'_>> = images
            .iter()
            .zip(&places)
            .map(|(image, &place)| Frame::on_device(*image, &letterboxes[place]))
            .collect();
        let survivors = self.executor.run(&frames, &self.run)?;
        Ok(survivors.iter().zip(places).map(|(s, place)| self.people(s, &self.letterboxes[place])).collect())
    }

    /// The handle (`CUstream`) of the stream in which [`Engine::infer_device`] reads pictures; `None` on a CPU. Whoever writes
    /// pictures may make it wait for them, as DLPack's `stream` has it; then they are [`DeviceStream::Ready`](crate::DeviceStream::Ready).
    pub fn device_stream(&self) -> Option<u64> {
        self.executor.device_stream()
    }

    /// Batches that can be submitted before the first is collected: 2 on a GPU, which uploads one while it computes the
    /// other, 1 on a CPU.
    pub fn queue_depth(&self) -> usize {
        self.executor.queue_depth()
    }

    /// Starts a batch; [`Engine::collect`] returns its people. Together they are [`Engine::infer`] in two halves, for
    /// many photos in succession.
    ///
    /// ```
    /// # use rtmo_engine::{Engine, EngineOptions, Photo, Result, Variant, pose::model};
    /// # fn main() -> Result<()> {
    /// # let options = EngineOptions::default().with_input_size(96, 64);
    /// # let mut engine = Engine::from_checkpoint(&model::random(Variant::T, 17, 2, 0), options)?;
    /// let mut batches = (0..3).map(|i| vec![Photo::filled(90 + i, 60, [114; 3])]);
    /// loop {
    ///     while engine.submitted() < engine.queue_depth()
    ///         && let Some(photos) = batches.next()
    ///     {
    ///         engine.submit(photos)?;
    ///     }
    ///     let Some((photos, people)) = engine.collect()? else { break };
    ///     println!("{} people on a photo of {} columns", people[0].len(), photos[0].width);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Engine::infer`], and the photos are dropped; if [`Engine::queue_depth`] batches are waiting to be
    /// collected.
    pub fn submit(&mut self, photos: Vec<Photo>) -> Result<()> {
        self.submit_pictures(photos.into_iter().map(Picture::Photo).collect())
    }

    /// As [`Engine::submit`], for pictures that need not be photos: a GPU takes NV12 as it is.
    ///
    /// # Errors
    /// As [`Engine::submit`].
    pub fn submit_pictures(&mut self, pictures: Vec<Picture>) -> Result<()> {
        let (waiting, most) = (self.submitted.len(), self.queue_depth());
        if waiting >= most {
            return Err(Error::Usage(format!(
                "{waiting} batches of at most {most} are submitted: collect first"
            )));
        }
        // A CPU works when they are collected; they are converted once.
        let convert = |picture: Picture| match picture {
            Picture::Nv12(_) if !self.executor.takes_nv12() => Picture::Photo(picture.into_photo()),
            picture => picture,
        };
        let pictures: Vec<Picture> = pictures.into_iter().map(convert).collect();
        self.with_frames(&images(&pictures), |executor, frames, run| executor.start(frames, run))?;
        self.submitted.push_back(pictures);
        Ok(())
    }

    /// Batches submitted and not yet collected.
    pub fn submitted(&self) -> usize {
        self.submitted.len()
    }

    /// The oldest batch submitted, and the people on each of its photos, as soon as they are known; `None` if there is
    /// none.
    ///
    /// # Errors
    /// As [`Engine::infer`]; the batch is gone then.
    pub fn collect(&mut self) -> Result<Option<Detections>> {
        let Some((pictures, people)) = self.collect_pictures()? else { return Ok(None) };
        Ok(Some((pictures.into_iter().map(Picture::into_photo).collect(), people)))
    }

    /// As [`Engine::collect`], with pictures as they were submitted, or converted where a CPU needed that.
    ///
    /// # Errors
    /// As [`Engine::collect`].
    pub fn collect_pictures(&mut self) -> Result<Option<(Vec<Picture>, Vec<People>)>> {
        let Some(pictures) = self.submitted.pop_front() else { return Ok(None) };
        let people =
            self.people_of(&images(&pictures), |executor, frames, run| executor.finish(frames, run))?;
        Ok(Some((pictures, people)))
    }

    /// For latency studies: another score threshold, and whether the best grids are people in any case, from the next
    /// call on.
    ///
    /// # Errors
    /// As [`Engine::from_checkpoint`], for a threshold out of range.
    #[doc(hidden)]
    pub fn set_selection(&mut self, score_thr: Option<f32>, force_people: Option<usize>) -> Result<()> {
        let options = EngineOptions { score_thr, force_people, ..self.options };
        self.run = options.run_options()?;
        self.options = options;
        Ok(())
    }

    /// For latency studies: as [`Engine::infer`] for the same photos as the call before. On a GPU they are still resident: measures the time
    /// of a photo that is in GPU memory already.
    ///
    /// # Errors
    /// As [`Engine::infer`].
    #[doc(hidden)]
    pub fn infer_again<'a, T>(&mut self, photos: &'a [T]) -> Result<Vec<People>>
    where
        Image<'a>: From<&'a T>,
    {
        self.infer_with(&images(photos), |executor, frames, run| executor.run_again(frames, run))
    }

    /// As [`Engine::infer`], with the time of each stage. On a GPU this takes a little longer.
    ///
    /// # Errors
    /// As [`Engine::infer`].
    pub fn infer_timed<'a, T>(&mut self, photos: &'a [T]) -> Result<(Vec<People>, Timings)>
    where
        Image<'a>: From<&'a T>,
    {
        let start = Instant::now();
        let mut stages = StageTimes::default();
        let people = self.infer_with(&images(photos), |executor, frames, run| {
            let (survivors, times) = executor.profiler().run_staged(frames, run)?;
            stages = times;
            Ok(survivors)
        })?;
        Ok((people, Timings { stages, total: start.elapsed() }))
    }

    /// Runs one photo and returns the time of each step of [`Engine::plan`].
    ///
    /// # Errors
    /// As [`Engine::infer`].
    #[doc(hidden)]
    pub fn step_times<'a>(&mut self, photo: impl Into<Image<'a>>) -> Result<Vec<StepTime>> {
        let mut steps = Vec::new();
        self.infer_with(&[photo.into()], |executor, frames, run| {
            let (survivors, times) = executor.profiler().run_timed(frames[0], run)?;
            steps = times;
            Ok(vec![survivors])
        })?;
        Ok(steps)
    }

    fn infer_with(
        &mut self,
        photos: &[Image<'_>],
        run: impl FnOnce(&mut dyn Executor, &[Frame<'_>], &RunOptions) -> Result<Vec<Survivors>>,
    ) -> Result<Vec<People>> {
        self.nothing_submitted()?;
        self.people_of(photos, run)
    }

    fn nothing_submitted(&self) -> Result<()> {
        match self.submitted.len() {
            0 => Ok(()),
            n => Err(Error::Usage(format!("{n} batches are submitted: collect them first"))),
        }
    }

    fn people_of(
        &mut self,
        photos: &[Image<'_>],
        run: impl FnOnce(&mut dyn Executor, &[Frame<'_>], &RunOptions) -> Result<Vec<Survivors>>,
    ) -> Result<Vec<People>> {
        let survivors = self.with_frames(photos, run)?;
        photos
            .iter()
            .zip(&survivors)
            .map(|(photo, s)| {
                let place = self.letterbox(photo)?;
                Ok(self.people(s, &self.letterboxes[place]))
            })
            .collect()
    }

    /// Calls `run` with the frames of photos: each with its letterbox.
    fn with_frames<T>(
        &mut self,
        photos: &[Image<'_>],
        run: impl FnOnce(&mut dyn Executor, &[Frame<'_>], &RunOptions) -> Result<T>,
    ) -> Result<T> {
        self.forget_letterboxes();
        let places = photos.iter().map(|photo| self.letterbox(photo)).collect::<Result<Vec<usize>>>()?;
        let letterboxes = &self.letterboxes;
        let convert = |photo: &Image<'_>| photo.is_nv12() && !self.executor.takes_nv12();
        let converted: Vec<Option<Photo>> =
            photos.iter().map(|photo| convert(photo).then(|| photo.to_photo())).collect();
        let frames: Vec<Frame<'_>> = photos
            .iter()
            .zip(&converted)
            .zip(&places)
            .map(|((photo, converted), &place)| {
                let photo = converted.as_ref().map_or(*photo, Image::from);
                Frame::new(photo, &letterboxes[place])
            })
            .collect();
        run(self.executor.as_mut(), &frames, &self.run)
    }

    /// Index of the letterbox for a photo's size, made if there is none yet.
    fn letterbox(&mut self, photo: &Image<'_>) -> Result<usize> {
        photo.check()?;
        Ok(self.letterbox_of(photo.size()))
    }

    /// A letterbox is kept for later photos of the same size, up to 64 of them.
    fn forget_letterboxes(&mut self) {
        if self.letterboxes.len() > 64 {
            self.letterboxes.clear();
        }
    }

    fn letterbox_of(&mut self, size: (usize, usize)) -> usize {
        if let Some(place) = self.letterboxes.iter().position(|l| l.photo_size() == size) {
            return place;
        }
        let input = self.input_size();
        self.letterboxes.push(match self.options.compat {
            Compat::Mmpose => Letterbox::new(size, input),
            Compat::Rtmlib => Letterbox::rtmlib(size, input),
        });
        self.letterboxes.len() - 1
    }

    /// Survivors as people in the photo's pixels.
    fn people(&self, survivors: &Survivors, letterbox: &Letterbox) -> People {
        let mut people = pose::people(survivors, letterbox);
        if self.options.compat == Compat::Rtmlib && self.run.select.force.is_none() {
            rtmlib_nms(&mut people, self.options.nms_thr.unwrap_or(self.options.compat.nms_thr()));
            people.truncate(self.options.max_people.unwrap_or(usize::MAX));
        }
        people
    }

    /// By the width of its stem `rtmo-s` and the like, or `custom` with that width.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Network input, width and height in pixels.
    pub fn input_size(&self) -> (usize, usize) {
        self.executor.plan().input_size()
    }

    /// Keypoints a person.
    pub fn keypoints(&self) -> usize {
        self.executor.plan().keypoints()
    }

    /// Floating-point operations of the dense network for one photo, two a multiply-add, counted as the plain
    /// algorithm does them.
    pub fn flops(&self) -> u64 {
        self.flops
    }

    /// Changes the thresholds, from the next call on; `None`: as [`EngineOptions::compat`] says.
    ///
    /// # Errors
    /// [`Error::Usage`] if one is not from 0 to 1, or if batches are submitted and not collected. Nothing is changed then.
    pub fn set_thresholds(&mut self, score_thr: Option<f32>, nms_thr: Option<f32>) -> Result<()> {
        self.nothing_submitted()?;
        let options = EngineOptions { score_thr, nms_thr, ..self.options };
        self.run = options.run_options()?;
        self.options = options;
        Ok(())
    }

    /// How the engine was set up; `placement` says what was chosen.
    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    /// One line: backend, instruction set or device, threads, precision.
    pub fn describe(&self) -> String {
        self.executor.describe()
    }

    /// The network as data; its weights are packed elsewhere.
    #[doc(hidden)]
    pub fn plan(&self) -> &Plan {
        self.executor.plan()
    }

    /// What runs the network.
    #[doc(hidden)]
    pub fn executor(&mut self) -> &mut dyn Executor {
        self.executor.as_mut()
    }
}

/// Pictures as the engine takes them.
fn images<'a, T>(photos: &'a [T]) -> Vec<Image<'a>>
where
    Image<'a>: From<&'a T>,
{
    photos.iter().map(Image::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Variant;
    use crate::vision::{Nv12, YuvColours};

    #[test]
    fn a_cpu_refuses_pictures_in_gpu_memory() {
        let options =
            EngineOptions::default().with_device(Device::Cpu).with_threads(1).with_input_size(64, 32);
        let mut engine = Engine::from_checkpoint(&model::random(Variant::T, 17, 2, 0), options).unwrap();
        // SAFETY: the engine reads none.
        let image = unsafe { DeviceImage::new(4096, 40, 30, crate::ChannelOrder::Bgr) }.unwrap();
        let error = engine.infer_device(&[image]).unwrap_err().to_string();
        assert!(error.contains("expected an engine on a GPU, this one computes on the CPU"), "{error}");
        assert_eq!(engine.device_stream(), None);
    }

    /// A CPU takes NV12 by way of the photo that it means, whether it is inferred, or submitted and collected.
    #[test]
    fn a_cpu_converts_nv12_first() {
        let options = EngineOptions::default()
            .with_device(Device::Cpu)
            .with_threads(1)
            .with_input_size(64, 32)
            .with_score_thr(0.0);
        let mut engine = Engine::from_checkpoint(&model::random(Variant::T, 17, 2, 0), options).unwrap();
        let data: Vec<u8> = (0..Nv12::bytes(51, 33).unwrap()).map(|i| (i * i / 7 % 256) as u8).collect();
        let picture = Nv12::new(51, 33, data, YuvColours::default()).unwrap();
        let photo = picture.to_photo();
        let expected = engine.infer(std::slice::from_ref(&photo)).unwrap();
        assert!(!expected[0].is_empty());
        assert_eq!(engine.infer(&[Image::from(&picture)]).unwrap(), expected);
        engine.submit_pictures(vec![picture.into()]).unwrap();
        let (photos, people) = engine.collect().unwrap().unwrap();
        assert_eq!((photos, people), (vec![photo], expected));
    }
}
