// survivor_linear: for each survivor the linear map of its level, applied to its grid cell's channels: y = W_level x + b_level.
//
// One warp computes 16 outputs for 16 survivors at a time (fragments.cuh). Survivors of different levels share a tile: for each level
// the rows of the others are zeros, and both products go into the same sums. The number of survivors is read from memory, so
// the launch does not depend on it.
//
// collect: the last kernel of a run; people into the host's memory.
#include "fragments.cuh"

constexpr int TILE = 16, WARPS = 2;

KERNEL(survivor_linear, SurvivorLinearLaunch, 64, 1) {
  SHARED_MEMORY(smem);
  const int tid = threadIdx.x, lane = tid & 31, tile = (int)blockIdx.x * WARPS + (tid >> 5), image = (int)blockIdx.y;
  const int k_tiles = (p.cin + 15) / 16, slots = TILE + 1;
  const uint32_t planes = smem_u32(smem), columns = columns_address(planes, slots, 0, lane);
  const bool active = tile * 16 < p.cout;
  pdl_wait();
  pdl_launch();
  const int people = p.counts[image].people;
  const Survivor* survivors = p.survivors + (long long)image * p.capacity;
  float* dst = p.dst + (long long)image * p.capacity * p.dst_pitch;
  for (int first = 0; first < people; first += TILE) {
    float acc[2][4] = {};
    for (int level = 0; level < p.levels; level++) {
      bool here = false;
      for (int i = 0; i < TILE && first + i < people; i++) here |= survivors[first + i].level == level;
      if (!here) continue;   // uniform over the block
      const half* src = p.src[level] + image * p.image;
      __syncthreads();       // the rows before have been read
      for (int i = tid; i < k_tiles * 2 * TILE; i += WARPS * 32) {
        const int n = i % TILE, k8 = i / TILE;
        const bool real = first + n < people && survivors[first + n].level == level && k8 * 8 < p.cin;
        const long long at = real ? (long long)survivors[first + n].cell * p.src_pitch[level] + k8 * 8 : 0;
        cp16(planes + (uint32_t)(k8 * slots + n) * 16, src + at, real ? 16 : 0);
      }
      cp_commit();
      cp_wait<0>();
      __syncthreads();
      if (active) {
#pragma unroll 8
        for (int k = 0; k < k_tiles; k++) {
          uint32_t a[4], b[4];
          load_weights(a, p.weight[level], tile, k, k_tiles, lane);
          ldmatrix4(b, columns + (uint32_t)(k * 2 * slots * 16));
          mma16816(acc[0], a, b[0], b[1]);
          mma16816(acc[1], a, b[2], b[3]);
        }
      }
    }
    if (!active) continue;
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const int row = first + n * 8 + 2 * (lane & 3) + (j & 1), out = tile * 16 + (lane >> 2) + 8 * (j >> 1);
        if (row < people && out < p.cout) dst[(long long)row * p.dst_pitch + out] = acc[n][j] + p.bias[survivors[row].level][out];
      }
  }
}

KERNEL(collect, CollectLaunch, 256, 1) {
  const int image = (int)blockIdx.y, fields = 7 + 3 * p.tokens;
  pdl_wait();
  pdl_launch();
  const int people = p.counts[image].people;
  const long long base = (long long)image * p.capacity;
  for (int i = (int)(blockIdx.x * 256 + threadIdx.x); i < people * fields; i += (int)gridDim.x * 256) {
    const long long row = base + i / fields;
    const int field = i % fields;
    const Survivor& s = p.survivors[row];
    float v;
    if (field >= 7 + 2 * p.tokens) v = 1.f / (1.f + expf(-p.visibility[row * p.visibility_pitch + field - 7 - 2 * p.tokens]));
    else if (field >= 7) v = p.keypoints[row * p.keypoints_pitch + field - 7];
    else if (field == 0) v = s.score;
    else if (field == 1) v = s.cx - 0.5f * s.w;
    else if (field == 2) v = s.cy - 0.5f * s.h;
    else if (field == 3) v = s.cx + 0.5f * s.w;
    else if (field == 4) v = s.cy + 0.5f * s.h;
    else v = field == 5 ? s.gx : s.gy;
    p.host_rows[row * fields + field] = v;
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) p.host_counts[image] = p.counts[image];
}
