// Architecture: sm_90a
//
// Convolution on Hopper's warpgroup tensor cores (sm_90a) for maps of many tiles. See conv.cuh for the maths, the
// layout and the tile.
//
// conv_wg.cu starts a block for each tile. Before its first products (barriers, halo table, first loads) and in its
// epilogue a block leaves the tensor cores idle, for as long as the products of a layer with few channels take. Here a
// block stays until the map is done, and its warpgroups play ping-pong: while one finishes a tile, the products of the
// others keep the tensor cores busy, and the loaders fetch the next operands.
//
//   NWG consumer warpgroups (each a tile of its own: 64 pixels, all BN channels) |
//   NWG activation loader warps | 1 weight loader warp
//
// NWG is 3 at most: with the loaders that makes 16 warps, and 128 registers a thread. At BN = 256 it is 2, and the
// loaders (one warp of them idle) give registers away.
//
// Rounds         a block has one channel tile and a run of pixel tiles, over the images. In a round warpgroup w takes
//                the tile `first + w`; there are as few rounds as can be, and their sizes are within one of each other,
//                the larger ones first. So a warpgroup that has no tile in a round has none in later ones.
// Weights        one ring of stages for all warpgroups, because of L2's bandwidth. A step (a tap of a chunk of 64
//                channels) of a tile of 64 x BN is 2 BN cycles of products on 128 BN bytes of weights: 64 bytes a cycle
//                if each tile loaded its own, and L2 gives an SM 42-57. Three warpgroups that share them need 21, two
//                32. Activations come to that: of a 3x3 at BN = 128 5.6 bytes a cycle (12.9 KB a chunk of 2304 cycles),
//                of a 1x1 32 (8 KB a chunk of 256 cycles), at BN = 256 16. wgmma itself reads 96 bytes of shared memory
//                a cycle at BN = 128, 80 at 256, and at 64 all 128 that there are. The ring is also the slack between
//                the warpgroups: one may be as many stages ahead of another, and that is how they finish their tiles
//                one after the other. If all steps of a tile fit into it, the weights stay: each stage is loaded once,
//                and the loader waits for none.
// Activations    a ring of `buffers` chunks and a loader warp for each warpgroup. Where a pixel lies is computed anew
//                for each chunk, in about as many instructions as looking it up would take.
// Barriers       full_w[stage]: the weight loader and its bytes. empty_w[stage]: one arrival a warpgroup, by its leader
//                (thread 0), also of those that have no tile in the last rounds. full_a[w][buffer]: 32 lanes.
//                empty_a[w][buffer]: warpgroup w. A step's buffers are released when it is complete and the next step
//                has been issued; a tile's last ones before its epilogue. A waiter sees only the parity of a phase. It
//                must therefore keep the phase after next from completing, or it could miss one.
// Dependence     as in conv_wg.cu: loaders and consumers wait for earlier kernels once, before the first load and the
//                first result.
// Pitfalls       those of conv_wg.cu; the accumulators must be undefined at the start of each round, or the epilogue
//                could not reuse their registers.
#include "conv.cuh"

#ifdef HAVE_WGMMA
constexpr int PP_STAGES = 24, PP_BUFFERS = 16;   // at most; the buffers of all warpgroups together

// The tiles of a block: those of this round are first .. first + count() - 1.
struct Rounds {
  int first, left, each, larger;   // rounds left; tiles of each, and how many of them have one more
  DEVICE int count() const { return each + (larger > 0 ? 1 : 0); }
  DEVICE void next() { first += count(), left--, larger--; }
};
template <int NWG> DEVICE Rounds rounds_of_block(const ConvLaunch& l) {
  const int tiles = l.step[0].tiles * l.images, blocks = (int)gridDim.x, b = (int)blockIdx.x;
  const int share = tiles / blocks, rest = tiles - share * blocks, n = share + (b < rest ? 1 : 0);
  Rounds r;
  r.first = b * share + min(b, rest);
  r.left = (n + NWG - 1) / NWG;
  r.each = n / r.left;
  r.larger = n - r.each * r.left;
  return r;
}
struct TilePlace {
  int image, oy0, ox0;
};
template <int KS> DEVICE TilePlace tile_place(const ConvLaunch& l, int tile) {
  const ConvStep& p = l.step[0];
  TilePlace t;
  t.image = l.images == 1 ? 0 : tile / p.tiles;
  tile -= t.image * p.tiles;
  const int y = KS == 1 ? 0 : tile_row(p, tile);
  t.oy0 = y * p.tile_h, t.ox0 = (tile - y * p.tiles_x) * p.tile_w;
  return t;
}

