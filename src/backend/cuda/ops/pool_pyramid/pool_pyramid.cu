// Spatial pyramid of max pools: dst = [m1, m2, m3] with m1 = max5(src), m2 = max5(m1), m3 = max5(m2) (window 2 radius +
// 1 in general), which are the pools of windows 5, 9 and 13. Outside counts as minus infinity.
//
// One block holds 8 channels of the whole map in shared memory, one 16-byte slot a pixel, and runs the separable passes
// there.
#include "half8.cuh"
#include "pool_pyramid.params.cuh"

KERNEL(pool_pyramid, PoolPyramidLaunch, 512, 1) {
  SHARED_MEMORY(smem);
  const int n = p.h * p.w, tid = threadIdx.x, c = (int)blockIdx.x * 8;
  uint4* map = reinterpret_cast<uint4*>(smem);
  uint4* rows = map + n;
  const half* src = p.src + (int)blockIdx.y * p.image + c;
  half* dst = p.dst + (int)blockIdx.y * p.image + c;
  pdl_wait();
  pdl_launch();
  for (int i = tid; i < n; i += 512) map[i] = *reinterpret_cast<const uint4*>(src + (long long)i * p.src_pitch);
  __syncthreads();
  for (int level = 0; level < 3; level++) {
    for (int i = tid; i < n; i += 512) {
      const int x = i % p.w, first = max(-p.radius, -x), last = min(p.radius, p.w - 1 - x);
      uint4 v = map[i];
      for (int d = first; d <= last; d++) v = max8(v, map[i + d]);
      rows[i] = v;
    }
    __syncthreads();
    for (int i = tid; i < n; i += 512) {
      const int y = i / p.w, first = max(-p.radius, -y), last = min(p.radius, p.h - 1 - y);
      uint4 v = rows[i];
      for (int d = first; d <= last; d++) v = max8(v, rows[i + d * p.w]);
      map[i] = v;
      *reinterpret_cast<uint4*>(dst + (long long)i * p.dst_pitch + level * p.c) = v;
    }
    __syncthreads();
  }
}
