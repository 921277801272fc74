// Architecture: sm_90a
//
// Convolution on Hopper's warpgroup tensor cores (sm_90a). See conv.cuh for the maths, the layout and the tile.
//
// wgmma reads both operands straight from shared memory: the halo layout of conv.cuh is already a sequence of core
// matrices, at any tap's shift. Warp roles, joined by full/empty pairs of mbarriers, so that consumers touch no address
// computation:
//
//   NWM x NWN consumer warpgroups (64 pixels, BN / NWN channels each) |
//   4 activation loader warps | 1 weight loader warp
//
// Split-K        a cluster of `split` blocks along z, each a range of channel chunks. Groups of 32 channels are dealt
//                round-robin to the ranks; the others push their sums with st.async, counted by the receiver's
//                mbarrier.
// Dependence     barriers, halo table, bias and weights come before griddepcontrol.wait; loaders and consumers then
//                wait before they read activations or write results. The weight loader reads constants only and does
//                not wait.
// Pitfalls       the warpgroup index comes from a shuffle so that the compiler keeps descriptors in uniform registers;
//                the first wgmma of a tile must not accumulate (an initial accumulator serialises the pipeline, ptxas
//                C7514); the chunk loop must not be unrolled (C7515).
#include "conv.cuh"

// POINTS: of a 1x1 convolution of stride 2. LEAN: few registers, so that blocks of the next kernel find room beside it.
template <bool SEVERAL, bool POINTS, bool LEAN, class Acts, int KS, int NWM, int NWN, int BN, int BK, int STAGES>
DEVICE void conv_wg(const ConvLaunch& l) {
#ifdef HAVE_WGMMA
  constexpr int NWG = NWM * NWN, NC = NWG * 128, WN = BN / NWN, KK = BK / 16, PLANES = BK / 8,
                STAGE_BYTES = BN * BK * 2;
  constexpr int NT = WN / 8, G = NT / 4, TAPS = KS * KS, LOADERS = 128, MAX_BUFFERS = 8, BARRIER_BYTES = 384;
  static_assert(NT % 4 == 0 && 8 * (2 * STAGES + 2 * MAX_BUFFERS + 1) <= BARRIER_BYTES, "tile");
  SHARED_MEMORY(smem);
  const ConvBlock b = conv_block<SEVERAL, BN>(l);
  const ConvStep& p = l.step[SEVERAL ? b.step : 0];
  const int tid = threadIdx.x, lane = tid & 31, wg = __shfl_sync(~0u, tid >> 7, 0);
  const int halo = halo_entries<LOADERS / PLANES * LOADS>(p), n0 = b.n0, z = blockIdx.z, split = l.split;
  const int shift = split >> 1, chunk0 = p.chunks * z >> shift,
            chunks = (p.chunks * (z + 1) >> shift) - chunk0;   // split is 1, 2 or 4
  const int tile_y = KS == 1 ? 0 : tile_row(p, b.tile);
  const int oy0 = tile_y * p.tile_h, ox0 = (b.tile - tile_y * p.tiles_x) * p.tile_w;
  const uint32_t chunk_bytes = p.plane * 16 * PLANES;
  // shared memory: [barriers][weight stages][activation buffers][bias][halo table][split-K sums]
  const uint32_t bar = smem_u32(smem), full_w = bar, empty_w = bar + 8 * STAGES, full_a = bar + 16 * STAGES,
                 empty_a = full_a + 8 * MAX_BUFFERS;
  const uint32_t sums_bar = bar + BARRIER_BYTES - 8;
  const uint32_t weights = bar + BARRIER_BYTES, activations = weights + STAGES * STAGE_BYTES;
  const uint32_t bias_at = activations + l.buffers * chunk_bytes - bar;
  float* bias = reinterpret_cast<float*>(smem + bias_at);
  int2* table = reinterpret_cast<int2*>(smem + bias_at + BN * 4);
  const uint32_t sums_at = (bias_at + BN * 4 + halo * 8 + 15) & ~15u;

  // One thread initialises all barriers, also of buffers that this launch does not have: constant addresses, no loop, one
  // fence. The block's barrier below shows them to the other threads.
  if (tid == 0) {
#pragma unroll
    for (int i = 0; i < STAGES; i++) {
      mbar_init(full_w + 8 * i, 1);
      mbar_init(empty_w + 8 * i, NWG);
    }
#pragma unroll
    for (int i = 0; i < MAX_BUFFERS; i++) {
      mbar_init(full_a + 8 * i, LOADERS);
      mbar_init(empty_a + 8 * i, NWG);
    }
    mbar_init(sums_bar, 1);
    mbar_fence_init();
  }
  if (l.trigger == TRIGGER_EARLY) pdl_launch();
  __syncthreads();
  const int most_groups = (G + split - 1) >> shift;
  // 32-channel groups a warpgroup of this rank finishes
  const int my_groups = z < G ? (G - z + split - 1) >> shift : 0;
  if (split > 1) {
    if (tid == 0) mbar_expect(sums_bar, my_groups * (split - 1) * NC * 64);
    // Peers rely on the initialised barrier only, which the fence has released. Their sums may be counted before the
    // expectation: the phase still waits for that arrival.
    cluster_arrive_relaxed();
  }

  if (wg == NWG + 1) {   // weight loader: one thread streams the packed stages, the bias with the first
    if (lane == 0) {
      const long long stage = (long long)p.cout_pad * BK * 2;
      const char* src =
          reinterpret_cast<const char*>(p.weight) + (long long)chunk0 * TAPS * stage + (long long)n0 * BK * 2;
      const int steps = chunks * TAPS;
      int slot = 0, phase = 1;
      for (int j = 0; j < steps; j++) {
        if (j >= STAGES) mbar_wait(empty_w + 8 * slot, phase);
        mbar_expect(full_w + 8 * slot, STAGE_BYTES + (j == 0 ? BN * 4 : 0));
        if (j == 0) bulk_copy(bar + bias_at, p.bias + n0, BN * 4, full_w);
        bulk_copy(weights + slot * STAGE_BYTES, src, STAGE_BYTES, full_w + 8 * slot);
        src += stage;
        if (++slot == STAGES) slot = 0, phase ^= 1;
      }
      prefetch_next(l);
    }
    __syncwarp();
    if (split > 1) cluster_wait();
    return;
  }
  if (wg == NWG) {   // activation loaders
    const int t = tid - NC;
    const int c0 = first_channel(p, n0) + chunk0 * BK;
    const half* src = p.src + b.image * l.image + c0;
    // pixels in registers: a whole share of most tiles
    constexpr int MOST = NT > 8 ? 0 : KS == 1 ? 4 * NWM : NWM == 1 ? 8 : 12;
    HaloPart<BK, LOADERS, MOST> part;
    if (KS == 3 || POINTS || MOST == 0) {
      build_halo<LOADERS / PLANES * LOADS, POINTS>(p, KS, table, oy0, ox0, t, LOADERS);
      bar_sync(1, LOADERS);
    }
    part.read(p, POINTS ? 0 : KS, table, ox0, src, c0, t);
    pdl_wait();
    part.load(p, src, c0, 0, table, activations, t);
    mbar_arrive_cp(full_a);
    int buffer = l.buffers > 1 ? 1 : 0, phase = buffer;
#pragma unroll 1
    for (int c = 1; c < chunks; c++) {
      if (c >= l.buffers) mbar_wait(empty_a + 8 * buffer, phase);
      part.load(p, src, c0, c, table, activations + buffer * chunk_bytes, t);
      mbar_arrive_cp(full_a + 8 * buffer);
      if (++buffer == l.buffers) buffer = 0, phase ^= 1;
    }
    if (l.trigger == TRIGGER_MID) pdl_launch();
    cp_wait<0>();
    if (split > 1) cluster_wait();
    return;
  }
  // consumers
  float acc[1][NT][4];
  const int wm = wg % NWM, wn = wg / NWM, m0 = wm * 64 + ((tid >> 5) & 3) * 16 + (lane >> 2);
  const int pixel[1][2] = {{out_pixel(p, KS, oy0, ox0, m0), out_pixel(p, KS, oy0, ox0, m0 + 8)}};
  pdl_wait();
  constexpr bool AHEAD = !LEAN && NWG < 4 && NT <= 8;   // more would not fit into the registers
  Addends<NT> addends = {};
  if (AHEAD && (p.pre_add || p.post))
    load_addends(addends, p, conv_target(p, l.image, b.image), pixel[0][0], n0 + wn * WN, lane, z, split);
  const uint32_t k_step = 2 * p.plane;
  const uint64_t a_tile =
      wgmma_operand(activations + out_slot(p, KS, wm * 64) * 16, p.plane, (KS == 1 || p.flat) ? 8 : p.stride * p.row);
  const uint64_t b_tile = wgmma_operand(weights + wn * WN * BK * 2, 8, PLANES * 8);
  int slot = 0, phase = 0, buffer = 0, a_phase = 0, last_slot = 0, last_buffer = 0, c = 0;
#pragma unroll 1
  do {   // chunks >= 1
    mbar_wait(full_a + 8 * buffer, a_phase);
    fence_async_proxy();   // cp.async data -> wgmma
    const uint64_t a_chunk = a_tile + ((buffer * chunk_bytes) >> 4);
#pragma unroll
    for (int t = 0; t < TAPS; t++) {
      const uint64_t a = a_chunk + (KS == 1 ? 0 : p.tap[t]), w = b_tile + ((slot * STAGE_BYTES) >> 4);
      mbar_wait(full_w + 8 * slot, phase);
      wgmma_fence();
#pragma unroll
      for (int kk = 0; kk < KK; kk++)
        wgmma<WN>(acc[0], a + kk * k_step, w + kk * 16, (t > 0 || kk > 0 || c > 0) ? 1 : 0);
      wgmma_commit();
      wgmma_wait<1>();
      if ((tid & 127) == 0) {   // the previous step is complete: release its buffers
        if (t > 0 || c > 0) mbar_arrive(empty_w + 8 * last_slot);
        if (t == 0 && c > 0) mbar_arrive(empty_a + 8 * last_buffer);
      }
      last_slot = slot;
      if (++slot == STAGES) slot = 0, phase ^= 1;
    }
    last_buffer = buffer;
    if (++buffer == l.buffers) buffer = 0, a_phase ^= 1;
  } while (++c < chunks);
  wgmma_wait<0>();
  if (l.trigger != TRIGGER_EARLY) pdl_launch();   // no effect if already triggered

  if (split > 1) {
    cluster_wait();   // the peers have started and set up their barrier (long since true)
    constexpr int QUADS = 4;
#pragma unroll
    for (int g = 0; g < G; g++) {
      const int r = g & (split - 1);
      if (r == z) continue;
      const int place = (z < r ? z : z - 1) * most_groups + (g >> shift);
      const uint32_t dst = mapa(bar + sums_at + (uint32_t)(place * QUADS * NC + tid) * 16, r), done = mapa(sums_bar, r);
#pragma unroll
      for (int j = 0; j < QUADS; j++) st_async_f4(dst + j * NC * 16, done, acc[0][g * QUADS + j]);
    }
    if (my_groups == 0) return;
    mbar_wait_cluster(sums_bar, 0);
#pragma unroll
    for (int g = 0; g < G; g++) {
      if ((g & (split - 1)) != z) continue;
      for (int i = 0; i < split - 1; i++) {
        const float4* s =
            reinterpret_cast<const float4*>(smem + sums_at) + (i * most_groups + (g >> shift)) * QUADS * NC + tid;
#pragma unroll
        for (int j = 0; j < QUADS; j++) {
          const float4 v = s[j * NC];
          float(&a)[4] = acc[0][g * QUADS + j];
          a[0] += v.x, a[1] += v.y, a[2] += v.z, a[3] += v.w;
        }
      }
    }
  }
  epilogue<Acts, AHEAD, 1, NT>(p, conv_target(p, l.image, b.image), acc, addends, bias + wn * WN, pixel, n0 + wn * WN,
                               lane, z, split);
#endif
}

