// Gated Attention Unit over the K keypoint tokens of a person (mmpose RTMCCBlock; arXiv 2202.10447), d = 128, e = 256, s = 128:
//
//   n = x / max(|x| / sqrt(d), 1e-5) g               ScaleNorm
//   u, v, b = split(SiLU(n W_uv^T), [e, e, s])
//   q = b gamma_q + beta_q      k = b gamma_k + beta_k   (beta hold the positional encoding)
//   A = relu(q k^T / sqrt(s))^2
//   y = (u * (A v)) W_o^T + x r
//
// One block a person, looping over the people of its image. A comes first, so that u and v may lie where q and k did: all fits
// into the 64 KiB of the smallest GPUs. Products with weights on tensor cores (fragments.cuh: weights on rows,
// tokens on columns); norms, A and A v in fp32. u * (A v) has no bound, so each token is divided by its largest magnitude before
// it becomes fp16 and multiplied back after the product.
#include "fragments.cuh"

constexpr int D = 128, E = 256, S = 128, TOKENS = 24, PITCH = 25, THREADS = 256;
// shared memory in bytes: n planes | q, k rows [channel][token], then u, v rows, then the planes of u * (A v) | A | scales
constexpr int AT_ROWS = D / 8 * TOKENS * 16, AT_A = AT_ROWS + 2 * E * PITCH * 4, AT_SCALE = AT_A + TOKENS * TOKENS * 4;
static_assert(S <= E && E / 8 * TOKENS * 16 <= AT_A - AT_ROWS && AT_ROWS % 16 == 0, "what follows fits over what was");

// b0, b1 of the three n8 token tiles, two K steps at once.
struct TokenColumns { uint32_t b[2][6]; };
DEVICE TokenColumns load_tokens(uint32_t planes, int k, int lane) {
  TokenColumns c;
  uint32_t t[4];
#pragma unroll
  for (int i = 0; i < 2; i++) {
    ldmatrix4(t, columns_address(planes + (uint32_t)((k + i) * 2 * TOKENS * 16), TOKENS, 0, lane));
#pragma unroll
    for (int j = 0; j < 4; j++) c.b[i][j] = t[j];
  }
  ldmatrix4(t, planes + (uint32_t)(((k * 2 + (lane >> 3)) * TOKENS + 16 + (lane & 7)) * 16));
  c.b[0][4] = t[0], c.b[0][5] = t[1], c.b[1][4] = t[2], c.b[1][5] = t[3];
  return c;
}

// rows[m 16 ..] = SiLU of the 16 channels of tile m of W_uv, for all tokens.
DEVICE void project(float* rows, const half* weights, int m, uint32_t normed, int lane) {
  float acc[3][4] = {};
#pragma unroll
  for (int kk = 0; kk < D / 16; kk += 2) {
    const TokenColumns c = load_tokens(normed, kk, lane);
#pragma unroll
    for (int i = 0; i < 2; i++) {
      uint32_t a[4];
      load_weights(a, weights, m, kk + i, D / 16, lane);
#pragma unroll
      for (int n = 0; n < 3; n++) mma16816(acc[n], a, c.b[i][2 * n], c.b[i][2 * n + 1]);
    }
  }
#pragma unroll
  for (int n = 0; n < 3; n++)
#pragma unroll
    for (int j = 0; j < 4; j++) rows[((lane >> 2) + 8 * (j >> 1)) * PITCH + n * 8 + 2 * (lane & 3) + (j & 1)] = silu(acc[n][j]);
}

