// The Dynamic Coordinate Classifier (paper section 3.2, equations 1 to 4; mmpose DCC.forward_test), one fused kernel: bin positions,
// their sine encodings, dot products with the keypoints, softmax and integral; nothing is stored but the keypoints.
//
// For a person with box centre c, size s and grid point g, the B bins of an axis lie, relative to g, at
//
//   x_i = c - g + t_i padding s,   t_i = i / (B - 1) - 1/2                                                    (equation 1)
//
// and are encoded as PE(x) = [cos(x / T_j), sin(x / T_j)], T_j = 300^(j / 64), j < 64, then mapped by a linear layer: W PE + b. The
// probability of bin i for keypoint k is p_k(i) = softmax_i(f_k . (W PE(x_i) + b)). f_k . b is the same for all bins, so softmax
// ignores it; and f_k . (W PE) = (W^T f_k) . PE, so the K keypoint vectors are turned, r_k = W^T f_k, instead of 448 bin vectors
// (13 times less work):
//
//   logit_k(i) = sum_j r_k[j] cos(x_i / T_j) + r_k[64 + j] sin(x_i / T_j),      keypoint_k = g + sum_i p_k(i) x_i   (equation 4)
//
// One block does one axis of some keypoints of one person, everything in fp32: few keypoints as long as there are blocks enough, which
// makes the encodings several times but is sooner done, else more. A thread holds the bins i, i + 64, i + 128 and i + 192 for every
// fourth frequency j: the first bin's encoding is computed, the next ones by angle addition, since they lie 64 bin widths further
// each. Angles are counted in turns, x / (2 pi T_j), with the frequency split in two floats, so that the fraction of a turn is
// exact to about 2^-24 however far the bin is. W and the encodings are ready before the kernel before has ended.
#include "params.cuh"

constexpr int DIM = 128, PE = 128, HALF = PE / 2, MOST = 10, FEW = 2, THREADS = 256, WARPS = THREADS / 32;
constexpr int BINS = 4, STRIDE = 64, PARTS = THREADS / STRIDE, STEPS = HALF / PARTS;   // bins a thread and between them; threads that share bins
static_assert(PARTS == BINS, "in the end each of them keeps one bin");

// cos(x / T_j), sin(x / T_j)
DEVICE float2 encode(const float* frequency, int j, float x) {
  const float high = frequency[j], low = frequency[HALF + j], turns = x * high;
  float angle = (turns - rintf(turns)) + (fmaf(x, high, -turns) + x * low);
  angle = (angle - rintf(angle)) * 6.28318530717958648f;
  float sine, cosine;
  __sincosf(angle, &sine, &cosine);
  return make_float2(cosine, sine);
}

// Of W^T a row e and N of its columns from `first` on, four at a time alternating with the thread beside.
template <int N> DEVICE void load_matrix(float (&w)[N], const float* matrix, int first) {
  const float* from = matrix + (int)(threadIdx.x & 1) * 4 * PE + (int)(threadIdx.x >> 1);
#pragma unroll
  for (int d = 0; d < N; d++) w[d] = from[((first + d) / 4 * 8 + d % 4) * PE];
}

