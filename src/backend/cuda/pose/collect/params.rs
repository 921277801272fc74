//! Parameters of `collect.cu`.

use crate::backend::cuda::kernel_params::params;
use crate::backend::cuda::pose::params::{Count, Survivor};

params! {
    /// The last kernel: survivors into the host's memory.
    CollectLaunch {
        survivors: *const Survivor,
        counts: *const Count,
        keypoints: *const f32,      // rows of keypoints_pitch
        visibility: *const f32,     // rows of visibility_pitch
        host_counts: *mut Count,    // [images]
        host_rows: *mut f32,        // [images, capacity, PERSON_FLOATS + 3 K], see there
        keypoints_pitch: i32, visibility_pitch: i32, tokens: i32, capacity: i32, images: i32, reserved: i32,
    }
}
