// Gated Attention Unit over the K keypoint tokens of a person (mmpose RTMCCBlock; arXiv 2202.10447), d = 128, e = 256,
// s = 128:
//
//   n = x / max(|x| / sqrt(d), 1e-5) g               ScaleNorm
//   u, v, b = split(SiLU(n W_uv^T), [e, e, s])
//   q = b gamma_q + beta_q      k = b gamma_k + beta_k   (beta hold the positional encoding)
//   A = relu(q k^T / sqrt(s))^2
//   y = (u * (A v)) W_o^T + x r
//
// One block a person, looping over the people of its image. All products run on tensor cores with channels on rows and
// tokens on columns (fragments.cuh). A warp owns 16 channels of b and the same 32 channels of u and v, so u and v never
// leave its registers: what a product leaves there is laid out as the next one wants its first factor. Norms, gates and
// sums are fp32.
//
// A and u * (A v) have no bound, so both are scaled before they become fp16. A row of A is divided by its sum a, so
// that A v stays within v's range. The gates are divided by the largest |u| times the largest |v|. Both factors are
// multiplied back in the end.
//
// Where shared memory suffices (`staged`), W_uv and beta lie in it, copied while the kernel before still runs.
#include "counted.cuh"
#include "fragments.cuh"
#include "gau.params.cuh"

constexpr int D = 128, E = 256, S = 128, TOKENS = 24, N_TILES = TOKENS / 8, K_STEPS = D / 16, THREADS = 256,
              WARPS = THREADS / 32, OUT_PITCH = D + 4;
static_assert(TOKENS >= MAX_TOKENS, "all keypoints fit");
static_assert(S == WARPS * 16 && E == WARPS * 32 && D == WARPS * 16, "channels of a warp");
// shared memory in bytes: planes of q and k, then of the gates | planes of n, then of A; over both the output | sums a
// | bounds of the gates | W_uv | beta
constexpr int PLANES = D / 8 * TOKENS * 16, AT_K = PLANES, AT_N = 2 * PLANES, AT_A = AT_N + PLANES, AT_OUT = AT_N;
constexpr int AT_SUMS = AT_OUT + TOKENS * OUT_PITCH * 4, AT_BOUNDS = AT_SUMS + TOKENS * 4,
              AT_WEIGHTS = AT_BOUNDS + WARPS * 4, AT_BIAS = AT_WEIGHTS + (2 * E + S) * D * 2;
static_assert(E == 2 * D && AT_A + N_TILES * TOKENS * 16 <= AT_SUMS && AT_WEIGHTS == GAU_BYTES,
              "shared memory as the launcher counts it");

// GPUs before sm_80 have neither that room nor asynchronous copies. Elsewhere 168 registers, what 384 threads leave to
// each, suffice without spills, so that a block fits beside one of survivor_linear.
#if defined(__CUDA_ARCH__) && !defined(HAVE_SM80)
constexpr bool ROOM = false;
constexpr int SHARE = THREADS;
#else
constexpr bool ROOM = true;
constexpr int SHARE = 384;
#endif

// b0, b1 of the three n8 token tiles, two K steps at once.
DEVICE void load_tokens(uint32_t (&b)[2][6], uint32_t planes, int k, int lane) {
  uint32_t t[4];
#pragma unroll
  for (int i = 0; i < 2; i++) {
    ldmatrix4(t, columns_address(planes + (uint32_t)((k + i) * 2 * TOKENS * 16), TOKENS, 0, lane));
#pragma unroll
    for (int j = 0; j < 4; j++) b[i][j] = t[j];
  }
  ldmatrix4(t, planes + (uint32_t)(((k * 2 + (lane >> 3)) * TOKENS + 16 + (lane & 7)) * 16));
  b[0][4] = t[0], b[0][5] = t[1], b[1][4] = t[2], b[1][5] = t[3];
}

