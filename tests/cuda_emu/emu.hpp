// A GPU in one thread, for the kernel files of src/backend/cuda: they compile with any C++17 compiler when
// RTMO_EMULATOR is defined, and every wrapper of ops/common/ptx.cuh has here the meaning that the PTX manual gives it.
//
// * One grid runs on one host thread, cluster by cluster, in shuffled order. Every thread is a fiber; a fiber runs until it must wait, and
//   the next one is drawn at random, so a missing barrier shows as a wrong result or as a read of poison.
// * Asynchronous work (cp.async, bulk copies, st.async, wgmma) happens as late as the program allows, or, drawn at
//   random, at once: waiting too little reads poison, releasing a buffer too early reads what comes next.
// * Shared memory starts as NaNs and ends at an unreadable page; device buffers lie between unreadable pages.
// * Reads and writes of device buffers check that griddepcontrol.wait came first, unless they read constants: cp.async and
//   bulk copies here, plain ones since the compiler is asked to announce each (-fsanitize=thread, with the functions of
//   emu.cpp in place of its library).
// * `__ldcg` before the wait may read what an earlier kernel wrote, but not what the one before wrote, nor after one that
//   let this kernel start before its own wait (see counted.cuh).
// * With checks of order (RTMO_EMULATOR_ORDER=1, order.hpp): every access of shared memory must be ordered by barriers after what it
//   meets, wgmma by a fence.proxy.async after what threads and cp.async wrote, nobody reads what nobody wrote, and no access
//   is outside the buffer that it belongs to. Errors name both accesses and their lines.
// * Disagreeing warps, a barrier that can never complete, and misaligned addresses (of plain accesses, too: the
//   compiler is asked to trap them) are errors that name kernel and thread.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>

#define DEVICE inline
#define __device__
#define __forceinline__ inline
#define SHARED_MEMORY(smem) unsigned char* smem = emu::shared_memory()
#define HAVE_SM90 1
#define HAVE_WGMMA 1