// Names are conv_wg_<kernel>_<NWM>x<NWN>_<BN>x<BK>_<stages>, with _several for launches of several steps, _relu for ReLU
// and _gelu for GELU; <kernel> is 1s2 for 1x1 convolutions of stride 2. mod.rs lists them, too. BLOCKS: how many shall fit
// into the registers of an SM; those with _lean and _gelu take 72 registers at most. The other 1x1 kernels take 96, as many
// as 640 threads can have.
#define CONV_WG_THREADS(KS, NWM, NWN, BLOCKS) \
  (KS == 1 && BLOCKS == 1 && NWM * NWN <= 3 ? 640 : NWM * NWN * 128 + 160)
#define CONV_WG_KERNEL(NAME, SEVERAL, POINTS, LEAN, ACTS, KS, NWM, NWN, BN, BK, STAGES, BLOCKS) \
  KERNEL(NAME, ConvLaunch, CONV_WG_THREADS(KS, NWM, NWN, BLOCKS), BLOCKS) {                     \
    conv_wg<SEVERAL, POINTS, LEAN, ACTS, KS, NWM, NWN, BN, BK, STAGES>(p);                      \
  }
#define CONV_WG(KS, NWM, NWN, BN, BK, STAGES)                                                                          \
  CONV_WG_KERNEL(conv_wg_##KS##_##NWM##x##NWN##_##BN##x##BK##_##STAGES, false, false, false, Usual, KS, NWM, NWN, BN,  \
                 BK, STAGES, 1)                                                                                        \
  CONV_WG_KERNEL(conv_wg_##KS##_##NWM##x##NWN##_##BN##x##BK##_##STAGES##_several, true, false, false, Usual, KS, NWM,  \
                 NWN, BN, BK, STAGES, 1)                                                                               \
  CONV_WG_KERNEL(conv_wg_##KS##_##NWM##x##NWN##_##BN##x##BK##_##STAGES##_relu, false, false, false, OfRelu, KS, NWM,   \
                 NWN, BN, BK, STAGES, 1)
