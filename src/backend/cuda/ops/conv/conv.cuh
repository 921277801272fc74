// What conv_mma.cu, conv_wg.cu and conv_pp.cu share: the geometry of a tile, the loading of activations, the epilogue.
//
//   dst[y, x, n] = act( bias[n] + sum_{r, s, c} src[y S + r - P, x S + s - P, c] w[n, r, s, c] + pre[y, x, n] )
//                  + post[y, x, n]
//
// for 1x1 s1, 1x1 s2, 3x3 s1, 3x3 s2 (P = 1 for 3x3), and 4x4 s1 with P = 2 above and left, 1 below and right. The stem
// runs on cells of 2x2 pixels: a 7x7 s2 stem is a 4x4 s1 convolution of cells, a 6x6 s2 stem a 3x3 s1 one. src, dst,
// pre and post are channel slices of wider NHWC maps; pre may have half the height and width (nearest 2x upsampling) or
// be a constant table.
//
// GEMM view      M = output pixels, N = output channels, K = channels x taps, ordered (chunk of BK channels, tap,
//                channel). Pixels sit on M: an accumulator row then holds consecutive channels of one pixel, which is
//                the NHWC order.
//
// Tile           one block = tile_h x tile_w output pixels (BM in all) x BN channels. The input halo of the tile is
//                staged once a channel chunk and serves all nine taps: a tap is an offset added to a shared-memory
//                address.
//
//        halo of an 8x8 tile, 3x3 s1: 10 x 10 pixels      a chunk: [BK / 8 planes][plane slots][8 channels]
//          x x x x x x x x x x                              plane k8 = channels 8 k8 .., one 16-byte slot a halo pixel
//          x o o o o o o o o x                              8 neighbouring pixels = 128 contiguous bytes
//          x o o o o o o o o x   output row ty, tap (r, s):   = one 8x8 matrix of ldmatrix
//          x o o o o o o o o x   slots (ty + r) row + s ..    = one core matrix of wgmma
//                  ...                                      so no bank conflicts and no im2col copies, at any shift
//          x x x x x x x x x x
//
//                `plane` is odd: the eight 16-byte writes of one pixel (8 planes) then hit eight different bank groups.
//                3x3 s2: even and odd halo columns are stored apart, so 8 neighbouring outputs still read 8
//                neighbouring slots. flat (3x3 s1): the tile is BM consecutive positions of the map padded to width ow
//                + 2; exact on 20x20 (7 tiles of 64 instead of 9). 1x1: the map is one row of h w pixels; 1x1 s2: the
//                output is one row of oh ow pixels, and the halo table says where the input pixel of each lies.
//
// Weights        packed once at load: [chunk][tap][cout_pad / 8][BK / 8][8 n][8 k]. A pipeline stage of any BN is one
//                contiguous block and is already in core-matrix order. cout_pad = cout rounded up, filled with zeros.
//                Weights and bias before a SiLU are halved, see silu_of_half: this saves a multiplication in the
//                epilogue, which dominates small layers.
//
// Groups         a grouped convolution is a banded one: the BN output channels of a block read the input channels of
//                the groups they belong to, a window that starts at a multiple of 8 below the first of them; weights
//                outside the band are zeros. Chunks count from the window's start.
#pragma once
#include "conv.params.cuh"

// a / d for divisors whose magic = ceil(2^32 / d), while a < 2^32 / d.
DEVICE int fast_div(int a, unsigned magic) { return (int)__umulhi((unsigned)a, magic); }

