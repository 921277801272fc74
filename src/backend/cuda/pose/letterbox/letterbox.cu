// The photo becomes the network's input: sampling, border and the Focus rearrangement in one kernel. Coordinates are
// tables that the host computes (the very ones of the CPU path, src/pose/letterbox/), and the arithmetic is that of
// OpenCV in integers, so the input is the same to the bit. Pixels outside the photo count as 114. Three samplers:
//
//   warp     cv2.warpAffine, INTER_LINEAR: column x of row y lies at X = columns[rows[y].columns + x], Y = rows[y].y in
//            1/32 pixel;
//            v = (sum over the four pixels around of (32 - a | a) (32 - b | b) p + 512) >> 10,  a = X & 31, b = Y & 31
//   resize   cv2.resize, INTER_LINEAR: two pixels and weights in 1/2048 for each column and row; with h the blend
//            across,
//            v = ((w0 (h0 >> 4) >> 16) + (w1 (h1 >> 4) >> 16) + 2) >> 2
//   halve    the average of 2x2 pixels, which is what cv2.resize does at exactly half the size
//
// The output is [in_h / 2, in_w / 2, 16]: the 2x2 pixels of a cell, each B, G, R, then four zeros. The network's first
// layer, a 6x6 convolution of stride 2, is a 3x3 one of stride 1 on it.
//
// A photo is BGR or RGB, or NV12 (vision/nv12.rs), whose pixels are converted as they are read, by the rule of the host: the input is
// the same as from the converted photo.
//
// One thread a cell. All its table entries are loaded together, then all photo pixels, so that it waits three times:
// for the frame, the tables, and the photo. Two neighbours come as the three words that their six bytes touch; of NV12 as two
// bytes and two pairs.
#include "letterbox.params.cuh"

constexpr int BORDER = 114;
struct WarpRow { unsigned columns; int y; };
struct ResizeTap { unsigned first, second; int weights[2]; };

// Pixels have their three bytes in the lowest 24 bits; what is above belongs to others.
struct Pair { unsigned left, right; };
struct Bgr {
  const unsigned* words;
  int width, height;
  // The pixels x and x + 1 of a row inside the photo; a pixel outside has any value.
  DEVICE Pair at(int y, int x) const {
    const int first = max(min(x, width - 2), 0);
    const unsigned byte = ((unsigned)y * (unsigned)width + (unsigned)first) * 3u,
                   last = byte + (width > 1 ? 5 : 2);   // photos have less than 2 GiB
    const unsigned a = words[byte / 4], b = words[min(byte / 4 + 1, last / 4)], c = words[last / 4],
                   shift = byte % 4 * 8;
    const unsigned low = __funnelshift_r(a, b, shift), high = __funnelshift_r(low, __funnelshift_r(b, c, shift), 24);
    return {x > first ? high : low, x < first ? low : high};
  }
};
struct Rgb : Bgr {
  DEVICE static unsigned swapped(unsigned pixel) { return (pixel & 0xFF00u) | (pixel >> 16 & 255u) | (pixel & 255u) << 16; }
  DEVICE Pair at(int y, int x) const {
    const Pair pair = Bgr::at(y, x);
    return {swapped(pair.left), swapped(pair.right)};
  }
};
struct Nv12 {
  const unsigned char *luma, *chroma;
  int width, height;
  int black, gain, u_blue, u_green, v_green, v_red;
  DEVICE Nv12(const Frame& f, const unsigned char* base)
      : luma(base + f.photo), chroma(base + f.chroma), width(f.width), height(f.height), black(f.yuv_black),
        gain(f.yuv_luma), u_blue(f.u_blue), u_green(f.u_green), v_green(f.v_green), v_red(f.v_red) {}
  DEVICE static unsigned byte(int sum) { return (unsigned)min(max(sum >> 8, 0), 255); }
  DEVICE unsigned pixel(int y, int x) const {
    const int pairs = (width + 1) / 2;
    const unsigned pair = *reinterpret_cast<const unsigned short*>(
        chroma + ((unsigned)(y >> 1) * (unsigned)pairs + (unsigned)(x >> 1)) * 2u);
    const int v = gain * (luma[(unsigned)y * (unsigned)width + (unsigned)x] - black) + 128;
    const int blue = (int)(pair & 255u) - 128, red = (int)(pair >> 8) - 128;
    return byte(v + u_blue * blue) | byte(v - u_green * blue - v_green * red) << 8 | byte(v + v_red * red) << 16;
  }
  DEVICE Pair at(int y, int x) const {
    const int first = max(min(x, width - 2), 0);
    const unsigned low = pixel(y, first), high = pixel(y, min(first + 1, width - 1));
    return {x > first ? high : low, x < first ? low : high};
  }
};
DEVICE int channel(unsigned pixel, int c) { return (int)(pixel >> (8 * c) & 255u); }

