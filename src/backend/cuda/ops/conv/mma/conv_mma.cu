// Convolution on tensor cores with mma.sync, for sm_75 and later. See conv.cuh for the maths, the layout and the tile.
//
// Pipeline       STAGES weight stages and `buffers` activation chunk buffers in cp.async groups, one block barrier a
//                step.
// Warps          WM x WN over the tile, and WK that each take a share of the K steps and add up in shared memory.
// Split-K        a cluster of `split` blocks along z, each a range of channel chunks; partial tiles are pushed into the
//                shared memory of rank 0 (sm_90 and later).
// Dependence     weights, bias and the halo table come before griddepcontrol.wait, everything else after it.
#include "conv.cuh"

// What a kernel is for: 1x1 s1, 3x3 s1 and s2 as the step says, or one of these alone.
enum Serves { STEP, POINTS_S2, CELLS_4X4 };

template <bool SEVERAL, Serves SERVES, class Acts, int BM, int BN, int BK, int STAGES, int WM, int WN, int WK>
DEVICE void conv_mma(const ConvLaunch& l) {
  constexpr int THREADS = WM * WN * WK * 32;
  constexpr int MT = BM / WM / 16, NT = BN / WN / 8, KK = BK / 16, DEPTH = STAGES - 1, PLANES = BK / 8,
                STAGE_BYTES = BN * BK * 2;
  static_assert(MT * 16 * WM == BM && NT * 8 * WN == BN && NT % 4 == 0 && KK % WK == 0, "tile");
  SHARED_MEMORY(smem);
  const ConvBlock b = conv_block<SEVERAL, BN>(l);
  const ConvStep& p = l.step[SEVERAL ? b.step : 0];
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
  const int wm = warp % WM, wn = (warp / WM) % WN, wk = warp / (WM * WN);
  // read where it is used: parameters cost no register
  auto kernel = [&] { return SERVES == POINTS_S2 ? 1 : SERVES == CELLS_4X4 ? 4 : p.kernel; };
  const int taps = kernel() * kernel(), halo = halo_entries<THREADS / PLANES * LOADS>(p), n0 = b.n0, z = blockIdx.z,
            split = l.split;
  const int chunk0 = p.chunks * z / split, chunk1 = p.chunks * (z + 1) / split, steps = (chunk1 - chunk0) * taps;
  const int tile_y = kernel() == 1 ? 0 : tile_row(p, b.tile);
  const int oy0 = tile_y * p.tile_h, ox0 = (b.tile - tile_y * p.tiles_x) * p.tile_w;
  const uint32_t chunk_bytes = p.plane * 16 * PLANES;
  // shared memory: [weight stages][activation buffers][halo table][partial sums]
  const uint32_t weights = smem_u32(smem), activations = weights + STAGES * STAGE_BYTES;
  int2* table = reinterpret_cast<int2*>(smem + STAGES * STAGE_BYTES + l.buffers * chunk_bytes);
  float* partial =
      reinterpret_cast<float*>(smem + ((STAGES * STAGE_BYTES + l.buffers * chunk_bytes + halo * 8 + 15) & ~15));

  if (l.trigger == TRIGGER_EARLY) pdl_launch();
  if (split > 1) cluster_arrive();
  const long long stage = (long long)p.cout_pad * BK;
  const half* w = p.weight + (long long)chunk0 * taps * stage + (long long)n0 * BK;
  auto load_weights = [&](int step, int slot) {
    const half* s = w + step * stage;
    const uint32_t d = weights + slot * STAGE_BYTES;
#pragma unroll
    for (int i = 0; i < (BN * BK / 8 + THREADS - 1) / THREADS; i++) {
      const int e = tid + i * THREADS;
      if ((BN * BK / 8) % THREADS == 0 || e < BN * BK / 8) cp16(d + e * 16, s + e * 8, 16);
    }
  };
#pragma unroll
  for (int s = 0; s < DEPTH; s++)
    if (s < steps) load_weights(s, s);
  build_halo<THREADS / PLANES * LOADS, SERVES == POINTS_S2>(p, kernel(), table, oy0, ox0, tid, THREADS);
  // fragment addresses of this lane: A rows are pixels (slots), B rows are output channels
  uint32_t a_offset[MT];
#pragma unroll
  for (int m = 0; m < MT; m++)
    a_offset[m] = (out_slot(p, kernel(), wm * MT * 16 + m * 16 + (lane & 15)) + (lane >> 4) * p.plane) * 16;
  const uint32_t b_offset = (uint32_t)((wn * NT + (lane >> 4)) * PLANES + ((lane >> 3) & 1)) * 128 + (lane & 7) * 16;
  float acc[MT][NT][4];
  int pixel[MT][2];
#pragma unroll
  for (int m = 0; m < MT; m++) {
#pragma unroll
    for (int n = 0; n < NT; n++) {   // the sums start at the bias, in one of the parts
      float2 v = make_float2(0.f, 0.f);
      if (z == 0 && wk == 0) v = *reinterpret_cast<const float2*>(p.bias + n0 + (wn * NT + n) * 8 + (lane & 3) * 2);
      acc[m][n][0] = acc[m][n][2] = v.x, acc[m][n][1] = acc[m][n][3] = v.y;
    }
    pixel[m][0] = out_pixel(p, kernel(), oy0, ox0, (wm * MT + m) * 16 + (lane >> 2));
    pixel[m][1] = out_pixel(p, kernel(), oy0, ox0, (wm * MT + m) * 16 + (lane >> 2) + 8);
  }
  __syncthreads();   // the halo table is complete
  pdl_wait();

  const ConvTarget target = conv_target(p, l.image, b.image);
  constexpr bool AHEAD = MT == 1;   // else registers would cost blocks
  Addends<NT> addends = {};
  if (AHEAD && (p.pre_add || target.post)) load_addends(addends, p, target, pixel[0][0], n0 + wn * NT * 8, lane, 0, 1);
  const int c0 = first_channel(p, n0);
  const half* src = p.src + b.image * l.image + c0;
  int load_tap = 0, load_chunk = chunk0, load_buffer = 0;
  auto load_step = [&]() {
    if (load_tap == 0) {
      load_activations<BK, THREADS>(p, src + load_chunk * BK, c0 + load_chunk * BK, table,
                                    activations + load_buffer * chunk_bytes, tid);
      load_buffer = load_buffer + 1 == l.buffers ? 0 : load_buffer + 1;
    }
    if (++load_tap == taps) load_tap = 0, load_chunk++;
  };
#pragma unroll
  for (int s = 0; s < DEPTH; s++) {
    if (s < steps) load_step();
    cp_commit();
  }
  int slot = 0, load_slot = DEPTH, buffer = 0, tap = 0;
  for (int j = 0; j < steps; j++) {
    cp_wait<DEPTH - 1>();
    __syncthreads();
    if (j + DEPTH < steps) {
      load_weights(j + DEPTH, load_slot);
      load_step();
    } else if (l.trigger == TRIGGER_MID && j + DEPTH == steps) pdl_launch();
    cp_commit();
    load_slot = load_slot + 1 == STAGES ? 0 : load_slot + 1;
    const uint32_t a0 = activations + buffer * chunk_bytes +
                        (SERVES == CELLS_4X4 ? (tap >> 2) * p.row + (tap & 3) : p.tap[tap]) * 16,
                   b0 = weights + slot * STAGE_BYTES + b_offset;
#pragma unroll
    for (int k = 0; k < KK; k += WK) {
      const int kk = k + (WK > 1 ? wk : 0);
      uint32_t a[MT][4], bf[NT][2];
#pragma unroll
      for (int m = 0; m < MT; m++) ldmatrix4(a[m], a0 + a_offset[m] + kk * 2 * p.plane * 16);
#pragma unroll
      for (int n = 0; n < NT; n += 2) {
        uint32_t t[4];
        ldmatrix4(t, b0 + n * PLANES * 128 + kk * 256);
        bf[n][0] = t[0], bf[n][1] = t[1], bf[n + 1][0] = t[2], bf[n + 1][1] = t[3];
      }
#pragma unroll
      for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < NT; n++) mma16816(acc[m][n], a[m], bf[n][0], bf[n][1]);
    }
    slot = slot + 1 == STAGES ? 0 : slot + 1;
    if (++tap == taps) tap = 0, buffer = buffer + 1 == l.buffers ? 0 : buffer + 1;
  }
  if (l.trigger != TRIGGER_EARLY) pdl_launch();   // no effect if already triggered

  if (WK > 1 || split > 1) {   // part 0 (rank 0, slice 0) adds up the others
    constexpr int SLICE_THREADS = WM * WN * 32, SLICE = SLICE_THREADS * MT * NT * 4;
    const int t0 = tid % SLICE_THREADS, parts = WK * split, part = z * WK + wk;
    if (split > 1) cluster_wait();   // every block of the cluster has started
    if (part > 0) {
      uint32_t dst = smem_u32(partial) + (uint32_t)((part - 1) * SLICE + t0 * 4) * 4;
      if (split > 1) dst = mapa(dst, 0);
#pragma unroll
      for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < NT; n++) {
          const uint32_t d = dst + (uint32_t)((m * NT + n) * SLICE_THREADS * 4) * 4;
          if (split > 1) st_cluster_f4(d, acc[m][n]);
          else st_shared_f4(d, acc[m][n]);
        }
    }
    if (split > 1) {
      cluster_arrive();
      cluster_wait();
    } else __syncthreads();
    if (part > 0) return;
    for (int i = 0; i < parts - 1; i++) {
      const float* s = partial + i * SLICE + t0 * 4;
#pragma unroll
      for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < NT; n++) {
          const float4 v = *reinterpret_cast<const float4*>(s + (m * NT + n) * SLICE_THREADS * 4);
          acc[m][n][0] += v.x, acc[m][n][1] += v.y, acc[m][n][2] += v.z, acc[m][n][3] += v.w;
        }
    }
  }
  epilogue<Acts, AHEAD, MT, NT>(p, target, acc, addends, nullptr, pixel, n0 + wn * NT * 8, lane, 0, 1);
}

