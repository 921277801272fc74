//! Everything that is specific to RTMO: the network as a plan, letterbox, selection, and people.
//!
//! ```text
//! photo -> letterbox -> [plan: backbone, neck, head] -> select -> [plan: DCC on survivors] -> people
//! ```

pub mod letterbox;
pub mod model;
pub mod people;
mod run;
pub mod select;
pub mod skeleton;

pub use letterbox::Letterbox;
pub use people::{Heatmaps, Keypoint, People, Person, people};
pub use run::{Frame, RunOptions, SelectParams, Survivors};
pub use select::{Candidate, LevelMaps, SelectScratch, select};
pub use skeleton::{Bone, Rgb, Side, Skeleton};