// One cell's pixels, row by row.
typedef int Cell[4][3];

template <class Photo>
DEVICE void warp(const Frame& f, const Photo& photo, const unsigned char* base, int x, int y, Cell& v) {
  const WarpRow* rows = reinterpret_cast<const WarpRow*>(base + f.rows) + y;
  const int* columns = reinterpret_cast<const int*>(base + f.columns) + x;
  const WarpRow row[2] = {rows[0], rows[1]};
  int X[2][2] = {{columns[0], columns[1]}, {}};   // nearly always right for all rows
#pragma unroll
  for (int i = 0; i < 2; i++) X[1][i] = X[0][i];
#pragma unroll
  for (int j = 0; j < 2; j++)
    if (row[j].columns) X[j][0] = columns[row[j].columns], X[j][1] = columns[row[j].columns + 1];
  unsigned pixel[4][4];
#pragma unroll
  for (int cell = 0; cell < 4; cell++)
#pragma unroll
    for (int tap = 0; tap < 4; tap += 2) {
      const int i = X[cell >> 1][cell & 1] >> 5, j = (row[cell >> 1].y >> 5) + (tap >> 1);
      const Pair pair = photo.at(min(max(j, 0), photo.height - 1), i);
      const bool inside = (unsigned)j < (unsigned)photo.height;
      pixel[cell][tap] = inside && (unsigned)i < (unsigned)photo.width ? pair.left : BORDER * 0x10101u;
      pixel[cell][tap + 1] = inside && (unsigned)(i + 1) < (unsigned)photo.width ? pair.right : BORDER * 0x10101u;
    }
#pragma unroll
  for (int cell = 0; cell < 4; cell++) {
    const int a = X[cell >> 1][cell & 1] & 31, b = row[cell >> 1].y & 31;
#pragma unroll
    for (int c = 0; c < 3; c++) {
      int sum = 512;
#pragma unroll
      for (int tap = 0; tap < 4; tap++)
        sum += ((tap & 1) ? a : 32 - a) * ((tap >> 1) ? b : 32 - b) * channel(pixel[cell][tap], c);
      v[cell][c] = sum >> 10;
    }
  }
}

template <class Photo>
DEVICE void resize(const Frame& f, const Photo& photo, const unsigned char* base, int x, int y, Cell& v) {
  const ResizeTap *columns = reinterpret_cast<const ResizeTap*>(base + f.columns),
                  *rows = reinterpret_cast<const ResizeTap*>(base + f.rows);
  ResizeTap column[2], row[2];
#pragma unroll
  for (int i = 0; i < 2; i++) column[i] = columns[min(x + i, f.fit_w - 1)], row[i] = rows[min(y + i, f.fit_h - 1)];
  unsigned pixel[4][4];
#pragma unroll
  for (int cell = 0; cell < 4; cell++)
#pragma unroll
    for (int tap = 0; tap < 4; tap += 2) {
      // the second column is the next one, or weighs nothing
      const Pair pair =
          photo.at((int)(tap ? row[cell >> 1].second : row[cell >> 1].first), (int)column[cell & 1].first);
      pixel[cell][tap] = pair.left, pixel[cell][tap + 1] = pair.right;
    }
#pragma unroll
  for (int cell = 0; cell < 4; cell++) {
    const ResizeTap &across = column[cell & 1], &down = row[cell >> 1];
#pragma unroll
    for (int c = 0; c < 3; c++) {
      int h[2];
#pragma unroll
      for (int i = 0; i < 2; i++)
        h[i] =
            across.weights[0] * channel(pixel[cell][2 * i], c) + across.weights[1] * channel(pixel[cell][2 * i + 1], c);
      v[cell][c] = ((down.weights[0] * (h[0] >> 4) >> 16) + (down.weights[1] * (h[1] >> 4) >> 16) + 2) >> 2;
    }
  }
}

