//! Parameters of the convolution kernels.
//!
//! Maps are fp16, NHWC, all images of a batch `image` halves apart. A pitch is the distance from one pixel to the next
//! in elements; addresses are already moved to their first channel, which is a multiple of 8 (16 bytes).

use crate::backend::cuda::kernel_params::params;
use half::f16;
use std::ffi::c_void;

/// Convolutions in one launch.
pub const CONV_STEPS: usize = 4;

/// What is applied to the sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    None = 0,
    Silu = 1,
    Gelu = 2,
    Relu = 3,
}

/// Where the addend before the activation lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreAdd {
    None = 0,
    /// At the output's pixel.
    Same = 1,
    /// At half its row and column.
    Upsampled = 2,
}

/// When the next kernel may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    Early = 0,
    Late = 1,
    Mid = 2,
}

params! {
    /// `dst = act(conv(src) + bias + pre) + post` of one step, and the tile geometry that the host has planned for it.
    ConvStep {
        src: *const f16,
        weight: *const f16,     // packed, see conv.cuh
        bias: *const f32,       // cout_pad values
        pre: *const f16,        // added before the activation
        post: *const f16,       // added after it; null: nothing
        dst: *mut f16,
        pre_image: i64,         // from one image's addend to the next: `image`, or 0 for a constant table
        src_pitch: i32, pre_pitch: i32, post_pitch: i32, dst_pitch: i32,
        h: i32, w: i32, oh: i32, ow: i32,   // input and output map
        cin: i32, cout: i32, cout_pad: i32,
        kernel: i32, stride: i32,
        act: i32, pre_add: i32,
        group: i32,             // channels a group of a grouped convolution; 0: dense
        flat: i32,              // 1: the tile is a run of positions of the map padded to width ow + 2 (3x3 s1)
        tile_w: i32, tile_h: i32,   // output tile; a 1x1 convolution sees the map as one row of h * w pixels
        tiles_x: i32, tiles: i32,   // tiles a row of tiles; tiles an image
        halo_w: i32, halo_h: i32,   // input pixels of a tile
        row: i32, plane: i32,   // shared-memory pitch of a halo row and of an 8-channel plane, in pixels
        chunks: i32,            // channel chunks of BK
        first_block: i32,       // of this step in the launch
        tap: [i32; 9],          // slot offset of each tap of a 1x1 or 3x3 convolution
        // ceil(2^32 / x) of halo_w, tile_w, ow + 2 and tiles_x
        div_halo_w: u32, div_tile_w: u32, div_flat_w: u32, div_tiles_x: u32,
    }

    /// Up to four independent convolutions of one kernel size.
    ConvLaunch {
        step: [ConvStep; CONV_STEPS],
        image: i64,
        prefetch: *const c_void,    // packed weights of the next launch, pulled into L2 meanwhile
        prefetch_bytes: i32,
        steps: i32, images: i32,
        split: i32,             // blocks of a cluster that share one tile, each a range of channel chunks
        buffers: i32,           // activation chunk buffers in shared memory
        trigger: i32,           // when dependents may start, see Trigger
        stages: i32, reserved: i32, // weight stages in shared memory, where the kernel does not fix them (conv_pp.cu)
    }
}
