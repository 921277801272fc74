// From grids to people, on the device: threshold, sort, box decoding, greedy NMS. One block an image; no host round
// trip.
//
//   candidates     grids whose class logit exceeds logit(score threshold): sigmoid is monotone, so scores are needed
//                  for survivors only
//   order          descending logit, then ascending grid index: the key is (~ordered logit, index), sorted ascending
//   box            centre g + xy * stride, size exp(wh) * stride, g = index * stride + (stride - 1) / 2
//   NMS            in order, a box still alive survives and removes all later ones with IoU > threshold
//   not finite     grids with a NaN logit, and candidates whose box is not finite, never survive; they are counted
//
// All grids of the plan fit, so no candidate is ever lost; survivors beyond `capacity` are counted in Count::lost. Up
// to `near` candidates lie in shared memory. More than that, which takes a very low threshold on a huge input, lie in
// global memory.
//
// The kernel takes a few microseconds, most of it waiting, so loads and sorting overlap. Box predictions are loaded
// while keys are sorted. Up to 256 keys find their places by counting smaller ones. More are sorted in registers; only
// distant pairs go through shared memory. NMS goes by chunks of 32 candidates: the warp that owns a chunk finds its
// survivors alone, then all test what comes later against them, with one barrier a chunk.
#include "select.params.cuh"

// ~ordered logit | grid index (16 bits) | place among the candidates as found (16 bits)
typedef unsigned long long Key;

constexpr int THREADS = 512, WARPS = THREADS / 32, BATCH = 4;
constexpr int COUNTED = 256;      // up to here keys are counted rather than sorted

// Larger floats get larger codes.
DEVICE uint32_t ordered(float f) {
  const uint32_t u = __float_as_uint(f);
  return u & 0x80000000u ? ~u : u | 0x80000000u;
}
DEVICE float unordered(uint32_t u) { return __uint_as_float(u & 0x80000000u ? u & 0x7FFFFFFFu : ~u); }
DEVICE int index_of(Key k) { return (int)((uint32_t)k >> 16); }
DEVICE int place_of(Key k) { return (int)((uint32_t)k & 0xFFFFu); }

struct Grid {
  int level, cell;
  float x, y, stride;
};
DEVICE int level_of(const SelectLaunch& p, int& index) {
  int level = 0;
  while (level + 1 < p.levels && index >= p.cells[level]) index -= p.cells[level++];
  return level;
}
// The grid with this index over all levels.
DEVICE Grid grid_at(const SelectLaunch& p, int index) {
  Grid g;
  g.level = level_of(p, index), g.cell = index;
  const int y = index / p.w[g.level], x = index - y * p.w[g.level];
  g.stride = (float)p.stride[g.level];
  const float half_cell = 0.5f * (g.stride - 1.f);
  g.x = (float)x * g.stride + half_cell, g.y = (float)y * g.stride + half_cell;
  return g;
}
DEVICE const float* logit_at(const SelectLaunch& p, int index, int image) {
  const int level = level_of(p, index);
  return p.cls[level] + image * (p.image / 2) + (long long)index * p.cls_pitch[level];
}
DEVICE const float* box_at(const SelectLaunch& p, int index, int image) {
  const int level = level_of(p, index);
  return p.bbox[level] + image * (p.image / 2) + (long long)index * p.bbox_pitch[level];
}
// Centre and size of the box that a grid predicts.
DEVICE float4 decode(const SelectLaunch& p, int index, float4 b) {
  const Grid g = grid_at(p, index);
  return make_float4(g.x + b.x * g.stride, g.y + b.y * g.stride, expf(b.z) * g.stride, expf(b.w) * g.stride);
}

