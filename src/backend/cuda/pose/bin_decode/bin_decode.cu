// The Dynamic Coordinate Classifier (paper section 3.2, equations 1 to 4; mmpose DCC.forward_test), one fused kernel:
// bin positions, their sine encodings, dot products with the keypoints, softmax and integral; only the keypoints are
// stored.
//
// For a person with box centre c, size s and grid point g, the B bins of an axis lie, relative to g, at
//
//   x_i = c - g + t_i padding s,   t_i = i / (B - 1) - 1/2                                                 (equation 1)
//
// and are encoded as PE(x) = [cos(x / T_j), sin(x / T_j)], T_j = 300^(j / 64), j < 64, then mapped by a linear layer:
// W PE + b. The probability of bin i for keypoint k is p_k(i) = softmax_i(f_k . (W PE(x_i) + b)). f_k . b is the same
// for all bins, so softmax ignores it; and f_k . (W PE) = (W^T f_k) . PE, so the K keypoint vectors are rotated, r_k =
// W^T f_k, instead of 448 bin vectors (13 times less work):
//
//   logit_k(i) = sum_j r_k[j] cos(x_i / T_j) + r_k[64 + j] sin(x_i / T_j),   keypoint_k = g + sum_i p_k(i) x_i  (eq. 4)
//
// Bins lie in pairs x = c - g +- d around the box centre. With C_j = cos((c - g) / T_j), S_j = sin((c - g) / T_j) and
//
//   a_k[j] = r_k[j] C_j + r_k[64 + j] S_j,      b_k[j] = r_k[64 + j] C_j - r_k[j] S_j,
//   even_k(d) = sum_j a_k[j] cos(d / T_j),      odd_k(d) = sum_j b_k[j] sin(d / T_j)
//
// a pair's logits are even + odd and even - odd: half the encodings and half the products, and the encodings no longer
// depend on where the box is.
//
// Both products run on tensor cores with the precision of fp32: each factor is a sum of two fp16 numbers, high and low,
// and three of the four products of parts are added: low x low is left out, an error of 2^-22 of the largest product.
// So that fp16 holds them, W and each keypoint are scaled by powers of two: cosine and sine row of a frequency together
// are at most 2^8 long (`rotation_scale` in pack.rs), a keypoint at most 2^6. Then a and b are at most 2^14
// (Cauchy-Schwarz), and the logits are scaled back.
//
// One block does one axis of one person for 8 of the keypoints as long as there are blocks enough, else for all. A warp
// rotates the keypoints onto 8 frequencies (cosine and sine: 16 rows) and then decodes 16 pairs of bins. Angles are
// counted in turns, d / (2 pi T_j), with the frequency split in two floats, so that the fraction of a turn is exact to
// about 2^-24 however far the bin is. Values that do not depend on the keypoints are computed before pdl_wait: the
// encodings, for few keypoints, and the copy of W, where shared memory has room for that of two blocks (`staged`).
#include "bin_decode.params.cuh"
#include "counted.cuh"
#include "fragments.cuh"

constexpr int DIM = 128, PE = 128, HALF = PE / 2, ALL = 3, FEW = 1, THREADS = 256,
              WARPS = THREADS / 32;   // ALL, FEW: tiles of 8 keypoints
constexpr int D_STEPS = DIM / 16, J_STEPS = HALF / 16,
              LOW = DIM * PE;   // steps along channels and along frequencies; W's low part
static_assert(ALL * 8 >= MAX_TOKENS, "all keypoints fit");
static_assert(PE == WARPS * 16 && HALF == WARPS * 8, "rows of a warp");
// shared memory in bytes: planes of the keypoints, high and low | of a, then of b | rotation | scales | [largest, sum,
// moment][keypoint][warp] | totals | W
constexpr int SLOTS = ALL * 8, F_BYTES = DIM / 8 * SLOTS * 16, AB_BYTES = HALF / 8 * SLOTS * 16, AT_A = 2 * F_BYTES,
              AT_B = AT_A + 2 * AB_BYTES;
