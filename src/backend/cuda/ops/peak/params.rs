//! Parameters of `peak.cu`.

use crate::backend::cuda::kernel_params::params;
use half::f16;

params! {
    PeakLaunch {
        data: *const f16,       // 512 values
        out: *mut f32,          // [blocks, 256]: sums of each thread's accumulators
        iterations: i32, reserved: i32,
    }
}