struct Corners { float x1, y1, x2, y2, area; };
DEVICE Corners corners(float4 b) {
  const float x1 = b.x - 0.5f * b.z, y1 = b.y - 0.5f * b.w, x2 = b.x + 0.5f * b.z, y2 = b.y + 0.5f * b.w;
  return {x1, y1, x2, y2, (x2 - x1) * (y2 - y1)};
}
DEVICE bool is_finite(float4 b) { return fabsf(b.x + b.y + b.z + b.w) <= 3.4028235e38f; }
DEVICE bool overlap(const Corners& a, const Corners& b, float threshold) {
  const float w = fminf(a.x2, b.x2) - fmaxf(a.x1, b.x1), h = fminf(a.y2, b.y2) - fmaxf(a.y1, b.y1);
  const float common = fmaxf(w, 0.f) * fmaxf(h, 0.f);
  return common > threshold * (a.area + b.area - common);
}

// Puts the candidates' keys into `near`, as many as it holds, and the rest into `far`, and starts loading their box
// predictions. `state`: candidates found, and at 3 grids whose logit is NaN.
DEVICE void find(const SelectLaunch& p, const Frame& f, Key* near, float4* boxes, Key* far, int* state, int image) {
  const int tid = threadIdx.x, lane = tid & 31;
  int cells = 0, nans = 0;
  for (int level = 0; level < p.levels; level++) cells += p.cells[level];
  for (int first = tid; first - tid < cells; first += BATCH * THREADS) {
    float logit[BATCH];
#pragma unroll
    for (int u = 0; u < BATCH; u++)
      logit[u] = first + u * THREADS < cells ? *logit_at(p, first + u * THREADS, image) : 0.f;
    uint32_t those[BATCH];
    int total = 0;
#pragma unroll
    for (int u = 0; u < BATCH; u++) {
      const bool nan = logit[u] != logit[u];
      nans += nan;
      const bool candidate = first + u * THREADS < cells && !nan && (f.force >= 0 || logit[u] > f.score_logit);
      those[u] = __ballot_sync(~0u, candidate);
      total += __popc(those[u]);
    }
    if (total == 0) continue;   // uniform over the warp
    int at = 0;
    if (lane == 0) at = atomicAdd(state, total);
    at = __shfl_sync(~0u, at, 0);
#pragma unroll
    for (int u = 0; u < BATCH; u++) {
      if (those[u] >> lane & 1) {
        const int index = first + u * THREADS, place = at + __popc(those[u] & ((1u << lane) - 1));
        (place < p.near ? near : far)[place] = (Key)~ordered(logit[u]) << 32 | (unsigned)(index << 16 | place);
        if (place < p.near) cp16(smem_u32(boxes + place), box_at(p, index, image), 16);
      }
      at += __popc(those[u]);
    }
  }
  cp_commit();
  if (nans) atomicAdd(state + 3, nans);
}

// Sorts up to COUNTED candidates and decodes their boxes: a key's rank is the number of smaller ones.
DEVICE void rank(const SelectLaunch& p, Key* keys, float4* boxes, int n) {
  const int tid = threadIdx.x;
  int shift = 4;   // threads a key: 16 of up to 32 keys
  while (THREADS >> shift < n) shift--;
  const int i = tid >> shift, parts = 1 << shift;
  const Key key = i < n ? keys[i] : 0;
  int rank = 0;
#pragma unroll 4
  for (int j = tid & (parts - 1); j < n; j += parts) rank += keys[j] < key;
  for (int d = 1; d < parts; d *= 2) rank += __shfl_xor_sync(~0u, rank, d);
  cp_wait<0>();
  __syncthreads();   // all keys are read, all predictions there
  const bool mine = i < n && (tid & (parts - 1)) == 0;
  float4 box = make_float4(0.f, 0.f, 0.f, 0.f);
  if (mine) box = decode(p, index_of(key), boxes[i]);
  __syncthreads();
  if (mine) keys[rank] = key, boxes[rank] = box;
  __syncthreads();
}

DEVICE Key shuffle_xor(Key k, int lanes) {
  const uint32_t low = __shfl_xor_sync(~0u, (uint32_t)k, lanes),
                 high = __shfl_xor_sync(~0u, (uint32_t)(k >> 32), lanes);
  return (Key)high << 32 | low;
}
// Of a pair of the sorting network the one that belongs here.
DEVICE Key pick(Key mine, Key other, bool smaller) { return (other < mine) == smaller ? other : mine; }

