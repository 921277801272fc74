// survivor_linear: for each survivor the linear map of its level, applied to its grid cell's channels: y = W_level x +
// b_level.
//
// One block computes 16 outputs for TILE survivors at a time (fragments.cuh), each warp along its own part of K, with
// weights that it has loaded while the people were still being selected; blocks along z share the tiles of survivors.
// Survivors of different levels share a tile: each level's product sees zeros in the columns of the others, and all
// products go into the same sums. The number of survivors is read from memory, so the launch does not depend on it.
#include "counted.cuh"
#include "fragments.cuh"
#include "survivor_linear.params.cuh"

constexpr int TILE = SURVIVOR_TILE, WARPS = SURVIVOR_WARPS, HELD_LEVELS = 2, HELD = 5, PITCH = SURVIVOR_PITCH;
static_assert(WARPS * 32 % 16 == 0, "a thread adds up the same output of several survivors");

// acc += W b, for up to four n8 tiles whose columns belong to the level where `mine` says so.
DEVICE void add_product(float (&acc)[4][4], const uint32_t (&a)[4], uint32_t columns, bool second,
                        const uint32_t (&mine)[4]) {
  uint32_t b[4];
  ldmatrix4(b, columns);
  mma16816(acc[0], a, b[0] & mine[0], b[1] & mine[0]);
  mma16816(acc[1], a, b[2] & mine[1], b[3] & mine[1]);
  if (!second) return;   // uniform: there are columns beyond 16
  ldmatrix4(b, columns + 16 * 16);
  mma16816(acc[2], a, b[0] & mine[2], b[1] & mine[2]);
  mma16816(acc[3], a, b[2] & mine[3], b[3] & mine[3]);
}

KERNEL(survivor_linear, SurvivorLinearLaunch, 128, 4) {
  SHARED_MEMORY(smem);
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, tile = (int)blockIdx.x, image = (int)blockIdx.y;
  const int k_tiles = (p.cin + 15) / 16, out = tile * 16 + (tid & 15);
  const uint32_t planes = smem_u32(smem), columns = columns_address(planes, TILE, 0, lane);
  float* parts = reinterpret_cast<float*>(smem);   // [WARPS][TILE][PITCH], after the planes
  uint32_t held[HELD_LEVELS][HELD][4];
  float bias[LEVELS];
#pragma unroll
  for (int level = 0; level < LEVELS; level++) {
#pragma unroll
    for (int h = 0; h < HELD; h++)
      if (level < HELD_LEVELS && level < p.levels && warp + h * WARPS < k_tiles)
        load_weights(held[level][h], p.weight[level], tile, warp + h * WARPS, k_tiles, lane);
    bias[level] = level < p.levels && out < p.cout ? p.bias[level][out] : 0.f;
  }
  pdl_wait();
  pdl_launch();
  const int people = p.counts[image].people;
  const Survivor* survivors = p.survivors + (long long)image * p.capacity;
  float* dst = p.dst + (long long)image * p.capacity * p.dst_pitch;
  for (int first = (int)blockIdx.z * TILE;; first += (int)gridDim.z * TILE) {
    // Lane i loads survivor i of the tile. Beyond the last survivor it loads stale memory, which is not used. This load
    // and the load of `people` overlap.
    const int n = first + lane;
    const int2 place = *reinterpret_cast<const int2*>(survivors + min(n, p.capacity - 1));   // level and cell
    if (first >= people) break;
    const int level = n < people ? place.x : -1;
    if (first > (int)blockIdx.z * TILE) __syncthreads();   // the parts before have been read
    if (level >= 0) {
      const half* row = p.src[level] + image * p.image + (long long)place.y * p.src_pitch[level];
      for (int k8 = warp; k8 < k_tiles * 2; k8 += WARPS)
        cp16(planes + (uint32_t)(k8 * TILE + lane) * 16, row + k8 * 8, k8 * 8 < p.cin ? 16 : 0);
    } else {
      for (int k8 = warp; k8 < k_tiles * 2; k8 += WARPS) cp16(planes + (uint32_t)(k8 * TILE + lane) * 16, p.src[0], 0);
    }
    cp_commit();
    const bool second = people - first > 16;
    int of_column[4];   // level of the columns that this lane hands to the products
#pragma unroll
    for (int i = 0; i < 4; i++) of_column[i] = __shfl_sync(~0u, level, i * 8 + (lane >> 2));
    float acc[4][4] = {};
    cp_wait<0>();
    __syncthreads();
#pragma unroll
    for (int l = 0; l < LEVELS; l++) {
      if (!__any_sync(~0u, level == l)) continue;   // uniform over the block
      uint32_t mine[4];
#pragma unroll
      for (int i = 0; i < 4; i++) mine[i] = of_column[i] == l ? ~0u : 0u;
#pragma unroll
      for (int h = 0; h < HELD; h++)
        if (l < HELD_LEVELS && warp + h * WARPS < k_tiles)
          add_product(acc, held[l][h], columns + (uint32_t)((warp + h * WARPS) * 2 * TILE * 16), second, mine);
      for (int k = warp + (l < HELD_LEVELS ? HELD * WARPS : 0); k < k_tiles; k += WARPS) {
        uint32_t a[4];
        load_weights(a, p.weight[l], tile, k, k_tiles, lane);
        add_product(acc, a, columns + (uint32_t)(k * 2 * TILE * 16), second, mine);
      }
    }
    __syncthreads();   // all planes are read
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int j = 0; j < 4; j++)
        if (i < 2 || second)
          parts[(warp * TILE + i * 8 + 2 * (lane & 3) + (j & 1)) * PITCH + (lane >> 2) + 8 * (j >> 1)] = acc[i][j];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < TILE / (WARPS * 2); i++) {
      const int column = i * WARPS * 2 + (tid >> 4), of = __shfl_sync(~0u, level, column);
      float sum = of == 0 ? bias[0] : of == 1 ? bias[1] : bias[2];
#pragma unroll
      for (int w = 0; w < WARPS; w++) sum += parts[(w * TILE + column) * PITCH + (tid & 15)];
      if (of >= 0 && out < p.cout) dst[(long long)(first + column) * p.dst_pitch + out] = sum;
    }
  }
}