// Keypoints in groups of TOKENS, one group of one axis of one person at a time.
template <int TOKENS> DEVICE void decode(const BinDecodeLaunch& p, unsigned char* smem, int people) {
  constexpr bool AHEAD = TOKENS == FEW;              // registers suffice for the first bins' encodings
  constexpr int HELD = AHEAD ? DIM / 2 : DIM / 4;    // and for all of this thread's part of W
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, image = (int)blockIdx.y;
  const int slot = tid / PARTS, part = tid % PARTS;
  float* f = reinterpret_cast<float*>(smem);                        // [TOKENS][DIM]
  float* r = f + TOKENS * DIM;                                      // [HALF][cos, sin][TOKENS]
  float2* turn = reinterpret_cast<float2*>(r + PE * TOKENS);        // [HALF]: encoding of STRIDE bin widths
  float* parts = reinterpret_cast<float*>(turn + HALF);             // [largest, sum, moment][TOKENS][WARPS]
  float* totals = parts + 3 * TOKENS * WARPS;                       // [largest, sum][TOKENS]
  const int groups = (p.tokens + TOKENS - 1) / TOKENS, jobs = people * 2 * groups;
  for (int job = (int)blockIdx.x; job < jobs; job += (int)gridDim.x) {
    const int person = job / (2 * groups), axis = job & 1, first = job % (2 * groups) / 2 * TOKENS, K = min(p.tokens - first, TOKENS);
    const int row = image * p.capacity + person;
    const int bins = p.bins[axis];
    const float* s = &p.survivors[row].cx + axis;
    const float grid = __ldcg(s + 4), from = __ldcg(s) - grid, size = p.padding * __ldcg(s + 2);
    auto position = [&](int bin) { return from + ((float)bin / (float)(bins - 1) - 0.5f) * size; };
    float2 code[AHEAD ? STEPS : 1];
    const float x0 = position(min(slot, bins - 1));
    if constexpr (AHEAD)
#pragma unroll
      for (int i = 0; i < STEPS; i++) code[i] = encode(p.frequency, i * PARTS + part, x0);
    if (tid < HALF) turn[tid] = encode(p.frequency, tid, (float)STRIDE / (float)(bins - 1) * size);
    float w[HELD];
    load_matrix(w, p.weight[axis], 0);
    if (job == (int)blockIdx.x) {
      pdl_wait();
      pdl_launch();
    }
    const float* src = p.src + (long long)row * p.src_pitch + first * DIM;
#pragma unroll
    for (int i = 0; i < TOKENS * DIM / THREADS; i++) f[i * THREADS + tid] = i * THREADS + tid < K * DIM ? src[i * THREADS + tid] : 0.f;
    __syncthreads();
    {   // r = W^T f
      float sum[TOKENS] = {};
#pragma unroll
      for (int part = 0; part < DIM / 2; part += HELD) {
        if (part) load_matrix(w, p.weight[axis], part);
#pragma unroll
        for (int d = 0; d < HELD; d += 4)
#pragma unroll
          for (int t = 0; t < TOKENS; t++) {
            const float4 u = *reinterpret_cast<const float4*>(f + t * DIM + (part + d) * 2 + (tid & 1) * 4);
            sum[t] = fmaf(w[d], u.x, fmaf(w[d + 1], u.y, fmaf(w[d + 2], u.z, fmaf(w[d + 3], u.w, sum[t]))));
          }
      }
      const int e = tid >> 1;
#pragma unroll
      for (int t = 0; t < TOKENS; t++) {
        const float whole = sum[t] + __shfl_xor_sync(~0u, sum[t], 1);
        if ((tid & 1) == t % 2) r[((e % HALF) * 2 + e / HALF) * TOKENS + t] = whole;
      }
    }
    __syncthreads();
    float acc[BINS][TOKENS] = {};
#pragma unroll(AHEAD ? STEPS : 2)
    for (int i = 0; i < STEPS; i++) {
      const int j = i * PARTS + part;
      const float2 step = turn[j];
      float c[2 * TOKENS];
#pragma unroll
      for (int t = 0; t < 2 * TOKENS; t += 4) {
        const float4 v = *reinterpret_cast<const float4*>(r + j * 2 * TOKENS + t);
        c[t] = v.x, c[t + 1] = v.y, c[t + 2] = v.z, c[t + 3] = v.w;
      }
      float2 e;
      if constexpr (AHEAD) e = code[i];
      else e = encode(p.frequency, j, x0);
#pragma unroll
      for (int m = 0; m < BINS; m++) {
#pragma unroll
        for (int t = 0; t < TOKENS; t++) acc[m][t] = fmaf(c[t], e.x, fmaf(c[TOKENS + t], e.y, acc[m][t]));
        e = make_float2(fmaf(e.x, step.x, -(e.y * step.y)), fmaf(e.y, step.x, e.x * step.y));
      }
    }
    // the sums over all frequencies: a thread keeps two bins, then one
    const int bin = slot + ((part & 1) * 2 + (part >> 1)) * STRIDE;
    float logit[TOKENS];
#pragma unroll
    for (int t = 0; t < TOKENS; t++) {
      float two[2];
#pragma unroll
      for (int m = 0; m < 2; m++) {
        const float low = acc[m][t], high = acc[m + 2][t];
        two[m] = (part & 1 ? high : low) + __shfl_xor_sync(~0u, part & 1 ? low : high, 1);
      }
      logit[t] = (part & 2 ? two[1] : two[0]) + __shfl_xor_sync(~0u, part & 2 ? two[0] : two[1], 2);
    }
    // softmax and integral: each warp relative to its own largest logit, then all together
    const bool real = bin < bins;
    const float x = real ? position(bin) : 0.f;
    float top[TOKENS], sum[TOKENS], moment[TOKENS];
#pragma unroll
    for (int t = 0; t < TOKENS; t++) top[t] = real ? logit[t] : -INFINITY;
#pragma unroll
    for (int d = 16; d; d >>= 1)
#pragma unroll
      for (int t = 0; t < TOKENS; t++) top[t] = fmaxf(top[t], __shfl_xor_sync(~0u, top[t], d));
#pragma unroll
    for (int t = 0; t < TOKENS; t++) sum[t] = real ? __expf(logit[t] - top[t]) : 0.f, moment[t] = sum[t] * x;
#pragma unroll
    for (int d = 16; d; d >>= 1)
#pragma unroll
      for (int t = 0; t < TOKENS; t++) sum[t] += __shfl_xor_sync(~0u, sum[t], d), moment[t] += __shfl_xor_sync(~0u, moment[t], d);
    if (lane == 0)
#pragma unroll
      for (int t = 0; t < TOKENS; t++) {
        const int at = t * WARPS + warp;
        parts[at] = top[t], parts[TOKENS * WARPS + at] = sum[t], parts[2 * TOKENS * WARPS + at] = moment[t];
      }
    __syncthreads();
    if (warp * 4 < TOKENS) {   // eight lanes a keypoint, one for each warp's part
      const int t = min(warp * 4 + (lane >> 3), TOKENS - 1), at = t * WARPS + (lane & 7);
      const float mine = parts[at];
      float largest = mine;
#pragma unroll
      for (int d = 4; d; d >>= 1) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, d));
      const float scale = __expf(mine - largest);
      float s = parts[TOKENS * WARPS + at] * scale, m = parts[2 * TOKENS * WARPS + at] * scale;
#pragma unroll
      for (int d = 4; d; d >>= 1) s += __shfl_xor_sync(~0u, s, d), m += __shfl_xor_sync(~0u, m, d);
      if ((lane & 7) == 0 && warp * 4 + (lane >> 3) < K) {
        p.dst[(long long)row * p.dst_pitch + (first + t) * 2 + axis] = grid + m / s;
        totals[t] = largest, totals[TOKENS + t] = s;
      }
    }
    if (p.heat[axis]) {
      __syncthreads();
#pragma unroll
      for (int t = 0; t < TOKENS; t++)
        if (real && t < K) p.heat[axis][((long long)row * p.tokens + first + t) * bins + bin] = __expf(logit[t] - totals[t]) / totals[TOKENS + t];
    }
  }
  if ((int)blockIdx.x >= jobs) {
    pdl_wait();
    pdl_launch();
  }
}

KERNEL(bin_decode, BinDecodeLaunch, 256, 2) {
  SHARED_MEMORY(smem);
  const int people = counted(p.counts + blockIdx.y).people;   // known since before the last kernel
  if (people * 2 * ((p.tokens + FEW - 1) / FEW) <= (int)gridDim.x) decode<FEW>(p, smem, people);
  else decode<MOST>(p, smem, people);
}
