//! Parameters of `bin_decode.cu`.

use crate::backend::cuda::kernel_params::params;
use crate::backend::cuda::pose::params::{Count, Survivor};
use half::f16;

/// Bytes of shared memory before the weights.
pub const BIN_DECODE_BYTES: usize = 27680;

params! {
    BinDecodeLaunch {
        src: *const f32,            // keypoint vectors, [images, capacity, src_pitch]
        dst: *mut f32,              // [images, capacity, dst_pitch]: x, y of each keypoint
        weight: [*const f16; 2],    // x and y: fragments of W^T's high part, then of its low one, see bin_decode.cu
        heat: [*mut f32; 2],        // [images, capacity, tokens, bins] or null
        frequency: *const f32,      // 1 / (2 pi T_j): pe / 2 high parts, then pe / 2 low parts
        survivors: *const Survivor,
        counts: *const Count,
        bins: [i32; 2],
        tokens: i32, src_pitch: i32, dst_pitch: i32, capacity: i32, images: i32,
        width: [f32; 2],            // of a bin of x and of y, in box sizes
        scale: [f32; 2],            // of the logits, since the weights are scaled
        staged: i32,                // shared memory has room for the weights of two blocks
    }
}
