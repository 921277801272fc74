// The photo becomes the network's input: sampling, border and the Focus rearrangement in one kernel. Coordinates are tables that the
// host computes (the very ones of the CPU path, src/vision/letterbox/), and the arithmetic is that of OpenCV in integers, so the
// input is the same to the bit. Pixels outside the photo count as 114. Three samplers:
//
//   warp     cv2.warpAffine, INTER_LINEAR: column x of row y lies at X = columns[rows[y].columns + x], Y = rows[y].y in 1/32 pixel;
//            v = (sum over the four pixels around of (32 - a | a) (32 - b | b) p + 512) >> 10,  a = X & 31, b = Y & 31
//   resize   cv2.resize, INTER_LINEAR: two pixels and weights in 1/2048 for each column and row; with h the blend across,
//            v = ((w0 (h0 >> 4) >> 16) + (w1 (h1 >> 4) >> 16) + 2) >> 2
//   halve    the average of 2x2 pixels, which is what cv2.resize does at exactly half the size
//
// The output is [in_h / 2, in_w / 2, 16]: the 2x2 pixels of a cell, each B, G, R, then four zeros. The network's first layer, a
// 6x6 convolution of stride 2, is a 3x3 one of stride 1 on it. One thread a cell.
#include "params.cuh"

constexpr int BORDER = 114;
struct WarpRow { unsigned columns; int y; };
struct ResizeTap { unsigned first, second; int weights[2]; };

// The pixel's three bytes; `y` and `x` are inside.
DEVICE const unsigned char* pixel_at(const unsigned char* photo, int width, int y, int x) { return photo + ((long long)y * width + x) * 3; }

DEVICE void sample(const Frame& f, const unsigned char* base, int x, int y, int (&v)[3]) {
  const unsigned char* photo = base + f.photo;
  v[0] = v[1] = v[2] = BORDER;
  if (f.sampler == SAMPLER_WARP) {
    const WarpRow row = reinterpret_cast<const WarpRow*>(base + f.rows)[y];
    const int X = reinterpret_cast<const int*>(base + f.columns)[row.columns + x], Y = row.y, a = X & 31, b = Y & 31;
    int sum[3] = {512, 512, 512};
#pragma unroll
    for (int tap = 0; tap < 4; tap++) {
      const int i = (X >> 5) + (tap & 1), j = (Y >> 5) + (tap >> 1);
      const int weight = ((tap & 1) ? a : 32 - a) * ((tap >> 1) ? b : 32 - b);
      const bool inside = (unsigned)i < (unsigned)f.width && (unsigned)j < (unsigned)f.height;
      const unsigned char* p = pixel_at(photo, f.width, inside ? j : 0, inside ? i : 0);
#pragma unroll
      for (int c = 0; c < 3; c++) sum[c] += weight * (inside ? p[c] : BORDER);
    }
#pragma unroll
    for (int c = 0; c < 3; c++) v[c] = sum[c] >> 10;
  } else if (x < f.fit_w && y < f.fit_h) {
    if (f.sampler == SAMPLER_HALVE) {
      const unsigned char *p = pixel_at(photo, f.width, 2 * y, 2 * x), *q = pixel_at(photo, f.width, 2 * y + 1, 2 * x);
#pragma unroll
      for (int c = 0; c < 3; c++) v[c] = (p[c] + p[c + 3] + q[c] + q[c + 3] + 2) >> 2;
      return;
    }
    const ResizeTap column = reinterpret_cast<const ResizeTap*>(base + f.columns)[x], row = reinterpret_cast<const ResizeTap*>(base + f.rows)[y];
#pragma unroll
    for (int c = 0; c < 3; c++) {
      const int h0 = column.weights[0] * pixel_at(photo, f.width, row.first, column.first)[c] + column.weights[1] * pixel_at(photo, f.width, row.first, column.second)[c];
      const int h1 = column.weights[0] * pixel_at(photo, f.width, row.second, column.first)[c] + column.weights[1] * pixel_at(photo, f.width, row.second, column.second)[c];
      v[c] = ((row.weights[0] * (h0 >> 4) >> 16) + (row.weights[1] * (h1 >> 4) >> 16) + 2) >> 2;
    }
  }
}

KERNEL(letterbox, LetterboxLaunch, 256, 1) {
  const int w = p.in_w / 2, h = p.in_h / 2, at = (int)(blockIdx.x * 256 + threadIdx.x), image = (int)blockIdx.y;
  pdl_wait();
  pdl_launch();
  if (at >= w * h) return;
  const int cy = at / w, cx = at - cy * w;
  const unsigned char* base = reinterpret_cast<const unsigned char*>(p.frames);
  uint32_t out[8] = {};
#pragma unroll
  for (int cell = 0; cell < 4; cell++) {
    int v[3];
    sample(p.frames[image], base, cx * 2 + (cell & 1), cy * 2 + (cell >> 1), v);
#pragma unroll
    for (int c = 0; c < 3; c++) {
      const int i = cell * 3 + c;
      const uint32_t bits = pack2((float)v[c], 0.f);
      out[i / 2] |= i % 2 ? bits << 16 : bits;
    }
  }
  uint4* dst = reinterpret_cast<uint4*>(p.dst + image * p.image + (long long)at * 16);
  dst[0] = make_uint4(out[0], out[1], out[2], out[3]);
  dst[1] = make_uint4(out[4], out[5], out[6], out[7]);
}