// SiLU of the 16 channels of tile m of W_uv, for all tokens.
DEVICE void project(float (&acc)[N_TILES][4], const half* weights, int m, const uint32_t (&tokens)[K_STEPS / 2][2][6],
                    int lane) {
#pragma unroll
  for (int n = 0; n < N_TILES; n++)
#pragma unroll
    for (int j = 0; j < 4; j++) acc[n][j] = 0.f;
#pragma unroll
  for (int k = 0; k < K_STEPS; k++) {
    uint32_t a[4];
    load_weights(a, weights, m, k, K_STEPS, lane);
#pragma unroll
    for (int n = 0; n < N_TILES; n++) mma16816(acc[n], a, tokens[k / 2][k % 2][2 * n], tokens[k / 2][k % 2][2 * n + 1]);
  }
#pragma unroll
  for (int n = 0; n < N_TILES; n++)
#pragma unroll
    for (int j = 0; j < 4; j++) acc[n][j] = silu(acc[n][j]);
}
DEVICE float largest(const float (&acc)[N_TILES][4], float so_far) {
#pragma unroll
  for (int n = 0; n < N_TILES; n++)
#pragma unroll
    for (int j = 0; j < 4; j++) so_far = fmaxf(so_far, fabs(acc[n][j]));
  return so_far;
}

// 16 rows of A, each divided by its sum, into planes of tokens; rows are those of tile `m`.
DEVICE void attend(unsigned char* smem, int m, int lane) {
  const uint32_t q = smem_u32(smem), k = q + AT_K;
  // of the last tile only the upper half exists
  const int row = m * 16 + (lane & 7) + (m * 16 + 8 < TOKENS ? lane & 8 : 0);
  float acc[N_TILES][4] = {};
#pragma unroll
  for (int kk = 0; kk < S / 16; kk += 2) {
    uint32_t b[2][6];
    load_tokens(b, k, kk, lane);
#pragma unroll
    for (int i = 0; i < 2; i++) {
      uint32_t a[4];
      ldmatrix4(a, q + (uint32_t)((((kk + i) * 2 + (lane >> 4)) * TOKENS + row) * 16));
#pragma unroll
      for (int n = 0; n < N_TILES; n++) mma16816(acc[n], a, b[i][2 * n], b[i][2 * n + 1]);
    }
  }
#pragma unroll
  for (int half_tile = 0; half_tile < 2; half_tile++) {
    const int t = m * 16 + half_tile * 8 + (lane >> 2);
    float sum = 0.f;
#pragma unroll
    for (int n = 0; n < N_TILES; n++)
#pragma unroll
      for (int j = 2 * half_tile; j < 2 * half_tile + 2; j++) {
        const float v = fmaxf(acc[n][j] * 0.08838834764831845f, 0.f);   // 1 / sqrt(128)
        acc[n][j] = v * v;
        sum += acc[n][j];
      }
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    const float inverse = sum > 0.f ? 1.f / sum : 0.f;
    if (t >= TOKENS) continue;   // uniform
#pragma unroll
    for (int n = 0; n < N_TILES; n++)
      *reinterpret_cast<uint32_t*>(smem + AT_A + (n * TOKENS + t) * 16 + (lane & 3) * 4) =
          pack2(acc[n][2 * half_tile] * inverse, acc[n][2 * half_tile + 1] * inverse);
    if ((lane & 3) == 0) reinterpret_cast<float*>(smem + AT_SUMS)[t] = sum;
  }
}

