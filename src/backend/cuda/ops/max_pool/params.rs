//! Parameters of `max_pool.cu`.

use crate::backend::cuda::kernel_params::params;
use half::f16;

params! {
    MaxPoolLaunch {
        src: *const f16,
        dst: *mut f16,
        image: i64,
        src_pitch: i32, dst_pitch: i32,
        h: i32, w: i32, oh: i32, ow: i32,   // input and output map
        c: i32,
        window: i32, stride: i32, pad: i32,
        images: i32, reserved: i32,
    }
}
