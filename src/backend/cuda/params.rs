//! Parameters of the kernels, field by field as in `kernels/params.cuh`. Device addresses are `u64`.

use bytemuck::{Pod, Zeroable};

/// Every number of a parameter struct, in the order of its fields; lets a test see that each arrives in its place.
#[cfg(test)]
pub(super) trait Fields {
    /// Appends the values (a float as its bits).
    fn list(&self, out: &mut Vec<i64>);
    /// Overwrites each value with the next of 1, 2, 3, ...
    fn number(&mut self, next: &mut i64);
}

#[cfg(test)]
macro_rules! number {
    ($($t:ty),*) => {$(
        #[cfg(test)]
        impl Fields for $t {
            fn list(&self, out: &mut Vec<i64>) {
                out.push(*self as i64);
            }
            fn number(&mut self, next: &mut i64) {
                *self = *next as $t;
                *next += 1;
            }
        }
    )*};
}
#[cfg(test)]
number!(u64, i64, i32, u32);

#[cfg(test)]
impl Fields for f32 {
    fn list(&self, out: &mut Vec<i64>) {
        out.push(i64::from(self.to_bits()));
    }
    fn number(&mut self, next: &mut i64) {
        *self = *next as f32;
        *next += 1;
    }
}

#[cfg(test)]
impl<T: Fields, const N: usize> Fields for [T; N] {
    fn list(&self, out: &mut Vec<i64>) {
        self.iter().for_each(|v| v.list(out));
    }
    fn number(&mut self, next: &mut i64) {
        self.iter_mut().for_each(|v| v.number(next));
    }
}

/// A `#[repr(C)]` struct without padding and of a known size.
macro_rules! params {
    ($($name:ident($size:expr) { $($field:ident: $t:ty),* $(,)? })*) => {$(
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Pod, Zeroable)]
        pub(super) struct $name { $(pub $field: $t),* }
        const _: () = assert!(size_of::<$name>() == $size);
        impl Default for $name {
            fn default() -> Self {
                Zeroable::zeroed()
            }
        }
        #[cfg(test)]
        impl Fields for $name {
            fn list(&self, out: &mut Vec<i64>) {
                $(self.$field.list(out);)*
            }
            fn number(&mut self, next: &mut i64) {
                $(self.$field.number(next);)*
            }
        }
    )*};
}

/// Convolutions in one launch.
pub(super) const CONV_STEPS: usize = 4;
/// Predictions in one launch.
pub(super) const PREDICT_STEPS: usize = 8;
/// Head levels.
pub(super) const LEVELS: usize = 3;

params! {
    ConvStep(216) {
        src: u64, weight: u64, bias: u64, pre: u64, post: u64, dst: u64, pre_image: i64,
        src_pitch: i32, pre_pitch: i32, post_pitch: i32, dst_pitch: i32,
        h: i32, w: i32, oh: i32, ow: i32, cin: i32, cout: i32, cout_pad: i32,
        kernel: i32, stride: i32, act: i32, pre_add: i32, group: i32, flat: i32,
        tile_w: i32, tile_h: i32, tiles_x: i32, tiles: i32, halo_w: i32, halo_h: i32, row: i32, plane: i32,
        chunks: i32, first_block: i32, tap: [i32; 9], div_halo_w: u32, div_tile_w: u32, div_flat_w: u32,
        div_tiles_x: u32,
    }
    ConvLaunch(4 * 216 + 48) {
        step: [ConvStep; CONV_STEPS], image: i64, prefetch: u64, prefetch_bytes: i32,
        steps: i32, images: i32, split: i32, buffers: i32, trigger: i32, stages: i32, reserved: i32,
    }
    Frame(56) {
        photo: i64, columns: i32, rows: i32, width: i32, height: i32, fit_w: i32, fit_h: i32, sampler: i32,
        score_logit: f32, nms_thr: f32, max_people: i32, force: i32, reserved: i32,
    }
    LetterboxLaunch(40) {
        frames: u64, dst: u64, image: i64, in_w: i32, in_h: i32, images: i32, reserved: i32,
    }
    PoolLaunch(56) {
        src: u64, dst: u64, image: i64, src_pitch: i32, dst_pitch: i32,
        h: i32, w: i32, c: i32, radius: i32, images: i32, reserved: i32,
    }
    AttentionLaunch(48) {
        qkv: u64, dst: u64, image: i64, qkv_pitch: i32, dst_pitch: i32,
        tokens: i32, heads: i32, images: i32, reserved: i32,
    }
    LayerNormLaunch(64) {
        src: u64, dst: u64, gamma: u64, beta: u64, image: i64,
        src_pitch: i32, dst_pitch: i32, pixels: i32, c: i32, images: i32, eps: f32,
    }
    PredictStep(56) {
        src: u64, weight: u64, bias: u64, dst: u64,
        src_pitch: i32, dst_pitch: i32, pixels: i32, cin: i32, cout: i32, first_block: i32,
    }
    PredictLaunch(8 * 56 + 16) {
        step: [PredictStep; PREDICT_STEPS], image: i64, steps: i32, images: i32,
    }
    Survivor(40) {
        level: i32, cell: i32, score: f32, cx: f32, cy: f32, w: f32, h: f32, gx: f32, gy: f32, reserved: i32,
    }
    Count(8) { people: i32, lost: i32 }
    SelectLaunch(88 + 15 * 4 + 20 + 8) {
        cls: [u64; LEVELS], bbox: [u64; LEVELS], frames: u64, survivors: u64, counts: u64, boxes: u64, image: i64,
        cls_pitch: [i32; LEVELS], bbox_pitch: [i32; LEVELS],
        w: [i32; LEVELS], cells: [i32; LEVELS], stride: [i32; LEVELS],
        levels: i32, capacity: i32, images: i32, slots: i32, near: i32, keys: u64,
    }
    SurvivorLinearLaunch(144) {
        src: [u64; LEVELS], weight: [u64; LEVELS], bias: [u64; LEVELS],
        dst: u64, survivors: u64, counts: u64, image: i64, src_pitch: [i32; LEVELS],
        cin: i32, cout: i32, dst_pitch: i32, levels: i32, capacity: i32, images: i32, reserved: i32,
    }
    GauLaunch(112) {
        src: u64, dst: u64, uv: u64, out: u64, q_gain: u64, q_bias: u64, k_gain: u64, k_bias: u64,
        residual_gain: u64, counts: u64, norm_gain: f32,
        tokens: i32, src_pitch: i32, dst_pitch: i32, capacity: i32, images: i32, staged: i32, reserved: i32,
    }
    BinDecodeLaunch(120) {
        src: u64, dst: u64, weight: [u64; 2], heat: [u64; 2], frequency: u64, survivors: u64, counts: u64,
        bins: [i32; 2], tokens: i32, src_pitch: i32, dst_pitch: i32, capacity: i32, images: i32,
        width: [f32; 2], scale: [f32; 2], staged: i32,
    }
    CollectLaunch(72) {
        survivors: u64, counts: u64, keypoints: u64, visibility: u64, host_counts: u64, host_rows: u64,
        keypoints_pitch: i32, visibility_pitch: i32, tokens: i32, capacity: i32, images: i32, reserved: i32,
    }
    PeakLaunch(24) { data: u64, out: u64, iterations: i32, reserved: i32 }
}
