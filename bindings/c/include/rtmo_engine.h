/* rtmo-engine: finds people and their joints in pictures. Made by cbindgen from bindings/c/src; do not edit.

   What holds for all functions:

   - A function that returns rtmo_status returns RTMO_OK (0), or why it failed; rtmo_last_error() then has the text.
   - Texts are UTF-8 and end with a NUL. Pixels count from the upper left corner of a picture.
   - Pointers that are NULL or misaligned, and sizes that are impossible, are errors and not crashes. What cannot be checked is
     the caller's: that memory is there and as long as it is said to be, and that a handle is used only while it lives.
   - Handles are freed by the function that ends in _free, once. Freeing NULL does nothing. What a function returns as a pointer
     into a handle lives as long as the handle.
   - Structures of options begin with their own size, so that they can grow: set struct_size to sizeof, all else to zero, then
     what should differ.
   - Nothing is thrown, and no function ends the program (but where memory runs out). Callbacks must not throw or jump. */

#ifndef RTMO_ENGINE_H
#define RTMO_ENGINE_H

#include <stddef.h>
#include <stdint.h>

// Version of this interface. It grows when a program that was compiled for an older one would no longer work.
#define RTMO_ABI_VERSION 1

// Pixels of three bytes: blue, green, red, as OpenCV has them.
#define RTMO_BGR 1

// Pixels of three bytes: red, green, blue, as most others have them.
#define RTMO_RGB 2

// It worked.
#define RTMO_OK 0

// An argument makes no sense: NULL, misaligned, out of range, or not together with another.
#define RTMO_ERROR_ARGUMENT 1

// A file cannot be read or written.
#define RTMO_ERROR_FILE 2

// A weights file is damaged, or no RTMO network.
#define RTMO_ERROR_WEIGHTS 3

// A device, an instruction set or a driver is missing or failed.
#define RTMO_ERROR_DEVICE 4

// A file could not be fetched from a server.
#define RTMO_ERROR_DOWNLOAD 5

// The library was built without this.
#define RTMO_ERROR_UNSUPPORTED 6

// A callback asked to stop.
#define RTMO_ERROR_CANCELLED 7

// A fault of the library: please report it. Handles stay usable.
#define RTMO_ERROR_INTERNAL 100

// Stands for 0 in options where 0 means the default.
#define RTMO_ZERO -1.0

// A network that is prepared for a device. It is locked during a call, so that threads may share it; they wait for each other.
// After a fork its threads are in the other process only: calls then fail with RTMO_ERROR_DEVICE, so make an engine in each
// process.
typedef struct rtmo_engine rtmo_engine;

// A list of the weights that RTMO's authors published, and of where those are that are on this machine. Several threads may
// read it at the same time.
typedef struct rtmo_models rtmo_models;

// The people of one picture, as arrays that belong to it. Several threads may read it at the same time; none may meanwhile
// change it (rtmo_tracker_update, rtmo_smoother_smooth) or free it.
typedef struct rtmo_people rtmo_people;

// Takes the jitter out of keypoints of a video. Locked during a call, so that threads may share it; frames must come in order.
typedef struct rtmo_smoother rtmo_smoother;

// Gives people of successive frames of a video their ids. Locked during a call, so that threads may share it; frames must come
// in order.
typedef struct rtmo_tracker rtmo_tracker;

// What a call returns: RTMO_OK, or why it failed; rtmo_last_error() then has the text.
typedef int32_t rtmo_status;

// Is told, by the thread that calls, what a user should know: `text` in English and UTF-8, without a line end, which holds
// until it returns. `user` is what was given beside it. It must not throw or jump, nor call the library.
typedef void (*rtmo_log)(const char *text, void *user);

