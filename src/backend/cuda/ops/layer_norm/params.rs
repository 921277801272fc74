//! Parameters of `layer_norm.cu`.

use crate::backend::cuda::kernel_params::params;
use half::f16;

/// Most channels: each lane of a warp holds 32 of them in registers.
pub const LAYER_NORM_CHANNELS: usize = 1024;

params! {
    LayerNormLaunch {
        src: *const f16,
        dst: *mut f16,
        gamma: *const f32,
        beta: *const f32,
        image: i64,
        src_pitch: i32, dst_pitch: i32, pixels: i32, c: i32, images: i32,
        eps: f32,
    }
}