// Names are conv_mma_<BM>x<BN>x<BK>_<stages>_<WM>x<WN>x<WK>, with _several for launches of several steps, _relu for
// ReLU, _1s2 and _4x4 for what those kernels serve alone; mod.rs lists them, too. BLOCKS: how many shall fit into the
// registers of an SM.
#define CONV_MMA_KERNEL(NAME, SEVERAL, SERVES, ACTS, BM, BN, BK, STAGES, WM, WN, WK, BLOCKS) \
  KERNEL(NAME, ConvLaunch, WM * WN * WK * 32, BLOCKS) {                                      \
    conv_mma<SEVERAL, SERVES, ACTS, BM, BN, BK, STAGES, WM, WN, WK>(p);                      \
  }
#define CONV_MMA(BM, BN, BK, STAGES, WM, WN, WK, BLOCKS)                                                               \
  CONV_MMA_KERNEL(conv_mma_##BM##x##BN##x##BK##_##STAGES##_##WM##x##WN##x##WK, false, STEP, Usual, BM, BN, BK, STAGES, \
                  WM, WN, WK, BLOCKS)                                                                                  \
  CONV_MMA_KERNEL(conv_mma_##BM##x##BN##x##BK##_##STAGES##_##WM##x##WN##x##WK##_several, true, STEP, Usual, BM, BN,    \
                  BK, STAGES, WM, WN, WK, BLOCKS)                                                                      \
  CONV_MMA_KERNEL(conv_mma_##BM##x##BN##x##BK##_##STAGES##_##WM##x##WN##x##WK##_relu, false, STEP, OfRelu, BM, BN, BK, \
                  STAGES, WM, WN, WK, BLOCKS)