// Where a block stands: which step of the launch, which image, which tile.
struct ConvBlock {
  int step, image, tile, n0;
};
// Blocks count [step][channel tile][image][pixel tile]; along x, or in a launch of one step x counts what a channel
// tile has and y channel tiles. Kernels for one step know its parameters' places in constant memory at compile time,
// which saves half of the instructions before the first load and in the epilogue.
template <bool SEVERAL, int BN> DEVICE ConvBlock conv_block(const ConvLaunch& l) {
  ConvBlock b;
  int at = (int)blockIdx.x, n = (int)blockIdx.y;
  b.step = 0;
  if (SEVERAL) {
#pragma unroll
    for (int i = 1; i < CONV_STEPS; i++)
      if (i < l.steps && at >= l.step[i].first_block) b.step = i;
    at -= l.step[b.step].first_block;
    const int row = l.step[b.step].tiles * l.images;
    n = at / row;
    at -= n * row;
  }
  const int tiles = l.step[SEVERAL ? b.step : 0].tiles;
  b.n0 = n * BN;
  b.image = l.images == 1 ? 0 : at / tiles;
  b.tile = at - b.image * tiles;
  return b;
}

// The row of tiles that a tile of the map belongs to.
DEVICE int tile_row(const ConvStep& p, int tile) { return p.tiles_x == 1 ? tile : fast_div(tile, p.div_tiles_x); }
// First input channel of the block's window; 0 unless grouped.
DEVICE int first_channel(const ConvStep& p, int n0) { return p.group ? (n0 / p.group * p.group) & ~7 : 0; }

#ifdef HAVE_WGMMA
// This block's share of the next launch's weights into L2; one thread calls it.
DEVICE void prefetch_next(const ConvLaunch& l) {
  if (!l.prefetch_bytes) return;
  const int blocks = gridDim.x * gridDim.y * gridDim.z,
            me = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const int share = ((l.prefetch_bytes + blocks - 1) / blocks + 127) & ~127, at = me * share;
  if (at < l.prefetch_bytes)
    prefetch_l2(reinterpret_cast<const char*>(l.prefetch) + at, min(share, l.prefetch_bytes - at));
}
#endif

