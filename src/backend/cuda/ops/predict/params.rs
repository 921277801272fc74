//! Parameters of `predict.cu`.

use crate::backend::cuda::kernel_params::params;
use half::f16;

/// Predictions in one launch.
pub const PREDICT_STEPS: usize = 8;

params! {
    /// A 1x1 convolution with few outputs, kept in fp32.
    PredictStep {
        src: *const f16,
        weight: *const f16,     // [cout, cin]
        bias: *const f32,
        dst: *mut f32,
        src_pitch: i32, dst_pitch: i32, pixels: i32, cin: i32, cout: i32, first_block: i32,
    }

    PredictLaunch {
        step: [PredictStep; PREDICT_STEPS],
        image: i64,             // in halves, for dst, too
        steps: i32, images: i32,
    }
}