// How an engine is set up. All zeros but `struct_size` are the defaults; where 0 itself is meant, give RTMO_ZERO.
typedef struct rtmo_engine_options {
  // sizeof(rtmo_engine_options).
  size_t struct_size;
  // "auto" (the default: a GPU if there is one that the library was built for), "cpu", "cuda" or "cuda:1".
  const char *device;
  // "fp32", "bf16", "bf16x3" or "fp16". Default: fp32 on a CPU, fp16 on a GPU.
  const char *precision;
  // Whose conventions to follow: "mmpose" (the default) or "rtmlib".
  const char *compat;
  // Address of a folder on another server to fetch weights from. Default: the environment's RTMO_MIRROR, else the authors'.
  const char *mirror;
  // Is told what a user should know, such as that weights are fetched. NULL: nothing is told.
  rtmo_log log;
  // For `log`.
  void *log_user;
  // Threads on a CPU, the caller's included. Default: one for each physical core that the process may use.
  size_t threads;
  // At most so many people a picture, the best first. Default: all.
  size_t max_people;
  // Network input in pixels, multiples of 32 up to 8192, both or none. Larger finds smaller people. Default: the model's own.
  int32_t input_width;
  // As `input_width`.
  int32_t input_height;
  // Score that a person must exceed, up to 1. Default: 0.1; 0.7 with "rtmlib"; 0.5 for the demonstration model.
  float score_thr;
  // Overlap of boxes (IoU) above which the lesser of two people is dropped, up to 1. Default: 0.65; 0.45 with "rtmlib".
  float nms_thr;
  // Not 0: weights are not fetched, as with the environment's RTMO_OFFLINE.
  int32_t offline;
  // Not 0: permits a mirror without encryption, as does the environment's RTMO_ALLOW_HTTP.
  int32_t allow_http;
} rtmo_engine_options;

// A picture in memory of the caller's: `height` rows of `width` pixels of three bytes. It is read in place, and only during
// a call.
typedef struct rtmo_image {
  // The first byte of the upper left pixel. There must be `stride * (height - 1) + 3 * width` bytes.
  const uint8_t *data;
  // Pixels a row, 1 to 1048576.
  int32_t width;
  // Rows, 1 to 1048576.
  int32_t height;
  // Bytes from one row to the next, at least `3 * width`. Pictures that are stored from the bottom up (negative strides) are
  // not taken.
  int64_t stride;
  // RTMO_BGR or RTMO_RGB. The wrong one finds fewer people.
  int32_t format;
} rtmo_image;

// What is known of published weights. The texts belong to the list.
typedef struct rtmo_model {
  // sizeof(rtmo_model), set by the caller.
  size_t struct_size;
  // Short name, such as "rtmo-s", for rtmo_engine_create.
  const char *name;
  // Official address of the weights.
  const char *url;
  // Last part of the address: the file's name after rtmo_download.
  const char *file_name;
  // Where it is on this machine; NULL if it is not here. UTF-8; bytes that are not are replaced.
  const char *path;
  // Data it was trained on.
  const char *training_data;
  // Data that `ap` was measured on.
  const char *benchmark;
  // Published average precision, 0 to 1.
  double ap;
  // Keypoints a person: 17 (COCO) or 14 (CrowdPose).
  size_t keypoint_count;
  // Network input, pixels.
  int32_t input_width;
  // Network input, pixels.
  int32_t input_height;
} rtmo_model;

// Is told how many bytes of a file have come, of how many (0 if the server does not say). Anything but 0 stops the download,
// which goes on from there the next time. `user` is what was given beside it. It must not throw or jump, nor call the library.
typedef int (*rtmo_progress)(uint64_t come, uint64_t of, void *user);

// How a file is fetched. All zeros but `struct_size` are the defaults.
typedef struct rtmo_download_options {
  // sizeof(rtmo_download_options).
  size_t struct_size;
  // Where to. NULL: the user's cache folder, where rtmo_engine_create finds it by name.
  const char *folder;
  // Address of a folder on another server that has the files under their official names. NULL: the environment's RTMO_MIRROR,
  // else the authors' server.
  const char *mirror;
  // Not 0: permits a mirror without encryption, as does the environment's RTMO_ALLOW_HTTP.
  int32_t allow_http;
  // Not 0: fetches also what is here.
  int32_t force;
  // NULL: nothing is told.
  rtmo_progress progress;
  // For `progress`.
  void *user;
} rtmo_download_options;

// How a tracker is set up. All zeros but `struct_size` are the defaults; where 0 itself is meant, give RTMO_ZERO.
typedef struct rtmo_tracker_options {
  // sizeof(rtmo_tracker_options).
  size_t struct_size;
  // Seconds that a person may be out of sight and still keep the id, up to 3600. Default: 2.
  double max_unseen;
  // How alike a person and what is expected of a track must be, up to 1. Default: 0.1.
  float min_iou;
  // Score from which on a person may begin a track, up to 1. Default: 0.3.
  float min_score;
  // In how many frames a person must be seen before there is an id. Default: 2.
  size_t min_hits;
  // For each keypoint how far it may be off, as OKS defines it; NULL: COCO's for 17 keypoints, CrowdPose's for 14, else 0.07.
  const float *sigmas;
  // Numbers in `sigmas`.
  size_t sigma_count;
} rtmo_tracker_options;

