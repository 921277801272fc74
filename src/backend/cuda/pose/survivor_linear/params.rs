//! Parameters of `survivor_linear.cu`.

use crate::backend::cuda::kernel_params::params;
use crate::backend::cuda::pose::params::{Count, LEVELS, Survivor};
use half::f16;

/// Survivors that a block takes at a time.
pub const SURVIVOR_TILE: usize = 32;
/// Warps of a block, each with a part of K.
pub const SURVIVOR_WARPS: usize = 4;
/// From one survivor's parts to the next, in floats.
pub const SURVIVOR_PITCH: usize = 17;

params! {
    /// A linear map of survivors' grid cells, one weight matrix a level.
    SurvivorLinearLaunch {
        src: [*const f16; LEVELS],
        weight: [*const f16; LEVELS],   // mma fragments, see fragments.cuh
        bias: [*const f32; LEVELS],
        dst: *mut f32,                  // [images, capacity, dst_pitch]
        survivors: *const Survivor,
        counts: *const Count,
        image: i64,
        src_pitch: [i32; LEVELS],
        cin: i32, cout: i32, dst_pitch: i32, levels: i32, capacity: i32, images: i32, reserved: i32,
    }
}
