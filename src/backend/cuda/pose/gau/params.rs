//! Parameters of `gau.cu`.

use crate::backend::cuda::kernel_params::params;
use crate::backend::cuda::pose::params::Count;
use half::f16;

/// Bytes of shared memory before the constants.
pub const GAU_BYTES: usize = 25088;

params! {
    GauLaunch {
        src: *const f32,        // [images, capacity, src_pitch]
        dst: *mut f32,
        uv: *const f16,         // fragments of [2 e + s, d]
        out: *const f16,        // fragments of [d, e]
        q_gain: *const f32,
        q_bias: *const f32,
        k_gain: *const f32,
        k_bias: *const f32,
        residual_gain: *const f32,
        counts: *const Count,
        norm_gain: f32,
        tokens: i32, src_pitch: i32, dst_pitch: i32, capacity: i32, images: i32,
        staged: i32,            // shared memory has room for uv
        reserved: i32,
    }
}
