//! The engine: one for a process, locked during a call.

use crate::cuda::Gpu;
use crate::errors::{OrRaise, of_class, usage};
use crate::images::{Given, Picture, in_gpu_memory};
use crate::people::{Arrays, arrays};
use crate::weights::{self, Request};
use pyo3::prelude::*;
use rtmo_engine::weights::{is_demo, score_thr};
use rtmo_engine::{
    Compat, Device, DeviceImage, EngineOptions, Error, Image, People, Photo, Precision, Result,
};
use std::ffi::OsString;
use std::mem::ManuallyDrop;
use std::process;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A network that is prepared for a device.
#[pyclass(frozen, module = "rtmo_engine._native")]
pub struct Engine {
    engine: ManuallyDrop<Mutex<rtmo_engine::Engine>>,
    /// The process that its threads are in.
    process: u32,
    /// Whether the CPU computes: one picture after another.
    cpu: bool,
    /// The GPU whose memory pictures may be in.
    gpu: Option<Gpu>,
    #[pyo3(get)]
    name: String,
    #[pyo3(get)]
    weights: OsString,
    /// Width and height.
    #[pyo3(get)]
    input_size: (usize, usize),
    #[pyo3(get)]
    keypoints: usize,
    #[pyo3(get)]
    description: String,
    #[pyo3(get)]
    device: String,
    #[pyo3(get)]
    precision: Option<&'static str>,
    #[pyo3(get)]
    threads: Option<usize>,
    #[pyo3(get)]
    queue_depth: usize,
}

impl Drop for Engine {
    fn drop(&mut self) {
        // After a fork the threads, for which it would wait, are in the other process only.
        if process::id() == self.process {
            // SAFETY: `engine` is not used after this: `drop` is called once.
            unsafe { ManuallyDrop::drop(&mut self.engine) };
        }
    }
}

/// One entry a picture: its people, width and height.
type Found = Vec<(People, (usize, usize))>;

#[pymethods]
impl Engine {
    /// Finds or fetches weights and prepares their network.
    #[new]
    #[pyo3(signature = (request, *, device, precision, size, threads, compat, score_thr, nms_thr, max_people))]
    #[expect(clippy::too_many_arguments, reason = "named in Python")]
    fn new(
        py: Python<'_>,
        request: Request,
        device: &str,
        precision: Option<&str>,
        size: Option<(usize, usize)>,
        threads: Option<usize>,
        compat: &str,
        score_thr: Option<f32>,
        nms_thr: Option<f32>,
        max_people: Option<usize>,
    ) -> PyResult<Engine> {
        let compat: Compat = compat.parse().or_raise()?;
        let device: Device = device.parse().or_raise()?;
        let precision = precision.map(|name| name.parse::<Precision>().or_raise()).transpose()?;
        let mut options = EngineOptions::default().with_device(device).with_compat(compat);
        options.placement.precision = precision;
        options.placement.threads = threads;
        options.input_size = size;
        options.nms_thr = nms_thr;
        options.max_people = max_people;
        let (engine, weights) = weights::interruptible(py, move |teller| {
            let checkpoint = request.checkpoint(teller)?;
            let options = match self::score_thr(&checkpoint, score_thr, compat) {
                Some(score_thr) => options.with_score_thr(score_thr),
                None => options,
            };
            if is_demo(&checkpoint) && !request.names_demo() {
                teller.warning(DEMONSTRATION);
            }
            let engine = rtmo_engine::Engine::from_checkpoint(&checkpoint, options)?;
            let chosen = engine.options().placement.precision;
            if precision.is_some() && chosen != precision {
                let got = chosen.map_or("another", Precision::name);
                teller.warning(&format!("no GPU can be used: computing in {got} on the CPU instead of fp16"));
            }
            Ok((engine, checkpoint.path().as_os_str().to_os_string()))
        })?;
        let placement = engine.options().placement;
        let gpu = match placement.device {
            Device::Cuda(ordinal) => engine
                .device_stream()
                .map(|stream| Gpu { ordinal: ordinal.try_into().unwrap_or(i32::MAX), stream }),
            _ => None,
        };
        Ok(Engine {
            process: process::id(),
            gpu,
            cpu: placement.device == Device::Cpu,
            name: engine.name().into(),
            weights,
            input_size: engine.input_size(),
            keypoints: engine.keypoints(),
            description: engine.describe(),
            device: placement.device.to_string(),
            precision: placement.precision.map(Precision::name),
            threads: placement.threads.filter(|_| placement.device == Device::Cpu),
            queue_depth: engine.queue_depth(),
            engine: ManuallyDrop::new(Mutex::new(engine)),
        })
    }

