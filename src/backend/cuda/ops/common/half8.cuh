// Eight fp16 channels of a pixel at once, as one 16-byte word.
#pragma once
#include "ptx.cuh"

// The larger of two halves, which needs no rounding; NaN where one is NaN, as on the CPU.
DEVICE uint32_t max2(uint32_t a, uint32_t b) {
#ifdef HAVE_SM80
  uint32_t m;
  asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(m) : "r"(a), "r"(b));
  return m;
#else   // the host, and sm_75, which has no such instruction
  const float2 x = unpack2(a), y = unpack2(b);
  return pack2(x.x > y.x || x.x != x.x ? x.x : y.x, x.y > y.y || x.y != x.y ? x.y : y.y);
#endif
}
DEVICE uint4 max8(uint4 a, uint4 b) {
  return make_uint4(max2(a.x, b.x), max2(a.y, b.y), max2(a.z, b.z), max2(a.w, b.w));
}