// How a smoother is set up. All zeros but `struct_size` are the defaults; where 0 itself is meant, give RTMO_ZERO.
typedef struct rtmo_smoother_options {
  // sizeof(rtmo_smoother_options).
  size_t struct_size;
  // Cutoff frequency in hertz of a joint that rests, above 0. Lower: less jitter, more lag. Default: 1.5.
  double min_cutoff;
  // By how many hertz it rises for a speed of one person's size a second. Higher: less lag. Default: 15.
  double beta;
  // Cutoff frequency in hertz for the speed itself, above 0. Default: 4.
  double speed_cutoff;
  // Seconds after which a joint that was not seen begins anew, above 0. Default: 0.5.
  double max_unseen;
  // Keypoints of a lower score stay as they are, up to 1. Default: 0.3.
  float min_score;
  // Must be 0.
  uint32_t reserved;
} rtmo_smoother_options;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The library's RTMO_ABI_VERSION. A program should compare it with the header's before it calls anything else.
//
// Never fails. May be called from any thread.
uint32_t rtmo_abi_version(void);

// The library's version, such as "0.1.0". The text lives as long as the program.
//
// Never fails. May be called from any thread.
const char *rtmo_version(void);

// Finds or fetches weights and prepares their network.
//
// `model` is the name of published weights (rtmo_models_create lists them), which are fetched once if they are not here; or
// "rtmo-n-demo", a small demonstration model that is part of the library; or the path of a weights file, which has a slash or
// ends in .pth, .safetensors, .onnx or .zip. NULL: published weights that are here, else rtmo-s is fetched, else the
// demonstration model is taken. `options` may be NULL: the defaults.
//
// *engine: the handle, for rtmo_engine_free; NULL on failure. RTMO_ERROR_ARGUMENT, RTMO_ERROR_FILE, RTMO_ERROR_WEIGHTS,
// RTMO_ERROR_DOWNLOAD or RTMO_ERROR_DEVICE. Takes up to seconds. May be called from any thread.
rtmo_status rtmo_engine_create(const char *model,
                               const struct rtmo_engine_options *options,
                               struct rtmo_engine **engine);

// Prepares the network of a weights file that is in memory: `size` bytes from `bytes` on, which are copied. `options` may be
// NULL: the defaults.
//
// *engine: the handle, for rtmo_engine_free; NULL on failure. RTMO_ERROR_ARGUMENT, RTMO_ERROR_WEIGHTS or RTMO_ERROR_DEVICE. May
// be called from any thread.
rtmo_status rtmo_engine_create_from_bytes(const uint8_t *bytes,
                                          size_t size,
                                          const struct rtmo_engine_options *options,
                                          struct rtmo_engine **engine);

// Frees an engine, and ends its threads. No other call with it may be under way. NULL: nothing happens. People that it found
// stay.
void rtmo_engine_free(struct rtmo_engine *engine);

// Finds the people on one picture.
//
// *people: the handle, for rtmo_people_free; NULL on failure. RTMO_ERROR_ARGUMENT for a picture of impossible size, stride or
// format; RTMO_ERROR_DEVICE. Thread-safe: the engine is locked. The picture must not be written to meanwhile.
rtmo_status rtmo_infer(struct rtmo_engine *engine,
                       const struct rtmo_image *image,
                       struct rtmo_people **people);

// Finds the people on `count` pictures, which may differ in size, as one batch: faster than one by one on a GPU.
//
// people: an array of `count` handles, each for rtmo_people_free; all NULL on failure. Errors and threads as rtmo_infer.
rtmo_status rtmo_infer_batch(struct rtmo_engine *engine,
                             const struct rtmo_image *images,
                             size_t count,
                             struct rtmo_people **people);

// Changes the thresholds, from the next call on, as `score_thr` and `nms_thr` of rtmo_engine_options: 0 is the default (the
// demonstration model's score stays 0.5), RTMO_ZERO is 0.
//
// RTMO_ERROR_ARGUMENT for a number above 1 or not finite; nothing is changed then. Thread-safe: the engine is locked.
rtmo_status rtmo_engine_set_thresholds(struct rtmo_engine *engine,
                                       float score_thr,
                                       float nms_thr);

