// Reads before `pdl_wait`. From select on, kernel N may read what kernel N - 2 or an earlier one wrote before its own
// `pdl_wait`, because:
//
//   1. every block calls `pdl_launch` only after its `pdl_wait`;
//   2. so when N starts, N - 1 has passed its wait, and N - 2 has ended;
//   3. the read uses `__ldcg`, since L1 may hold stale lines.
//
// The emulator checks all three. Compiled with RTMO_LATE_READS, kernels wait first, for comparison.
#pragma once
#include "pose.params.cuh"

// The first of a kernel's early reads: how many people an image has.
DEVICE int people_of(const Count* count) {
#ifdef RTMO_LATE_READS
  pdl_wait();
#endif
  return __ldcg(&count->people);
}
// The same, with all else that was counted.
DEVICE Count counted(const Count* counts) {
#ifdef RTMO_LATE_READS
  pdl_wait();
#endif
  const uint4 v = __ldcg(reinterpret_cast<const uint4*>(counts));
  return {(int)v.x, (int)v.y, (int)v.z, (int)v.w};
}