    /// People of each picture. Thresholds that are given hold for this call.
    #[pyo3(signature = (images, rgb, score_thr, nms_thr))]
    fn infer<'py>(
        &self,
        py: Python<'py>,
        images: Vec<Bound<'py, PyAny>>,
        rgb: bool,
        score_thr: Option<f32>,
        nms_thr: Option<f32>,
    ) -> PyResult<Vec<Arrays<'py>>> {
        self.check_process()?;
        let given = all_given(&images, rgb, self.gpu)?;
        let pictures = given.iter().map(Given::picture).collect::<PyResult<Vec<_>>>()?;
        let thresholds = (score_thr.is_some() || nms_thr.is_some()).then_some((score_thr, nms_thr));
        let mut found = Vec::with_capacity(pictures.len());
        // A GPU takes all at once. A CPU computes one after another, and Ctrl-C is heeded in between.
        for batch in pictures.chunks(if self.cpu { 1 } else { pictures.len().max(1) }) {
            found.extend(py.detach(|| self.compute(batch, thresholds)).or_raise()?);
            py.check_signals()?;
        }
        Ok(self.arrays(py, &found))
    }

    /// Whether a picture is in the memory of a GPU. Those are not submitted: there is nothing to upload.
    #[staticmethod]
    fn in_gpu_memory(images: Vec<Bound<'_, PyAny>>) -> bool {
        images.iter().any(in_gpu_memory)
    }

    /// Starts a batch of pictures in the computer's memory.
    fn submit(&self, py: Python<'_>, images: Vec<Bound<'_, PyAny>>, rgb: bool) -> PyResult<()> {
        self.check_process()?;
        let given = all_given(&images, rgb, None)?;
        let pictures = given.iter().map(Given::picture).collect::<PyResult<Vec<_>>>()?;
        py.detach(|| {
            let photos = pictures.iter().map(Picture::to_photo).collect::<Result<Vec<_>>>()?;
            self.lock().submit(photos)
        })
        .or_raise()
    }

    /// People of the oldest batch.
    fn collect<'py>(&self, py: Python<'py>) -> PyResult<Option<Vec<Arrays<'py>>>> {
        self.check_process()?;
        let Some((photos, people)) = py.detach(|| self.lock().collect()).or_raise()? else { return Ok(None) };
        let found: Found = people
            .into_iter()
            .zip(&photos)
            .map(|(people, photo)| (people, (photo.width, photo.height)))
            .collect();
        Ok(Some(self.arrays(py, &found)))
    }

    /// Drops all batches that were started.
    fn discard(&self, py: Python<'_>) -> PyResult<()> {
        self.check_process()?;
        py.detach(|| {
            let mut engine = self.lock();
            while engine.submitted() > 0 {
                // A batch that failed is gone, too.
                engine.collect().ok();
            }
        });
        Ok(())
    }
}

const DEMONSTRATION: &str = "this is the small demonstration model, which misses small and hidden people: \
                             rtmo_engine.download('rtmo-s') fetches a model for photos";

impl Engine {
    /// That this is the process whose threads compute.
    fn check_process(&self) -> PyResult<()> {
        if process::id() == self.process {
            return Ok(());
        }
        Err(of_class(
            "DeviceError",
            &format!(
                "this engine was made in process {} and its threads are there, not in the fork {}: make an engine in \
                 each process, or start processes by multiprocessing's method 'spawn'",
                self.process,
                process::id()
            ),
        ))
    }

    fn lock(&self) -> MutexGuard<'_, rtmo_engine::Engine> {
        // The engine stays usable after a panic.
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn compute(
        &self,
        batch: &[Picture<'_>],
        thresholds: Option<(Option<f32>, Option<f32>)>,
    ) -> Result<Found> {
        let on_device: Vec<DeviceImage> = batch
            .iter()
            .filter_map(|picture| if let Picture::Device(image) = picture { Some(*image) } else { None })
            .collect();
        if !on_device.is_empty() && on_device.len() < batch.len() {
            return Err(Error::Usage(format!(
                "images: {} of {} are in GPU memory: expected all or none",
                on_device.len(),
                batch.len()
            )));
        }
        // Files are read before the engine is locked.
        let photos = batch.iter().map(|picture| match picture {
            Picture::File(path) => Photo::open(path).map(Some),
            Picture::Memory(_) | Picture::Device(_) => Ok(None),
        });
        let photos = photos.collect::<Result<Vec<Option<Photo>>>>()?;
        let images: Vec<Image<'_>> = batch
            .iter()
            .zip(&photos)
            .filter_map(|(picture, photo)| match picture {
                Picture::Memory(image) => Some(*image),
                Picture::File(_) => photo.as_ref().map(Image::from),
                Picture::Device(_) => None,
            })
            .collect();
        let sizes = images.iter().map(Image::size).chain(on_device.iter().map(DeviceImage::size));
        let mut engine = self.lock();
        let own = (engine.options().score_thr, engine.options().nms_thr);
        if let Some((score_thr, nms_thr)) = thresholds {
            engine.set_thresholds(score_thr.or(own.0), nms_thr.or(own.1))?;
        }
        let people =
            if on_device.is_empty() { engine.infer(&images) } else { engine.infer_device(&on_device) };
        if thresholds.is_some() {
            engine.set_thresholds(own.0, own.1)?;
        }
        Ok(people?.into_iter().zip(sizes).collect())
    }

    fn arrays<'py>(&self, py: Python<'py>, found: &Found) -> Vec<Arrays<'py>> {
        found.iter().map(|(people, size)| arrays(py, people, self.keypoints, *size)).collect()
    }
}

/// Pictures of a list; an error says which of them it is about.
fn all_given<'py>(images: &[Bound<'py, PyAny>], rgb: bool, gpu: Option<Gpu>) -> PyResult<Vec<Given<'py>>> {
    let one = |(i, image)| {
        Given::new(image, rgb, gpu).map_err(|error| match images.len() {
            1 => error,
            n => numbered(image.py(), &error, i, n),
        })
    };
    images.iter().enumerate().map(one).collect()
}

fn numbered(py: Python<'_>, error: &PyErr, i: usize, n: usize) -> PyErr {
    let text = format!("images[{i}] of {n}: {}", error.value(py));
    let made = error.get_type(py).call1((text,));
    made.map_or_else(|_| usage(format!("images[{i}] of {n}: {}", error.value(py))), PyErr::from_value)
}