// Sorts up to E * THREADS candidates and decodes their boxes; bitonic, E neighbours a thread.
template <int E> DEVICE void sort(const SelectLaunch& p, Key* keys, float4* boxes, int n) {
  const int tid = threadIdx.x;
  Key k[E];
#pragma unroll
  for (int e = 0; e < E; e++) k[e] = tid * E + e < n ? keys[tid * E + e] : ~0ull;
  __syncthreads();
  for (int run = 2; run <= E * THREADS; run *= 2)
    for (int step = run / 2; step; step /= 2) {
      if (step < E) {
#pragma unroll
        for (int s = 1; s < E; s *= 2)
#pragma unroll
          for (int e = 0; e < E; e++)
            if (!(e & s) && step == s) {
              const bool up = ((tid * E + e) & run) == 0;
              const Key a = k[e], b = k[e | s];
              k[e] = pick(a, b, up), k[e | s] = pick(b, a, !up);
            }
      } else {
        const bool far = step >= 32 * E;
        if (far) {
#pragma unroll
          for (int e = 0; e < E; e++) keys[e * THREADS + tid] = k[e];
          __syncthreads();
        }
        const bool smaller = (((tid * E) & step) == 0) == (((tid * E) & run) == 0);
#pragma unroll
        for (int e = 0; e < E; e++)
          k[e] = pick(k[e], far ? keys[e * THREADS + (tid ^ (step / E))] : shuffle_xor(k[e], step / E), smaller);
        if (far) __syncthreads();
      }
    }
  cp_wait<0>();
  __syncthreads();   // all predictions are there
  float4 box[E];
#pragma unroll
  for (int e = 0; e < E; e++)
    if (tid * E + e < n) box[e] = decode(p, index_of(k[e]), boxes[place_of(k[e])]);
  __syncthreads();
#pragma unroll
  for (int e = 0; e < E; e++)
    if (tid * E + e < n) keys[tid * E + e] = k[e], boxes[tid * E + e] = box[e];
  __syncthreads();
}

// The same for any number, in global memory. `near` candidates are still in shared memory.
DEVICE void sort_far(const SelectLaunch& p, const Key* near, Key* keys, float4* boxes, int n, int image) {
  const int tid = threadIdx.x;
  int size = 2;
  while (size < n) size *= 2;   // at most `slots`
  for (int i = tid; i < p.near; i += THREADS) keys[i] = near[i];
  for (int i = n + tid; i < size; i += THREADS) keys[i] = ~0ull;
  __syncthreads();
  for (int run = 2; run <= size; run *= 2)
    for (int step = run / 2; step; step /= 2) {
      for (int i = tid; i < size / 2; i += THREADS) {
        const int a = ((i & ~(step - 1)) << 1) | (i & (step - 1)), b = a + step;
        const Key ka = keys[a], kb = keys[b];
        if ((ka > kb) == ((a & run) == 0)) keys[a] = kb, keys[b] = ka;
      }
      __syncthreads();
    }
  for (int i = tid; i < n; i += THREADS) {
    const float* b = box_at(p, index_of(keys[i]), image);
    boxes[i] = decode(p, index_of(keys[i]), make_float4(b[0], b[1], b[2], b[3]));
  }
  __syncthreads();
}

