// Eight fp16 channels of a pixel at once, as one 16-byte word.
#pragma once
#include "ptx.cuh"

DEVICE uint32_t max2(uint32_t a, uint32_t b) {
  const float2 x = unpack2(a), y = unpack2(b);
  return pack2(fmaxf(x.x, y.x), fmaxf(x.y, y.y));
}
DEVICE uint4 max8(uint4 a, uint4 b) {
  return make_uint4(max2(a.x, b.x), max2(a.y, b.y), max2(a.z, b.z), max2(a.w, b.w));
}