KERNEL(gau, GauLaunch, SHARE, 1) {
  SHARED_MEMORY(smem);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, image = (int)blockIdx.y, K = p.tokens;
  const uint32_t gated = smem_u32(smem), normed = gated + AT_N;
  float *sums = reinterpret_cast<float*>(smem + AT_SUMS), *bounds = reinterpret_cast<float*>(smem + AT_BOUNDS),
        *out = reinterpret_cast<float*>(smem + AT_OUT);
  auto tile_b = [&] { return 2 * E / 16 + warp; };
  auto tile_v = [&](int i) { return E / 16 + 2 * warp + i; };
  auto tile_u = [&](int i) { return 2 * warp + i; };
  const int people = people_of(p.counts + image);   // known since before the last kernel
  const bool staged = ROOM && p.staged;
  if (staged && (int)blockIdx.x < people) {
    // a warp copies what it will use itself
    const uint32_t to = gated + AT_WEIGHTS;
    auto stage = [&](int m) {
#pragma unroll
      for (int k = 0; k < K_STEPS; k++) {
        const int at = (m * K_STEPS + k) * 32 + lane;
        cp16(to + (uint32_t)at * 16, p.uv + at * 8, 16);
      }
    };
    stage(tile_b());
    for (int i = lane; i < K * 4; i += 32) {
      const int at = i / 4 * S + warp * 16 + i % 4 * 4;
      cp16(to + (uint32_t)((AT_BIAS - AT_WEIGHTS) + at * 4), p.q_bias + at, 16);
      cp16(to + (uint32_t)((AT_BIAS - AT_WEIGHTS) + (K * S + at) * 4), p.k_bias + at, 16);
    }
    cp_commit();
    stage(tile_v(0)), stage(tile_v(1));
    cp_commit();
    stage(tile_u(0)), stage(tile_u(1));
    cp_commit();
  }
  pdl_wait();
  pdl_launch();
  for (int person = (int)blockIdx.x; person < people; person += (int)gridDim.x) {
    const half* weights = staged ? reinterpret_cast<const half*>(smem + AT_WEIGHTS) : p.uv;
    const int g = lane >> 2,
              pair = 2 * (lane & 3);   // of accumulators: channels g and g + 8, tokens 8 n + pair and the next
    const long long row = (long long)image * p.capacity + person;
    const float* x = p.src + row * p.src_pitch;
    // ScaleNorm, one warp a token, four channels a lane; unused tokens are zeros
    float4 v[TOKENS / WARPS];
#pragma unroll
    for (int i = 0; i < TOKENS / WARPS; i++) {
      const int t = i * WARPS + warp;
      v[i] = t < K ? *reinterpret_cast<const float4*>(x + t * D + lane * 4) : make_float4(0.f, 0.f, 0.f, 0.f);
    }
    float gain[2][2];   // of q and k
#pragma unroll
    for (int high = 0; high < 2; high++)
      gain[0][high] = p.q_gain[warp * 16 + 8 * high + g], gain[1][high] = p.k_gain[warp * 16 + 8 * high + g];
    float sum[TOKENS / WARPS];
#pragma unroll
    for (int i = 0; i < TOKENS / WARPS; i++)
      sum[i] = v[i].x * v[i].x + v[i].y * v[i].y + v[i].z * v[i].z + v[i].w * v[i].w;
#pragma unroll
    for (int d = 16; d; d >>= 1)
#pragma unroll
      for (int i = 0; i < TOKENS / WARPS; i++) sum[i] += __shfl_xor_sync(~0u, sum[i], d);
#pragma unroll
    for (int i = 0; i < TOKENS / WARPS; i++) {
      const float scale = p.norm_gain / fmaxf(sqrtf(sum[i] / (float)D), 1e-5f);
      *reinterpret_cast<uint2*>(smem + AT_N + ((lane / 2) * TOKENS + i * WARPS + warp) * 16 + (lane & 1) * 8) =
          make_uint2(pack2(v[i].x * scale, v[i].y * scale), pack2(v[i].z * scale, v[i].w * scale));
    }
    __syncthreads();
    uint32_t tokens[K_STEPS / 2][2][6];
#pragma unroll
    for (int k = 0; k < K_STEPS; k += 2) load_tokens(tokens[k / 2], normed, k, lane);
    // b, and of it queries and keys
    float acc[N_TILES][4];
    cp_wait<2>();
    __syncwarp();
    project(acc, weights, tile_b(), tokens, lane);
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const float* bias = staged ? reinterpret_cast<const float*>(smem + AT_BIAS) + i * K * S : i ? p.k_bias : p.q_bias;
#pragma unroll
      for (int n = 0; n < N_TILES; n++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const int t = n * 8 + pair + (j & 1), high = j >> 1, c = warp * 16 + 8 * high + g;
          const float value = t < K ? fmaf(acc[n][j], gain[i][high], bias[t * S + c]) : 0.f;
          reinterpret_cast<half*>(smem + i * AT_K)[((warp * 2 + high) * TOKENS + t) * 8 + g] = __float2half(value);
        }
    }
    __syncthreads();
    if (warp * 16 < TOKENS) attend(smem, warp, lane);
    // v in fp16, as the first factor of a product along its tokens; u
    uint32_t values[2][N_TILES][2];
    float u[2][N_TILES][4], top_v = 0.f, top_u = 0.f;
    cp_wait<1>();
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 2; i++) {
      project(acc, weights, tile_v(i), tokens, lane);
      top_v = largest(acc, top_v);
#pragma unroll
      for (int n = 0; n < N_TILES; n++)
        values[i][n][0] = pack2(acc[n][0], acc[n][1]), values[i][n][1] = pack2(acc[n][2], acc[n][3]);
    }
    cp_wait<0>();
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 2; i++) {
      project(u[i], weights, tile_u(i), tokens, lane);
      top_u = largest(u[i], top_u);
    }