constexpr int AT_ROTATION = AT_B + 2 * AB_BYTES, AT_SCALES = AT_ROTATION + HALF * 8, AT_PARTS = AT_SCALES + SLOTS * 4,
              AT_TOTALS = AT_PARTS + 3 * SLOTS * WARPS * 4;
constexpr int AT_WEIGHTS = AT_TOTALS + 2 * SLOTS * 4;
static_assert(AT_WEIGHTS == BIN_DECODE_BYTES && AT_WEIGHTS % 16 == 0, "shared memory as the launcher counts it");

// cos(x / T_j), sin(x / T_j)
DEVICE float2 encode(const float* frequency, int j, float x) {
  const float high = frequency[j], low = frequency[HALF + j], turns = x * high;
  float angle = (turns - rintf(turns)) + (fmaf(x, high, -turns) + x * low);
  angle = (angle - rintf(angle)) * 6.28318530717958648f;
  float sine, cosine;
  __sincosf(angle, &sine, &cosine);
  return make_float2(cosine, sine);
}

// Two values as the sum of two fp16 numbers each.
struct Split {
  uint32_t high, low;
};
DEVICE Split split2(float x, float y) {
  const uint32_t high = pack2(x, y);
  const float2 back = unpack2(high);
  return {high, pack2(x - back.x, y - back.y)};
}
// Rows 16 k .. 16 k + 15 of columns 8 n .. 8 n + 7: b0, b1 of the high part, then of the low one, which lies `bytes`
// behind.
DEVICE void load_columns(uint32_t (&b)[4], uint32_t planes, int bytes, int slots, int k, int n, int lane) {
  ldmatrix4(b,
            planes + (uint32_t)((lane >> 4) * bytes + ((2 * k + ((lane >> 3) & 1)) * slots + n * 8 + (lane & 7)) * 16));
}
// high += high x high; low_1 += high x low; low_2 += low x high
DEVICE void mma_split(float (&high)[4], float (&low_1)[4], float (&low_2)[4], const uint32_t (&a_high)[4],
                      const uint32_t (&a_low)[4], const uint32_t (&b)[4]) {
  mma16816(high, a_high, b[0], b[1]);
  mma16816(low_1, a_high, b[2], b[3]);
  mma16816(low_2, a_low, b[0], b[1]);
}

// cos and sin of 16 frequencies for a warp's 16 pairs of bins, as a first factor.
struct Codes {
  uint32_t cosine[2][4], sine[2][4];   // high, low
};
// Of step k. d belongs to row lane / 4; the code 8 rows further on is rotated by `rotation`.
DEVICE void encode_pairs(Codes& codes, const float* frequency, const float2* rotation, int k, float d, int lane) {
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const int j = k * 16 + i * 8 + 2 * (lane & 3);
    float2 e[2];
#pragma unroll
    for (int n = 0; n < 2; n++) e[n] = encode(frequency, j + n, d);
#pragma unroll
    for (int m = 0; m < 2; m++) {
      const Split c = split2(e[0].x, e[1].x), s = split2(e[0].y, e[1].y);
      codes.cosine[0][2 * i + m] = c.high, codes.cosine[1][2 * i + m] = c.low;
      codes.sine[0][2 * i + m] = s.high, codes.sine[1][2 * i + m] = s.low;
#pragma unroll
      for (int n = 0; n < 2; n++) {
        const float2 t = rotation[j + n];
        e[n] = make_float2(fmaf(e[n].x, t.x, -(e[n].y * t.y)), fmaf(e[n].y, t.x, e[n].x * t.y));
      }
    }
  }
}

// 2^e
DEVICE float power_of_two(int e) { return __uint_as_float((uint32_t)(e + 127) << 23); }