#define CONV_MMA_1S2(BM, BN, BK, STAGES, WM, WN, WK, BLOCKS)                                                          \
  CONV_MMA_KERNEL(conv_mma_1s2_##BM##x##BN##x##BK##_##STAGES##_##WM##x##WN##x##WK, false, POINTS_S2, All, BM, BN, BK, \
                  STAGES, WM, WN, WK, BLOCKS)
#define CONV_MMA_4X4(BM, BN, BK, STAGES, WM, WN, WK, BLOCKS)                                                          \
  CONV_MMA_KERNEL(conv_mma_4x4_##BM##x##BN##x##BK##_##STAGES##_##WM##x##WN##x##WK, false, CELLS_4X4, All, BM, BN, BK, \
                  STAGES, WM, WN, WK, BLOCKS)
typedef Activations<Silu, Gelu, Identity> Usual;
typedef Activations<Relu> OfRelu;
typedef Activations<Silu, Relu, Gelu, Identity> All;
#ifdef HAVE_SM80
CONV_MMA(128, 32, 16, 5, 4, 1, 1, 5)
#else
CONV_MMA(128, 32, 16, 5, 4, 1, 1, 4)
#endif
CONV_MMA(64, 32, 32, 3, 4, 1, 1, 1)
CONV_MMA(128, 64, 32, 4, 4, 2, 1, 1)
CONV_MMA(64, 64, 64, 3, 2, 2, 1, 1)
CONV_MMA(32, 32, 64, 5, 2, 1, 2, 1)
CONV_MMA(32, 128, 64, 3, 1, 4, 1, 1)
CONV_MMA(64, 128, 64, 3, 2, 4, 1, 1)
CONV_MMA(128, 128, 64, 3, 2, 2, 1, 1)
CONV_MMA_1S2(64, 32, 32, 3, 4, 1, 1, 1)
CONV_MMA_1S2(64, 64, 64, 3, 2, 2, 1, 1)
CONV_MMA_1S2(64, 128, 64, 3, 2, 4, 1, 1)
CONV_MMA_4X4(128, 32, 16, 5, 4, 1, 1, 4)
CONV_MMA_4X4(64, 32, 32, 3, 4, 1, 1, 1)