struct dim3 { unsigned x = 1, y = 1, z = 1; };
// Aligned as on a GPU, where a misaligned access ends the process's use of the device.
struct alignas(8) int2 { int x, y; };
struct alignas(8) uint2 { uint32_t x, y; };
struct alignas(16) uint4 { uint32_t x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline int2 make_int2(int x, int y) { return {x, y}; }
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// ---- fp16 ------------------------------------------------------------------------------------------------------

struct half { uint16_t bits; };
namespace emu {
inline float bits_to_float(uint32_t u) { float f; std::memcpy(&f, &u, 4); return f; }
inline uint32_t float_to_bits(float f) { uint32_t u; std::memcpy(&u, &f, 4); return u; }
float half_to_float(uint16_t h);
uint16_t float_to_half(float f);   // round to nearest even
}
inline float __half2float(half h) { return emu::half_to_float(h.bits); }
inline half __float2half_rn(float f) { return {emu::float_to_half(f)}; }
inline half __float2half(float f) { return __float2half_rn(f); }
inline uint32_t pack2(float a, float b) { return emu::float_to_half(a) | (uint32_t)emu::float_to_half(b) << 16; }
inline float2 unpack2(uint32_t v) { return {emu::half_to_float((uint16_t)v), emu::half_to_float((uint16_t)(v >> 16))}; }

// ---- threads, warps, barriers ------------------------------------------------------------------------------------

namespace emu {
struct Place { dim3 thread, block, block_dim, grid_dim; };
// A variable of each host thread, which the library may read as fast as any other.
#define TLS __attribute__((tls_model("initial-exec"))) thread_local
extern TLS const Place* place;         // of the running thread
unsigned char* shared_memory();
[[noreturn]] void fail(const char* format, ...);
void barrier(int id, int threads);     // threads < 0: all of the block that still run
// Runs `finish` once all lanes of `mask` have come with an operand; `what` must agree. `size` lanes: 32, or 128 for
// warpgroups.
using Finish = void (*)(void** operands, int lanes, void* extra);
void collective(const char* what, uint32_t mask, void* operand, Finish finish, void* extra = nullptr);
void shuffle(const char* what, uint32_t mask, uint32_t* value, int source_lane);
uint32_t ballot(uint32_t mask, bool predicate);
uint32_t shared_address(const void* p);
void early_read(const void* p, size_t bytes);
void atomic_access(const void* p, size_t bytes);
void sync_warp(uint32_t mask);
void mbar_fence_init();
void copy_unwatched(void* to, const void* from, size_t bytes);
}
#define threadIdx (emu::place->thread)
#define blockIdx (emu::place->block)
#define blockDim (emu::place->block_dim)
#define gridDim (emu::place->grid_dim)

inline void __syncthreads() { emu::barrier(0, -1); }
inline void bar_sync(int id, int n) { emu::barrier(id, n); }
inline void __syncwarp(uint32_t mask = ~0u) { emu::sync_warp(mask); }
inline uint32_t __ballot_sync(uint32_t mask, bool p) { return emu::ballot(mask, p); }
inline bool __any_sync(uint32_t mask, bool p) { return emu::ballot(mask, p) != 0; }
inline bool __all_sync(uint32_t mask, bool p) { return emu::ballot(mask, p) == mask; }
namespace emu {
template <class T> T shuffled(const char* what, uint32_t mask, T v, int source) {
  static_assert(sizeof(T) == 4, "32-bit values only");
  uint32_t u;
  std::memcpy(&u, &v, 4);
  shuffle(what, mask, &u, source);
  std::memcpy(&v, &u, 4);
  return v;
}
inline int lane() { return (int)(place->thread.x & 31); }
}
template <class T> T __shfl_sync(uint32_t mask, T v, int source) { return emu::shuffled("shfl", mask, v, source & 31); }
template <class T> T __shfl_xor_sync(uint32_t mask, T v, int bits) {
  return emu::shuffled("shfl.xor", mask, v, emu::lane() ^ bits);
}
template <class T> T __shfl_up_sync(uint32_t mask, T v, unsigned d) {
  return emu::shuffled("shfl.up", mask, v, emu::lane() >= (int)d ? emu::lane() - (int)d : emu::lane());
}
namespace emu {
template <class T, class F> T atomic(T* p, F next) {
  atomic_access(p, sizeof(T));
  T old, v;
  copy_unwatched(&old, p, sizeof(T));
  v = next(old);
  copy_unwatched(p, &v, sizeof(T));
  return old;
}
}
template <class T> T atomicAdd(T* p, T v) { return emu::atomic(p, [v](T old) { return old + v; }); }
template <class T> T atomicMax(T* p, T v) { return emu::atomic(p, [v](T old) { return v > old ? v : old; }); }
template <class T> T atomicOr(T* p, T v) { return emu::atomic(p, [v](T old) { return old | v; }); }
inline void __threadfence_system() {}
template <class T> T __ldg(const T* p) { return *p; }
template <class T> T __ldcg(const T* p) {
  emu::early_read(p, sizeof(T));
  T v;
  emu::copy_unwatched(&v, p, sizeof(T));
  return v;
}

// ---- arithmetic ----------------------------------------------------------------------------------------------------

inline int min(int a, int b) { return a < b ? a : b; }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return (unsigned)(((uint64_t)high << 32 | low) >> (shift & 31));
}
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
inline int __popc(uint32_t v) { return __builtin_popcount(v); }
inline int __ffs(uint32_t v) { return __builtin_ffs((int)v); }
inline uint32_t __float_as_uint(float f) { return emu::float_to_bits(f); }
inline float __uint_as_float(uint32_t u) { return emu::bits_to_float(u); }
inline float tanh_fast(float x) { return std::tanh(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1.f / std::sqrt(x); }
// Accurate to about 2^-21 absolute inside [-pi, pi] on a GPU; useless outside, so that is an error here.
inline void __sincosf(float x, float* s, float* c) {
  if (!(std::fabs(x) < 3.1417f)) emu::fail("__sincosf(%g) outside its accurate range", x);
  *s = std::sin(x), *c = std::cos(x);
}
using std::fabs;
using std::fmaf;

// ---- asynchronous copies
// ---------------------------------------------------------------------------------------------

namespace emu {
void pdl_launch();
void pdl_wait();
void cp16(uint32_t dst, const void* src, int bytes);
void cp_commit();
void cp_wait(int n);
void ldmatrix4(uint32_t* r, uint32_t address, bool transpose);
void mma16816(float* c, const uint32_t* a, uint32_t b0, uint32_t b1);
void cluster_arrive();
void cluster_wait();
void store_shared16(uint32_t address, const float* v, bool cluster);
void mbar_init(uint32_t bar, int count);
void mbar_arrive(uint32_t bar, int bytes);
void mbar_wait(uint32_t bar, int parity);
void mbar_arrive_cp(uint32_t bar);
void bulk_copy(uint32_t dst, const void* src, int bytes, uint32_t bar);
void prefetch(const void* src, int bytes);
void st_async(uint32_t address, uint32_t bar, const float* v);
void wgmma(float* d, int n, uint64_t a, uint64_t b, int accumulate);
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(int n);
void fence_async_proxy();
void set_registers(int n);
}
inline uint32_t smem_u32(const void* p) { return emu::shared_address(p); }
inline void pdl_launch() { emu::pdl_launch(); }
inline void pdl_wait() { emu::pdl_wait(); }
inline void cp16(uint32_t dst, const void* src, int bytes) { emu::cp16(dst, src, bytes); }
inline void cp_commit() { emu::cp_commit(); }
template <int N> void cp_wait() { emu::cp_wait(N); }
inline void ldmatrix4(uint32_t (&r)[4], uint32_t address) { emu::ldmatrix4(r, address, false); }
inline void ldmatrix4_trans(uint32_t (&r)[4], uint32_t address) { emu::ldmatrix4(r, address, true); }
inline void mma16816(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { emu::mma16816(c, a, b0, b1); }
inline void cluster_arrive() { emu::cluster_arrive(); }
inline void cluster_wait() { emu::cluster_wait(); }
inline uint32_t mapa(uint32_t address, int rank) { return (address & 0xFFFFF) | (uint32_t)rank << 20; }
inline void st_shared_f4(uint32_t address, const float (&v)[4]) { emu::store_shared16(address, v, false); }
inline void st_cluster_f4(uint32_t address, const float (&v)[4]) { emu::store_shared16(address, v, true); }
inline void mbar_init(uint32_t bar, int count) { emu::mbar_init(bar, count); }
inline void mbar_fence_init() { emu::mbar_fence_init(); }
inline void mbar_expect(uint32_t bar, int bytes) { emu::mbar_arrive(bar, bytes); }
inline void mbar_arrive(uint32_t bar) { emu::mbar_arrive(bar, 0); }
inline void mbar_wait(uint32_t bar, int parity) { emu::mbar_wait(bar, parity); }
inline void mbar_wait_cluster(uint32_t bar, int parity) { emu::mbar_wait(bar, parity); }
inline void mbar_arrive_cp(uint32_t bar) { emu::mbar_arrive_cp(bar); }
inline void bulk_copy(uint32_t dst, const void* src, int bytes, uint32_t bar) { emu::bulk_copy(dst, src, bytes, bar); }
inline void force_here(uint32_t) {}
inline void prefetch_l2(const void* src, int bytes) { emu::prefetch(src, bytes); }
inline void st_async_f4(uint32_t address, uint32_t bar, const float (&v)[4]) { emu::st_async(address, bar, v); }
inline uint64_t wgmma_operand(uint32_t address, uint32_t k_step, uint32_t row_step) {
  return (uint64_t)((address >> 4) & 0x3FFF) | ((uint64_t)(k_step & 0x3FFF) << 16) |
         ((uint64_t)(row_step & 0x3FFF) << 32);
}
inline void wgmma_fence() { emu::wgmma_fence(); }
inline void wgmma_commit() { emu::wgmma_commit(); }
template <int N> void wgmma_wait() { emu::wgmma_wait(N); }
template <int N> void registers_less() { emu::set_registers(N); }
template <int N> void registers_more() { emu::set_registers(N); }
inline void fence_async_proxy() { emu::fence_async_proxy(); }
template <int N> void wgmma(float (&d)[N / 8][4], uint64_t a, uint64_t b, int accumulate) {
  emu::wgmma(&d[0][0], N, a, b, accumulate);
}

// ---- kernels by name
// -------------------------------------------------------------------------------------------------

namespace emu {
using Entry = void (*)(const void* params);
struct Kernel {
  Kernel(const char* name, Entry entry, size_t params, int threads);
  const char* name;
  Entry entry;
  size_t params;
  int threads;
  Kernel* next;
};
}
#define KERNEL(name, Params, threads, blocks_per_sm)                                                           \
  static void name(const Params& p);                                                                           \
  static emu::Kernel emu_##name(#name, [](const void* q) { name(*static_cast<const Params*>(q)); }, sizeof(Params), threads); \
  static void name(const Params& p)
