// The head's predictions: 1x1 convolutions with one to four outputs (class logit, box), kept in fp32. One warp takes
// four pixels in turn; a lane multiplies 8 channels at a time and the warp adds up. All heads and levels in one launch.
#include "predict.params.cuh"

KERNEL(predict, PredictLaunch, 256, 1) {
  constexpr int PIXELS = 4, OUTPUTS = 4;
  int which = 0;
#pragma unroll
  for (int i = 1; i < PREDICT_STEPS; i++)
    if (i < p.steps && (int)blockIdx.x >= p.step[i].first_block) which = i;
  const PredictStep& s = p.step[which];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int first = (((int)blockIdx.x - s.first_block) * 8 + warp) * PIXELS;
  const half* src = s.src + (int)blockIdx.y * p.image;
  float* dst = s.dst + (int)blockIdx.y * (p.image / 2);
  pdl_wait();
  pdl_launch();
  float sum[PIXELS][OUTPUTS] = {};
  for (int c = lane * 8; c < s.cin; c += 256) {
    uint4 w[OUTPUTS];
#pragma unroll
    for (int o = 0; o < OUTPUTS; o++)
      w[o] = o < s.cout ? *reinterpret_cast<const uint4*>(s.weight + o * s.cin + c) : make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int i = 0; i < PIXELS; i++) {
      if (first + i >= s.pixels) continue;
      const uint4 v = *reinterpret_cast<const uint4*>(src + (long long)(first + i) * s.src_pitch + c);
      const float2 x[4] = {unpack2(v.x), unpack2(v.y), unpack2(v.z), unpack2(v.w)};
#pragma unroll
      for (int o = 0; o < OUTPUTS; o++) {
        const float2 a[4] = {unpack2(w[o].x), unpack2(w[o].y), unpack2(w[o].z), unpack2(w[o].w)};
#pragma unroll
        for (int j = 0; j < 4; j++) sum[i][o] = fmaf(x[j].x, a[j].x, fmaf(x[j].y, a[j].y, sum[i][o]));
      }
    }
  }
#pragma unroll
  for (int i = 0; i < PIXELS; i++)
#pragma unroll
    for (int o = 0; o < OUTPUTS; o++) {
      float v = sum[i][o];
#pragma unroll
      for (int d = 16; d; d >>= 1) v += __shfl_xor_sync(~0u, v, d);
      if (lane == o && o < s.cout && first + i < s.pixels)
        dst[(long long)(first + i) * s.dst_pitch + o] = v + s.bias[o];
    }
}
