//! The operations that only a pose network has. Each is a method of [`Reference`] that reads and writes its buffers.

mod bin_decode;
mod gau;
mod select;
mod survivor_linear;

pub use select::Person;

use super::Reference;
use crate::backend::Frame;
use crate::plan::Pose;

/// The network input of a frame, `[h, w, 3]`, BGR, 0..255. `size` is its width and height.
pub(super) fn letterbox(frame: Frame<'_>, (w, h): (usize, usize)) -> Vec<f64> {
    let mut row = vec![0; w * 3];
    let mut input = Vec::with_capacity(h * w * 3);
    for y in 0..h {
        frame.letterbox.sample_row(frame.photo, y, &mut row);
        input.extend(row.iter().map(|&v| f64::from(v)));
    }
    input
}

impl Reference {
    /// Executes one operation. [`Pose::Letterbox`] does nothing: the caller sets its output, see [`letterbox`].
    pub(super) fn pose(&mut self, pose: &Pose) {
        match pose {
            Pose::Letterbox { .. } => {}
            Pose::Select { levels } => {
                let people = self.select(levels);
                self.set_people(people);
            }
            Pose::SurvivorLinear { src, weight, bias, dst } => self.survivor_linear(src, weight, bias, *dst),
            Pose::Gau(gau) => self.gau(gau),
            Pose::BinDecode(decode) => self.bin_decode(decode),
        }
    }
}
