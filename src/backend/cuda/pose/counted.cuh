// Reads before `pdl_wait`. From select on, kernel N may read what kernel N - 2 or an earlier one wrote before its own
// `pdl_wait`, because:
//
//   1. every block calls `pdl_launch` only after its `pdl_wait`;
//   2. so when N starts, N - 1 has passed its wait, and N - 2 has ended;
//   3. the read uses `__ldcg`, since L1 may hold stale lines.
#pragma once
#include "pose.params.cuh"

DEVICE Count counted(const Count* counts) {
  const int2 v = __ldcg(reinterpret_cast<const int2*>(counts));
  return {v.x, v.y};
}
