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
// One block does one axis of one person, one thread a bin, everything in fp32. Angles are counted in turns, x / (2 pi T_j), with
// the frequency split in two floats, so that the fraction of a turn is exact to about 2^-24 however far the bin is.
//
// As long as there are blocks enough, each takes some of the keypoints only: the encodings are made several times, but sooner
// done with. Otherwise each takes all.
#include "params.cuh"

constexpr int DIM = 128, PE = 128, HALF = PE / 2, MOST = 20, FEW = 4, THREADS = 256, WARPS = THREADS / 32;

// Keypoints in groups of TOKENS, one group of one axis of one person at a time.
template <int TOKENS> DEVICE void decode(const BinDecodeLaunch& p, unsigned char* smem, int people) {
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, image = (int)blockIdx.y;
  float* f = reinterpret_cast<float*>(smem);         // [DIM][TOKENS]
  float* r = f + DIM * TOKENS;                       // [HALF][cos, sin][TOKENS]
  float* halves = r + PE * TOKENS;                   // [PE][TOKENS], the second half of the sum over d
  float* parts = halves + PE * TOKENS;               // [WARPS][2][TOKENS]
  const int groups = (p.tokens + TOKENS - 1) / TOKENS;
  for (int job = (int)blockIdx.x; job < people * 2 * groups; job += (int)gridDim.x) {
    const int person = job / (2 * groups), axis = job & 1, first = job % (2 * groups) / 2 * TOKENS, K = min(p.tokens - first, TOKENS);
    const long long row = (long long)image * p.capacity + person;
    const Survivor s = p.survivors[row];
    const float* src = p.src + row * p.src_pitch + first * DIM;
    for (int i = tid; i < DIM * TOKENS; i += THREADS) {
      const int d = i % DIM, t = i / DIM;
      f[d * TOKENS + t] = t < K ? src[t * DIM + d] : 0.f;
    }
    __syncthreads();
    {   // r = W^T f: one output a thread, the sum over d in two halves
      const int e = tid % PE, part = tid / PE;
      const float* w = p.weight[axis] + part * (DIM / 2) * PE + e;
      const float* v = f + part * (DIM / 2) * TOKENS;
      float sum[TOKENS] = {};
#pragma unroll 16
      for (int d = 0; d < DIM / 2; d++) {
        const float a = w[d * PE];
#pragma unroll
        for (int t = 0; t < TOKENS; t += 4) {
          const float4 u = *reinterpret_cast<const float4*>(v + d * TOKENS + t);
          sum[t] = fmaf(a, u.x, sum[t]), sum[t + 1] = fmaf(a, u.y, sum[t + 1]);
          sum[t + 2] = fmaf(a, u.z, sum[t + 2]), sum[t + 3] = fmaf(a, u.w, sum[t + 3]);
        }
      }
      if (part == 1)
        for (int t = 0; t < TOKENS; t++) halves[e * TOKENS + t] = sum[t];
      __syncthreads();
      if (part == 0)
        for (int t = 0; t < TOKENS; t++) r[((e % HALF) * 2 + e / HALF) * TOKENS + t] = sum[t] + halves[e * TOKENS + t];
    }
    __syncthreads();
    const int bins = p.bins[axis];
    const bool real = tid < bins;
    const float grid = axis ? s.gy : s.gx, size = axis ? s.h : s.w;
    const float x = (axis ? s.cy : s.cx) - grid + ((float)tid / (float)(bins - 1) - 0.5f) * p.padding * size;
    float logit[TOKENS] = {};
#pragma unroll 2
    for (int j = 0; j < HALF; j++) {
      const float high = p.frequency[j], low = p.frequency[HALF + j];
      const float turns = x * high;
      float angle = (turns - rintf(turns)) + (fmaf(x, high, -turns) + x * low);
      angle = (angle - rintf(angle)) * 6.28318530717958648f;
      float sine, cosine;
      __sincosf(real ? angle : 0.f, &sine, &cosine);
      const float* c = r + j * 2 * TOKENS;
#pragma unroll
      for (int t = 0; t < TOKENS; t += 4) {
        const float4 a = *reinterpret_cast<const float4*>(c + t), b = *reinterpret_cast<const float4*>(c + TOKENS + t);
        logit[t] = fmaf(a.x, cosine, fmaf(b.x, sine, logit[t])), logit[t + 1] = fmaf(a.y, cosine, fmaf(b.y, sine, logit[t + 1]));
        logit[t + 2] = fmaf(a.z, cosine, fmaf(b.z, sine, logit[t + 2])), logit[t + 3] = fmaf(a.w, cosine, fmaf(b.w, sine, logit[t + 3]));
      }
    }
    // softmax and integral over the block's bins
#pragma unroll
    for (int t = 0; t < TOKENS; t++) {
      float top = real ? logit[t] : -INFINITY;
#pragma unroll
      for (int d = 16; d; d >>= 1) top = fmaxf(top, __shfl_xor_sync(~0u, top, d));
      if (lane == 0) parts[warp * TOKENS + t] = top;
    }
    __syncthreads();
#pragma unroll
    for (int t = 0; t < TOKENS; t++) {
      float top = parts[t];
#pragma unroll
      for (int i = 1; i < WARPS; i++) top = fmaxf(top, parts[i * TOKENS + t]);
      logit[t] = real ? __expf(logit[t] - top) : 0.f;
    }
    __syncthreads();
#pragma unroll
    for (int t = 0; t < TOKENS; t++) {
      float sum = logit[t], moment = logit[t] * (real ? x : 0.f);
#pragma unroll
      for (int d = 16; d; d >>= 1) {
        sum += __shfl_xor_sync(~0u, sum, d);
        moment += __shfl_xor_sync(~0u, moment, d);
      }
      if (lane == 0) parts[(warp * 2) * TOKENS + t] = sum, parts[(warp * 2 + 1) * TOKENS + t] = moment;
    }
    __syncthreads();
    if (tid < K) {
      float sum = 0.f, moment = 0.f;
      for (int i = 0; i < WARPS; i++) sum += parts[i * 2 * TOKENS + tid], moment += parts[(i * 2 + 1) * TOKENS + tid];
      p.dst[row * p.dst_pitch + (first + tid) * 2 + axis] = grid + moment / sum;
    }
    if (p.heat[axis] && real) {
      for (int t = 0; t < K; t++) {
        float sum = 0.f;
        for (int i = 0; i < WARPS; i++) sum += parts[i * 2 * TOKENS + t];
        float value = 0.f;
#pragma unroll
        for (int u = 0; u < TOKENS; u++) value = u == t ? logit[u] : value;   // registers have no index
        p.heat[axis][(row * p.tokens + first + t) * bins + tid] = value / sum;
      }
    }
    __syncthreads();   // before the next job
  }
}

KERNEL(bin_decode, BinDecodeLaunch, 256, 1) {
  SHARED_MEMORY(smem);
  pdl_wait();
  pdl_launch();
  const int people = p.counts[(int)blockIdx.y].people;
  if (people * 2 * ((p.tokens + FEW - 1) / FEW) <= (int)gridDim.x) decode<FEW>(p, smem, people);
  else decode<MOST>(p, smem, people);
}
