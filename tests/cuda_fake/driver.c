// A CUDA driver with nothing behind it, for tests of how the engine treats contexts and streams of others: it keeps each
// thread's stack of contexts as the driver does, and refuses whatever needs the device's own context while another one is
// current. Copies are done at once; what streams were asked for is written down in fake_log.
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_CONTEXT = 201, LAUNCH_FAILED = 719 };
typedef uintptr_t Context;

static const Context PRIMARY = 0x1000;
static _Thread_local Context stack[16];
static _Thread_local int depth;
// Counts, which tests read by name.
int fake_retained, fake_reset, fake_streams, fake_blocks, fake_fail_alloc, fake_events, fake_fail_launch, fake_synchronized;
// The number of the GPU that all memory belongs to.
int fake_owner;
char fake_log[4096];

static void note(const char* format, ...) {
  const size_t at = strlen(fake_log);
  va_list rest;
  va_start(rest, format);
  vsnprintf(fake_log + at, sizeof fake_log - at, format, rest);
  va_end(rest);
}

static Context current(void) { return depth ? stack[depth - 1] : 0; }
#define NEEDS_CONTEXT if (current() != PRIMARY) return INVALID_CONTEXT

int cuInit(unsigned flags) { (void)flags; return SUCCESS; }
int cuDriverGetVersion(int* version) { *version = 13000; return SUCCESS; }
int cuDeviceGetCount(int* count) { *count = 1; return SUCCESS; }
int cuDeviceGet(int* device, int ordinal) { *device = ordinal; return SUCCESS; }
int cuDeviceGetName(char* name, int size, int device) { (void)device; strncpy(name, "Fake", (size_t)size); return SUCCESS; }
int cuDeviceTotalMem_v2(size_t* bytes, int device) { (void)device; *bytes = 1u << 30; return SUCCESS; }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  (void)device;
  *value = attribute == 75 ? 9 : attribute == 76 ? 0 : 128 << 10;   // compute capability 9.0
  return SUCCESS;
}
int cuGetErrorName(int code, const char** text) { *text = code == OUT_OF_MEMORY ? "OUT_OF_MEMORY" : code == INVALID_VALUE ? "INVALID_VALUE" : code == LAUNCH_FAILED ? "LAUNCH_FAILED" : "INVALID_CONTEXT"; return SUCCESS; }
int cuGetErrorString(int code, const char** text) { return cuGetErrorName(code, text); }

int cuDevicePrimaryCtxRetain(Context* context, int device) { (void)device; fake_retained++; *context = PRIMARY; return SUCCESS; }
int cuDevicePrimaryCtxRelease_v2(int device) { (void)device; fake_retained--; return SUCCESS; }
int cuDevicePrimaryCtxReset_v2(int device) { (void)device; fake_reset++; return SUCCESS; }
int cuCtxGetCurrent(Context* context) { *context = current(); return SUCCESS; }
int cuCtxSetCurrent(Context context) { depth = depth ? depth : 1; stack[depth - 1] = context; return SUCCESS; }
int cuCtxPushCurrent_v2(Context context) { if (depth == 16) return INVALID_CONTEXT; stack[depth++] = context; return SUCCESS; }
int cuCtxPopCurrent_v2(Context* context) {
  if (!depth) return INVALID_CONTEXT;
  *context = stack[--depth];
  return SUCCESS;
}

int cuStreamCreate(void** stream, unsigned flags) { (void)flags; NEEDS_CONTEXT; fake_streams++; *stream = malloc(1); return SUCCESS; }
int cuStreamDestroy_v2(void* stream) { NEEDS_CONTEXT; fake_streams--; free(stream); return SUCCESS; }
int cuStreamSynchronize(void* stream) { (void)stream; NEEDS_CONTEXT; fake_synchronized++; return SUCCESS; }
// Streams of others are numbers: 0x7005 is of the context 0x7000. 1 and 2 are the default streams of the current context.
static Context of_stream(uintptr_t stream) { return stream <= 2 ? current() : stream < 0x10000 ? stream & 0xF000 : PRIMARY; }
int cuStreamGetCtx(void* stream, Context* context) {
  *context = of_stream((uintptr_t)stream);
  return *context ? SUCCESS : INVALID_CONTEXT;
}
int cuStreamWaitEvent(void* stream, void* event, unsigned flags) {
  (void)flags;
  NEEDS_CONTEXT;
  if (of_stream((uintptr_t)stream) != PRIMARY) return INVALID_VALUE;
  note("wait for %lx; ", (unsigned long)*(uintptr_t*)event);
  return SUCCESS;
}
// An event holds the stream that it was recorded in, and the context that it was made in.
int cuEventCreate(void** event, unsigned flags) {
  if (!current() || flags != 2) return INVALID_CONTEXT;   // no timing
  fake_events++;
  *event = calloc(2, sizeof(uintptr_t));
  ((uintptr_t*)*event)[1] = current();
  return SUCCESS;
}
int cuEventRecord(void* event, void* stream) {
  const Context of = of_stream((uintptr_t)stream);
  if (((uintptr_t*)event)[1] != of || current() != of) return INVALID_CONTEXT;
  *(uintptr_t*)event = (uintptr_t)stream;
  note("record in %lx of %lx; ", (unsigned long)(uintptr_t)stream, (unsigned long)of);
  return SUCCESS;
}
int cuEventDestroy_v2(void* event) {
  if (!current()) return INVALID_CONTEXT;
  fake_events--;
  free(event);
  return SUCCESS;
}

