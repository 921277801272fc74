// The machine instructions that the kernels use, one thin wrapper each.
//
// nvcc sees inline PTX. With RTMO_EMULATOR defined a host C++ compiler sees the same names with the same meaning
// from tests/cuda_emu/emu.hpp, so that every kernel file also runs, unchanged, on a machine without a GPU.
#pragma once
#include <stdint.h>

#ifdef RTMO_EMULATOR
#include "emu.hpp"
// The emulator's arrive always releases.
inline void cluster_arrive_relaxed() { cluster_arrive(); }
#else
#include <cuda_fp16.h>

typedef __half half;

// A kernel: C linkage (looked up by name at run time) and exactly one parameter struct.
#define KERNEL(name, Params, threads, blocks_per_sm) \
  extern "C" __global__ void __launch_bounds__(threads, blocks_per_sm) name(const __grid_constant__ Params p)
// Dynamic shared memory, the only kind that the kernels use.
#define SHARED_MEMORY(smem) extern __shared__ __align__(128) unsigned char smem[]
#define DEVICE __device__ __forceinline__

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#define HAVE_SM80 1      // asynchronous copies, 16-deep matrix products
#endif
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define HAVE_SM90 1      // clusters, mbarriers with transactions, programmatic dependent launch
#endif
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HAVE_WGMMA 1     // warpgroup matrix products
#endif

// ---- shared-memory addresses, barriers -----------------------------------------------------------------------

DEVICE uint32_t smem_u32(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }
// Barrier `id` (1..15) among `n` threads of the block.
DEVICE void bar_sync(int id, int n) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(n) : "memory"); }

// ---- programmatic dependent launch -----------------------------------------------------------------------------

// Lets the next kernel of the stream start its independent part.
DEVICE void pdl_launch() {
#ifdef HAVE_SM90
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
// Returns when all earlier kernels have finished and their writes are visible. Every thread that touches memory
// which an earlier kernel writes or reads must call it first.
DEVICE void pdl_wait() {
#ifdef HAVE_SM90
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// ---- asynchronous copies, global to shared (sm_80; older GPUs copy at once) ----------------------------------

// 16 bytes; `bytes` is 16, or 0 to fill with zeros (the source is not read then).
DEVICE void cp16(uint32_t dst, const void* src, int bytes) {
#ifdef HAVE_SM80
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(dst), "l"(src), "r"(bytes) : "memory");
#else
  // No kernel copies what it writes, so the loads may be issued ahead of earlier copies' stores.
  const uint4 v = bytes ? __ldg(static_cast<const uint4*>(src)) : make_uint4(0, 0, 0, 0);
  asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(dst), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
#endif
}
DEVICE void cp_commit() {
#ifdef HAVE_SM80
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Waits until at most N of this thread's groups are in flight.
template <int N> DEVICE void cp_wait() {
#ifdef HAVE_SM80
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

// Compiler barrier for one value: forces `value` to be computed before this point. Without it the compiler moves
// address and other arithmetic behind `griddepcontrol.wait`, to where the result is used. The instruction is predicated
// and never executes: no kernel computes the magic number.
DEVICE void force_here(uint32_t value) {
  asm volatile("{.reg .pred p; setp.eq.b32 p, %0, 0x7fc0dead; @p nanosleep.u32 0;}" ::"r"(value) : "memory");
}

// ---- tensor cores: one warp ------------------------------------------------------------------------------------

// Four (or two) 8x8 matrices of 16-bit values; lane i gives the address of row i % 8 of matrix i / 8 and receives of
// each matrix row lane / 4, columns 2 (lane % 4) and + 1.
DEVICE void ldmatrix4(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}
// The same, each matrix transposed.
DEVICE void ldmatrix4_trans(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}
// c[16x8] += a[16x16] b[16x8], fp16 in, fp32 sums. With g = lane / 4, t = lane % 4:
//   a[0], a[1], a[2], a[3]: rows g, g + 8, g, g + 8; columns 2t, 2t+1 (first two) and 2t+8, 2t+9 (last two)
//   b0, b1: rows 2t, 2t+1 and 2t+8, 2t+9; column g          c: rows g, g, g + 8, g + 8; columns 2t, 2t+1, 2t, 2t+1
DEVICE void mma16816(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#ifdef HAVE_SM80
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else   // its halves: columns 0..7 of a with rows 0..7 of b, then 8..15
#pragma unroll
  for (int k = 0; k < 2; k++)
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[2 * k]), "r"(a[2 * k + 1]), "r"(k ? b1 : b0));
#endif
}

// ---- clusters (sm_90; on older GPUs every launch has clusters of one block) ----------------------------------

DEVICE void cluster_arrive() {
#ifdef HAVE_SM90
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}
// The same without ordering this thread's earlier writes, which costs a fence of the whole GPU. Enough where the peers
// rely on initialised barriers only, which mbar_fence_init has released.
DEVICE void cluster_arrive_relaxed() {
#ifdef HAVE_SM90
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#endif
}
DEVICE void cluster_wait() {
#ifdef HAVE_SM90
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}
// The address of the same place in block `rank` of the cluster.
DEVICE uint32_t mapa(uint32_t address, int rank) {
  uint32_t r = address;
#ifdef HAVE_SM90
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(r) : "r"(address), "r"(rank));
#endif
  return r;
}
DEVICE void st_shared_f4(uint32_t address, const float (&v)[4]) {
  asm volatile("st.shared.v4.f32 [%0], {%1,%2,%3,%4};" ::"r"(address), "f"(v[0]), "f"(v[1]), "f"(v[2]), "f"(v[3])
               : "memory");
}
DEVICE void st_cluster_f4(uint32_t address, const float (&v)[4]) {
#ifdef HAVE_SM90
  asm volatile("st.shared::cluster.v4.f32 [%0], {%1,%2,%3,%4};" ::"r"(address), "f"(v[0]), "f"(v[1]), "f"(v[2]),
               "f"(v[3])
               : "memory");
#endif
}

