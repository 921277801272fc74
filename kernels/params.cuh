// Parameters of every kernel, passed by value. src/backend/cuda/params.rs mirrors them field by field; both sides assert
// the sizes, and kernels/echo.cu lets a test see that each field arrives where it should.
//
// Maps are fp16, NHWC, all images of a batch `image` halves apart. A pitch is the distance from one pixel to the next in
// elements; pointers are already moved to their first channel, which is a multiple of 8 (16 bytes).
#pragma once
#include "ptx.cuh"

enum Act { ACT_NONE = 0, ACT_SILU = 1, ACT_GELU = 2 };
enum PreAdd { PRE_NONE = 0, PRE_SAME = 1, PRE_UPSAMPLED = 2 };
enum Trigger { TRIGGER_EARLY = 0, TRIGGER_LATE = 1, TRIGGER_MID = 2 };

// dst = act(conv(src) + bias + pre) + post of one step, and the tile geometry that the host has planned for it.
struct ConvStep {
  const half* src;
  const half* weight;      // packed, see conv.cuh
  const float* bias;       // cout_pad values
  const half* pre;         // added before the activation
  const half* post;        // added after it; null: nothing
  half* dst;
  long long pre_image;     // from one image's addend to the next: `image`, or 0 for a constant table
  int src_pitch, pre_pitch, post_pitch, dst_pitch;
  int h, w, oh, ow;        // input and output map
  int cin, cout, cout_pad;
  int kernel, stride;      // 1 or 3; 1 or 2
  int act, pre_add;
  int group;               // channels a group of a grouped convolution; 0: dense
  int flat;                // 1: the tile is a run of positions of the map padded to width ow + 2 (3x3 s1)
  int tile_w, tile_h;      // output tile; a 1x1 convolution sees the map as one row of h * w pixels
  int tiles_x, tiles;      // tiles a row of tiles; tiles an image
  int halo_w, halo_h;      // input pixels of a tile
  int row, plane;          // shared-memory pitch of a halo row and of an 8-channel plane, in pixels
  int chunks;              // channel chunks of BK
  int first_block;         // of this step in the launch
  int tap[9];              // slot offset of each tap
  unsigned div_halo_w, div_tile_w, div_flat_w, div_tiles_x;   // ceil(2^32 / x) of halo_w, tile_w, ow + 2 and tiles_x
};
static_assert(sizeof(ConvStep) == 216, "mirror in params.rs");

// Up to four independent convolutions of one kernel size in one launch.
enum { CONV_STEPS = 4 };
struct ConvLaunch {
  ConvStep step[CONV_STEPS];
  long long image;
  const void* prefetch;    // packed weights of the next launch, pulled into L2 meanwhile
  int prefetch_bytes;
  int steps, images;
  int split;               // blocks of a cluster that share one tile, each a range of channel chunks
  int buffers;             // activation chunk buffers in shared memory
  int trigger;             // when dependents may start, see Trigger
  int stages, reserved;    // weight stages in shared memory, where the kernel does not fix them (conv_pp.cu)
};
static_assert(sizeof(ConvLaunch) == 4 * 216 + 48, "mirror in params.rs");

// How a photo becomes the network's input, see letterbox.cu.
enum Sampler { SAMPLER_WARP = 0, SAMPLER_RESIZE = 1, SAMPLER_HALVE = 2 };

// One photo of the batch, and what the caller wants to know of it. Written by the host before each run, at the start of one
// block that also holds the tables and the photos; `photo`, `columns` and `rows` are offsets from its start in bytes.
struct Frame {
  long long photo;
  int columns, rows;       // sampling tables
  int width, height;       // of the photo, which is BGR, row by row
  int fit_w, fit_h;        // part of the input that the photo fills (resize and halve)
  int sampler;
  float score_logit;       // a grid is a candidate if its class logit is strictly above this
  float nms_thr;           // a candidate is suppressed if its IoU with a better one is strictly above this
  int max_people;          // at most this many; negative: all
  int force;               // negative: off; else the best `force` grids survive, whatever their scores and overlaps
  int reserved;
};
static_assert(sizeof(Frame) == 56, "mirror in params.rs");

struct LetterboxLaunch {
  const Frame* frames;
  half* dst;               // [in_h / 2, in_w / 2, 16]: 2x2 pixels by B, G, R, and four zeros
  long long image;
  int in_w, in_h, images, reserved;
};
static_assert(sizeof(LetterboxLaunch) == 40, "mirror in params.rs");

struct PoolLaunch {
  const half* src;
  half* dst;
  long long image;
  int src_pitch, dst_pitch, h, w, c, radius, images, reserved;
};
static_assert(sizeof(PoolLaunch) == 56, "mirror in params.rs");

struct AttentionLaunch {
  const half* qkv;
  half* dst;
  long long image;
  int qkv_pitch, dst_pitch, tokens, heads, images, reserved;
};
static_assert(sizeof(AttentionLaunch) == 48, "mirror in params.rs");

struct LayerNormLaunch {
  const half* src;
  half* dst;
  const float* gamma;
  const float* beta;
  long long image;
  int src_pitch, dst_pitch, pixels, c, images;
  float eps;
};
static_assert(sizeof(LayerNormLaunch) == 64, "mirror in params.rs");