// TILES x 8 keypoints of one axis of one person at a time.
template <int TILES> DEVICE void decode(const BinDecodeLaunch& p, unsigned char* smem, int people) {
  constexpr bool AHEAD = TILES == FEW;   // registers suffice for all encodings
  constexpr int TOKENS = TILES * 8;
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, g = lane >> 2, pair = 2 * (lane & 3),
            image = (int)blockIdx.y;
  const int axis = (int)blockIdx.x & 1;   // of all jobs of this block: the grid is even
  const uint32_t f = smem_u32(smem), a = f + AT_A, b = f + AT_B;
  float2* rotation = reinterpret_cast<float2*>(smem + AT_ROTATION);   // [HALF]: encoding of 8 bin widths
  float* scales = reinterpret_cast<float*>(smem + AT_SCALES);
  float* parts = reinterpret_cast<float*>(smem + AT_PARTS);
  float* totals = reinterpret_cast<float*>(smem + AT_TOTALS);
  const int groups = TILES == ALL ? 1 : (p.tokens + TOKENS - 1) / TOKENS, jobs = people * 2 * groups;
  const int bins = p.bins[axis], pairs = (bins + 1) / 2;   // of an odd number of bins, the first pair is one
  const half* weights = p.weight[axis];
  if (p.staged && (int)blockIdx.x < jobs) {
    // a warp copies what it will use itself
#pragma unroll
    for (int k = 0; k < D_STEPS; k++) {
      const int at = ((warp * D_STEPS + k) * 32 + lane) * 8;
      cp16(f + (uint32_t)(AT_WEIGHTS + at * 2), weights + at, 16);
      cp16(f + (uint32_t)(AT_WEIGHTS + (LOW + at) * 2), weights + LOW + at, 16);
    }
    weights = reinterpret_cast<const half*>(smem + AT_WEIGHTS);
  }
  cp_commit();
  for (int job = (int)blockIdx.x; job < jobs; job += (int)gridDim.x) {
    const int person = job / (2 * groups), first = job / 2 % groups * TOKENS, K = min(p.tokens - first, TOKENS);
    const int row = image * p.capacity + person;
    const float* s = &p.survivors[row].cx + axis;
    const float centre = __ldcg(s), width = p.width[axis] * __ldcg(s + 2);
    auto distance = [&](int i) { return ((float)i + (bins % 2 ? 0.f : 0.5f)) * width; };
    const float2 middle = encode(p.frequency, warp * 8 + g, centre - __ldcg(s + 4));
    if (tid < HALF) rotation[tid] = encode(p.frequency, tid, 8.f * width);
    __syncthreads();
    const float d = distance(warp * 16 + g);
    Codes codes[AHEAD ? J_STEPS : 1];
    if constexpr (AHEAD) {
#pragma unroll
      for (int k = 0; k < J_STEPS; k++) encode_pairs(codes[k], p.frequency, rotation, k, d, lane);
      uint32_t all = __float_as_uint(middle.x) ^ __float_as_uint(middle.y);
#pragma unroll
      for (int k = 0; k < J_STEPS; k++)
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
          for (int part = 0; part < 2; part++) all ^= codes[k].cosine[part][i] ^ codes[k].sine[part][i];
      force_here(all);
    }
    if (job == (int)blockIdx.x) {
      pdl_wait();
      pdl_launch();
    }
    // the keypoints, one a warp at a time, four channels a lane; unused ones are zeros
    const float* src = p.src + (long long)row * p.src_pitch + first * DIM;
    float4 v[TILES];
    float sum[TILES];
#pragma unroll
    for (int i = 0; i < TILES; i++) {
      const int t = i * WARPS + warp;
      v[i] = t < K ? *reinterpret_cast<const float4*>(src + t * DIM + lane * 4) : make_float4(0.f, 0.f, 0.f, 0.f);
    }
#pragma unroll
    for (int i = 0; i < TILES; i++) sum[i] = v[i].x * v[i].x + v[i].y * v[i].y + v[i].z * v[i].z + v[i].w * v[i].w;
#pragma unroll
    for (int m = 16; m; m >>= 1)
#pragma unroll
      for (int i = 0; i < TILES; i++) sum[i] += __shfl_xor_sync(~0u, sum[i], m);
#pragma unroll
    for (int i = 0; i < TILES; i++) {
      const int t = i * WARPS + warp;
      // its length is below 2^e, as the exponent of its square tells
      const int e = ((int)(__float_as_uint(sum[i]) >> 23) - 125) >> 1;
      const float scale = power_of_two(6 - e);
      const Split xy = split2(v[i].x * scale, v[i].y * scale), zw = split2(v[i].z * scale, v[i].w * scale);
      unsigned char* to = smem + (lane / 2 * TOKENS + t) * 16 + (lane & 1) * 8;
      *reinterpret_cast<uint2*>(to) = make_uint2(xy.high, zw.high);
      *reinterpret_cast<uint2*>(to + F_BYTES) = make_uint2(xy.low, zw.low);
      if (lane == 0) scales[t] = power_of_two(e - 6) * p.scale[axis];
    }
    cp_wait<0>();
    __syncthreads();
    {   // r = W^T f, rotated to a and b: rows are 8 cosines, then the same frequencies' sines
      float sums[3][TILES][4] = {};
#pragma unroll(AHEAD ? D_STEPS : 2)
      for (int k = 0; k < D_STEPS; k++) {
        uint32_t w[2][4];
        load_weights(w[0], weights, warp, k, D_STEPS, lane);
        load_weights(w[1], weights + LOW, warp, k, D_STEPS, lane);
#pragma unroll
        for (int n = 0; n < TILES; n++) {
          uint32_t columns[4];
          load_columns(columns, f, F_BYTES, TOKENS, k, n, lane);
          mma_split(sums[0][n], sums[1][n], sums[2][n], w[0], w[1], columns);
        }
      }
#pragma unroll
      for (int n = 0; n < TILES; n++)
#pragma unroll
        for (int t = 0; t < 2; t++) {
          const float cosine = sums[0][n][t] + (sums[1][n][t] + sums[2][n][t]),
                      sine = sums[0][n][t + 2] + (sums[1][n][t + 2] + sums[2][n][t + 2]);
          const Split ab = split2(fmaf(cosine, middle.x, sine * middle.y), fmaf(sine, middle.x, -(cosine * middle.y)));
          unsigned short* to =
              reinterpret_cast<unsigned short*>(smem + AT_A) + (warp * TOKENS + n * 8 + pair + t) * 8 + g;
          to[0] = (unsigned short)ab.high, to[AB_BYTES / 2] = (unsigned short)ab.low;
          to[AB_BYTES] = (unsigned short)(ab.high >> 16), to[AB_BYTES / 2 * 3] = (unsigned short)(ab.low >> 16);
        }
    }
    __syncthreads();
    float even[2][TILES][4] = {}, odd[2][TILES][4] = {};
    if (warp * 16 < pairs) {
#pragma unroll(AHEAD ? J_STEPS : 1)
      for (int k = 0; k < J_STEPS; k++) {
        if constexpr (!AHEAD) encode_pairs(codes[0], p.frequency, rotation, k, d, lane);
        const Codes& code = codes[AHEAD ? k : 0];
#pragma unroll
        for (int n = 0; n < TILES; n++) {
          uint32_t columns[4];
          load_columns(columns, a, AB_BYTES, TOKENS, k, n, lane);
          mma_split(even[0][n], even[1][n], even[1][n], code.cosine[0], code.cosine[1], columns);
          load_columns(columns, b, AB_BYTES, TOKENS, k, n, lane);
          mma_split(odd[0][n], odd[1][n], odd[1][n], code.sine[0], code.sine[1], columns);
        }
      }
    }
    // softmax and integral: each warp relative to its own largest logit, then all together. A thread has two pairs of
    // bins, 8 rows apart, of two keypoints a tile.
    auto exists = [&](int m, int side) {
      return warp * 16 + m * 8 + g < pairs && !(side && bins % 2 && warp == 0 && m == 0 && g == 0);
    };
    float logit[TILES][2][2][2], top[TILES][2];   // tile, keypoint, pair, right and left
#pragma unroll
    for (int n = 0; n < TILES; n++)
#pragma unroll
      for (int t = 0; t < 2; t++) {
        const float scale = scales[n * 8 + pair + t];
        top[n][t] = -INFINITY;
#pragma unroll
        for (int m = 0; m < 2; m++) {
          const float e = even[0][n][2 * m + t] + even[1][n][2 * m + t],
                      o = odd[0][n][2 * m + t] + odd[1][n][2 * m + t];
          logit[n][t][m][0] = exists(m, 0) ? (e + o) * scale : -INFINITY,
          logit[n][t][m][1] = exists(m, 1) ? (e - o) * scale : -INFINITY;
          top[n][t] = fmaxf(top[n][t], fmaxf(logit[n][t][m][0], logit[n][t][m][1]));
        }
      }
#pragma unroll
    for (int m = 16; m >= 4; m >>= 1)
#pragma unroll
      for (int n = 0; n < TILES; n++)
#pragma unroll
        for (int t = 0; t < 2; t++) top[n][t] = fmaxf(top[n][t], __shfl_xor_sync(~0u, top[n][t], m));
    float total[TILES][2], moment[TILES][2];
#pragma unroll
    for (int n = 0; n < TILES; n++)
#pragma unroll
      for (int t = 0; t < 2; t++) {
        total[n][t] = moment[n][t] = 0.f;
        const float base = top[n][t] == -INFINITY ? 0.f : top[n][t];   // a warp without bins
#pragma unroll
        for (int m = 0; m < 2; m++) {
          const float right = __expf(logit[n][t][m][0] - base), left = __expf(logit[n][t][m][1] - base);
          total[n][t] += right + left;
          moment[n][t] = fmaf(right - left, distance(warp * 16 + m * 8 + g), moment[n][t]);
        }
      }
#pragma unroll
    for (int m = 16; m >= 4; m >>= 1)
#pragma unroll
      for (int n = 0; n < TILES; n++)
#pragma unroll
        for (int t = 0; t < 2; t++)
          total[n][t] += __shfl_xor_sync(~0u, total[n][t], m), moment[n][t] += __shfl_xor_sync(~0u, moment[n][t], m);
    if (g == 0)
#pragma unroll
      for (int n = 0; n < TILES; n++)
#pragma unroll
        for (int t = 0; t < 2; t++) {
          const int at = (n * 8 + pair + t) * WARPS + warp;
          parts[at] = top[n][t], parts[SLOTS * WARPS + at] = total[n][t], parts[2 * SLOTS * WARPS + at] = moment[n][t];
        }
    __syncthreads();
    if (warp * 4 < TOKENS) {   // eight lanes a keypoint, one for each warp's part
      const int t = warp * 4 + (lane >> 3), at = t * WARPS + (lane & 7);
      const float mine = parts[at];
      float largest = mine;
#pragma unroll
      for (int m = 4; m; m >>= 1) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, m));
      const float scale = __expf(mine - largest);
      float s = parts[SLOTS * WARPS + at] * scale, x = parts[2 * SLOTS * WARPS + at] * scale;
#pragma unroll
      for (int m = 4; m; m >>= 1) s += __shfl_xor_sync(~0u, s, m), x += __shfl_xor_sync(~0u, x, m);
      if ((lane & 7) == 0 && t < K) {
        p.dst[(long long)row * p.dst_pitch + (first + t) * 2 + axis] = centre + x / s;
        totals[t] = largest, totals[SLOTS + t] = 1.f / s;
      }
    }
    if (p.heat[axis]) {
      __syncthreads();
#pragma unroll
      for (int n = 0; n < TILES; n++)
#pragma unroll
        for (int t = 0; t < 2; t++) {
          const int token = n * 8 + pair + t;
          if (token >= K) continue;
          float* heat = p.heat[axis] + ((long long)row * p.tokens + first + token) * bins;
#pragma unroll
          for (int m = 0; m < 2; m++) {
            const int i = warp * 16 + m * 8 + g;
            if (exists(m, 0)) heat[bins / 2 + i] = __expf(logit[n][t][m][0] - totals[token]) * totals[SLOTS + token];
            if (exists(m, 1))
              heat[(bins - 1) / 2 - i] = __expf(logit[n][t][m][1] - totals[token]) * totals[SLOTS + token];
          }
        }
    }
  }
  if ((int)blockIdx.x >= jobs) {
    pdl_wait();
    pdl_launch();
  }
}

KERNEL(bin_decode, BinDecodeLaunch, 256, 2) {
  SHARED_MEMORY(smem);
  const int people = people_of(p.counts + blockIdx.y);   // known since before the last kernel
  if (people * 2 * ((p.tokens + 7) / 8) <= (int)gridDim.x) decode<FEW>(p, smem, people);
  else decode<ALL>(p, smem, people);
}