// Graphs of nothing.
int cuStreamBeginCapture_v2(void* stream, int mode) { (void)stream; (void)mode; NEEDS_CONTEXT; return SUCCESS; }
int cuStreamEndCapture(void* stream, void** graph) { (void)stream; NEEDS_CONTEXT; *graph = malloc(1); return SUCCESS; }
int cuGraphInstantiateWithFlags(void** made, void* graph, unsigned long long flags) {
  (void)graph;
  (void)flags;
  NEEDS_CONTEXT;
  *made = malloc(1);
  return SUCCESS;
}
int cuGraphDestroy(void* graph) { free(graph); return SUCCESS; }
int cuGraphExecDestroy(void* graph) { free(graph); return SUCCESS; }
int cuGraphUpload(void* graph, void* stream) { (void)graph; (void)stream; NEEDS_CONTEXT; return SUCCESS; }
int cuGraphLaunch(void* graph, void* stream) {
  (void)graph;
  (void)stream;
  NEEDS_CONTEXT;
  note("launch; ");
  return fake_fail_launch ? LAUNCH_FAILED : SUCCESS;
}

int cuMemAlloc_v2(uint64_t* address, size_t bytes) {
  NEEDS_CONTEXT;
  if (fake_fail_alloc) return OUT_OF_MEMORY;
  fake_blocks++;
  *address = (uint64_t)(uintptr_t)malloc(bytes);
  return SUCCESS;
}
int cuMemFree_v2(uint64_t address) { NEEDS_CONTEXT; fake_blocks--; free((void*)(uintptr_t)address); return SUCCESS; }
int cuMemHostAlloc(void** host, size_t bytes, unsigned flags) {
  (void)flags;
  NEEDS_CONTEXT;
  if (fake_fail_alloc) return OUT_OF_MEMORY;
  fake_blocks++;
  *host = malloc(bytes);
  return SUCCESS;
}
int cuMemHostGetDevicePointer_v2(uint64_t* address, void* host, unsigned flags) {
  (void)flags;
  NEEDS_CONTEXT;
  *address = (uint64_t)(uintptr_t)host;
  return SUCCESS;
}
int cuMemFreeHost(void* host) { NEEDS_CONTEXT; fake_blocks--; free(host); return SUCCESS; }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void* stream) {
  (void)stream;
  NEEDS_CONTEXT;
  memcpy((void*)(uintptr_t)to, from, bytes);
  return SUCCESS;
}
int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void* stream) {
  (void)stream;
  NEEDS_CONTEXT;
  memcpy(to, (const void*)(uintptr_t)from, bytes);
  return SUCCESS;
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void* stream) {
  (void)stream;
  NEEDS_CONTEXT;
  note("copy %zu; ", bytes);
  memcpy((void*)(uintptr_t)to, (const void*)(uintptr_t)from, bytes);
  return SUCCESS;
}
typedef struct {
  size_t x, y;
  int kind;
  const void* host;
  uint64_t device;
  void* array;
  size_t pitch;
} Side;
typedef struct { Side from, to; size_t width, height; } Copy;
int cuMemcpy2DAsync_v2(const Copy* copy, void* stream) {
  (void)stream;
  NEEDS_CONTEXT;
  if (copy->from.pitch < copy->width || copy->to.pitch < copy->width || copy->from.kind != 4 || copy->to.kind != 2) return INVALID_VALUE;
  note("copy %zu rows of %zu; ", copy->height, copy->width);
  for (size_t y = 0; y < copy->height; y++)
    memcpy((char*)(uintptr_t)copy->to.device + y * copy->to.pitch, (const char*)(uintptr_t)copy->from.device + y * copy->from.pitch,
           copy->width);
  return SUCCESS;
}
int cuPointerGetAttribute(void* value, int attribute, uint64_t address) {
  if (address < 4096) return INVALID_VALUE;
  if (attribute == 2) *(unsigned*)value = 2;          // memory type: device
  else if (attribute == 8) *(char*)value = 0;         // managed
  else if (attribute == 9) *(int*)value = fake_owner; // device
  else return INVALID_VALUE;
  return SUCCESS;
}
int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void* stream) {
  (void)stream;
  NEEDS_CONTEXT;
  memset((void*)(uintptr_t)to, value, bytes);
  return SUCCESS;
}