// Slot (pixel index inside a plane) of halo pixel (hy, hx).
DEVICE int halo_slot(const ConvStep& p, int hy, int hx) {
  return p.stride == 1 ? hy * p.row + hx : hy * p.row + (hx & 1) * (p.tile_w + 1) + (hx >> 1);
}
// Slot of the top-left tap of output pixel m of the tile. `kernel` is p.kernel, a constant in kernels that serve one
// size only.
DEVICE int out_slot(const ConvStep& p, int kernel, int m) {
  if (kernel == 1 || p.flat) return m;
  const int ty = fast_div(m, p.div_tile_w), tx = m - ty * p.tile_w;
  return ty * p.stride * p.row + tx;
}
// Output pixel of tile row m as y * ow + x; -1 outside the map.
DEVICE int out_pixel(const ConvStep& p, int kernel, int oy0, int ox0, int m) {
  if (kernel == 1) return ox0 + m < p.oh * p.ow ? ox0 + m : -1;
  int oy, ox;
  if (p.flat) {
    const int q = ox0 + m;
    oy = fast_div(q, p.div_flat_w);
    ox = q - oy * (p.ow + 2);
  } else {
    const int ty = fast_div(m, p.div_tile_w);
    oy = oy0 + ty;
    ox = ox0 + m - ty * p.tile_w;
  }
  return oy < p.oh && ox < p.ow ? oy * p.ow + ox : -1;
}
// Loads of a thread in flight at a time, see load_activations.
constexpr int LOADS = 4;
// Entries of the halo table: one a pixel, to a multiple of ROUND.
template <int ROUND> DEVICE int halo_entries(const ConvStep& p) {
  return (p.halo_h * p.halo_w + ROUND - 1) / ROUND * ROUND;
}
// For every halo pixel: where it lies in src, in units of 8 channels, and the byte offset of its slot, plus 1 if it is
// inside the map. Pixels outside lie at 0, which is a safe address; entries beyond the halo have no slot, which is -1.
// POINTS: of a 1x1 convolution of stride 2.
template <int ROUND, bool POINTS = false>
DEVICE void build_halo(const ConvStep& p, int kernel, int2* table, int oy0, int ox0, int tid, int threads) {
  const int n = p.halo_h * p.halo_w, pad = kernel >> 1;
  for (int i = tid; i < halo_entries<ROUND>(p); i += threads) {
    const int hy = fast_div(i, p.div_halo_w), hx = i - hy * p.halo_w;
    int y = oy0 * p.stride - pad + hy, x = ox0 * p.stride - pad + hx;
    bool inside;
    if (POINTS) {             // entry i is output pixel ox0 + i
      const int q = ox0 + i;
      y = q / p.ow * 2;
      x = q % p.ow * 2;
      inside = q < p.oh * p.ow;
    } else if (kernel == 1) { // x runs over h * w
      y = 0;
      inside = x < p.h * p.w;
    } else {
      if (p.flat) {           // slot i = padded position ox0 + i
        const int q = ox0 + i;
        y = fast_div(q, p.div_flat_w);
        x = q - y * (p.ow + 2) - 1;
        y -= 1;
      }
      inside = (unsigned)y < (unsigned)p.h && (unsigned)x < (unsigned)p.w;
    }
    inside = inside && i < n;
    const int slot = kernel == 1 || p.flat ? i : halo_slot(p, hy, hx);
    table[i] = make_int2(inside ? (y * p.w + x) * (p.src_pitch >> 3) : 0, i < n ? slot * 16 + inside : -1);
  }
}
DEVICE void load_slot(int2 entry, const half* src, int real, uint32_t planes) {
  if (entry.y >= 0)
    cp16(planes + (uint32_t)(entry.y & ~1),
         reinterpret_cast<const char*>(src) + (unsigned long long)(unsigned)entry.x * 16, entry.y & real ? 16 : 0);
}
// Starts copying a chunk of BK channels of the halo, which begins at `src` and is channel `c` of cin, into a chunk
// buffer; channels beyond cin become zeros. With few warps an SM this code is bound by latency. It therefore takes few
// instructions a copy, and reads the table for LOADS copies at once.
template <int BK, int THREADS>
DEVICE void load_activations(const ConvStep& p, const half* src, int c, const int2* table, uint32_t buffer, int tid) {
  constexpr int PLANES = BK / 8, STEP = THREADS / PLANES;
  const int k8 = tid % PLANES, real = c + k8 * 8 < p.cin, n = halo_entries<STEP * LOADS>(p);
  src += real ? k8 * 8 : -c;
  const uint32_t planes = buffer + (uint32_t)(k8 * p.plane * 16);
#pragma unroll 1
  for (int pixel = tid / PLANES; pixel < n; pixel += STEP * LOADS) {
    int2 e[LOADS];
#pragma unroll
    for (int i = 0; i < LOADS; i++) e[i] = table[pixel + i * STEP];
#pragma unroll
    for (int i = 0; i < LOADS; i++) load_slot(e[i], src, real, planes);
  }
}
// The same for warps that do nothing else: a thread keeps its share of the halo, up to MOST pixels, in registers, as
// addresses that are ready before the wait for the kernel before. Larger shares are read from the table again and again.
template <int BK, int THREADS, int MOST> struct HaloPart {
  static constexpr int PLANES = BK / 8, STEP = THREADS / PLANES, KEPT = MOST ? MOST : 1;
  static_assert(MOST % LOADS == 0, "whole rounds");
  const char* from[KEPT];   // this thread's 8 channels of the first chunk
  int to[KEPT];             // their byte in a chunk buffer, plus 1 if they are in the map; -1: none
  // `src` and `c0`: the first chunk's first channel. A 1x1 convolution needs no table: pixel i of the tile is pixel
  // x0 + i of the map.
  DEVICE void read(const ConvStep& p, int kernel, const int2* table, int x0, const half* src, int c0, int tid) {
    const int k8 = tid % PLANES, real = c0 + k8 * 8 < p.cin, plane = k8 * p.plane * 16;
    const char* first = reinterpret_cast<const char*>(src + (real ? k8 * 8 : 0));
    uint32_t all = 0;
#pragma unroll
    for (int i = 0; i < MOST; i++) {
      const int pixel = tid / PLANES + i * STEP;
      int2 entry;
      if (kernel == 1) {
        const bool inside = x0 + pixel < p.h * p.w;
        entry = make_int2(inside ? (x0 + pixel) * (p.src_pitch >> 3) : 0, pixel * 16 + inside);
      } else entry = pixel < halo_entries<STEP * LOADS>(p) ? table[pixel] : make_int2(0, -1);
      from[i] = first + (unsigned long long)(unsigned)entry.x * 16;
      to[i] = entry.y < 0 ? -1 : plane + (real ? entry.y : entry.y & ~1);
      all ^= (uint32_t)reinterpret_cast<uintptr_t>(from[i]) ^ (uint32_t)to[i];
    }
    if (MOST) force_here(all);
  }
  // Chunk `c` of those that the block does.
  DEVICE void load(const ConvStep& p, const half* src, int c0, int c, const int2* table, uint32_t buffer,
                   int tid) const {
    const int n = p.halo_h * p.halo_w;
    if (MOST == 0 || n > STEP * MOST)
      return load_activations<BK, THREADS>(p, src + c * BK, c0 + c * BK, table, buffer, tid);
    const int real = c == 0 || c0 + c * BK + tid % PLANES * 8 < p.cin, ahead = real ? c * BK * 2 : 0;
#pragma unroll
    for (int i = 0; i < MOST; i += LOADS)
      if (i * STEP < n)
#pragma unroll
        for (int j = i; j < i + LOADS; j++)
          if (to[j] >= 0) cp16(buffer + (uint32_t)(to[j] & ~1), from[j] + ahead, to[j] & real ? 16 : 0);
  }
};

