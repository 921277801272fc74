//! Parameters of `attention.cu`.

use crate::backend::cuda::kernel_params::params;
use half::f16;

/// Channels of a head.
pub const HEAD_DIM: usize = 32;
/// Queries of a block.
pub const ATTENTION_QUERIES: usize = 32;
/// Slices of the keys, each for a pair of warps.
pub const ATTENTION_SLICES: usize = 4;
/// Keys and values in shared memory at a time: as many as 64 KiB (sm_75) hold with the queries.
pub const ATTENTION_CHUNK: usize = 448;

params! {
    AttentionLaunch {
        qkv: *const f16,
        dst: *mut f16,
        image: i64,
        qkv_pitch: i32, dst_pitch: i32, tokens: i32, heads: i32, images: i32, reserved: i32,
    }
}
