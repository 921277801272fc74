// Multi-head self-attention over the pixels of a map: O = softmax(Q K^T) V per head, head dimension 32, Q already
// scaled.
//
// Tile           one block = 32 queries of one head; 8 warps = 2 groups of 16 queries x 4 slices of the keys. Keys and
//                values of the head come into shared memory 448 at a time, as many as 64 KiB (sm_75) hold with the
//                queries, as planes of 8 channels (one 16-byte slot a token).
// Maths          each warp keeps a running softmax over its keys: with m the largest score so far, l = sum exp(s - m)
//                and o = sum exp(s - m) v; a new maximum m' rescales l and o by exp(m - m'). At the end the slices' (m,
//                l, o) are merged by the same rule and o / l is stored. Scores and sums in fp32; exp(s - m) enters the
//                product as fp16.
// Fragments      the accumulators of Q K^T are, two n8 tiles at a time, exactly the A fragment of the product with V.
#include "attention.params.cuh"

constexpr int QUERIES = ATTENTION_QUERIES, SLICES = ATTENTION_SLICES, DIM = HEAD_DIM, PLANES = DIM / 8,
              CHUNK = ATTENTION_CHUNK, THREADS = 256;
static_assert(CHUNK % (SLICES * 16) == 0, "every slice has as many keys of a whole chunk");

KERNEL(attention, AttentionLaunch, 256, 1) {
  SHARED_MEMORY(smem);
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, group = warp & 1, slice = warp >> 1;
  const int head = (int)blockIdx.y, image = (int)blockIdx.z, q0 = (int)blockIdx.x * QUERIES, c = p.heads * DIM;
  const int slots = (min((p.tokens + 15) & ~15, CHUNK)) | 1, q_slots = QUERIES | 1;
  const uint32_t queries = smem_u32(smem), keys = queries + PLANES * q_slots * 16, values = keys + PLANES * slots * 16;
  const half* qkv = p.qkv + image * p.image + head * DIM;
  pdl_wait();
  pdl_launch();
  // rows of `count` tokens from `first` into planes; tokens beyond the map become zeros
  auto load = [&](uint32_t planes, int pitch, const half* src, int first, int count) {
    for (int i = tid; i < count * PLANES; i += THREADS) {
      const int k8 = i % PLANES, t = i / PLANES;
      const bool real = first + t < p.tokens;
      cp16(planes + (uint32_t)(k8 * pitch + t) * 16, src + (long long)(real ? first + t : 0) * p.qkv_pitch + k8 * 8,
           real ? 16 : 0);
    }
  };
  load(queries, q_slots, qkv, q0, QUERIES);

  float m[2] = {-INFINITY, -INFINITY}, l[2] = {0.f, 0.f}, o[4][4] = {};
  uint32_t q[2][4];
  for (int first = 0; first < p.tokens; first += CHUNK) {
    const int count = min((p.tokens - first + 15) & ~15, CHUNK);
    if (first) __syncthreads();   // all warps are done with the chunk before
    load(keys, slots, qkv + c, first, count);
    load(values, slots, qkv + 2 * c, first, count);
    cp_commit();
    cp_wait<0>();
    __syncthreads();
    if (first == 0)
#pragma unroll
      for (int k = 0; k < 2; k++)
        ldmatrix4(q[k], queries + (uint32_t)((k * 2 + (lane >> 4)) * q_slots + group * 16 + (lane & 15)) * 16);
    for (int t = slice * 16; t < count; t += SLICES * 16) {
      // scores of 16 keys
      float s[2][4] = {};
#pragma unroll
      for (int k = 0; k < 2; k++) {
        uint32_t b[4];   // two key tiles, two halves of 16 channels
        ldmatrix4(b, keys + (uint32_t)((k * 2 + ((lane >> 3) & 1)) * slots + t + (lane >> 4) * 8 + (lane & 7)) * 16);
        mma16816(s[0], q[k], b[0], b[1]);
        mma16816(s[1], q[k], b[2], b[3]);
      }
#pragma unroll
      for (int n = 0; n < 2; n++)
#pragma unroll
        for (int j = 0; j < 4; j++)
          if (first + t + n * 8 + 2 * (lane & 3) + (j & 1) >= p.tokens) s[n][j] = -INFINITY;
      // running softmax; rows lane / 4 (h = 0) and lane / 4 + 8 (h = 1)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float top = fmaxf(fmaxf(s[0][2 * h], s[0][2 * h + 1]), fmaxf(s[1][2 * h], s[1][2 * h + 1]));
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
        top = fmaxf(top, m[h]);   // finite: the first of the 16 keys is real
        const float shrink = __expf(m[h] - top);
        m[h] = top;
        l[h] *= shrink;
#pragma unroll
        for (int n = 0; n < 4; n++) o[n][2 * h] *= shrink, o[n][2 * h + 1] *= shrink;
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
          for (int j = 0; j < 2; j++) {
            s[n][2 * h + j] = __expf(s[n][2 * h + j] - top);
            l[h] += s[n][2 * h + j];
          }
      }
      const uint32_t a[4] = {pack2(s[0][0], s[0][1]), pack2(s[0][2], s[0][3]), pack2(s[1][0], s[1][1]),
                             pack2(s[1][2], s[1][3])};
#pragma unroll
      for (int n = 0; n < 4; n += 2) {
        uint32_t b[4];   // channels n * 8 .. and n * 8 + 8 ..; keys t .. t + 7 and t + 8 ..
        ldmatrix4_trans(b, values + (uint32_t)((n + (lane >> 4)) * slots + t + (lane & 15)) * 16);
        mma16816(o[n], a, b[0], b[1]);
        mma16816(o[n + 1], a, b[2], b[3]);
      }
    }
  }
