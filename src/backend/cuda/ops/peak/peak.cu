// The peak rate of the tensor cores: a long loop of products whose operands are in registers or shared memory
// already. `bench` prints the share of this rate that a convolution reaches. The caller gives the data, since zeros
// take less power and would run at higher clocks than any network does.
//
// peak_mma   every warp: 8 independent mma.sync accumulators, operands in registers
// peak_wg    two warpgroups a block (sm_90a): 64x128 accumulators each, operands in shared memory
#include "peak.params.cuh"

constexpr int STEPS = 4;   // K steps of 16 an iteration

KERNEL(peak_mma, PeakLaunch, 256, 2) {
  const int tid = threadIdx.x;
  pdl_wait();
  const uint4* data = reinterpret_cast<const uint4*>(p.data) + (tid & 31) * 2;
  const uint4 v = data[0], w = data[1];
  const uint32_t a[4] = {v.x, v.y, v.z, v.w};
  float acc[8][4] = {};
#pragma unroll 1
  for (int i = 0; i < p.iterations; i++)
#pragma unroll
    for (int k = 0; k < STEPS; k++)
#pragma unroll
      for (int n = 0; n < 8; n++) mma16816(acc[n], a, n & 1 ? w.x : w.y, n & 2 ? w.z : w.w);
  float sum = 0.f;
#pragma unroll
  for (int n = 0; n < 8; n++) sum += acc[n][0] + acc[n][1] + acc[n][2] + acc[n][3];
  p.out[(int)blockIdx.x * 256 + tid] = sum;
}

KERNEL(peak_wg, PeakLaunch, 256, 1) {
#ifdef HAVE_WGMMA
  SHARED_MEMORY(smem);
  // core matrices of 64 x 64 for each warpgroup, then of 128 x 64 for both: [rows / 8][K / 8][8][8]
  const int tid = threadIdx.x, wg = __shfl_sync(~0u, tid >> 7, 0);
  pdl_wait();
  const uint4* data = reinterpret_cast<const uint4*>(p.data);
  uint4* to = reinterpret_cast<uint4*>(smem);
  for (int i = tid; i < 2048; i += 256) to[i] = data[i & 63];
  fence_async_proxy();
  __syncthreads();
  const uint32_t base = smem_u32(smem);
  const uint64_t a = wgmma_operand(base + wg * 8192, 8, STEPS * 2 * 8),
                 b = wgmma_operand(base + 16384, 8, STEPS * 2 * 8);
  float acc[16][4];
#pragma unroll 1
  for (int i = 0; i < p.iterations; i++) {
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < STEPS; k++) wgmma<128>(acc, a + k * 16, b + k * 16, i > 0 || k > 0 ? 1 : 0);
    wgmma_commit();
    wgmma_wait<1>();
  }
  wgmma_wait<0>();
  float sum = 0.f;
#pragma unroll
  for (int n = 0; n < 16; n++) sum += acc[n][0] + acc[n][1] + acc[n][2] + acc[n][3];
  p.out[(int)blockIdx.x * 256 + tid] = sum;
#endif
}
