// LayerNorm over the channels of each pixel: (x - mean) / sqrt(var + eps) gamma + beta, in fp32. One warp a pixel, up
// to 1024 channels in registers; the variance is the mean of squared differences, so nothing cancels.
#include "layer_norm.params.cuh"

DEVICE float warp_sum(float v) {
#pragma unroll
  for (int d = 16; d; d >>= 1) v += __shfl_xor_sync(~0u, v, d);
  return v;
}

KERNEL(layer_norm, LayerNormLaunch, 128, 1) {
  constexpr int PARTS = LAYER_NORM_CHANNELS / 256;
  const int lane = threadIdx.x & 31, pixel = (int)(blockIdx.x * 4 + (threadIdx.x >> 5));
  pdl_wait();
  pdl_launch();
  if (pixel >= p.pixels) return;
  const half* src = p.src + (int)blockIdx.y * p.image + (long long)pixel * p.src_pitch;
  half* dst = p.dst + (int)blockIdx.y * p.image + (long long)pixel * p.dst_pitch;
  float2 v[PARTS][4];
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < PARTS; i++) {
    const int c = i * 256 + lane * 8;
    uint4 u = make_uint4(0, 0, 0, 0);
    if (c < p.c) u = *reinterpret_cast<const uint4*>(src + c);
    v[i][0] = unpack2(u.x), v[i][1] = unpack2(u.y), v[i][2] = unpack2(u.z), v[i][3] = unpack2(u.w);
#pragma unroll
    for (int j = 0; j < 4; j++) sum += v[i][j].x + v[i][j].y;
  }
  const float mean = warp_sum(sum) / (float)p.c;
  float square = 0.f;
#pragma unroll
  for (int i = 0; i < PARTS; i++)
    if (i * 256 + lane * 8 < p.c)
#pragma unroll
      for (int j = 0; j < 4; j++) {
        v[i][j].x -= mean, v[i][j].y -= mean;
        square += v[i][j].x * v[i][j].x + v[i][j].y * v[i][j].y;
      }
  const float scale = rsqrtf(warp_sum(square) / (float)p.c + p.eps);
#pragma unroll
  for (int i = 0; i < PARTS; i++) {
    const int c = i * 256 + lane * 8;
    if (c >= p.c) continue;
    uint32_t w[4];
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const float2 g = *reinterpret_cast<const float2*>(p.gamma + c + 2 * j),
                   b = *reinterpret_cast<const float2*>(p.beta + c + 2 * j);
      w[j] = pack2(fmaf(v[i][j].x * scale, g.x, b.x), fmaf(v[i][j].y * scale, g.y, b.y));
    }
    *reinterpret_cast<uint4*>(dst + c) = make_uint4(w[0], w[1], w[2], w[3]);
  }
}