// Which network it is: "rtmo-s" and the like, or "custom" and the width of its stem. NULL for NULL.
//
// The text belongs to the engine. Thread-safe.
const char *rtmo_engine_name(const struct rtmo_engine *engine);

// One line on where it computes: device or instruction set, threads, precision. NULL for NULL.
//
// The text belongs to the engine. Thread-safe.
const char *rtmo_engine_description(const struct rtmo_engine *engine);

// The network's input in pixels. RTMO_ERROR_ARGUMENT for NULL. Thread-safe.
rtmo_status rtmo_engine_input_size(const struct rtmo_engine *engine, int32_t *width, int32_t *height);

// Keypoints a person: 17 for COCO's body, 14 for CrowdPose's. 0 for NULL. Thread-safe.
size_t rtmo_engine_keypoint_count(const struct rtmo_engine *engine);

// Name of a keypoint, from 0 on, such as "left_wrist"; left is the person's left. NULL for NULL, for an index that is too high,
// and for networks whose keypoints have no names.
//
// The text belongs to the engine. Thread-safe.
const char *rtmo_engine_keypoint_name(const struct rtmo_engine *engine,
                                      size_t index);

// Pairs of keypoints that are joined, for drawing: two numbers a bone. *count: bones; 0 for networks whose keypoints have no
// names. NULL if there are none, or for NULL.
//
// The array belongs to the engine. Thread-safe.
const uint32_t *rtmo_engine_bones(const struct rtmo_engine *engine,
                                  size_t *count);

// Lists the published weights.
//
// *models: the list, for rtmo_models_free; NULL on failure. Looks for files, and connects to no server. May be called from any
// thread.
rtmo_status rtmo_models_create(struct rtmo_models **models);

// How many there are. 0 for NULL. Thread-safe.
size_t rtmo_models_count(const struct rtmo_models *models);

// What is known of the one at `index`, from 0 on. `model->struct_size` must be set before. RTMO_ERROR_ARGUMENT if there is no
// such one. Thread-safe.
rtmo_status rtmo_models_get(const struct rtmo_models *models,
                            size_t index,
                            struct rtmo_model *model);

// Frees a list and its texts. NULL: nothing happens.
void rtmo_models_free(struct rtmo_models *models);

// Fetches the published weights `name`, unless they are here. The file appears complete or not at all, and only if its
// SHA-256 is right. `options` may be NULL: the defaults.
//
// RTMO_ERROR_ARGUMENT for a name that is not published, RTMO_ERROR_DOWNLOAD, RTMO_ERROR_FILE, RTMO_ERROR_CANCELLED if the
// callback asked to stop, RTMO_ERROR_UNSUPPORTED if the library was built without downloads. May be called from any thread;
// blocks for as long as it takes.
rtmo_status rtmo_download(const char *name,
                          const struct rtmo_download_options *options);

// How many people there are: N below. 0 for NULL.
//
// Thread-safe, as rtmo_people says.
size_t rtmo_people_count(const struct rtmo_people *people);

// Keypoints a person: K below, 17 for COCO's body, 14 for CrowdPose's. 0 for NULL.
//
// Thread-safe, as rtmo_people says.
size_t rtmo_people_keypoint_count(const struct rtmo_people *people);

// Confidences, N numbers from 0 to 1, the best first. NULL if there are no people, or for NULL.
//
// The array belongs to `people`. Thread-safe, as rtmo_people says.
const float *rtmo_people_scores(const struct rtmo_people *people);

// Boxes, N times x1, y1, x2, y2 (left, top, right, bottom) in pixels of the picture, from its upper left corner; they may reach
// beyond it. NULL if there are no people, or for NULL.
//
// The array belongs to `people`. Thread-safe, as rtmo_people says.
const float *rtmo_people_boxes(const struct rtmo_people *people);

// Places of keypoints, N times K times x, y in pixels of the picture; they may lie outside it. Keypoint k of person i is at
// [(i * K + k) * 2]. NULL if there are no people, or for NULL.
//
// The array belongs to `people`. Thread-safe, as rtmo_people says.
const float *rtmo_people_keypoints(const struct rtmo_people *people);

// Confidences that keypoints are visible, N times K numbers from 0 to 1. NULL if there are no people, or for NULL.
//
// The array belongs to `people`. Thread-safe, as rtmo_people says.
const float *rtmo_people_keypoint_scores(const struct rtmo_people *people);