// 4x4 word transpose inside each quad of lanes: word j of lane q becomes word q of lane j. Its own inverse. Turns four
// n8 accumulator tiles (2 channels of each) into 8 consecutive channels a lane.
DEVICE void quad_transpose(uint32_t (&w)[4], int q) {
  uint32_t a = (q & 1) ? w[0] : w[1], b = (q & 1) ? w[2] : w[3];
  a = __shfl_xor_sync(~0u, a, 1);
  b = __shfl_xor_sync(~0u, b, 1);
  if (q & 1) w[0] = a, w[2] = b; else w[1] = a, w[3] = b;
  a = (q & 2) ? w[0] : w[2];
  b = (q & 2) ? w[1] : w[3];
  a = __shfl_xor_sync(~0u, a, 2);
  b = __shfl_xor_sync(~0u, b, 2);
  if (q & 2) w[0] = a, w[1] = b; else w[2] = a, w[3] = b;
}
// Activations of the sums. The host has scaled weights and bias by SCALE (`scale` in ops/conv/activation.rs); an addend
// is scaled here. ADDS: for how many kinds of addends (enum Add) there is code of its own, see for_step.
struct Identity {
  static constexpr int CODE = ACTIVATION_NONE, ADDS = 1;
  static constexpr float SCALE = 1.f;
  DEVICE static float of(float x) { return x; }
};
struct Silu {
  static constexpr int CODE = ACTIVATION_SILU, ADDS = 2;
  static constexpr float SCALE = 0.5f;
  DEVICE static float of(float x) { return silu_of_half(x); }
};
struct Gelu {
  static constexpr int CODE = ACTIVATION_GELU, ADDS = 0;
  static constexpr float SCALE = 1.f;
  DEVICE static float of(float x) { return gelu(x); }
};
struct Relu {   // NaN stays NaN
  static constexpr int CODE = ACTIVATION_RELU, ADDS = 1;
  static constexpr float SCALE = 1.f;
  DEVICE static float of(float x) { return x < 0.f ? 0.f : x; }
};
// Which of them a kernel is compiled for.
template <class... Each> struct Activations {};
// 8 channels of an addend at `pixel`, zeros outside the map or beyond cout.
DEVICE void load_addend(uint32_t (&v)[4], const half* map, int pixel, int pitch, int n, bool real) {
  uint4 u = make_uint4(0, 0, 0, 0);
  if (real) u = *reinterpret_cast<const uint4*>(map + (long long)pixel * pitch + n);
  v[0] = u.x, v[1] = u.y, v[2] = u.z, v[3] = u.w;
}
// Where the addend before the activation of pixel `px` of the output lies in its map.
DEVICE int addend_pixel(const ConvStep& p, int px) {
  if (p.pre_add != PRE_ADD_UPSAMPLED || px < 0) return px;
  const int y = px / p.ow, x = px - y * p.ow;
  return (y >> 1) * ((p.ow + 1) >> 1) + (x >> 1);
}
// Where the addends and the result of the block's image lie.
struct ConvTarget {
  const half *pre, *post;
  half* dst;
};
DEVICE ConvTarget conv_target(const ConvStep& p, long long image_pitch, int image) {
  return {p.pre ? p.pre + image * p.pre_image : nullptr, p.post ? p.post + image * image_pitch : nullptr,
          p.dst + image * image_pitch};
}
// What is added to NT n8 tiles of one row of accumulators.
template <int NT> struct Addends { uint32_t v[NT / 4][4]; };
// Which addends an epilogue is compiled for; ANY looks at the step. Branches inside it would cost time: its code runs
// once, so its instructions miss the cache.
enum Add { ADD_NONE, ADD_POST, ADD_ANY };

