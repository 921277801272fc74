//! What the kernels of the pose operations share.

use crate::backend::cuda::kernel_params::params;

/// Head levels: as many as a plan may have, `plan::MAX_LEVELS`.
pub const LEVELS: usize = 3;
/// Floats of a person in the results before its keypoints: score, x1, y1, x2, y2, gx, gy. Then come K times x, y, and K
/// times the visibility's sigmoid.
pub const PERSON_FLOATS: usize = 7;
/// Keypoints of a person that the kernels of this folder hold in registers. The CPU has no limit but the checkpoint's,
/// 1024.
pub const MAX_TOKENS: usize = 20;

/// How a photo becomes the network's input, see letterbox.cu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampler {
    Warp = 0,
    Resize = 1,
    Halve = 2,
}

params! {
    /// One photo of the batch, and what the caller wants to know of it. Written by the host before each run, at the
    /// start of one block that also holds the tables and the photos; `photo`, `chroma`, `columns` and `rows` are offsets
    /// from its start in bytes. Rows of a plane follow one another; those of `chroma` are of an even number of bytes.
    Frame {
        photo: i64,                 // BGR, or the brightness of NV12
        chroma: i64,                // NV12's pairs U, V; 0: the photo is BGR
        columns: i32, rows: i32,    // sampling tables
        width: i32, height: i32,    // of the photo
        fit_w: i32, fit_h: i32,     // part of the input that the photo fills (resize and halve)
        sampler: i32,
        score_logit: f32,           // a grid is a candidate if its class logit is strictly above this
        nms_thr: f32,               // a candidate is suppressed if its IoU with a better one is strictly above this
        max_people: i32,            // at most this many; negative: all
        force: i32,                 // negative: off; else the best `force` grids survive in any case
        yuv_black: i32, yuv_luma: i32,      // how NV12 becomes BGR, see vision/nv12.rs
        u_blue: i32, u_green: i32, v_green: i32, v_red: i32,
        swap: i32,                  // 1: red and blue have each other's place
    }

    /// A person: what select knows of it.
    Survivor {
        level: i32, cell: i32,
        score: f32,
        cx: f32, cy: f32, w: f32, h: f32,   // box, in pixels of the network input
        gx: f32, gy: f32,                   // grid point
        reserved: i32,
    }

    Count {
        people: i32,                // survivors stored
        lost: i32,                  // survivors that did not fit; the host reports them, never drops them silently
        not_finite: i32,            // grids left out for a NaN score, or a box that is not finite
        reserved: i32,
    }
}
