//! What a run of the network takes and gives: photos with their geometry, thresholds, survivors.

use super::Letterbox;
use crate::error::{Error, Result};
use crate::vision::{DeviceImage, Image};

/// One photo and how it is laid into the network input.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// The photo.
    pub photo: Image<'a>,
    /// Sampling geometry.
    pub letterbox: &'a Letterbox,
    /// The pixels, if they are in the memory of a GPU: `photo` has the size only then.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "read by the CUDA backend"))]
    pub(crate) device: Option<DeviceImage>,
}

impl<'a> Frame<'a> {
    /// A photo, and a letterbox for its size.
    pub fn new(photo: impl Into<Image<'a>>, letterbox: &'a Letterbox) -> Frame<'a> {
        Frame { photo: photo.into(), letterbox, device: None }
    }

    /// A picture in the memory of a GPU, for its backend alone: [`Frame::check`] refuses it.
    pub(crate) fn on_device(image: DeviceImage, letterbox: &'a Letterbox) -> Frame<'a> {
        Frame { photo: image.outline(), letterbox, device: Some(image) }
    }

    /// That the letterbox was made for this photo and for a network input of `input_size`, width and height, and that
    /// the photo is whole.
    ///
    /// # Errors
    /// [`Error::Usage`] if not.
    pub fn check(&self, input_size: (usize, usize)) -> Result<()> {
        self.check_letterbox(input_size)?;
        self.photo.check()
    }

    /// The same, but for the photo's pixels.
    ///
    /// # Errors
    /// [`Error::Usage`] if not.
    pub(crate) fn check_letterbox(&self, input_size: (usize, usize)) -> Result<()> {
        let (wanted, made) = (input_size, self.letterbox.input_size());
        if made != wanted {
            return Err(Error::Usage(format!(
                "a letterbox for an input of {}x{} pixels: expected {}x{}",
                made.0, made.1, wanted.0, wanted.1
            )));
        }
        let ((w, h), expected) = (self.photo.size(), self.letterbox.photo_size());
        if expected != (w, h) {
            return Err(Error::Usage(format!(
                "a photo of {w}x{h} pixels: its letterbox expects {}x{}",
                expected.0, expected.1
            )));
        }
        Ok(())
    }
}

/// Which grids become people, see [`crate::plan::Pose::Select`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SelectParams {
    /// A grid is a candidate if its score is strictly above this.
    pub score_thr: f32,
    /// A candidate is suppressed if its IoU with a better one is strictly above this.
    pub nms_thr: f32,
    /// At most this many, best first; `None`: all. Ignored if `force` is given.
    pub max_people: Option<usize>,
    /// For latency studies: the best `n` grids survive, whatever their scores and overlaps.
    pub force: Option<usize>,
}

impl Default for SelectParams {
    /// mmpose's test configuration: 0.1 and 0.65, no cap.
    fn default() -> Self {
        SelectParams { score_thr: 0.1, nms_thr: 0.65, max_people: None, force: None }
    }
}

/// The people of one image, best first, in network-input pixels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Survivors {
    /// `sigmoid(cls)`.
    pub scores: Vec<f32>,
    /// `x1, y1, x2, y2`, not clamped.
    pub boxes: Vec<[f32; 4]>,
    /// Grid point `g` of each.
    pub priors: Vec<[f32; 2]>,
    /// `K` per person: x, y; never clamped.
    pub keypoints: Vec<[f32; 2]>,
    /// `K` per person: `sigmoid(out_kpt_vis)`.
    pub visibility: Vec<f32>,
    /// If asked for, `K * x bins` probabilities per person.
    pub heatmaps_x: Vec<f32>,
    /// If asked for, `K * y bins` probabilities per person.
    pub heatmaps_y: Vec<f32>,
    /// Grids that selection left out for a NaN score, or a box that is not finite.
    pub not_finite: usize,
}

/// What a run is asked to do besides the network itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RunOptions {
    /// Selection thresholds.
    pub select: SelectParams,
    /// Return the 1-D heatmaps too.
    pub heatmaps: bool,
}
