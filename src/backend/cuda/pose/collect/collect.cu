// collect: the last kernel of a run; people into the host's memory.
#include "collect.params.cuh"
#include "counted.cuh"

constexpr int FIELDS = 96;   // of a person, a multiple of 32
static_assert(PERSON_FLOATS + 3 * MAX_TOKENS <= FIELDS, "a lane holds FIELDS / 32 of them");

KERNEL(collect, CollectLaunch, 256, 1) {
  const int lane = threadIdx.x & 31, image = (int)blockIdx.y, fields = PERSON_FLOATS + 3 * p.tokens, xy = PERSON_FLOATS,
            visible = xy + 2 * p.tokens;
  const Count count = counted(p.counts + image);
  bool waited = false;
  // one warp a person; all but the keypoints is there before the last kernel has ended
  for (int person = (int)(blockIdx.x * 8 + threadIdx.x / 32); person < count.people; person += (int)gridDim.x * 8) {
    const long long row = (long long)image * p.capacity + person;
    const float* survivor = reinterpret_cast<const float*>(p.survivors + row) + 2;   // score, centre, size, grid point
    float v[FIELDS / 32];
#pragma unroll
    for (int i = 0; i < FIELDS / 32; i++) {
      const int field = i * 32 + lane;
      v[i] = 0.f;
      if (field == 0) v[i] = __ldcg(survivor);
      else if (field < 5)
        v[i] = __ldcg(survivor + 2 - field % 2) + (field < 3 ? -0.5f : 0.5f) * __ldcg(survivor + 4 - field % 2);
      else if (field < xy) v[i] = __ldcg(survivor + field);
      else if (field >= visible && field < fields)
        v[i] = 1.f / (1.f + expf(-__ldcg(p.visibility + row * p.visibility_pitch + field - visible)));
    }
    if (!waited) pdl_wait();
    waited = true;
#pragma unroll
    for (int i = 0; i < FIELDS / 32; i++) {
      const int field = i * 32 + lane;
      if (field >= xy && field < visible) v[i] = p.keypoints[row * p.keypoints_pitch + field - xy];
      if (field < fields) p.host_rows[row * fields + field] = v[i];
    }
  }
  if (!waited) pdl_wait();
  pdl_launch();
  if (blockIdx.x == 0 && threadIdx.x == 0) p.host_counts[image] = count;
}