#ifdef HAVE_WGMMA
// ---- memory barriers (mbarrier) --------------------------------------------------------------------------------

DEVICE void mbar_init(uint32_t bar, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count) : "memory");
}
// Makes initialised barriers visible to the other blocks of the cluster and to asynchronous copies.
DEVICE void mbar_fence_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
// Arrives, and adds `bytes` to those that the phase waits for.
DEVICE void mbar_expect(uint32_t bar, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
DEVICE void mbar_arrive(uint32_t bar) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}
// Waits for the end of the phase of this parity.
DEVICE void mbar_wait(uint32_t bar, int parity) {
  asm volatile(
      "{\n.reg .pred p;\nL_%=:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@!p bra L_%=;\n}\n" ::"r"(bar),
      "r"(parity)
      : "memory");
}
DEVICE void mbar_wait_cluster(uint32_t bar, int parity) {
  asm volatile(
      "{\n.reg .pred p;\nL_%=:\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%0], %1;\n"
      "@!p bra L_%=;\n}\n" ::
          "r"(bar),
      "r"(parity)
      : "memory");
}
// Arrives when this thread's earlier cp16 have landed.
DEVICE void mbar_arrive_cp(uint32_t bar) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(bar) : "memory");
}
// One copy of `bytes` (a multiple of 16), counted by the barrier.
DEVICE void bulk_copy(uint32_t dst, const void* src, int bytes, uint32_t bar) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(dst),
               "l"(src), "r"(bytes), "r"(bar)
               : "memory");
}
DEVICE void prefetch_l2(const void* src, int bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(src), "r"(bytes) : "memory");
}
// 16 bytes into the shared memory of any block of the cluster, counted by a barrier there.
DEVICE void st_async_f4(uint32_t address, uint32_t bar, const float (&v)[4]) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1,%2,%3,%4}, [%5];" ::"r"(address),
      "r"(__float_as_uint(v[0])), "r"(__float_as_uint(v[1])), "r"(__float_as_uint(v[2])), "r"(__float_as_uint(v[3])),
      "r"(bar)
      : "memory");
}

// ---- tensor cores: a warpgroup of 128 threads --------------------------------------------------------------------

// Shared-memory operand, no swizzle, K-major: 8x8 core matrices of 128 contiguous bytes; `k_step` and `row_step` lead
// to the next core matrix along K and along rows, in units of 16 bytes.
DEVICE uint64_t wgmma_operand(uint32_t address, uint32_t k_step, uint32_t row_step) {
  return (uint64_t)((address >> 4) & 0x3FFF) | ((uint64_t)(k_step & 0x3FFF) << 16) |
         ((uint64_t)(row_step & 0x3FFF) << 32);
}
DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> DEVICE void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }
// Orders this thread's earlier view of shared memory (cp16 data) before its later wgmma reads.
DEVICE void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Sets the number of registers of each thread of this warpgroup, a multiple of 8. Other warpgroups of the block can
// take the registers that one gives back.
template <int N> DEVICE void registers_less() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }
template <int N> DEVICE void registers_more() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }

// d[64 x N] = a[64x16] b[16xN] + (accumulate ? d : 0). Warp w of the warpgroup owns rows 16 w ..; inside, d[n / 8] is
// the accumulator of mma16816.
template <int N> DEVICE void wgmma(float (&d)[N / 8][4], uint64_t a, uint64_t b, int accumulate);
#define D4(i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define D8(i) D4(i), D4(i + 1), D4(i + 2), D4(i + 3), D4(i + 4), D4(i + 5), D4(i + 6), D4(i + 7)
template <> DEVICE void wgmma<32>(float (&d)[4][4], uint64_t a, uint64_t b, int accumulate) {
  asm volatile("{.reg .pred p; setp.ne.b32 p, %18, 0;\n wgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 "
               "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, %16, %17, p, 1, 1, 0, 0;}\n"
               : D4(0), D4(1), D4(2), D4(3) : "l"(a), "l"(b), "r"(accumulate));
}
template <> DEVICE void wgmma<64>(float (&d)[8][4], uint64_t a, uint64_t b, int accumulate) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %34, 0;\n wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,"
      "%29,%30,%31}, "
      "%32, %33, p, 1, 1, 0, 0;}\n"
      : D4(0), D4(1), D4(2), D4(3), D4(4), D4(5), D4(6), D4(7)
      : "l"(a), "l"(b), "r"(accumulate));
}
template <> DEVICE void wgmma<128>(float (&d)[16][4], uint64_t a, uint64_t b, int accumulate) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %66, 0;\n wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,"
      "%29,%30,%31,"
      "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,"
      "%59,%60,%61,%62,%63}, "
      "%64, %65, p, 1, 1, 0, 0;}\n"
      : D4(0), D4(1), D4(2), D4(3), D4(4), D4(5), D4(6), D4(7), D4(8), D4(9), D4(10), D4(11), D4(12), D4(13), D4(14),
        D4(15)
      : "l"(a), "l"(b), "r"(accumulate));
}
template <> DEVICE void wgmma<256>(float (&d)[32][4], uint64_t a, uint64_t b, int accumulate) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %130, 0;\n wgmma.mma_async.sync.aligned.m64n256k16.f32.f16.f16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,"
      "%29,%30,%31,"
      "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,"
      "%59,%60,%61,%62,%63,"
      "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,"
      "%91,%92,%93,%94,%95,"
      "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,"
      "%118,%119,%120,%121,%122,%123,%124,%125,%126,%127}, "
      "%128, %129, p, 1, 1, 0, 0;}\n"
      : D8(0), D8(8), D8(16), D8(24)
      : "l"(a), "l"(b), "r"(accumulate));
}
#undef D8
#undef D4
#endif  // HAVE_WGMMA

// ---- arithmetic --------------------------------------------------------------------------------------------------

// One special-function operation, relative error 2^-11.
DEVICE float tanh_fast(float x) {
  float t;
  asm("tanh.approx.f32 %0, %1;" : "=f"(t) : "f"(x));
  return t;
}
// Two floats to fp16, the first in the low half; and back; and the sum of two pairs in fp16.
DEVICE uint32_t pack2(float a, float b) {
  __half2 h = __floats2half2_rn(a, b);
  return *reinterpret_cast<uint32_t*>(&h);
}
DEVICE float2 unpack2(uint32_t v) { return __half22float2(*reinterpret_cast<__half2*>(&v)); }
#endif  // RTMO_EMULATOR

// SiLU(x) = x sigmoid(x) = h tanh(h) + h with h = x / 2.
DEVICE float silu_of_half(float h) { return fmaf(h, tanh_fast(h), h); }
DEVICE float silu(float x) { return silu_of_half(0.5f * x); }
// GELU(x) = x Phi(x) with the exact Gaussian distribution function, to 2e-7 |x|: erf(z) = 1 - (a1 t + .. + a5 t^5)
// exp(-z^2), t = 1 / (1 + p z) for z >= 0 (Abramowitz and Stegun, 7.1.26, error 1.5e-7), in a third of the instructions
// of erff.
DEVICE float gelu(float x) {
  const float z = fabsf(x) * 0.70710678118654752f, t = __fdividef(1.f, fmaf(0.3275911f, z, 1.f));
  const float tail =
      t * fmaf(t, fmaf(t, fmaf(t, fmaf(t, 1.061405429f, -1.453152027f), 1.421413741f), -0.284496736f), 0.254829592f) *
      __expf(-z * z);
  return 0.5f * (x + fabsf(x) * (1.f - tail));
}
