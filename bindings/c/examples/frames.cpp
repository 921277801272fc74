// Follows people through raw frames from standard input, and prints who is where:
//
//     c++ frames.cpp $(pkg-config --cflags --libs rtmo_engine) -o frames
//     ffmpeg -i walk.mp4 -vf scale=640:-2 -pix_fmt bgr24 -f rawvideo - | ./frames 640 360 30 rtmo-s
//
// A last number is the network's input in pixels, a multiple of 32.
#include <rtmo_engine.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

// Handles free themselves.
template <typename T, void (*Free)(T *)>
struct Freed {
  void operator()(T *handle) const { Free(handle); }
};
using Engine = std::unique_ptr<rtmo_engine, Freed<rtmo_engine, rtmo_engine_free>>;
using People = std::unique_ptr<rtmo_people, Freed<rtmo_people, rtmo_people_free>>;
using Tracker = std::unique_ptr<rtmo_tracker, Freed<rtmo_tracker, rtmo_tracker_free>>;
using Smoother = std::unique_ptr<rtmo_smoother, Freed<rtmo_smoother, rtmo_smoother_free>>;

// Failures are exceptions.
void check(rtmo_status status) {
  if (status != RTMO_OK) throw std::runtime_error(rtmo_last_error());
}

int number(const char *text, int most) {
  const int value = std::atoi(text);
  if (value < 1 || value > most) throw std::runtime_error(std::string(text) + ": expected a whole number above 0");
  return value;
}

void run(int argc, char **argv) {
  if (argc < 4) throw std::runtime_error("usage: frames WIDTH HEIGHT FRAMES_A_SECOND [MODEL [SIZE]] < frames.bgr24");
  const int width = number(argv[1], 20000), height = number(argv[2], 20000), rate = number(argv[3], 1000);

  rtmo_engine_options options{};
  options.struct_size = sizeof options;
  options.log = [](const char *text, void *) { std::fprintf(stderr, "note: %s\n", text); };
  options.input_width = options.input_height = argc > 5 ? number(argv[5], 8192) : 0;
  rtmo_engine *made = nullptr;
  check(rtmo_engine_create(argc > 4 ? argv[4] : nullptr, &options, &made));
  const Engine engine(made);
  rtmo_tracker *tracks = nullptr;
  check(rtmo_tracker_create(nullptr, &tracks));
  const Tracker tracker(tracks);
  rtmo_smoother *smooth = nullptr;
  check(rtmo_smoother_create(nullptr, &smooth));
  const Smoother smoother(smooth);

  std::vector<uint8_t> pixels(static_cast<size_t>(width) * static_cast<size_t>(height) * 3);
  const rtmo_image image{pixels.data(), width, height, int64_t{width} * 3, RTMO_BGR};
  for (int frame = 0; std::fread(pixels.data(), 1, pixels.size(), stdin) == pixels.size(); frame++) {
    const double seconds = static_cast<double>(frame) / rate;
    rtmo_people *found = nullptr;
    check(rtmo_infer(engine.get(), &image, &found));
    const People people(found);
    check(rtmo_tracker_update(tracker.get(), people.get(), seconds));
    check(rtmo_smoother_smooth(smoother.get(), people.get(), seconds));
    const size_t k = rtmo_people_keypoint_count(people.get());
    for (size_t i = 0; i < rtmo_people_count(people.get()); i++) {
      const float *nose = rtmo_people_keypoints(people.get()) + 2 * k * i;
      std::printf("%.3f s: person %lld, nose at %.0f,%.0f\n", seconds,
                  static_cast<long long>(rtmo_people_ids(people.get())[i]), static_cast<double>(nose[0]),
                  static_cast<double>(nose[1]));
    }
  }
}

}  // namespace

int main(int argc, char **argv) {
  try {
    run(argc, argv);
  } catch (const std::exception &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