#pragma unroll
  for (int h = 0; h < 2; h++) {
    l[h] += __shfl_xor_sync(~0u, l[h], 1);
    l[h] += __shfl_xor_sync(~0u, l[h], 2);
  }
  __syncthreads();   // keys and values are no longer read: their memory now holds the slices' sums
  constexpr int ROW = DIM + 4;   // floats a query: o, then m and l
  float* sums = reinterpret_cast<float*>(smem);
#pragma unroll
  for (int h = 0; h < 2; h++) {
    float* row = sums + (slice * QUERIES + group * 16 + (lane >> 2) + 8 * h) * ROW;
#pragma unroll
    for (int n = 0; n < 4; n++)
      *reinterpret_cast<float2*>(row + n * 8 + 2 * (lane & 3)) = make_float2(o[n][2 * h], o[n][2 * h + 1]);
    if ((lane & 3) == 0) row[DIM] = m[h], row[DIM + 1] = l[h];
  }
  __syncthreads();
  const int query = tid / 8, channel = tid % 8 * 4;
  if (q0 + query >= p.tokens) return;
  float top = -INFINITY, total = 0.f, v[4] = {};
#pragma unroll
  for (int i = 0; i < SLICES; i++) top = fmaxf(top, sums[(i * QUERIES + query) * ROW + DIM]);
#pragma unroll
  for (int i = 0; i < SLICES; i++) {
    const float* row = sums + (i * QUERIES + query) * ROW;
    const float weight = __expf(row[DIM] - top);
    total += weight * row[DIM + 1];
#pragma unroll
    for (int j = 0; j < 4; j++) v[j] = fmaf(weight, row[channel + j], v[j]);
  }
  const float scale = 1.f / total;
  half* dst = p.dst + image * p.image + (long long)(q0 + query) * p.dst_pitch + head * DIM + channel;
  *reinterpret_cast<uint2*>(dst) = make_uint2(pack2(v[0] * scale, v[1] * scale), pack2(v[2] * scale, v[3] * scale));
}