// Starts copying a chunk of BK channels of a tile's halo, of which `left` are real, from `src` on, where the image's
// pixel 0 has the first of them. One warp: a lane copies 8 channels of every STEP-th pixel. Source addresses outside
// the map are not read.
template <int BK, int STRIDE>
DEVICE void load_halo(const ConvStep& p, const TilePlace& at, const half* src, int left, uint32_t buffer, int lane) {
  constexpr int PLANES = BK / 8, STEP = 32 / PLANES;
  const bool flat = STRIDE == 1 && p.flat;
  // Pixel i of the halo is pixel `begin + i` of rows of `width` from (y0, x0) on.
  const int y0 = flat ? -1 : at.oy0 * STRIDE - 1, x0 = flat ? -1 : at.ox0 * STRIDE - 1;
  const unsigned begin = flat ? at.ox0 : 0, width = flat ? p.ow + 2 : p.halo_w,
                 div = flat ? p.div_flat_w : p.div_halo_w;
  const int k8 = lane % PLANES, n = p.halo_h * p.halo_w, w = p.w, pitch = p.src_pitch * 2;
  const unsigned rows = k8 * 8 < left ? p.h : 0;
  const char* corner = reinterpret_cast<const char*>(src + (long long)(y0 * w + x0) * p.src_pitch + k8 * 8);
  const uint32_t plane = buffer + (uint32_t)(k8 * p.plane * 16);
#pragma unroll 1
  for (int first = lane / PLANES; first < n; first += STEP * LOADS) {
    uint32_t to[LOADS];
    unsigned offset[LOADS];
    bool inside[LOADS];
#pragma unroll
    for (int j = 0; j < LOADS; j++) {
      const int i = first + j * STEP;
      const unsigned hy = __umulhi(begin + i, div), hx = begin + i - hy * width;
      to[j] = plane + (STRIDE == 1 ? i : halo_slot(p, hy, hx)) * 16;
      offset[j] = hy * w + hx;
      inside[j] = (unsigned)(y0 + hy) < rows && (unsigned)(x0 + hx) < (unsigned)w;
    }
#pragma unroll
    for (int j = 0; j < LOADS; j++)
      if (first + j * STEP < n)
        cp16(to[j], corner + (unsigned long long)offset[j] * (unsigned)pitch, inside[j] ? 16 : 0);
  }
}
// The same of a 1x1 tile, in fewer instructions: a chunk of 64 channels is 256 cycles of products at BN = 128.
template <int BK>
DEVICE void load_pixels(const ConvStep& p, const TilePlace& at, const half* src, int left, uint32_t buffer, int lane) {
  constexpr int PLANES = BK / 8, STEP = 32 / PLANES;
  const int k8 = lane % PLANES, x = at.ox0 + lane / PLANES;
  const int pixels = k8 * 8 < left ? p.h * p.w - x : 0;   // that lie in the map, from the first one on
  const char* from = reinterpret_cast<const char*>(src + (long long)x * p.src_pitch + k8 * 8);
  const uint32_t to = buffer + (uint32_t)((k8 * p.plane + lane / PLANES) * 16);
#pragma unroll
  for (int i = 0; i < 64; i += STEP) {
    cp16(to + i * 16, from, i < pixels ? 16 : 0);
    from += STEP * p.src_pitch * 2;
  }
}

// Finishes a tile: 2 rows of groups of 32 channels. Each group that is finished frees the registers of its sums, which
// is room for the addends of two more.
template <class Act, int ADD, int NT>
DEVICE void finish_rows(const ConvStep& p, const ConvTarget& t, float (&acc)[NT][4], const float* bias,
                        const int (&pixel)[2], int n0, int lane) {
  constexpr int G = NT / 4;
  Addends<NT> addends[2];
  auto load = [&](int i) {
    if (ADD != ADD_NONE && i < 2 * G)
      load_addends(addends[i / G], p, t, pixel[i / G], n0, lane, 0, 1, i % G, i % G + 1);
  };
  if (ADD == ADD_POST) load(0), load(1), load(2);
#pragma unroll
  for (int i = 0; i < 2 * G; i++) {
    if (ADD == ADD_ANY) load(i);
    epilogue_row<Act, ADD, NT>(p, t, acc, i / G, addends[i / G], bias, pixel[i / G], n0, lane, 0, 1, i % G, i % G + 1);
    if (ADD == ADD_POST) load(i + 3);
  }
}
#endif

