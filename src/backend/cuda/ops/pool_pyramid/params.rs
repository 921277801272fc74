//! Parameters of `pool_pyramid.cu`.

use crate::backend::cuda::kernel_params::params;
use half::f16;

params! {
    PoolPyramidLaunch {
        src: *const f16,
        dst: *mut f16,
        image: i64,
        src_pitch: i32, dst_pitch: i32, h: i32, w: i32, c: i32, radius: i32, images: i32, reserved: i32,
    }
}
