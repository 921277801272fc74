// Writes every field of a parameter struct, in order, as 64-bit integers: a test fills the fields on the Rust side with
// distinct values and sees each of them arrive.
#include "params.cuh"

#include <type_traits>

template <class T> struct Echo {
  T value;
  long long* out;
};
struct Writer {
  long long* out;
  template <class T> DEVICE void put(const T& v) {
    if constexpr (std::is_array<T>::value) for (auto& e : v) put(e);
    else if constexpr (std::is_same<T, float>::value) *out++ = __float_as_uint(v);
    else *out++ = (long long)v;
  }
  template <class... T> DEVICE void operator()(const T&... v) { (put(v), ...); }
};
DEVICE void fields(Writer& w, const ConvStep& p) {
  w(p.src, p.weight, p.bias, p.pre, p.post, p.dst, p.pre_image, p.src_pitch, p.pre_pitch, p.post_pitch, p.dst_pitch, p.h, p.w, p.oh, p.ow, p.cin, p.cout,
    p.cout_pad, p.kernel, p.stride, p.act, p.pre_add, p.group, p.flat, p.tile_w, p.tile_h, p.tiles_x, p.tiles, p.halo_w, p.halo_h, p.row, p.plane, p.chunks,
    p.first_block, p.tap, p.div_halo_w, p.div_tile_w, p.div_flat_w, p.div_tiles_x);
}
DEVICE void fields(Writer& w, const ConvLaunch& p) {
  for (int i = 0; i < CONV_STEPS; i++) fields(w, p.step[i]);
  w(p.image, p.prefetch, p.prefetch_bytes, p.steps, p.images, p.split, p.buffers, p.trigger, p.stages, p.reserved);
}
DEVICE void fields(Writer& w, const Frame& p) { w(p.photo, p.columns, p.rows, p.width, p.height, p.fit_w, p.fit_h, p.sampler, p.score_logit, p.nms_thr, p.max_people, p.force, p.reserved); }
DEVICE void fields(Writer& w, const LetterboxLaunch& p) { w(p.frames, p.dst, p.image, p.in_w, p.in_h, p.images, p.reserved); }
DEVICE void fields(Writer& w, const PoolLaunch& p) { w(p.src, p.dst, p.image, p.src_pitch, p.dst_pitch, p.h, p.w, p.c, p.radius, p.images, p.reserved); }
DEVICE void fields(Writer& w, const AttentionLaunch& p) { w(p.qkv, p.dst, p.image, p.qkv_pitch, p.dst_pitch, p.tokens, p.heads, p.images, p.reserved); }
DEVICE void fields(Writer& w, const LayerNormLaunch& p) {
  w(p.src, p.dst, p.gamma, p.beta, p.image, p.src_pitch, p.dst_pitch, p.pixels, p.c, p.images, p.eps);
}
DEVICE void fields(Writer& w, const PredictLaunch& p) {
  for (int i = 0; i < PREDICT_STEPS; i++) {
    const PredictStep& s = p.step[i];
    w(s.src, s.weight, s.bias, s.dst, s.src_pitch, s.dst_pitch, s.pixels, s.cin, s.cout, s.first_block);
  }
  w(p.image, p.steps, p.images);
}
DEVICE void fields(Writer& w, const Survivor& p) { w(p.level, p.cell, p.score, p.cx, p.cy, p.w, p.h, p.gx, p.gy, p.reserved); }
DEVICE void fields(Writer& w, const SelectLaunch& p) {
  w(p.cls, p.bbox, p.frames, p.survivors, p.counts, p.boxes, p.image, p.cls_pitch, p.bbox_pitch, p.w, p.cells, p.stride, p.levels, p.capacity, p.images, p.slots,
    p.near, p.keys);
}
DEVICE void fields(Writer& w, const SurvivorLinearLaunch& p) {
  w(p.src, p.weight, p.bias, p.dst, p.survivors, p.counts, p.image, p.src_pitch, p.cin, p.cout, p.dst_pitch, p.levels, p.capacity, p.images, p.reserved);
}
DEVICE void fields(Writer& w, const GauLaunch& p) {
  w(p.src, p.dst, p.uv, p.out, p.q_gain, p.q_bias, p.k_gain, p.k_bias, p.residual_gain, p.counts, p.norm_gain, p.tokens, p.src_pitch, p.dst_pitch, p.capacity,
    p.images, p.staged, p.reserved);
}
DEVICE void fields(Writer& w, const BinDecodeLaunch& p) {
  w(p.src, p.dst, p.weight, p.heat, p.frequency, p.survivors, p.counts, p.bins, p.tokens, p.src_pitch, p.dst_pitch, p.capacity, p.images, p.width, p.scale, p.staged);
}
DEVICE void fields(Writer& w, const CollectLaunch& p) {
  w(p.survivors, p.counts, p.keypoints, p.visibility, p.host_counts, p.host_rows, p.keypoints_pitch, p.visibility_pitch, p.tokens, p.capacity, p.images, p.reserved);
}
DEVICE void fields(Writer& w, const PeakLaunch& p) { w(p.data, p.out, p.iterations, p.reserved); }

#define ECHO(Type)                         \
  KERNEL(echo_##Type, Echo<Type>, 1, 1) {  \
    pdl_wait();                            \
    Writer w = {p.out};                    \
    fields(w, p.value);                    \
  }
ECHO(ConvLaunch)
ECHO(Frame)
ECHO(LetterboxLaunch)
ECHO(PoolLaunch)
ECHO(AttentionLaunch)
ECHO(LayerNormLaunch)
ECHO(PredictLaunch)
ECHO(Survivor)
ECHO(SelectLaunch)
ECHO(SurvivorLinearLaunch)
ECHO(GauLaunch)
ECHO(BinDecodeLaunch)
ECHO(CollectLaunch)
ECHO(PeakLaunch)
