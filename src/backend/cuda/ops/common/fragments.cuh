// Small matrix products with constant weights: y[M x N] = W[M x K] x[K x N], weights on the rows of mma.m16n8k16, the
// few columns (survivors, keypoint tokens) on its columns. W is packed in the order of the machine's registers, so a
// warp reads one 16x16 tile with one coalesced 16-byte load a lane, straight from global memory:
//
//   packed[m / 16][k / 16][lane][8 halves] = a[0..3] of mma16816 (ptx.cuh);   M and K padded to 16 with zeros.
//
// x lies in shared memory as planes of 8 channels: [K / 8][slots][8], one 16-byte slot a column.
#pragma once
#include "ptx.cuh"

// The 16x16 weight tile (m, k) of a matrix with `k_tiles` tiles a row.
DEVICE void load_weights(uint32_t (&a)[4], const half* packed, int m, int k, int k_tiles, int lane) {
  const uint4 v = *reinterpret_cast<const uint4*>(packed + ((long long)(m * k_tiles + k) * 32 + lane) * 8);
  a[0] = v.x, a[1] = v.y, a[2] = v.z, a[3] = v.w;
}
// Address that this lane hands to ldmatrix for columns n .. n + 15 of K step 0; add k * 2 * slots * 16 for step k. The
// four registers are b0, b1 of columns n .. n + 7 and b0, b1 of columns n + 8 .. n + 15.
DEVICE uint32_t columns_address(uint32_t planes, int slots, int n, int lane) {
  return planes + (uint32_t)((((lane >> 3) & 1) * slots + n + (lane >> 4) * 8 + (lane & 7)) * 16);
}
