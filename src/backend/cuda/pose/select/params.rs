//! Parameters of `select.cu`.

use crate::backend::cuda::kernel_params::params;
use crate::backend::cuda::pose::params::{Count, Frame, LEVELS, Survivor};

params! {
    SelectLaunch {
        cls: [*const f32; LEVELS],
        bbox: [*const f32; LEVELS],
        frames: *const Frame,
        survivors: *mut Survivor,   // [images, capacity]
        counts: *mut Count,         // [images]
        boxes: *mut [f32; 4],       // [images, slots]: scratch
        image: i64,                 // in halves
        cls_pitch: [i32; LEVELS],
        bbox_pitch: [i32; LEVELS],
        w: [i32; LEVELS],
        cells: [i32; LEVELS],
        stride: [i32; LEVELS],
        levels: i32, capacity: i32, images: i32,
        slots: i32,                 // power of two, at least all cells
        near: i32,                  // candidates that shared memory holds; where there are more, all go to `keys`
        keys: *mut u64,             // [images, slots]: scratch
    }
}
