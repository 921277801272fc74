// A CUDA driver with nothing behind it, for tests of how the engine treats contexts: it keeps each thread's stack of contexts
// as the driver does, and refuses whatever needs the device's own context while another one is current.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, OUT_OF_MEMORY = 2, INVALID_CONTEXT = 201 };
typedef uintptr_t Context;

static const Context PRIMARY = 0x1000;
static _Thread_local Context stack[16];
static _Thread_local int depth;
// Counts, which tests read by name.
int fake_retained, fake_reset, fake_streams, fake_blocks, fake_fail_alloc;

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
int cuGetErrorName(int code, const char** text) { *text = code == OUT_OF_MEMORY ? "OUT_OF_MEMORY" : "INVALID_CONTEXT"; return SUCCESS; }
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
int cuStreamSynchronize(void* stream) { (void)stream; NEEDS_CONTEXT; return SUCCESS; }

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
int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void* stream) {
  (void)stream;
  NEEDS_CONTEXT;
  memset((void*)(uintptr_t)to, value, bytes);
  return SUCCESS;
}
