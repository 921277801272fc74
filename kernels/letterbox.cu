// The photo becomes the network's input: sampling, border and the Focus rearrangement in one kernel.
//
// One affine warp, as cv2.warpAffine with INTER_LINEAR does it on 8-bit pixels: coordinates in 1/32 pixel, weights that sum to
// 2^15, taps outside the photo count as 114. The warp has no rotation, so a column's source column and a row's source row are
// tables of one number each (computed on the host, the very ones of the CPU path), and the result is exact in integers:
//
//   v = (sum of (32 - fx | fx) (32 - fy | fy) p + 2^9) >> 10
//
// The output is [in_h / 2, in_w / 2, 16]: the 2x2 pixels of a cell, each B, G, R, then four zeros. The network's first layer, a
// 6x6 convolution of stride 2, is a 3x3 one of stride 1 on it. One thread a cell.
#include "params.cuh"

KERNEL(letterbox, LetterboxLaunch, 256, 1) {
  const int w = p.in_w / 2, h = p.in_h / 2, at = (int)(blockIdx.x * 256 + threadIdx.x), image = (int)blockIdx.y;
  pdl_wait();
  pdl_launch();
  if (at >= w * h) return;
  const int cy = at / w, cx = at - cy * w;
  const Frame& f = p.frames[image];
  const int* columns = p.tables + image * (p.in_w + p.in_h);
  const int* rows = columns + p.in_w;
  const unsigned char* photo = p.photos + f.offset;
  uint32_t out[8] = {};
#pragma unroll
  for (int cell = 0; cell < 4; cell++) {
    const int sx = columns[cx * 2 + (cell & 1)], sy = rows[cy * 2 + (cell >> 1)];
    const int x0 = sx >> 5, y0 = sy >> 5, fx = sx & 31, fy = sy & 31;
    int sum[3] = {512, 512, 512};
#pragma unroll
    for (int tap = 0; tap < 4; tap++) {
      const int x = x0 + (tap & 1), y = y0 + (tap >> 1);
      const int weight = ((tap & 1) ? fx : 32 - fx) * ((tap >> 1) ? fy : 32 - fy);
      const bool inside = (unsigned)x < (unsigned)f.width && (unsigned)y < (unsigned)f.height;
      const unsigned char* px = photo + ((long long)(inside ? y : 0) * f.width + (inside ? x : 0)) * 3;
#pragma unroll
      for (int c = 0; c < 3; c++) sum[c] += weight * (inside ? px[c] : 114);
    }
#pragma unroll
    for (int c = 0; c < 3; c++) {
      const int i = cell * 3 + c;
      const uint32_t v = pack2((float)(sum[c] >> 10), 0.f);
      out[i / 2] |= i % 2 ? v << 16 : v;
    }
  }
  uint4* dst = reinterpret_cast<uint4*>(p.dst + image * p.image + (long long)at * 16);
  dst[0] = make_uint4(out[0], out[1], out[2], out[3]);
  dst[1] = make_uint4(out[4], out[5], out[6], out[7]);
}
