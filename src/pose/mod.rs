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

pub use letterbox::Letterbox;
pub use people::{Heatmaps, Keypoint, Person, people};
pub use run::{Frame, RunOptions, SelectParams, Survivors};
pub use select::{Candidate, LevelMaps, SelectScratch, select};
