//! Parameters of `letterbox.cu`.

use crate::backend::cuda::kernel_params::params;
use crate::backend::cuda::pose::params::Frame;
use half::f16;

params! {
    LetterboxLaunch {
        frames: *const Frame,
        dst: *mut f16,          // [in_h / 2, in_w / 2, 16]: 2x2 pixels by B, G, R, and four zeros
        image: i64,
        in_w: i32, in_h: i32, images: i32, reserved: i32,
    }
}