template <int KS, int NWG, int BN, int BK> DEVICE void conv_pp(const ConvLaunch& l) {
#ifdef HAVE_WGMMA
  constexpr int NC = NWG * 128, NT = BN / 8, KK = BK / 16, PLANES = BK / 8, STAGE_BYTES = BN * BK * 2, TAPS = KS * KS;
  constexpr int BARRIER_BYTES = 16 * (PP_STAGES + PP_BUFFERS);
  static_assert(NWG <= 3, "a loader warp each, and one for the weights");
  SHARED_MEMORY(smem);
  const ConvStep& p = l.step[0];
  const int tid = threadIdx.x, lane = tid & 31, wg = __shfl_sync(~0u, tid >> 7, 0);
  const int n0 = (int)blockIdx.y * BN, chunks = p.chunks, steps = chunks * TAPS, stages = l.stages, buffers = l.buffers;
  const bool stay = steps <= stages;   // the weights, see above
  const uint32_t chunk_bytes = p.plane * 16 * PLANES;
  // shared memory: [barriers][weight stages][activation buffers of each warpgroup][bias]
  const uint32_t bar = smem_u32(smem), full_w = bar, empty_w = full_w + 8 * PP_STAGES, full_a = empty_w + 8 * PP_STAGES,
                 empty_a = full_a + 8 * PP_BUFFERS;
  const uint32_t weights = bar + BARRIER_BYTES, activations = weights + stages * STAGE_BYTES;
  const uint32_t bias_at = activations + NWG * buffers * chunk_bytes - bar;

  // Two threads initialise all barriers, also those that this launch does not have: constant addresses, no loop, one fence
  // each. Barriers at addresses that differ from lane to lane would be initialised one after the other in a loop.
  if (tid == 0) {
#pragma unroll
    for (int i = 0; i < PP_STAGES; i++) {
      mbar_init(full_w + 8 * i, 1);
      mbar_init(empty_w + 8 * i, NWG);
    }
    mbar_fence_init();
  } else if (tid == 32) {
#pragma unroll
    for (int i = 0; i < PP_BUFFERS; i++) {
      mbar_init(full_a + 8 * i, 32);
      mbar_init(empty_a + 8 * i, 1);
    }
    mbar_fence_init();
  }
  if (l.trigger == TRIGGER_EARLY) pdl_launch();
  __syncthreads();

  if (wg == NWG) {
    if (BN == 256) registers_less<56>();
    const int w = __shfl_sync(~0u, (tid - NC) >> 5, 0);
    if (w == 3) {   // weight loader: one thread, the bias with the first stage
      if (lane == 0) {
        const long long stage = (long long)p.cout_pad * BK * 2;
        const char* start = reinterpret_cast<const char*>(p.weight) + (long long)n0 * BK * 2;
        const int loads = stay ? steps : steps * rounds_of_block<NWG>(l).left;
        int slot = 0, phase = 1, step = 0;
        for (int j = 0; j < loads; j++) {
          if (j >= stages) mbar_wait(empty_w + 8 * slot, phase);
          mbar_expect(full_w + 8 * slot, STAGE_BYTES + (j == 0 ? BN * 4 : 0));
          if (j == 0) bulk_copy(bar + bias_at, p.bias + n0, BN * 4, full_w);
          bulk_copy(weights + slot * STAGE_BYTES, start + step * stage, STAGE_BYTES, full_w + 8 * slot);
          if (++step == steps) step = 0;
          if (++slot == stages) slot = 0, phase ^= 1;
        }
        prefetch_next(l);
      }
    } else if (w < NWG) {   // activation loader of warpgroup w
      const int c0 = first_channel(p, n0);
      int place = w * buffers, phase = 1, loaded = 0;
      pdl_wait();
#pragma unroll 1
      for (Rounds r = rounds_of_block<NWG>(l); r.left > 0 && w < r.count(); r.next()) {
        const TilePlace at = tile_place<KS>(l, r.first + w);
        const half* src = p.src + at.image * l.image + c0;
#pragma unroll 1
        for (int c = 0; c < chunks; c++, src += BK) {
          const uint32_t buffer = activations + place * chunk_bytes;
          const int left = p.cin - c0 - c * BK;
          if (loaded++ >= buffers) mbar_wait(empty_a + 8 * place, phase);
          if (KS == 1) load_pixels<BK>(p, at, src, left, buffer, lane);
          else if (p.stride == 1) load_halo<BK, 1>(p, at, src, left, buffer, lane);
          else load_halo<BK, 2>(p, at, src, left, buffer, lane);
          mbar_arrive_cp(full_a + 8 * place);
          if (++place == (w + 1) * buffers) place = w * buffers, phase ^= 1;
        }
      }
      if (l.trigger == TRIGGER_MID) pdl_launch();
      cp_wait<0>();
    }
    return;
  }
  // consumers
  if (BN == 256) registers_more<224>();   // what the loaders give back is enough for that
  pdl_wait();
  const uint32_t k_step = 2 * p.plane, my_full = full_a + 8 * wg * buffers, my_empty = empty_a + 8 * wg * buffers;
  const uint64_t a_tile =
      wgmma_operand(activations + wg * buffers * chunk_bytes, p.plane, (KS == 1 || p.flat) ? 8 : p.stride * p.row);
  const uint64_t b_tile = wgmma_operand(weights, 8, PLANES * 8);
  const bool leader = (tid & 127) == 0;
  int slot = 0, phase = 0, buffer = 0, a_phase = 0;
  Rounds r = rounds_of_block<NWG>(l);
  // Staggered: each warpgroup starts a stage (of 64 channels) after the one before it, while the first weights still
  // arrive.
  if (wg < r.count()) mbar_wait(full_w + 8 * min(wg * (64 / BK), min(stages, steps) - 1), 0);
#pragma unroll 1
  for (; r.left > 0; r.next()) {
    // No more tiles: the leader lets the weights pass. Other threads could miss a phase, since they do not hold it up.
    if (wg >= r.count()) {
      if (stay || !leader) break;
#pragma unroll 1
      for (int j = r.left * steps; j > 0; j--) {
        mbar_wait(full_w + 8 * slot, phase);
        mbar_arrive(empty_w + 8 * slot);
        if (++slot == stages) slot = 0, phase ^= 1;
      }
      break;
    }
    float acc[NT][4];
    int last_slot = 0, last_buffer = 0, c = 0;
#pragma unroll 1
    do {   // chunks >= 1
      mbar_wait(my_full + 8 * buffer, a_phase);
      fence_async_proxy();   // cp.async data -> wgmma
      const uint64_t a_chunk = a_tile + ((buffer * chunk_bytes) >> 4);
#pragma unroll
      for (int t = 0; t < TAPS; t++) {
        const uint64_t a = a_chunk + (KS == 1 ? 0 : p.tap[t]), w = b_tile + ((slot * STAGE_BYTES) >> 4);
        mbar_wait(full_w + 8 * slot, phase);
        wgmma_fence();
#pragma unroll
        for (int kk = 0; kk < KK; kk++)
          wgmma<BN>(acc, a + kk * k_step, w + kk * 16, (t > 0 || kk > 0 || c > 0) ? 1 : 0);
        wgmma_commit();
        wgmma_wait<1>();
        if (leader) {   // the previous step is complete: release its buffers
          if (t > 0 || c > 0) mbar_arrive(empty_w + 8 * last_slot);
          if (t == 0 && c > 0) mbar_arrive(my_empty + 8 * last_buffer);
        }
        last_slot = slot;
        if (++slot == stages) slot = 0, phase ^= stay ? 0 : 1;
      }
      last_buffer = buffer;
      if (++buffer == buffers) buffer = 0, a_phase ^= 1;
    } while (++c < chunks);
    const TilePlace at = tile_place<KS>(l, r.first + wg);
    const int m0 = ((tid >> 5) & 3) * 16 + (lane >> 2);
    const int pixel[2] = {out_pixel(p, KS, at.oy0, at.ox0, m0), out_pixel(p, KS, at.oy0, at.ox0, m0 + 8)};
    wgmma_wait<0>();
    if (leader) {
      mbar_arrive(empty_w + 8 * last_slot);
      mbar_arrive(my_empty + 8 * last_buffer);
    }
    if (l.trigger != TRIGGER_EARLY && r.left == 1) pdl_launch();   // no effect if already triggered
    const float* bias = reinterpret_cast<const float*>(smem + bias_at);
    const ConvTarget target = conv_target(p, l.image, at.image);
    for_step(Activations<Silu, Identity>(), p, target, [&](auto act, auto add) {
      finish_rows<decltype(act), decltype(add)::value, NT>(p, target, acc, bias, pixel, n0, lane);
    });
  }
#endif
}

// Names are conv_pp_<kernel>_<NWG>_<BN>x<BK>; mod.rs lists them, too.
#define CONV_PP(KS, NWG, BN, BK) \
  KERNEL(conv_pp_##KS##_##NWG##_##BN##x##BK, ConvLaunch, NWG * 128 + 128, 1) { conv_pp<KS, NWG, BN, BK>(p); }
CONV_PP(1, 3, 128, 64)
CONV_PP(1, 2, 256, 64)
CONV_PP(3, 3, 64, 16)
CONV_PP(3, 3, 64, 64)
CONV_PP(3, 3, 128, 32)
CONV_PP(3, 3, 128, 64)
CONV_PP(3, 2, 256, 32)
