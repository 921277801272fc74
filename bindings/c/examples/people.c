/* Prints the people on a picture in the format PPM (ffmpeg -i photo.jpg photo.ppm makes one).

       cc people.c $(pkg-config --cflags --libs rtmo_engine) -o people
       ./people photo.ppm rtmo-s                  the second word is a model's name or a weights file
       ./people photo.ppm rtmo-s 320              the third the network's input in pixels, a multiple of 32 */
#include <rtmo_engine.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail(const char *what) {
  fprintf(stderr, "%s: %s\n", what, rtmo_last_error());
  return 1;
}

static void tell(const char *text, void *user) {
  (void)user;
  fprintf(stderr, "note: %s\n", text);
}

/* A number of a PPM's head; -1 if there is none below 100000. Comments run from # to the end of a line. */
static int number(FILE *file) {
  int c = fgetc(file), value = -1;
  while (c == ' ' || c == '\n' || c == '\r' || c == '\t' || c == '#') {
    if (c == '#') {
      while (c != '\n' && c != EOF) c = fgetc(file);
    } else {
      c = fgetc(file);
    }
  }
  for (; c >= '0' && c <= '9' && value < 100000; c = fgetc(file)) {
    value = (value < 0 ? 0 : value) * 10 + (c - '0');
  }
  return value < 100000 ? value : -1;
}

/* Reads the pixels of a PPM file, for free(); NULL if it is none. */
static uint8_t *read_ppm(const char *path, rtmo_image *image) {
  FILE *file = fopen(path, "rb");
  uint8_t *pixels = NULL;
  if (file == NULL) return NULL;
  if (fgetc(file) == 'P' && fgetc(file) == '6') {
    int width = number(file), height = number(file), most = number(file);
    if (width > 0 && height > 0 && most == 255) {
      size_t size = (size_t)width * (size_t)height * 3;
      pixels = malloc(size);
      if (pixels != NULL && fread(pixels, 1, size, file) != size) {
        free(pixels);
        pixels = NULL;
      }
      image->data = pixels;
      image->width = width;
      image->height = height;
      image->stride = (int64_t)width * 3;
      image->format = RTMO_RGB;
    }
  }
  fclose(file);
  return pixels;
}

int main(int argc, char **argv) {
  rtmo_engine_options options;
  rtmo_engine *engine = NULL;
  rtmo_people *people = NULL;
  rtmo_image image;
  uint8_t *pixels;
  int status = 1;

  if (argc < 2) {
    fprintf(stderr, "usage: %s photo.ppm [MODEL [SIZE]]\n", argv[0]);
    return 2;
  }
  if (rtmo_abi_version() != RTMO_ABI_VERSION) {
    fprintf(stderr, "the library is another version than the header\n");
    return 1;
  }
  pixels = read_ppm(argv[1], &image);
  if (pixels == NULL) {
    fprintf(stderr, "%s: cannot be read, or is no PPM file of 8 bits\n", argv[1]);
    return 1;
  }
  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  options.log = tell;
  options.input_width = options.input_height = argc > 3 ? atoi(argv[3]) : 0;
  if (rtmo_engine_create(argc > 2 ? argv[2] : NULL, &options, &engine) != RTMO_OK) {
    fail("no engine");
  } else if (rtmo_infer(engine, &image, &people) != RTMO_OK) {
    fail(argv[1]);
  } else {
    size_t n = rtmo_people_count(people), k = rtmo_people_keypoint_count(people);
    const float *scores = rtmo_people_scores(people), *boxes = rtmo_people_boxes(people);
    const float *xy = rtmo_people_keypoints(people), *sure = rtmo_people_keypoint_scores(people);
    printf("%zu people, by %s on %s\n", n, rtmo_engine_name(engine), rtmo_engine_description(engine));
    for (size_t i = 0; i < n; i++) {
      const float *box = boxes + 4 * i;
      printf("person %zu (%.2f): %.0f,%.0f to %.0f,%.0f\n", i, (double)scores[i], (double)box[0],
             (double)box[1], (double)box[2], (double)box[3]);
      for (size_t j = 0; j < k; j++) {
        const char *name = rtmo_engine_keypoint_name(engine, j);
        const float *at = xy + 2 * (i * k + j);
        printf("  %s (%.2f): %.1f,%.1f\n", name != NULL ? name : "keypoint", (double)sure[i * k + j],
               (double)at[0], (double)at[1]);
      }
    }
    status = 0;
  }
  rtmo_people_free(people);
  rtmo_engine_free(engine);
  free(pixels);
  return status;
}
