// Max pooling with a stride: dst[y, x] = max of src over the window that starts at (y stride - pad, x stride - pad).
// Outside counts as minus infinity. The host has made sure that every window has a pixel of the map.
//
// One thread takes 8 channels of an output pixel; neighbouring threads take neighbouring channels, so a warp reads and
// writes whole rows of 16-byte words.
#include "half8.cuh"
#include "max_pool.params.cuh"

KERNEL(max_pool, MaxPoolLaunch, 256, 1) {
  const int i = (int)(blockIdx.x * 256 + threadIdx.x), groups = p.c / 8, pixel = i / groups,
            c = (i - pixel * groups) * 8;
  const int y = pixel / p.ow, x = pixel - y * p.ow, top = y * p.stride - p.pad, left = x * p.stride - p.pad;
  const int y0 = max(top, 0), y1 = min(top + p.window, p.h), x0 = max(left, 0), x1 = min(left + p.window, p.w);
  const half* src = p.src + (int)blockIdx.y * p.image + c;
  half* dst = p.dst + (int)blockIdx.y * p.image + c;
  pdl_wait();
  pdl_launch();
  if (y >= p.oh) return;
  auto at = [&](int y, int x) { return *reinterpret_cast<const uint4*>(src + (long long)(y * p.w + x) * p.src_pitch); };
  uint4 v = at(y0, x0);
  // Three loads at a time, a row of the window: 40 registers. As many as the compiler likes would take 90.
#pragma unroll 1
  for (int sy = y0; sy < y1; sy++)
#pragma unroll 3
    for (int sx = x0; sx < x1; sx++) v = max8(v, at(sy, sx));
  *reinterpret_cast<uint4*>(dst + (long long)pixel * p.dst_pitch) = v;
}