template <class Photo>
DEVICE void halve(const Frame& f, const Photo& photo, int x, int y, Cell& v) {
  Pair pair[4][2];
#pragma unroll
  for (int cell = 0; cell < 4; cell++)
#pragma unroll
    for (int i = 0; i < 2; i++)
      pair[cell][i] = photo.at(2 * min(y + (cell >> 1), f.fit_h - 1) + i, 2 * min(x + (cell & 1), f.fit_w - 1));
#pragma unroll
  for (int cell = 0; cell < 4; cell++)
#pragma unroll
    for (int c = 0; c < 3; c++)
      v[cell][c] = (channel(pair[cell][0].left, c) + channel(pair[cell][0].right, c) + channel(pair[cell][1].left, c) +
                    channel(pair[cell][1].right, c) + 2) >>
                   2;
}

template <class Photo>
DEVICE void sample(const Frame& f, const Photo& photo, const unsigned char* base, int x, int y, Cell& v) {
  if (f.sampler == SAMPLER_WARP) return warp(f, photo, base, x, y, v);
  if (x >= f.fit_w || y >= f.fit_h) return;   // border
  if (f.sampler == SAMPLER_RESIZE) resize(f, photo, base, x, y, v);
  else halve(f, photo, x, y, v);
}

// A block does 32 x 4 cells. Seven at a time on each multiprocessor, all of 640 x 640 pixels run at once on an H100.
KERNEL(letterbox, LetterboxLaunch, 128, 7) {
  const int w = p.in_w / 2, h = p.in_h / 2, image = (int)blockIdx.z;
  const int cx = (int)(blockIdx.x * 32 + (threadIdx.x & 31)), cy = (int)(blockIdx.y * 4 + (threadIdx.x >> 5));
  pdl_wait();
  pdl_launch();
  if (cx >= w || cy >= h) return;
  const unsigned char* base = reinterpret_cast<const unsigned char*>(p.frames);
  const Frame f = p.frames[image];
  const int x = cx * 2, y = cy * 2;
  Cell v;
  if (f.chroma) sample(f, Nv12(f, base), base, x, y, v);
  else {
    const Bgr photo{reinterpret_cast<const unsigned*>(base + f.photo), f.width, f.height};
    // A type of its own: a flag that lives as long as the samples does not find a register.
    if (f.swap) sample(f, Rgb{photo}, base, x, y, v);
    else sample(f, photo, base, x, y, v);
  }
  if (f.sampler != SAMPLER_WARP) {
#pragma unroll
    for (int cell = 0; cell < 4; cell++)
      if (x + (cell & 1) >= f.fit_w || y + (cell >> 1) >= f.fit_h) v[cell][0] = v[cell][1] = v[cell][2] = BORDER;
  }
  uint4* dst = reinterpret_cast<uint4*>(p.dst + image * p.image + ((long long)cy * w + cx) * 16);
  auto both = [&](int i) { return pack2((float)v[i / 3][i % 3], (float)v[(i + 1) / 3][(i + 1) % 3]); };
  dst[0] = make_uint4(both(0), both(2), both(4), both(6));
  dst[1] = make_uint4(both(8), both(10), 0, 0);
}