// Who they are, N numbers from rtmo_tracker_update: from 1 on, -1 for those without one, and for all before it. NULL if there
// are no people, or for NULL.
//
// The array belongs to `people`. Thread-safe, as rtmo_people says.
const int64_t *rtmo_people_ids(const struct rtmo_people *people);

// How many people are left out because the network's numbers for them were not finite. Above 0 the weights are broken, or too
// large for the precision. 0 for NULL.
//
// Thread-safe, as rtmo_people says.
size_t rtmo_people_not_finite(const struct rtmo_people *people);

// People from elsewhere, for a tracker or a smoother; the arrays are copied. `scores` has `count` numbers, `boxes` four times
// as many (x1, y1, x2, y2), `keypoint_scores` `count * keypoint_count` and `keypoints` twice those (x, y), in pixels.
// `keypoint_count` may be 0: then `keypoints` and `keypoint_scores` may be NULL.
//
// *people: the handle, for rtmo_people_free; NULL on failure. RTMO_ERROR_ARGUMENT for pointers that are NULL or misaligned, and
// counts that are too large. May be called from any thread.
rtmo_status rtmo_people_create(size_t count,
                               size_t keypoint_count,
                               const float *scores,
                               const float *boxes,
                               const float *keypoints,
                               const float *keypoint_scores,
                               struct rtmo_people **people);

// Frees people and the arrays that belong to them. NULL: nothing happens.
void rtmo_people_free(struct rtmo_people *people);

// What went wrong in this thread's last call that failed: what, where, what was expected and what was found, in English and
// UTF-8, without control characters except line ends. An empty text if none has failed. Calls that succeed leave it as it is.
//
// The text belongs to the library and holds until the thread's next call that fails, or its end. Never NULL.
//
// Each thread has its own.
const char *rtmo_last_error(void);

// A status in one word, such as "argument"; "unknown" for other numbers. The text lives as long as the program.
//
// Never fails. May be called from any thread.
const char *rtmo_status_text(rtmo_status status);

// Makes a tracker that has seen no person yet. `options` may be NULL: the defaults.
//
// *tracker: the handle, for rtmo_tracker_free; NULL on failure. RTMO_ERROR_ARGUMENT for a number out of range. May be called
// from any thread.
rtmo_status rtmo_tracker_create(const struct rtmo_tracker_options *options,
                                struct rtmo_tracker **tracker);

// Gives the people of the next frame their ids (rtmo_people_ids). `seconds` is the frame's time, above that of the frame
// before; a constant rate need not be assumed. Nothing is changed on failure.
//
// RTMO_ERROR_ARGUMENT for a time that is not later, or people with a number that is not finite. Locks the tracker; `people` must
// not be used by others meanwhile.
rtmo_status rtmo_tracker_update(struct rtmo_tracker *tracker,
                                struct rtmo_people *people,
                                double seconds);

// Begins anew, as for another video: all people are forgotten, and times may begin anywhere. No id is given twice by one tracker.
//
// RTMO_ERROR_ARGUMENT for NULL. Locks the tracker.
rtmo_status rtmo_tracker_reset(struct rtmo_tracker *tracker);

// Frees a tracker. NULL: nothing happens.
void rtmo_tracker_free(struct rtmo_tracker *tracker);

// Makes a smoother that has seen no person yet. `options` may be NULL: the defaults.
//
// *smoother: the handle, for rtmo_smoother_free; NULL on failure. RTMO_ERROR_ARGUMENT for a number out of range. May be called
// from any thread.
rtmo_status rtmo_smoother_create(const struct rtmo_smoother_options *options,
                                 struct rtmo_smoother **smoother);

// Smooths the keypoints of the people of the next frame, in place. It knows people by their ids: call rtmo_tracker_update
// before. `seconds` is the frame's time, above that of the frame before. Nothing is changed on failure.
//
// RTMO_ERROR_ARGUMENT for a time that is not later, or people with a number that is not finite. Locks the smoother; `people`
// must not be used by others meanwhile.
rtmo_status rtmo_smoother_smooth(struct rtmo_smoother *smoother,
                                 struct rtmo_people *people,
                                 double seconds);

// Begins anew, as for another video.
//
// RTMO_ERROR_ARGUMENT for NULL. Locks the smoother.
rtmo_status rtmo_smoother_reset(struct rtmo_smoother *smoother);

// Frees a smoother. NULL: nothing happens.
void rtmo_smoother_free(struct rtmo_smoother *smoother);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* RTMO_ENGINE_H */