#pragma unroll
    for (int d = 16; d; d >>= 1)
      top_v = fmaxf(top_v, __shfl_xor_sync(~0u, top_v, d)), top_u = fmaxf(top_u, __shfl_xor_sync(~0u, top_u, d));
    if (lane == 0) bounds[warp] = top_u * top_v;
    uint32_t w_out[E / 16][4];   // on their way during the next two barriers
#pragma unroll
    for (int k = 0; k < E / 16; k++) load_weights(w_out[k], p.out, warp, k, E / 16, lane);
    __syncthreads();
    float bound = bounds[0];
#pragma unroll
    for (int i = 1; i < WARPS; i++) bound = fmaxf(bound, bounds[i]);
    const float inverse = bound > 0.f ? 1.f / bound : 0.f;
    // u * (A v): tokens on the columns are A's rows, and its sum runs over 16 tokens, then 8
    {
      uint32_t first[6], last[4], t[4];
      const uint32_t A = gated + AT_A;
      ldmatrix4(t, columns_address(A, TOKENS, 0, lane));
      first[0] = t[0], first[1] = t[1], first[2] = t[2], first[3] = t[3];
      ldmatrix4(t, A + (uint32_t)((((lane >> 3) & 1) * TOKENS + 16 + (lane & 7)) * 16));
      first[4] = t[0], first[5] = t[1];
      ldmatrix4(last, A + (uint32_t)((2 * TOKENS + min(lane, TOKENS - 1)) * 16));
#pragma unroll
      for (int i = 0; i < 2; i++)
#pragma unroll
        for (int n = 0; n < N_TILES; n++) {
          const uint32_t a[4] = {values[i][0][0], values[i][0][1], values[i][1][0], values[i][1][1]},
                         b[4] = {values[i][2][0], values[i][2][1], 0, 0};
          float mixed[4] = {};
          mma16816(mixed, a, first[2 * n], first[2 * n + 1]);
          mma16816(mixed, b, last[n], 0);
#pragma unroll
          for (int j = 0; j < 4; j++) {
            const int plane = warp * 4 + i * 2 + (j >> 1), token = n * 8 + pair + (j & 1);
            reinterpret_cast<half*>(smem)[(plane * TOKENS + token) * 8 + g] =
                __float2half(u[i][n][j] * mixed[j] * inverse);
          }
        }
    }
    __syncthreads();
    // the output: one tile of 16 channels a warp
#pragma unroll
    for (int n = 0; n < N_TILES; n++)
#pragma unroll
      for (int j = 0; j < 4; j++) acc[n][j] = 0.f;
#pragma unroll
    for (int k = 0; k < E / 16; k += 2) {
      uint32_t b[2][6];
      load_tokens(b, gated, k, lane);
#pragma unroll
      for (int i = 0; i < 2; i++)
#pragma unroll
        for (int n = 0; n < N_TILES; n++) mma16816(acc[n], w_out[k + i], b[i][2 * n], b[i][2 * n + 1]);
    }
#pragma unroll
    for (int n = 0; n < N_TILES; n++)
#pragma unroll
      for (int j = 0; j < 4; j++) out[(n * 8 + pair + (j & 1)) * OUT_PITCH + warp * 16 + g + 8 * (j >> 1)] = acc[n][j];
#pragma unroll
    for (int i = 0; i < TOKENS / WARPS; i++)
      if (i * WARPS + warp < K) v[i] = *reinterpret_cast<const float4*>(x + (i * WARPS + warp) * D + lane * 4);
    __syncthreads();
    const float4 r = *reinterpret_cast<const float4*>(p.residual_gain + lane * 4);
#pragma unroll
    for (int i = 0; i < TOKENS / WARPS; i++) {
      const int t = i * WARPS + warp;
      if (t >= K) continue;
      const float4 o = *reinterpret_cast<const float4*>(out + t * OUT_PITCH + lane * 4);
      const float scale = bound * sums[t];
      *reinterpret_cast<float4*>(p.dst + row * p.dst_pitch + t * D + lane * 4) =
          make_float4(fmaf(o.x, scale, v[i].x * r.x), fmaf(o.y, scale, v[i].y * r.y), fmaf(o.z, scale, v[i].z * r.z),
                      fmaf(o.w, scale, v[i].w * r.w));
    }
    __syncthreads();   // before the next person
  }
}
