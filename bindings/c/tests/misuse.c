/* Every way of calling wrongly that can be checked: an error each time, and no memory is touched. Run under valgrind. */
#include <rtmo_engine.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int wrong = 0;

static void expect(int line, int holds) {
  if (!holds) {
    fprintf(stderr, "misuse.c:%d: does not hold; last error: %s\n", line, rtmo_last_error());
    wrong = 1;
  }
}
#define EXPECT(holds) expect(__LINE__, holds)
#define REFUSED(call) EXPECT((call) == RTMO_ERROR_ARGUMENT && rtmo_last_error()[0] != '\0')

int main(int argc, char **argv) {
  /* Of exactly the size of two rows, without what would follow the last one: valgrind sees a read beyond it. */
  enum { WIDTH = 40, HEIGHT = 2, STRIDE = 128 };
  uint8_t *pixels = calloc(1, STRIDE * (HEIGHT - 1) + 3 * WIDTH);
  rtmo_image image = {pixels, WIDTH, HEIGHT, STRIDE, RTMO_RGB};
  rtmo_engine_options options;
  rtmo_engine *engine = NULL;
  rtmo_people *people = NULL;
  rtmo_tracker *tracker = NULL;
  size_t count = 0;

  if (argc != 2 || pixels == NULL) return 2;
  EXPECT(rtmo_abi_version() == RTMO_ABI_VERSION);
  EXPECT(rtmo_last_error()[0] == '\0');

  memset(&options, 0, sizeof options);
  REFUSED(rtmo_engine_create(argv[1], &options, &engine)); /* struct_size is not set */
  options.struct_size = sizeof options;
  options.device = "cpu";
  options.input_width = 96;
  options.input_height = 64;
  options.score_thr = 2;
  REFUSED(rtmo_engine_create(argv[1], &options, &engine));
  EXPECT(engine == NULL);
  options.score_thr = RTMO_ZERO;
  options.max_people = 3;
  EXPECT(rtmo_engine_create("/no/such.pth", &options, &engine) == RTMO_ERROR_FILE);
  EXPECT(strstr(rtmo_last_error(), "/no/such.pth") != NULL);
  REFUSED(rtmo_engine_create(argv[1], &options, NULL));
  EXPECT(rtmo_engine_create(argv[1], &options, &engine) == RTMO_OK);

  REFUSED(rtmo_infer(NULL, &image, &people));
  REFUSED(rtmo_infer(engine, NULL, &people));
  REFUSED(rtmo_infer(engine, &image, NULL));
  REFUSED(rtmo_infer(engine, (const rtmo_image *)((const char *)&image + 1), &people));
  image.stride = -STRIDE;
  REFUSED(rtmo_infer(engine, &image, &people));
  image.stride = 3 * WIDTH - 1;
  REFUSED(rtmo_infer(engine, &image, &people));
  image.stride = INT64_MAX;
  REFUSED(rtmo_infer(engine, &image, &people));
  image.stride = STRIDE;
  image.width = -1;
  REFUSED(rtmo_infer(engine, &image, &people));
  image.width = WIDTH;
  image.data = NULL;
  REFUSED(rtmo_infer(engine, &image, &people));
  image.data = pixels;
  REFUSED(rtmo_infer_batch(engine, &image, SIZE_MAX, &people));

  /* After all that it works, and reads no byte too many. */
  EXPECT(rtmo_infer(engine, &image, &people) == RTMO_OK);
  EXPECT(rtmo_people_count(people) == 3 && rtmo_people_keypoint_count(people) == 17);
  EXPECT(rtmo_people_ids(people)[2] == -1);
  EXPECT(rtmo_engine_bones(engine, &count) != NULL && count > 0);
  EXPECT(rtmo_tracker_create(NULL, &tracker) == RTMO_OK);
  EXPECT(rtmo_tracker_update(tracker, people, 1.0) == RTMO_OK);
  REFUSED(rtmo_tracker_update(tracker, people, 1.0));
  REFUSED(rtmo_tracker_update(tracker, NULL, 2.0));
  EXPECT(rtmo_people_count(NULL) == 0 && rtmo_people_boxes(NULL) == NULL);

  rtmo_tracker_free(tracker);
  rtmo_people_free(people);
  rtmo_engine_free(engine);
  rtmo_engine_free(NULL);
  rtmo_people_free(NULL);
  rtmo_tracker_free(NULL);
  rtmo_smoother_free(NULL);
  rtmo_models_free(NULL);
  free(pixels);
  if (!wrong) puts("misuse: all refused");
  return wrong;
}