// A 1x1 convolution with few outputs, kept in fp32.
struct PredictStep {
  const half* src;
  const half* weight;      // [cout, cin]
  const float* bias;
  float* dst;
  int src_pitch, dst_pitch, pixels, cin, cout, first_block;
};
static_assert(sizeof(PredictStep) == 56, "mirror in params.rs");
enum { PREDICT_STEPS = 8 };
struct PredictLaunch {
  PredictStep step[PREDICT_STEPS];
  long long image;         // in halves, for dst too
  int steps, images;
};
static_assert(sizeof(PredictLaunch) == 8 * 56 + 16, "mirror in params.rs");

// A person: what select knows of it.
struct Survivor {
  int level, cell;
  float score;
  float cx, cy, w, h;      // box, in pixels of the network input
  float gx, gy;            // grid point
  int reserved;
};
static_assert(sizeof(Survivor) == 40, "mirror in params.rs");
struct Count {
  int people;              // survivors stored
  int lost;                // survivors that did not fit; the host reports them, never drops them silently
};
// Of the kernels from the selection on, each calls pdl_launch after its pdl_wait in every block. So the next one starts only when the
// one before the last has ended, and may read what that one or earlier ones wrote ahead of its own pdl_wait: past the L1 cache
// (__ldcg), which nobody has cleared for it since.
DEVICE Count counted(const Count* counts) {
  const int2 v = __ldcg(reinterpret_cast<const int2*>(counts));
  return {v.x, v.y};
}

enum { LEVELS = 3 };
struct SelectLaunch {
  const float* cls[LEVELS];
  const float* bbox[LEVELS];
  const Frame* frames;
  Survivor* survivors;     // [images, capacity]
  Count* counts;           // [images]
  float4* boxes;           // [images, slots]: scratch
  long long image;         // in halves
  int cls_pitch[LEVELS], bbox_pitch[LEVELS];
  int w[LEVELS], cells[LEVELS], stride[LEVELS];
  int levels, capacity, images;
  int slots;               // power of two, at least all cells
  int near;                // candidates that shared memory holds; where there are more, all go to `keys`
  unsigned long long* keys;   // [images, slots]: scratch
};
static_assert(sizeof(SelectLaunch) == 88 + 15 * 4 + 20 + 8, "mirror in params.rs");

// A linear map of survivors' grid cells, one weight matrix a level.
struct SurvivorLinearLaunch {
  const half* src[LEVELS];
  const half* weight[LEVELS];   // mma fragments, see fragments.cuh
  const float* bias[LEVELS];
  float* dst;                   // [images, capacity, dst_pitch]
  const Survivor* survivors;
  const Count* counts;
  long long image;
  int src_pitch[LEVELS];
  int cin, cout, dst_pitch, levels, capacity, images, reserved;
};
static_assert(sizeof(SurvivorLinearLaunch) == 144, "mirror in params.rs");

struct GauLaunch {
  const float* src;        // [images, capacity, src_pitch]
  float* dst;
  const half* uv;          // fragments of [2 e + s, d]
  const half* out;         // fragments of [d, e]
  const float* q_gain;
  const float* q_bias;
  const float* k_gain;
  const float* k_bias;
  const float* residual_gain;
  const Count* counts;
  float norm_gain;
  int tokens, src_pitch, dst_pitch, capacity, images;
  int staged;              // shared memory has room for uv
  int reserved;
};
static_assert(sizeof(GauLaunch) == 112, "mirror in params.rs");

struct BinDecodeLaunch {
  const float* src;        // keypoint vectors, [images, capacity, src_pitch]
  float* dst;              // [images, capacity, dst_pitch]: x, y of each keypoint
  const half* weight[2];   // x and y: fragments of W^T's high part, then of its low one, see dcc.cu
  float* heat[2];          // [images, capacity, tokens, bins] or null
  const float* frequency;  // 1 / (2 pi T_j): pe / 2 high parts, then pe / 2 low parts
  const Survivor* survivors;
  const Count* counts;
  int bins[2];
  int tokens, src_pitch, dst_pitch, capacity, images;
  float width[2];          // of a bin of x and of y, in box sizes
  float scale[2];          // of the logits, since the weights are scaled
  int staged;              // shared memory has room for the weights of two blocks
};
static_assert(sizeof(BinDecodeLaunch) == 120, "mirror in params.rs");

// The last kernel: survivors into the host's memory.
struct CollectLaunch {
  const Survivor* survivors;
  const Count* counts;
  const float* keypoints;  // rows of keypoints_pitch
  const float* visibility; // rows of visibility_pitch
  Count* host_counts;      // [images]
  float* host_rows;        // [images, capacity, 7 + 3 K]: score, x1, y1, x2, y2, gx, gy, K x (x, y), K x sigmoid(visibility)
  int keypoints_pitch, visibility_pitch, tokens, capacity, images, reserved;
};
static_assert(sizeof(CollectLaunch) == 72, "mirror in params.rs");

// Of the kernels that measure the GPU, see peak.cu.
struct PeakLaunch {
  const half* data;        // 512 values
  float* out;              // [blocks, 256]: sums of each thread's accumulators
  int iterations, reserved;
};
static_assert(sizeof(PeakLaunch) == 24, "mirror in params.rs");