// Greedy NMS of sorted candidates, without those whose box is not finite, which `broken` counts; survivors move to the
// front. With `force` all others survive. Returns how many there are, in every thread.
DEVICE int suppress(Key* keys, float4* boxes, int n, const Frame& f, int* state, int* broken) {
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, most = f.force >= 0 ? -1 : f.max_people;
  unsigned long long removed = 0;   // bit m: this thread's candidate of chunk m * WARPS + warp
  int kept = 0;
  for (int chunk = 0; chunk * 32 < n && (most < 0 || kept < most); chunk++) {
    if (chunk % WARPS == warp) {
      const int i = chunk * 32 + lane;
      const Key key = keys[min(i, n - 1)];
      const float4 box = boxes[min(i, n - 1)];
      const bool finite = is_finite(box), alive = i < n && finite && !(removed >> (chunk / WARPS) & 1);
      const uint32_t infinite = __ballot_sync(~0u, i < n && !finite);
      if (infinite && lane == 0) atomicAdd(broken, __popc(infinite));
      const Corners mine = corners(box);
      uint32_t rest = __ballot_sync(~0u, alive), keep = 0;
      int room = most < 0 ? 32 : most - kept;
      if (f.force >= 0) keep = rest, rest = 0;
      for (; rest && room; room--) {   // uniform over the warp
        const int best = __ffs(rest) - 1;
        keep |= 1u << best;
        rest &= ~(__ballot_sync(~0u, overlap(mine, corners(boxes[chunk * 32 + best]), f.nms_thr)) | 1u << best);
      }
      __syncwarp();   // the chunk is read
      if (keep >> lane & 1) {
        const int at = kept + __popc(keep & ((1u << lane) - 1));
        keys[at] = key, boxes[at] = box;
      }
      if (lane == 0) state[chunk & 1] = kept + __popc(keep);
    }
    __syncthreads();
    const int now = state[chunk & 1];   // next written two barriers from here
    for (int m = chunk >= warp ? (chunk - warp) / WARPS + 1 : 0; f.force < 0 && (m * WARPS + warp) * 32 < n; m++) {
      const int i = (m * WARPS + warp) * 32 + lane;
      if (i >= n || removed >> m & 1) continue;
      const Corners mine = corners(boxes[i]);
      bool hit = false;
#pragma unroll 4
      for (int j = kept; j < now; j++) hit |= overlap(mine, corners(boxes[j]), f.nms_thr);
      if (hit) removed |= 1ull << m;
    }
    kept = now;
  }
  return kept;
}

KERNEL(select_people, SelectLaunch, 512, 1) {
  SHARED_MEMORY(smem);
  const int tid = threadIdx.x, image = (int)blockIdx.x;
  float4* boxes = reinterpret_cast<float4*>(smem);                     // [near]
  Key* keys = reinterpret_cast<Key*>(smem + p.near * 16);              // [near]
  // candidates found; survivors after even, odd chunks; what is not finite
  int* state = reinterpret_cast<int*>(smem + p.near * 24);
  Key* far = p.keys + (long long)image * p.slots;
  if (tid == 0) state[0] = 0, state[3] = 0;
  __syncthreads();
  pdl_wait();
  pdl_launch();
  const Frame f = p.frames[image];
  find(p, f, keys, boxes, far, state, image);
  __syncthreads();
  const int n = *state;
  if (n > p.near) {
    cp_wait<0>();
    boxes = p.boxes + (long long)image * p.slots;
    sort_far(p, keys, far, boxes, n, image);
    keys = far;
  } else if (n <= COUNTED) rank(p, keys, boxes, n);
  else if (n <= THREADS) sort<1>(p, keys, boxes, n);
  else if (n <= 2 * THREADS) sort<2>(p, keys, boxes, n);
  else sort<4>(p, keys, boxes, n);

  const int best = f.force >= 0 ? min(n, f.force) : n,
            kept = suppress(keys, boxes, best, f, state + 1, state + 3), stored = min(kept, p.capacity);
  for (int i = tid; i < stored; i += THREADS) {
    const Grid g = grid_at(p, index_of(keys[i]));
    const float4 box = boxes[i];
    Survivor s;
    s.level = g.level, s.cell = g.cell;
    s.score = 1.f / (1.f + expf(-unordered(~(uint32_t)(keys[i] >> 32))));
    s.cx = box.x, s.cy = box.y, s.w = box.z, s.h = box.w;
    s.gx = g.x, s.gy = g.y, s.reserved = 0;
    p.survivors[(long long)image * p.capacity + i] = s;
  }
  if (tid == 0) {
    p.counts[image].people = stored;
    p.counts[image].lost = kept - stored;
    p.counts[image].not_finite = state[3];
  }
}