#define CONV_WG_LEAN(KS, NWM, NWN, BN, BK, STAGES, BLOCKS)                                                             \
  CONV_WG_KERNEL(conv_wg_##KS##_##NWM##x##NWN##_##BN##x##BK##_##STAGES##_lean, false, false, true, Usual, KS, NWM,     \
                 NWN, BN, BK, STAGES, BLOCKS)                                                                          \
  CONV_WG_KERNEL(conv_wg_##KS##_##NWM##x##NWN##_##BN##x##BK##_##STAGES##_lean_several, true, false, true, Usual, KS,   \
                 NWM, NWN, BN, BK, STAGES, BLOCKS)
#define CONV_WG_GELU(NWM, NWN, BN, BK, STAGES)                                                                        \
  CONV_WG_KERNEL(conv_wg_1_##NWM##x##NWN##_##BN##x##BK##_##STAGES##_gelu, false, false, true, OfGelu, 1, NWM, NWN, BN, \
                 BK, STAGES, 2)
#define CONV_WG_1S2(NWM, NWN, BN, BK, STAGES)                                                                          \
  CONV_WG_KERNEL(conv_wg_1s2_##NWM##x##NWN##_##BN##x##BK##_##STAGES, false, true, false, All, 1, NWM, NWN, BN, BK,     \
                 STAGES, 1)
