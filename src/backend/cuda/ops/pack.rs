//! Constants in the orders that several kernels read them in.

use half::f16;

fn bytes(values: impl Iterator<Item = f32>) -> Vec<u8> {
    values.flat_map(|v| f16::from_f32(v).to_le_bytes()).collect()
}

/// fp16, in the given order.
pub fn halves(values: &[f32]) -> Vec<u8> {
    bytes(values.iter().copied())
}

/// fp32, padded with zeros to `len` values.
pub fn floats(values: &[f32], len: usize) -> Vec<u8> {
    let padding = std::iter::repeat_n(0.0f32, len.saturating_sub(values.len()));
    values.iter().copied().chain(padding).flat_map(f32::to_le_bytes).collect()
}

/// A matrix `[rows, columns]` as mma fragments, see `common/fragments.cuh`:
/// `[row / 16][column / 16][lane][8]`, padded with zeros.
pub fn fragments(matrix: &[f32], rows: usize, columns: usize) -> Vec<u8> {
    let at = |r: usize, c: usize| if r < rows && c < columns { matrix[r * columns + c] } else { 0.0 };
    let mut values = Vec::with_capacity(rows.next_multiple_of(16) * columns.next_multiple_of(16));
    for m in 0..rows.div_ceil(16) {
        for k in 0..columns.div_ceil(16) {
            for lane in 0..32 {
                for register in 0..4 {
                    for half in 0..2 {
                        let r = m * 16 + lane / 4 + 8 * (register % 2);
                        let c = k * 16 + 2 * (lane % 4) + 8 * (register / 2) + half;
                        values.push(at(r, c));
                    }
                }
            }
        }
    }
    bytes(values.into_iter())
}
