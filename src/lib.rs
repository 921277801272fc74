//! Finds people and their joints in pictures: inference for RTMO, the one-stage real-time multi-person pose model
//! ([arXiv 2312.07526](https://arxiv.org/abs/2312.07526)), with handwritten kernels for CPUs and NVIDIA GPUs.
//!
//! # One photo
//!
//! ```no_run
//! use rtmo_engine::{Engine, EngineOptions, Photo};
//!
//! let mut engine = Engine::load("rtmo-s.safetensors", EngineOptions::default())?;
//! let photo = Photo::open("family.jpg")?;
//! for person in &engine.infer(&[photo])?[0] {
//!     let nose = person.keypoints[0];
//!     println!("a person ({:.2}), nose at {:.0}, {:.0}", person.score, nose.x, nose.y);
//! }
//! # rtmo_engine::Result::Ok(())
//! ```
//!
//! [`Engine::load`] reads `.safetensors` and the `.pth` files that RTMO's authors published. [`EngineOptions`] sets the
//! device, the precision, thresholds and the size of the network's input.
//!
//! # A batch
//!
//! Several photos in one call are one batch. They may differ in size. On a GPU a batch is faster than its photos one by one.
//!
//! ```no_run
//! # use rtmo_engine::{Engine, EngineOptions, Photo};
//! # let mut engine = Engine::load("rtmo-s.safetensors", EngineOptions::default())?;
//! let photos = [Photo::open("a.jpg")?, Photo::open("b.png")?];
//! let people = engine.infer(&photos)?;
//! println!("{} people on a.jpg, {} on b.png", people[0].len(), people[1].len());
//! # rtmo_engine::Result::Ok(())
//! ```
//!
//! # Frames in memory
//!
//! An [`Image`] borrows pixels where they are: RGB, BGR or NV12 ([`Image::nv12`]), with any distance between rows.
//! `examples/frames.rs` reads a stream of raw frames.
//!
//! ```no_run
//! # use rtmo_engine::{ChannelOrder, Engine, EngineOptions, Image};
//! # let mut engine = Engine::load("rtmo-s.safetensors", EngineOptions::default())?;
//! let frame = vec![0; 640 * 480 * 3];
//! let image = Image::new(640, 480, ChannelOrder::Rgb, &frame)?;
//! let people = engine.infer(&[image])?;
//! # rtmo_engine::Result::Ok(())
//! ```
//!
//! [`Engine::submit`] and [`Engine::collect`] overlap reading, computing and writing; on a GPU also uploads.
//!
//! # Keypoints and skeletons
//!
//! [`Skeleton::of`] names a model's keypoints and the bones between them: 17 for COCO, 14 for CrowdPose. A model of one's own
//! brings its own [`Skeleton`], from code or from a JSON file ([`Skeleton::open`]). [`draw_people`] draws it.
//!
//! ```no_run
//! # #[cfg(feature = "codecs")] fn main() -> rtmo_engine::Result<()> {
//! # use rtmo_engine::{DrawOptions, Engine, EngineOptions, Photo, Skeleton, draw_people};
//! let mut engine = Engine::load("arms.safetensors", EngineOptions::default())?;
//! let arm = Skeleton::new("arm", &["shoulder", "elbow", "wrist"], &[(0, 1), (1, 2)])?;
//! let mut photo = Photo::open("robot.jpg")?;
//! let people = engine.infer(std::slice::from_ref(&photo))?.remove(0);
//! draw_people(&mut photo, &people, Some(&arm), &DrawOptions::default());
//! # Ok(()) }
//! # #[cfg(not(feature = "codecs"))] fn main() {}
//! ```
//!
//! # Identities
//!
//! In a video, a [`Tracker`] gives the same person the same [`Person::id`] in every frame, and a [`Smoother`] takes the jitter
//! out of keypoints. Both work in seconds, on people from anywhere.
//!
//! ```no_run
//! # use rtmo_engine::{Engine, EngineOptions, Photo, Smoother, SmootherOptions, Tracker, TrackerOptions};
//! # let mut engine = Engine::load("rtmo-s.safetensors", EngineOptions::default())?;
//! # let frames: [(f64, Photo); 0] = [];
//! let mut tracker = Tracker::new(TrackerOptions::default())?;
//! let mut smoother = Smoother::new(SmootherOptions::default())?;
//! for (seconds, frame) in frames {
//!     let mut people = engine.infer(&[frame])?.remove(0);
//!     tracker.update(&mut people, seconds)?;
//!     smoother.smooth(&mut people, seconds)?;
//!     for person in people.iter().filter(|person| person.id.is_some()) {
//!         println!("{seconds:.2} s: person {} at {:?}", person.id.unwrap_or(0), person.bbox);
//!     }
//! }
//! # rtmo_engine::Result::Ok(())
//! ```
//!
//! # Features
//!
//! All are on by default. `cli` is the program `rtmo-engine`. `codecs` reads photos from files, writes and draws them;
//! without it the library takes pixels in memory. `download` fetches and converts the authors' weights. `eval` measures average
//! precision by annotations. `cuda` adds NVIDIA GPUs, where nvcc is there when the crate is built. `demo-model` puts the demonstration model into the program.
//!
//! ```toml
//! rtmo-engine = { version = "0.1", default-features = false }     # the library alone, for CPUs: 42 packages
//! ```
//!
//! # Errors
//!
//! Every fallible function returns [`Error`], whose text says what went wrong, where, what was expected and what was found.
//! Files of any content give errors, never panics.

// The case table of tests/ names this crate as every other test does.
#[cfg(test)]
extern crate self as rtmo_engine;

#[cfg(any(feature = "codecs", feature = "cuda", feature = "download"))]
#[doc(hidden)]
pub mod atomic_file;
#[doc(hidden)]
pub mod backend;
mod cache;
mod engine;
mod error;
#[cfg(feature = "eval")]
pub mod eval;
mod heap;
#[doc(hidden)]
pub mod output;
#[doc(hidden)]
pub mod parity;
#[doc(hidden)]
pub mod plan;
#[doc(hidden)]
pub mod pose;
mod track;
mod variant;
#[doc(hidden)]
pub mod vision;
pub mod weights;

pub use backend::{Device, Kernels, Placement, Precision, StageTimes, StepTime};
pub use engine::{Compat, Detections, Engine, EngineOptions, Timings};
pub use error::{Error, Result};
#[doc(hidden)]
pub use error::{printable, printable_lines, shown};
#[cfg(feature = "codecs")]
pub use output::draw::{DrawOptions, draw_people};
pub use pose::{Bone, Heatmaps, Keypoint, People, Person, Rgb, Side, Skeleton};
pub use track::{Smoother, SmootherOptions, Tracker, TrackerOptions};
pub use variant::Variant;
pub use vision::{
    ChannelOrder, DeviceImage, DeviceStream, Image, Nv12, Photo, Picture, YuvColours, YuvMatrix,
};
