// From grids to people, on the device: threshold, sort, box decoding, greedy NMS. One block an image; no host round trip.
//
//   candidates     grids whose class logit exceeds logit(score threshold): sigmoid is monotone, so scores are needed for survivors only
//   order          descending logit, then ascending grid index: the key is (~ordered logit, index), sorted ascending (bitonic)
//   box            centre g + xy * stride, size exp(wh) * stride, g = index * stride + (stride - 1) / 2
//   NMS            in order, a box still alive survives and removes all later ones with IoU > threshold
//
// All grids of the plan fit, so no candidate is ever lost; survivors beyond `capacity` are counted in Count::lost. Keys lie in shared
// memory as long as `near` candidates suffice, which they do but for odd thresholds on huge inputs; else all lie in global memory.
#include "params.cuh"

constexpr int THREADS = 1024;

// Larger floats get larger codes.
DEVICE uint32_t ordered(float f) {
  const uint32_t u = __float_as_uint(f);
  return u & 0x80000000u ? ~u : u | 0x80000000u;
}
DEVICE float unordered(uint32_t u) { return __uint_as_float(u & 0x80000000u ? u & 0x7FFFFFFFu : ~u); }

// The grid with this index over all levels.
DEVICE Survivor decode(const SelectLaunch& p, int index, int image) {
  Survivor s;
  s.level = 0;
  while (s.level + 1 < p.levels && index >= p.cells[s.level]) index -= p.cells[s.level++];
  s.cell = index;
  const int y = index / p.w[s.level], x = index - y * p.w[s.level];
  const float stride = (float)p.stride[s.level], half_cell = 0.5f * (stride - 1.f);
  const float* b = p.bbox[s.level] + image * (p.image / 2) + (long long)index * p.bbox_pitch[s.level];
  s.gx = (float)x * stride + half_cell, s.gy = (float)y * stride + half_cell;
  s.cx = s.gx + b[0] * stride, s.cy = s.gy + b[1] * stride;
  s.w = expf(b[2]) * stride, s.h = expf(b[3]) * stride;
  s.score = 0.f, s.reserved = 0;
  return s;
}

KERNEL(select_people, SelectLaunch, 1024, 1) {
  SHARED_MEMORY(smem);
  const int tid = threadIdx.x, image = (int)blockIdx.x;
  unsigned long long* keys = reinterpret_cast<unsigned long long*>(smem);   // [near]
  unsigned char* removed = smem + p.near * 8;                               // [slots]
  int* found = reinterpret_cast<int*>(smem + p.near * 8 + ((p.slots + 3) & ~3));
  float4* boxes = p.boxes + (long long)image * p.slots;
  unsigned long long* far = p.keys + (long long)image * p.slots;
  if (tid == 0) *found = 0;
  __syncthreads();
  pdl_wait();
  pdl_launch();
  const Frame f = p.frames[image];

  int base = 0;
  for (int level = 0; level < p.levels; level++) {
    const float* cls = p.cls[level] + image * (p.image / 2);
    for (int i = tid; i < p.cells[level]; i += THREADS) {
      const float logit = cls[(long long)i * p.cls_pitch[level]];
      if (f.force < 0 && !(logit > f.score_logit)) continue;
      const int at = atomicAdd(found, 1);
      (at < p.near ? keys : far)[at] = (unsigned long long)~ordered(logit) << 32 | (unsigned)(base + i);
    }
    base += p.cells[level];
  }
  __syncthreads();
  const int n = *found;
  int size = 2;
  while (size < n) size *= 2;   // at most `slots`
  if (size > p.near) {
    for (int i = tid; i < min(n, p.near); i += THREADS) far[i] = keys[i];
    keys = far;
    __syncthreads();
  }
  for (int i = n + tid; i < size; i += THREADS) keys[i] = ~0ull;
  __syncthreads();
  for (int run = 2; run <= size; run *= 2)
    for (int step = run / 2; step; step /= 2) {
      for (int i = tid; i < size / 2; i += THREADS) {
        const int a = 2 * step * (i / step) + i % step, b = a + step;
        const unsigned long long ka = keys[a], kb = keys[b];
        if ((ka > kb) == ((a & run) == 0)) keys[a] = kb, keys[b] = ka;
      }
      __syncthreads();
    }

  for (int i = tid; i < n; i += THREADS) {
    const Survivor s = decode(p, (int)(unsigned)keys[i], image);
    boxes[i] = make_float4(s.cx - 0.5f * s.w, s.cy - 0.5f * s.h, s.cx + 0.5f * s.w, s.cy + 0.5f * s.h);
    removed[i] = 0;
  }
  __syncthreads();
  int kept = 0;   // the same in every thread; the keys of survivors move to the front
  if (f.force >= 0) kept = min(n, f.force);
  else
    for (int i = 0; i < n && (f.max_people < 0 || kept < f.max_people); i++) {
      if (removed[i]) continue;   // uniform: last written before a barrier
      const float4 a = boxes[i];
      const float area = (a.z - a.x) * (a.w - a.y);
      for (int j = i + 1 + tid; j < n; j += THREADS) {
        if (removed[j]) continue;
        const float4 b = boxes[j];
        const float w = fminf(a.z, b.z) - fmaxf(a.x, b.x), h = fminf(a.w, b.w) - fmaxf(a.y, b.y);
        const float common = fmaxf(w, 0.f) * fmaxf(h, 0.f), all = area + (b.z - b.x) * (b.w - b.y) - common;
        if (common / all > f.nms_thr) removed[j] = 1;
      }
      if (tid == 0) keys[kept] = keys[i];
      kept++;
      __syncthreads();
    }
  __syncthreads();
  const int stored = min(kept, p.capacity);
  for (int i = tid; i < stored; i += THREADS) {
    const unsigned long long key = keys[i];
    Survivor s = decode(p, (int)(unsigned)key, image);
    s.score = 1.f / (1.f + expf(-unordered(~(uint32_t)(key >> 32))));
    p.survivors[(long long)image * p.capacity + i] = s;
  }
  if (tid == 0) {
    p.counts[image].people = stored;
    p.counts[image].lost = kept - stored;
  }
}