KERNEL(gau, GauLaunch, 256, 1) {
  SHARED_MEMORY(smem);
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, image = (int)blockIdx.y, K = p.tokens;
  const uint32_t normed = smem_u32(smem), gated = normed + AT_ROWS;
  float *u = reinterpret_cast<float*>(smem + AT_ROWS), *v = u + E * PITCH, *q = u, *k = v;
  float* A = reinterpret_cast<float*>(smem + AT_A);
  unsigned* largest = reinterpret_cast<unsigned*>(smem + AT_SCALE);
  pdl_wait();
  pdl_launch();
  const int people = p.counts[image].people;
  for (int person = (int)blockIdx.x; person < people; person += (int)gridDim.x) {
    const long long row = (long long)image * p.capacity + person;
    const float* x = p.src + row * p.src_pitch;
    float* y = p.dst + row * p.dst_pitch;
    if (tid < TOKENS) largest[tid] = 0;
    // ScaleNorm, one warp a token, four channels a lane; unused tokens are zeros
    for (int t = warp; t < TOKENS; t += THREADS / 32) {
      float4 v = make_float4(0.f, 0.f, 0.f, 0.f);
      if (t < K) v = *reinterpret_cast<const float4*>(x + t * D + lane * 4);
      float sum = v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
#pragma unroll
      for (int d = 16; d; d >>= 1) sum += __shfl_xor_sync(~0u, sum, d);
      const float scale = p.norm_gain / fmaxf(sqrtf(sum / (float)D), 1e-5f);
      *reinterpret_cast<uint2*>(smem + ((lane / 2) * TOKENS + t) * 16 + (lane & 1) * 8) = make_uint2(pack2(v.x * scale, v.y * scale), pack2(v.z * scale, v.w * scale));
    }
    __syncthreads();
    // b: one tile of 16 channels a warp
    static_assert(S / 16 == THREADS / 32, "");
    project(q + warp * 16 * PITCH, p.uv, 2 * E / 16 + warp, normed, lane);
    __syncthreads();
    // queries over b, keys beside them
    for (int i = tid; i < K * S; i += THREADS) {
      const int t = i / S, c = i % S;
      const float b = q[c * PITCH + t];
      k[c * PITCH + t] = fmaf(b, p.k_gain[c], p.k_bias[i]);
      q[c * PITCH + t] = fmaf(b, p.q_gain[c], p.q_bias[i]);
    }
    __syncthreads();
    for (int i = tid; i < K * K; i += THREADS) {
      const int a = i / K, b = i % K;
      float sum = 0.f;
#pragma unroll 8
      for (int c = 0; c < S; c++) sum = fmaf(q[c * PITCH + a], k[c * PITCH + b], sum);
      sum = fmaxf(sum * 0.08838834764831845f, 0.f);   // 1 / sqrt(128)
      A[a * TOKENS + b] = sum * sum;
    }
    __syncthreads();
    // u and v: 32 tiles, four a warp
    for (int m = warp; m < 2 * E / 16; m += THREADS / 32) project(u + m * 16 * PITCH, p.uv, m, normed, lane);
    __syncthreads();
    // u * (A v): one channel a thread
    static_assert(E == THREADS, "");
    float gate[TOKENS];
    {
      float values[TOKENS];
#pragma unroll
      for (int t = 0; t < TOKENS; t++) values[t] = t < K ? v[tid * PITCH + t] : 0.f;
#pragma unroll
      for (int t = 0; t < TOKENS; t++) {
        float sum = 0.f;
        if (t < K) {
#pragma unroll
          for (int i = 0; i < TOKENS; i++)
            if (i < K) sum = fmaf(A[t * TOKENS + i], values[i], sum);
          sum *= u[tid * PITCH + t];
        }
        gate[t] = sum;
        float top = fabs(sum);
#pragma unroll
        for (int d = 16; d; d >>= 1) top = fmaxf(top, __shfl_xor_sync(~0u, top, d));
        if (lane == 0) atomicMax(&largest[t], __float_as_uint(top));   // floats >= 0 sort like integers
      }
    }
    __syncthreads();   // u and v are read, the magnitudes complete
#pragma unroll
    for (int t = 0; t < TOKENS; t++) {
      const float top = __uint_as_float(largest[t]);
      reinterpret_cast<half*>(smem + AT_ROWS + ((tid / 8) * TOKENS + t) * 16)[tid % 8] = __float2half(top > 0.f ? gate[t] / top : 0.f);
    }
    __syncthreads();
    // the output: one tile of 16 channels a warp
    float acc[3][4] = {};
#pragma unroll 4
    for (int kk = 0; kk < E / 16; kk += 2) {
      const TokenColumns c = load_tokens(gated, kk, lane);
#pragma unroll
      for (int i = 0; i < 2; i++) {
        uint32_t a[4];
        load_weights(a, p.out, warp, kk + i, E / 16, lane);
#pragma unroll
        for (int n = 0; n < 3; n++) mma16816(acc[n], a, c.b[i][2 * n], c.b[i][2 * n + 1]);
      }
    }
#pragma unroll
    for (int n = 0; n < 3; n++)
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const int t = n * 8 + 2 * (lane & 3) + (j & 1), c = warp * 16 + (lane >> 2) + 8 * (j >> 1);
        if (t < K) y[t * D + c] = fmaf(acc[n][j], __uint_as_float(largest[t]), x[t * D + c] * p.residual_gain[c]);
      }
    __syncthreads();   // before the next person
  }
}