// The addends of pixel `px`: those after the activation if there are any, else those before it. Groups of four tiles
// are dealt round-robin to `parts` (a power of two) split-K ranks.
template <int NT>
DEVICE void load_addends(Addends<NT>& a, const ConvStep& p, const ConvTarget& t, int px, int n0, int lane, int part,
                         int parts, int from = 0, int to = NT / 4) {
  const half* map = t.post ? t.post : t.pre;
  const int pitch = t.post ? p.post_pitch : p.pre_pitch, at = t.post ? px : addend_pixel(p, px);
#pragma unroll
  for (int g = from; g < to; g++) {
    const int n = n0 + g * 32 + (lane & 3) * 8;
    load_addend(a.v[g], map, at, pitch, n, map && px >= 0 && n < p.cout && (g & (parts - 1)) == part);
  }
}
// One warp finishes NT n8 tiles of one row of 8 pixels: h = 0 or 1 of its accumulators.
template <class Act, int ADD, int NT>
DEVICE void epilogue_row(const ConvStep& p, const ConvTarget& t, float (&acc)[NT][4], int h, const Addends<NT>& addends,
                         const float* bias, int px, int n0, int lane, int part, int parts, int from = 0,
                         int to = NT / 4) {
  static_assert(NT % 4 == 0, "a lane stores 8 channels of four n8 tiles");
  const int q = lane & 3;
  const bool pre_add = ADD == ADD_ANY && p.pre_add, post_add = ADD == ADD_POST || (ADD == ADD_ANY && t.post);
  half* dst = t.dst + (long long)px * p.dst_pitch + n0 + q * 8;
#pragma unroll
  for (int g = from; g < to; g++) {
    if ((g & (parts - 1)) != part) continue;
    const int n = n0 + g * 32 + q * 8;
    const bool real = px >= 0 && n < p.cout;
    uint32_t w[4], pre[4];
    if (pre_add) {
      if (post_add) load_addend(pre, t.pre, addend_pixel(p, px), p.pre_pitch, n, real);
      else
#pragma unroll
        for (int j = 0; j < 4; j++) pre[j] = addends.v[g][j];
      quad_transpose(pre, q);   // back into the order of the accumulators
    }
#pragma unroll
    for (int j = 0; j < 4; j++) {
      float x = acc[g * 4 + j][h * 2], y = acc[g * 4 + j][h * 2 + 1];
      if (bias) {
        const float2 b = *reinterpret_cast<const float2*>(bias + (g * 4 + j) * 8 + q * 2);
        x += b.x, y += b.y;
      }
      if (pre_add) {
        const float2 a = unpack2(pre[j]);
        if (Act::SCALE != 1.f) x = fmaf(Act::SCALE, a.x, x), y = fmaf(Act::SCALE, a.y, y);
        else x += a.x, y += a.y;
      }
      w[j] = pack2(Act::of(x), Act::of(y));
    }
    quad_transpose(w, q);
    if (post_add) {
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const float2 a = unpack2(w[j]), b = unpack2(addends.v[g][j]);
        w[j] = pack2(a.x + b.x, a.y + b.y);
      }
    }
    if (real) *reinterpret_cast<uint4*>(dst + g * 32) = make_uint4(w[0], w[1], w[2], w[3]);
  }
}
// AHEAD: `first` holds the addends of the first row, and those of each other row come a row early. Otherwise, to save
// registers, they are loaded 32 channels at a time, where they are used.
template <class Act, int ADD, bool AHEAD, int MT, int NT>
DEVICE void epilogue_rows(const ConvStep& p, const ConvTarget& t, float (&acc)[MT][NT][4], const Addends<NT>& first,
                          const float* bias, const int (&pixel)[MT][2], int n0, int lane, int part, int parts) {
  Addends<NT> row = first, next = first;
#pragma unroll
  for (int i = 0; i < 2 * MT; i++) {
    const int px = pixel[i / 2][i % 2];
    if (AHEAD || ADD == ADD_NONE) {
      if (ADD != ADD_NONE && i + 1 < 2 * MT)
        load_addends(next, p, t, pixel[(i + 1) / 2][(i + 1) % 2], n0, lane, part, parts);
      epilogue_row<Act, ADD, NT>(p, t, acc[i / 2], i % 2, row, bias, px, n0, lane, part, parts);
      row = next;
    } else {
#pragma unroll
      for (int g = 0; g < NT / 4; g++) {
        load_addends(row, p, t, px, n0, lane, part, parts, g, g + 1);
        epilogue_row<Act, ADD, NT>(p, t, acc[i / 2], i % 2, row, bias, px, n0, lane, part, parts, g, g + 1);
      }
    }
  }
}
template <int N> struct Constant { static constexpr int value = N; };
template <class Act, class Rows> DEVICE void for_addends(const ConvStep& p, const ConvTarget& t, const Rows& rows) {
  if (Act::ADDS >= 1 && !p.pre_add && !t.post) rows(Act(), Constant<ADD_NONE>());
  else if (Act::ADDS >= 2 && !p.pre_add) rows(Act(), Constant<ADD_POST>());
  else rows(Act(), Constant<ADD_ANY>());
}
// Calls `rows` with the step's activation and addends as constants. The step's activation is one of those listed.
template <class Rows, class Act, class... Others>
DEVICE void for_step(Activations<Act, Others...>, const ConvStep& p, const ConvTarget& t, const Rows& rows) {
  if constexpr (sizeof...(Others) == 0) for_addends<Act>(p, t, rows);
  else if (p.act == Act::CODE) for_addends<Act>(p, t, rows);
  else for_step(Activations<Others...>(), p, t, rows);
}
// Finishes a tile.
template <class Acts, bool AHEAD, int MT, int NT>
DEVICE void epilogue(const ConvStep& p, const ConvTarget& t, float (&acc)[MT][NT][4], const Addends<NT>& first,
                     const float* bias, const int (&pixel)[MT][2], int n0, int lane, int part, int parts) {
  for_step(Acts(), p, t, [&](auto act, auto add) {
    epilogue_rows<decltype(act), decltype(add)::value, AHEAD, MT, NT>(p, t, acc, first, bias, pixel, n0, lane, part,
                                                                      parts);
  });
}