typedef Activations<Silu, Identity> Usual;
typedef Activations<Relu> OfRelu;
typedef Activations<Gelu> OfGelu;
typedef Activations<Silu, Relu, Identity> All;
CONV_WG(1, 1, 1, 64, 64, 4)
CONV_WG(1, 1, 2, 64, 64, 4)
CONV_WG(1, 1, 2, 128, 64, 3)
CONV_WG(1, 1, 4, 256, 64, 3)
CONV_WG(3, 1, 1, 32, 64, 8)
CONV_WG(3, 1, 1, 64, 64, 8)
CONV_WG(3, 1, 2, 128, 64, 6)
CONV_WG(3, 1, 2, 256, 64, 3)
CONV_WG(3, 2, 2, 128, 64, 6)
CONV_WG(3, 4, 1, 32, 32, 4)
CONV_WG(3, 4, 1, 64, 32, 4)
CONV_WG(3, 4, 1, 64, 64, 4)
CONV_WG_1S2(1, 2, 64, 64, 4)
CONV_WG_1S2(1, 2, 128, 64, 3)
CONV_WG_1S2(1, 4, 256, 64, 3)
CONV_WG_LEAN(1, 1, 1, 64, 64, 4, 3)
CONV_WG_LEAN(1, 1, 2, 64, 64, 4, 2)
CONV_WG_LEAN(1, 1, 2, 128, 64, 3, 2)
CONV_WG_LEAN(3, 1, 1, 32, 64, 8, 3)
CONV_WG_LEAN(3, 1, 1, 64, 64, 5, 3)
CONV_WG_LEAN(3, 1, 2, 128, 64, 4, 2)
CONV_WG_GELU(1, 2, 64, 64, 4)
CONV_WG_GELU(1, 2, 128, 64, 3)
