// The scheduler behind emu.hpp, and the C interface that the Rust tests load. See emu.hpp for what it promises.
#include "emu.hpp"

#include "order.hpp"

#include <dlfcn.h>
#include <link.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdlib>
#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

namespace emu {

// ---- fp16 ------------------------------------------------------------------------------------------------------

float half_to_float(uint16_t h) {
  const uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 1023;
  if (exponent == 31) return bits_to_float(sign | 0x7F800000 | fraction << 13);
  if (exponent == 0) return (sign ? -1.f : 1.f) * (float)fraction * 0x1p-24f;
  return bits_to_float(sign | (exponent + 112) << 23 | fraction << 13);
}
uint16_t float_to_half(float f) {
  const uint32_t u = float_to_bits(f), sign = u >> 16 & 0x8000;
  const float a = std::fabs(f);
  if (a != a) return (uint16_t)(sign | 0x7FFF);
  if (a >= 65520.f) return (uint16_t)(sign | 0x7C00);
  if (a < 0x1p-14f) return (uint16_t)(sign | (uint32_t)std::lrint(a * 0x1p24f));
  const uint32_t v = float_to_bits(a), odd = v >> 13 & 1;
  return (uint16_t)(sign | ((v + 0xFFF + odd - (112u << 23)) >> 13));
}

// ---- state of the running cluster ---------------------------------------------------------------------------------

namespace {

constexpr size_t STACK = 96 << 10, WINDOW = 256 << 10, SHARED_BASE = 1024;

// `landed`: of cp.async, where to note when it has happened.
struct Copy { unsigned char* dst; const void* src; int bytes, total; uint32_t* landed; bool ran = false; };
struct Barrier;
struct Thread;

// Asynchronous work that no thread waits for itself: copies, then an arrival or a byte count on a memory barrier.
struct Async {
  std::vector<Copy> copies;
  std::vector<unsigned char> data;
  unsigned char* data_dst = nullptr;
  Barrier* bar;
  int bytes;
  bool arrive;
};
// `slot`, `phases`: its clock. `coming`: what those who arrived knew; `known`: the same at the end of the last phase.
struct Barrier {
  int expected, pending;
  long tx;
  int phase;
  std::vector<Thread*> waiting;
  int slot = 0, initialiser = 0;
  bool fenced = false;
  Clock phases = 0;
  Known coming;
  Shared known;
};
struct NamedBarrier { int needed = 0, arrived = 0; std::vector<Thread*> waiting; Known coming; };
// Lanes of a warp (or a warpgroup) that have come to a collective operation.
struct Meeting {
  const char* what = nullptr;
  uint32_t mask = 0;
  int arrived = 0;
  void* operand[128];
  void* extra = nullptr;
  std::vector<Thread*> waiting;
};
struct Product { float* d[128]; int n; uint64_t a, b; int accumulate; uint32_t fenced; bool ran = false; };
struct Warpgroup { Meeting meeting; std::vector<Product> open; std::deque<std::vector<Product>> groups; };

struct Block {
  unsigned char* shared;
  std::vector<uint32_t> landed;   // of each 16 bytes of it: when cp.async last wrote them
  int live;
  NamedBarrier barriers[16];
  std::vector<Meeting> warps;
  std::vector<Warpgroup> warpgroups;
  bool waited;
  std::vector<Cell> cells;        // of each two bytes of it, if order is checked
};
struct Thread {
  Place place;
  Block* block;
  int rank, id;
  jmp_buf context;
  ucontext_t start;
  unsigned char* stack;
  const char* state;      // what it waits for
  bool started, done, waited, cluster_arrived;
  int cluster_target;
  uint32_t fenced;        // the last fence.proxy.async
  Order order;
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> groups;
};

// `written`: for each 16 bytes the last launch that wrote there.
struct Allocation {
  unsigned char* pages;
  size_t mapped;
  unsigned char* data;
  size_t bytes;
  bool constant;
  std::shared_ptr<std::vector<uint32_t>> written;
};

// Buffers of all runs.
std::vector<Allocation> allocations;
std::mutex allocations_lock;

// One grid that runs. Each host thread runs one at a time, all of its fibers on itself.
struct Run {
  std::vector<unsigned char*> stacks;
  unsigned char* windows[16] = {};

  const char* kernel_name = "";
  size_t shared_bytes = 0;
  bool dependent = false;      // launched with programmatic dependence on the kernel before
  uint32_t number = 0;         // of this launch
  bool early_trigger = false;  // some thread let the next kernel start before its own wait
  uint64_t random_state = 0;   // 0: first come, first served, everything as late as possible
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<std::unique_ptr<Block>> blocks;
  std::deque<Thread*> ready;
  std::deque<Async> asyncs;
  std::unordered_map<uint32_t, Barrier> mbarriers;
  int cluster_pending = 0, cluster_phase = 0, cluster_live = 0;
  bool checks = false;         // of order, and of each access's place
  int slots = 0, next_slot = 0;
  Joins joins;
  Shared cluster_known;
  Known cluster_coming;
  const void* pc = nullptr;    // where the kernel is
  std::vector<Allocation> seen;   // buffers that were looked for
  uint32_t landings = 0;       // cp.async so far, the clock of `landed` and `fenced`
  Thread* self = nullptr;
  jmp_buf scheduler;
  sigjmp_buf escape;
  char message[1024] = "";
  Entry entry = nullptr;
  const void* parameters = nullptr;
  unsigned char signal_stack[64 << 10];
};

// The run of this host thread. Its memory is kept for later runs: stacks and windows are large.
TLS Run* now;
std::vector<std::unique_ptr<Run>> idle;
std::mutex idle_lock;

// The launch before, of this host thread: a program's launches are of one.
struct Before { uint32_t number = 0; bool early_trigger = false; };
thread_local Before before;
std::atomic<uint32_t> launches{0};

unsigned draw(unsigned n) {
  uint64_t& state = now->random_state;
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return (unsigned)((state >> 20) % n);
}
bool chance(unsigned n) { return now->random_state && draw(n) == 0; }

void wake(std::vector<Thread*>& list) {
  for (Thread* t : list) now->ready.push_back(t);
  list.clear();
}
// Returns to the scheduler until this thread is put into `ready`.
void pause(const char* what) {
  now->self->state = what;
  if (_setjmp(now->self->context) == 0) _longjmp(now->scheduler, 1);
}
void wait_in(std::vector<Thread*>& list, const char* what) {
  list.push_back(now->self);
  pause(what);
}

unsigned char* at(uint32_t address, size_t bytes, const char* what) {
  const uint32_t rank = address >> 20, offset = address & 0xFFFFF;
  if (rank >= now->blocks.size() || offset < SHARED_BASE || offset - SHARED_BASE + bytes > now->shared_bytes)
    fail("%s: shared address 0x%x (+%zu) is outside the %zu bytes of the block", what, address, bytes, now->shared_bytes);
  return now->blocks[rank]->shared + (offset - SHARED_BASE);
}
// The buffer that has all these bytes; one of no bytes if there is none.
Allocation allocation_of(const void* p, size_t bytes) {
  const std::lock_guard<std::mutex> guard(allocations_lock);
  for (const Allocation& a : allocations)
    if ((const unsigned char*)p >= a.data && (const unsigned char*)p + bytes <= a.data + a.bytes) return a;
  return {};
}
void check_source(const void* src, size_t bytes, const char* what) {
  if ((uintptr_t)src % 16) fail("%s: global address %p is not a multiple of 16", what, src);
  const Allocation a = allocation_of(src, bytes);
  if (!a.data) fail("%s: %zu bytes at %p are outside every buffer", what, bytes, src);
  if (now->dependent && !a.constant && !now->self->waited)
    fail("%s reads a buffer of an earlier kernel before griddepcontrol.wait", what);
}
// Where it is noted which launch wrote these bytes of a buffer.
struct Cells {
  uint32_t *first, *last;
  uint32_t* operator*() const { return first; }
  Cells& operator++() { first++; return *this; }
  bool operator!=(const Cells& end) const { return first != end.first; }
  Cells begin() const { return *this; }
  Cells end() const { return {last, last}; }
};
Cells cells(const Allocation& a, const void* p, size_t bytes) {
  const size_t at = (size_t)((const unsigned char*)p - a.data);
  return {a.written->data() + at / 16, a.written->data() + (at + bytes - 1) / 16 + 1};
}
// ---- order --------------------------------------------------------------------------------------------------------

constexpr int BARRIER_SLOTS = 64;
#define HERE() (now->pc = __builtin_return_address(0))

// Offset in this library, which addr2line understands.
uint32_t code_place() {
  static const uintptr_t base = [] {
    Dl_info info;
    return dladdr((void*)&fail, &info) ? (uintptr_t)info.dli_fbase : 0;
  }();
  return (uint32_t)((uintptr_t)now->pc - base);
}
// The line of a place, if there is an addr2line; else the place.
std::string line_of(uint32_t place) {
  Dl_info info;
  char text[512], *line = nullptr;
  if (dladdr((void*)&fail, &info)) {
    std::snprintf(text, sizeof text, "addr2line -e '%s' 0x%x 2>/dev/null", info.dli_fname, place - 1);
    if (FILE* pipe = popen(text, "r")) {
      line = std::fgets(text, sizeof text, pipe);
      pclose(pipe);
    }
  }
  std::string all = line && line[0] != '?' ? line : "";
  while (!all.empty() && (all.back() == '\n' || all.back() == ' ')) all.pop_back();
  if (const size_t name = all.rfind('/'); name != std::string::npos) all = all.substr(name + 1);
  // A kernel was compiled as name-hash.process.thread.cpp.
  const size_t dash = all.find('-'), colon = all.rfind(':');
  if (dash != std::string::npos && colon != std::string::npos && dash < colon) all = all.substr(0, dash) + ".cu" + all.substr(colon);
  if (all.empty()) std::snprintf(text, sizeof text, "code 0x%x", place), all = text;
  return all;
}
std::string who(int slot) {
  const int threads = (int)now->threads.size();
  if (slot >= threads) return "a counted copy";
  const Thread& t = *now->threads[(size_t)slot];
  return "thread " + std::to_string(t.id) + (now->blocks.size() > 1 ? " of block " + std::to_string(t.rank) : "");
}
[[noreturn]] void clash(const Block& block, const Cell& cell, const char* what, const char* earlier, int slot, uint32_t place) {
  const std::string line = line_of(code_place()), other = line_of(place);
  fail("%s byte %zu of shared memory (%s), %s %s (%s)", what, (size_t)(&cell - block.cells.data()) * 2, line.c_str(), earlier,
       who(slot).c_str(), other.c_str());
}
Cell* cell_of(Block& block, const void* p) {
  return &block.cells[(size_t)((const unsigned char*)p - block.shared) / 2];
}
size_t cells_of(const void* p, size_t bytes) { return ((uintptr_t)p + bytes + 1) / 2 - (uintptr_t)p / 2; }

void read_cell(Block& block, Cell& c, const Thread& t) {
  const Order& o = t.order;
  if (c.copier) clash(block, c, "reads", "into which an asynchronous copy is in flight, of", c.copier - 1, c.written_at);
  if (c.kind == Cell::NEVER) {
    const std::string line = line_of(code_place());
    fail("reads byte %zu of shared memory, which nothing wrote (%s)", (size_t)(&c - block.cells.data()) * 2, line.c_str());
  }
  if (!o.knows(c.writer, c.written)) clash(block, c, "reads", "not ordered after the write of", c.writer, c.written_at);
  Cell::Read* r = c.reads;
  while (r < c.reads + Cell::READS && r->at && r->slot / 32 != o.slot / 32) r++;
  if (r == c.reads + Cell::READS) r = c.reads + c.next++ % Cell::READS;
  *r = {(uint16_t)o.slot, o.now, code_place()};
}
void write_cell(Block& block, Cell& c, const Thread& t, Cell::Kind kind) {
  const Order& o = t.order;
  const char* what = kind == Cell::ATOMIC ? "changes" : "writes";
  if (c.copier) clash(block, c, what, "into which an asynchronous copy is in flight, of", c.copier - 1, c.written_at);
  if (c.operands) clash(block, c, what, "which a wgmma in flight reads; it was written by", c.writer, c.written_at);
  const bool both_atomic = kind == Cell::ATOMIC && c.kind == Cell::ATOMIC;
  if (c.kind != Cell::NEVER && !both_atomic && !o.knows(c.writer, c.written))
    clash(block, c, what, "not ordered after the write of", c.writer, c.written_at);
  for (const Cell::Read& r : c.reads)
    if (r.at && !o.knows(r.slot, r.at)) clash(block, c, what, "not ordered after the read of", r.slot, r.place);
  c.written = o.now, c.writer = (uint16_t)o.slot, c.kind = kind, c.written_at = code_place();
  for (Cell::Read& r : c.reads) r = {};
}
void access_shared(Block& block, const void* p, size_t bytes, bool write, const Thread& t, Cell::Kind kind = Cell::PLAIN) {
  Cell* c = cell_of(block, p);
  for (const Cell* end = c + cells_of(p, bytes); c != end; c++) {
    if (write) write_cell(block, *c, t, kind);
    else read_cell(block, *c, t);
  }
}
Block& block_of(const void* p) {
  for (auto& b : now->blocks)
    if ((const unsigned char*)p >= b->shared && (const unsigned char*)p < b->shared + now->shared_bytes) return *b;
  fail("%p is in no block's shared memory", p);
}
// A copy begins: what was there before must be done with.
void copy_begins(const Copy& copy) {
  if (!now->checks) return;
  Block& block = block_of(copy.dst);
  access_shared(block, copy.dst, (size_t)copy.total, true, *now->self);
  Cell* c = cell_of(block, copy.dst);
  for (const Cell* end = c + cells_of(copy.dst, (size_t)copy.total); c != end; c++) c->copier = (uint16_t)(now->self->order.slot + 1);
}
// It is complete, as what slot `slot` did at its time `at`.
void copy_ends(const unsigned char* dst, size_t bytes, int slot, Clock at, Cell::Kind kind) {
  if (!now->checks) return;
  Block& block = block_of(dst);
  Cell* c = cell_of(block, dst);
  for (const Cell* end = c + cells_of(dst, bytes); c != end; c++)
    c->copier = 0, c->writer = (uint16_t)slot, c->written = at, c->kind = kind;
}
void acquire(Thread& t, const Shared& known) {
  if (now->checks && known) t.order.base = now->joins.of(t.order.base, known);
}
void release(Thread& t, Known& to) {
  if (!now->checks) return;
  if (to.done.empty()) to = Known((size_t)now->slots);
  t.order.release(to);
}
// Those who wait, and who came last, know what all knew that came.
void all_know(Known& coming, const std::vector<Thread*>& waiting, Thread* last) {
  if (!now->checks) return;
  const Shared all = std::make_shared<Known>(std::move(coming));
  coming = Known();
  for (Thread* t : waiting) acquire(*t, all);
  if (last) acquire(*last, all);
}

// Whether these bytes are the program's own: constants that the compiler made, and the like.
bool is_program(const void* p, size_t bytes) {
  struct Range { uintptr_t first, last; };
  static const std::vector<Range> ranges = [] {
    Dl_info info = {};
    dladdr((void*)&fail, &info);
    struct Search { const void* base; std::vector<Range> found; } search = {info.dli_fbase, {}};
    dl_iterate_phdr([](dl_phdr_info* library, size_t, void* data) {
      Search& s = *(Search*)data;
      if ((const void*)library->dlpi_addr != s.base) return 0;
      for (int i = 0; i < library->dlpi_phnum; i++)
        if (library->dlpi_phdr[i].p_type == PT_LOAD) {
          const uintptr_t first = library->dlpi_addr + library->dlpi_phdr[i].p_vaddr;
          s.found.push_back({first, first + library->dlpi_phdr[i].p_memsz});
        }
      return 1;
    }, &search);
    return search.found;
  }();
  for (const Range& r : ranges)
    if ((uintptr_t)p >= r.first && (uintptr_t)p + bytes <= r.last) return true;
  return false;
}
// A plain access of a kernel, or an atomic one.
void check_plain(const void* p, size_t bytes, bool write, Cell::Kind kind = Cell::PLAIN) {
  const Thread& t = *now->self;
  if (!now->checks && !write && (t.waited || !now->dependent)) return;
  const auto inside = [&](const void* from, size_t size) {
    return (const unsigned char*)p >= (const unsigned char*)from && (const unsigned char*)p < (const unsigned char*)from + size;
  };
  if (inside(t.stack, STACK) || inside(now->parameters, 1 << 12) || inside(&t.place, sizeof(Place))) return;
  for (const auto& b : now->blocks)
    if (inside(b->shared, now->shared_bytes)) {
      if (!now->checks) return;
      if (b.get() != t.block) fail("a plain access of another block's shared memory");
      if ((const unsigned char*)p + bytes > b->shared + now->shared_bytes)
        fail("%s %zu bytes at the end of shared memory (%s)", write ? "writes" : "reads", bytes, line_of(code_place()).c_str());
      return access_shared(*b, p, bytes, write, t, kind);
    }
  Allocation a = {};
  const auto has = [&](const Allocation& of) {
    return (const unsigned char*)p >= of.data && (const unsigned char*)p + bytes <= of.data + of.bytes;
  };
  for (const Allocation& seen : now->seen)
    if (has(seen)) a = seen;
  if (!a.data) {
    a = allocation_of(p, bytes);
    if (a.data) now->seen.push_back(a);
  }
  if (!a.data) {   // a constant of the program; other places are mostly unreadable
    if (!now->checks || inside(&place, sizeof place) || is_program(p, bytes)) return;
    fail("%s %zu bytes at %p, outside every buffer (%s)", write ? "writes" : "reads", bytes, p, line_of(code_place()).c_str());
  }
  if (now->dependent && !t.waited && !a.constant)
    fail("%s a buffer of an earlier kernel before griddepcontrol.wait", write ? "writes" : "reads");
  if (a.constant && write) fail("writes constants");
  if (write)
    for (uint32_t* cell : cells(a, p, bytes)) *cell = now->number;
}

void run(Copy& c) {
  if (c.ran) return;
  c.ran = true;
  if (c.bytes) std::memcpy(c.dst, c.src, (size_t)c.bytes);
  if (c.bytes < c.total) std::memset(c.dst + c.bytes, 0, (size_t)(c.total - c.bytes));
  if (c.landed) *c.landed = ++now->landings;
}
void run(std::vector<Copy>& copies) {
  for (Copy& c : copies) run(c);
}
// cp.async that their thread has waited for.
void landed(std::vector<Copy>& copies) {
  run(copies);
  const Order& o = now->self->order;
  for (const Copy& c : copies) copy_ends(c.dst, (size_t)c.total, o.slot, o.now, Cell::PLAIN);
}

Barrier& barrier_at(uint32_t address) {
  auto it = now->mbarriers.find(address);
  if (it == now->mbarriers.end()) fail("mbarrier at 0x%x is not initialised", address);
  return it->second;
}
void check_phase(Barrier& b) {
  if (b.pending < 0) fail("mbarrier: more arrivals than its count of %d", b.expected);
  if (b.pending || b.tx) return;
  b.phase ^= 1, b.pending = b.expected;
  if (now->checks) {
    if (b.coming.done.empty()) b.coming = Known((size_t)now->slots);
    b.coming.done[(size_t)b.slot] = ++b.phases;
    b.known = std::make_shared<Known>(b.coming);
  }
  wake(b.waiting);
}
void run(Async& op) {
  run(op.copies);
  if (op.data_dst) std::memcpy(op.data_dst, op.data.data(), op.data.size());
  const Clock at = op.bar->phases + 1;
  const Cell::Kind kind = op.bytes ? Cell::ASYNC : Cell::PLAIN;
  for (const Copy& c : op.copies) copy_ends(c.dst, (size_t)c.total, op.bar->slot, at, kind);
  if (op.data_dst) copy_ends(op.data_dst, op.data.size(), op.bar->slot, at, kind);
  op.bar->tx -= op.bytes;
  if (op.arrive) op.bar->pending--;
  check_phase(*op.bar);
}
void later(Async op) {
  if (chance(4)) run(op);
  else now->asyncs.push_back(std::move(op));
}
void run_async() {
  const size_t i = now->random_state ? draw((unsigned)now->asyncs.size()) : 0;
  Async op = std::move(now->asyncs[i]);
  now->asyncs.erase(now->asyncs.begin() + (long)i);
  run(op);
}

void check_named(Block& block, NamedBarrier& b) {
  const int needed = b.needed < 0 ? block.live : b.needed;
  if (b.arrived && b.arrived >= needed) b.arrived = 0, all_know(b.coming, b.waiting, nullptr), wake(b.waiting);
}
void check_cluster() {
  if (now->cluster_pending) return;
  now->cluster_phase++, now->cluster_pending = now->cluster_live;
  if (now->checks) now->cluster_known = std::make_shared<Known>(std::move(now->cluster_coming)), now->cluster_coming = Known((size_t)now->slots);
  for (auto& t : now->threads) {
    t->cluster_arrived = false;
    if (t->state && !std::strcmp(t->state, "barrier.cluster.wait")) now->ready.push_back(t.get()), t->state = nullptr;
  }
}

void meet(Meeting& m, int lanes, uint32_t mask, int lane, const char* what, void* operand, Finish finish, void* extra) {
  if (m.arrived == 0) m.what = what, m.mask = mask;
  else if (m.mask != mask || std::strcmp(m.what, what))
    fail("lanes of one warp disagree: %s (mask %x) and %s (mask %x)", m.what, m.mask, what, mask);
  m.operand[lane] = operand;
  const int all = lanes == 32 ? __builtin_popcount(mask) : lanes;
  if (++m.arrived < all) return wait_in(m.waiting, what);
  m.arrived = 0;
  finish(m.operand, lanes, extra);
  wake(m.waiting);
}

void finish_thread() {
  Thread& t = *now->self;
  for (auto& g : t.groups) landed(g);
  landed(t.open);
  t.done = true, t.state = nullptr;
  t.block->live--, now->cluster_live--;
  if (t.waited) t.block->waited = true;
  for (auto& b : t.block->barriers) check_named(*t.block, b);
  if (!t.cluster_arrived) now->cluster_pending--, check_cluster();
}
void fiber() {
  now->entry(now->parameters);
  finish_thread();
  _longjmp(now->scheduler, 1);
}

// What handled these signals before: Rust's runtime, or another library of kernels.
struct sigaction earlier[NSIG];

void on_signal(int signal, siginfo_t* info, void* context) {
  if (!now) {   // no kernel of this library
    const struct sigaction& other = earlier[signal];
    if (other.sa_flags & SA_SIGINFO) other.sa_sigaction(signal, info, context);
    else sigaction(signal, &other, nullptr);   // it happens again, with what the system does
    return;
  }
  std::snprintf(now->message, sizeof now->message, "kernel %s, block %u, thread %u: %s (%s %p)", now->kernel_name,
                now->self ? now->self->place.block.x : 0, now->self ? now->self->place.thread.x : 0,
                signal == SIGILL ? "misaligned access" : "touches memory outside every buffer",
                signal == SIGILL ? "code at" : "address", info->si_addr);
  siglongjmp(now->escape, 1);
}

void run_cluster(const unsigned grid[3], unsigned cx, unsigned cy, unsigned cluster, unsigned z0,
                 unsigned block_threads) {
  now->threads.clear(), now->blocks.clear(), now->ready.clear(), now->asyncs.clear(), now->mbarriers.clear();
  now->landings = 0, now->cluster_phase = 0, now->cluster_live = now->cluster_pending = (int)(cluster * block_threads);
  now->slots = (int)(cluster * block_threads) + BARRIER_SLOTS, now->next_slot = (int)(cluster * block_threads);
  const Shared unknown = now->checks ? std::make_shared<Known>((size_t)now->slots) : nullptr;
  now->joins.clear(), now->cluster_known = nullptr, now->cluster_coming = now->checks ? Known((size_t)now->slots) : Known();
  for (unsigned rank = 0; rank < cluster; rank++) {
    if (!now->windows[rank]) {
      now->windows[rank] =
          (unsigned char*)mmap(nullptr, WINDOW + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      mprotect(now->windows[rank] + WINDOW, 4096, PROT_NONE);
    }
    auto b = std::make_unique<Block>();
    b->shared = now->windows[rank] + WINDOW - (now->shared_bytes + 127) / 128 * 128;
    std::memset(b->shared, 0xFF, (size_t)(now->windows[rank] + WINDOW - b->shared));
    b->landed.assign(now->shared_bytes / 16 + 1, 0);
    if (now->checks) b->cells.assign(now->shared_bytes / 2 + 1, Cell());
    b->live = (int)block_threads, b->waited = false;
    b->warps.resize((block_threads + 31) / 32), b->warpgroups.resize((block_threads + 127) / 128);
    for (unsigned i = 0; i < block_threads; i++) {
      auto t = std::make_unique<Thread>();
      t->place = {{i, 0, 0}, {cx, cy, z0 + rank}, {block_threads, 1, 1}, {grid[0], grid[1], grid[2]}};
      t->block = b.get(), t->rank = (int)rank, t->id = (int)i;
      t->state = nullptr, t->started = t->done = t->waited = t->cluster_arrived = false, t->cluster_target = 0,
      t->fenced = 0;
      t->order.base = unknown, t->order.slot = (int)now->threads.size();
      const size_t index = now->threads.size();
      if (index >= now->stacks.size())
        now->stacks.push_back(
            (unsigned char*)mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
      t->stack = now->stacks[index];
      now->ready.push_back(t.get());
      now->threads.push_back(std::move(t));
    }
    now->blocks.push_back(std::move(b));
  }
  for (;;) {
    now->self = nullptr;
    if (!now->asyncs.empty() && (now->ready.empty() || chance(8))) { run_async(); continue; }
    if (now->ready.empty()) break;
    // random order: usually stay with one thread far ahead of the others, which is what hides least
    const size_t i = now->random_state ? draw((unsigned)now->ready.size()) : 0;
    Thread* t = now->ready[i];
    now->ready[i] = now->ready.front(), now->ready.pop_front();
    now->self = t, place = &t->place, t->state = nullptr;
    if (_setjmp(now->scheduler) == 0) {
      if (t->started) _longjmp(t->context, 1);
      t->started = true;
      getcontext(&t->start);
      t->start.uc_stack.ss_sp = t->stack, t->start.uc_stack.ss_size = STACK, t->start.uc_link = nullptr;
      makecontext(&t->start, fiber, 0);
      setcontext(&t->start);
    }
  }
  now->self = nullptr;
  for (auto& t : now->threads)
    if (!t->done) {   // the first of them, and how many wait where
      now->self = t.get();
      std::string where;
      for (size_t i = 0; i < now->threads.size();) {
        size_t n = i;
        auto state = [](const Thread& u) { return u.done ? "done" : u.state ? u.state : "?"; };
        while (n < now->threads.size() && !std::strcmp(state(*now->threads[n]), state(*now->threads[i]))) n++;
        where += " " + std::to_string(i) + "-" + std::to_string(n - 1) + " " + state(*now->threads[i]) + ";";
        i = n;
      }
      fail("deadlock: waits for ever at %s; threads%s", t->state ? t->state : "?", where.c_str());
    }
  for (auto& b : now->blocks)
    if (now->dependent && !b->waited)
      fail("a block ended without griddepcontrol.wait: later kernels would not wait for earlier ones");
}

Kernel* kernels;

}  // namespace

TLS const Place* place;
Kernel::Kernel(const char* n, Entry e, size_t p, int t) : name(n), entry(e), params(p), threads(t), next(kernels) {
  kernels = this;
}

void fail(const char* format, ...) {
  char what[512];
  va_list args;
  va_start(args, format);
  std::vsnprintf(what, sizeof what, format, args);
  va_end(args);
  const Place at = now->self ? now->self->place : Place{{0, 0, 0}, {0, 0, 0}, {}, {}};
  std::snprintf(now->message, sizeof now->message, "kernel %s, block (%u, %u, %u), thread %u: %s", now->kernel_name,
                at.block.x, at.block.y, at.block.z, at.thread.x, what);
  siglongjmp(now->escape, 1);
}

// ---- the wrappers of ptx.cuh -------------------------------------------------------------------------------------

unsigned char* shared_memory() { return now->self->block->shared; }
uint32_t shared_address(const void* p) {
  return (uint32_t)((const unsigned char*)p - now->self->block->shared + SHARED_BASE) | (uint32_t)now->self->rank << 20;
}
void barrier(int id, int n) {
  NamedBarrier& b = now->self->block->barriers[id];
  if (b.arrived && b.needed != n) fail("bar.sync %d with %d and with %d threads", id, b.needed, n);
  b.needed = n, b.arrived++;
  release(*now->self, b.coming);
  if (b.arrived >= (n < 0 ? now->self->block->live : n)) {
    b.arrived = 0;
    all_know(b.coming, b.waiting, now->self);
    wake(b.waiting);
  } else wait_in(b.waiting, "bar.sync");
}
void collective(const char* what, uint32_t mask, void* operand, Finish finish, void* extra) {
  meet(now->self->block->warps[(size_t)now->self->id / 32], 32, mask, now->self->id % 32, what, operand, finish, extra);
}
namespace {
struct Shuffle { uint32_t value; int source; uint32_t* out; };
struct Vote { bool predicate; uint32_t result; };
struct Load { uint32_t* r; uint32_t address; bool transpose; };
struct Mma { float* c; const uint32_t* a; uint32_t b0, b1; };
}
void shuffle(const char* what, uint32_t mask, uint32_t* value, int source) {
  if (mask != ~0u) fail("%s: only full masks are used", what);
  Shuffle s = {*value, source, value};
  collective(what, mask, &s, [](void** o, int lanes, void*) {
    for (int i = 0; i < lanes; i++) *((Shuffle*)o[i])->out = ((Shuffle*)o[((Shuffle*)o[i])->source])->value;
  });
}
uint32_t ballot(uint32_t mask, bool predicate) {
  if (mask != ~0u) fail("vote: only full masks are used");
  Vote v = {predicate, 0};
  collective("vote", mask, &v, [](void** o, int lanes, void*) {
    uint32_t r = 0;
    for (int i = 0; i < lanes; i++) r |= (uint32_t)((Vote*)o[i])->predicate << i;
    for (int i = 0; i < lanes; i++) ((Vote*)o[i])->result = r;
  });
  return v.result;
}
void sync_warp(uint32_t mask) {
  Thread* t = now->self;
  if (mask != ~0u) fail("syncwarp: only full masks are used");
  collective("syncwarp", mask, t, [](void** o, int lanes, void*) {
    if (!now->checks) return;
    Known all((size_t)now->slots);
    for (int i = 0; i < lanes; i++) release(*(Thread*)o[i], all);
    const Shared known = std::make_shared<Known>(std::move(all));
    for (int i = 0; i < lanes; i++) acquire(*(Thread*)o[i], known);
  });
}
void pdl_launch() {
  if (!now->self->waited) now->early_trigger = true;
}
void early_read(const void* p, size_t bytes) {
  if (!now->dependent || now->self->waited) return;
  const Allocation a = allocation_of(p, bytes);
  if (!a.data || a.constant) return;
  if (before.early_trigger) fail("reads early, after a kernel that let it start before its own griddepcontrol.wait");
  for (const uint32_t* cell : cells(a, p, bytes))
    if (before.number && *cell == before.number) fail("reads early what the kernel before it wrote");
}
void copy_unwatched(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }
void pdl_wait() { now->self->waited = true; }

void cp16(uint32_t dst, const void* src, int bytes) {
  if (dst % 16) fail("cp.async: shared address 0x%x is not a multiple of 16", dst);
  if (bytes != 0 && bytes != 16) fail("cp.async of %d bytes", bytes);
  if (bytes) check_source(src, 16, "cp.async");
  unsigned char* to = at(dst, 16, "cp.async");
  HERE();
  Copy c = {to, src, bytes, 16, &now->self->block->landed[(size_t)(to - now->self->block->shared) / 16]};
  copy_begins(c);
  if (chance(4)) {
    run(c);
    if (!now->checks) return;
  }
  now->self->open.push_back(c);
}
void cp_commit() {
  now->self->groups.push_back(std::move(now->self->open));
  now->self->open.clear();
}
void cp_wait(int n) {
  while ((int)now->self->groups.size() > n) landed(now->self->groups.front()), now->self->groups.pop_front();
}
void ldmatrix4(uint32_t* r, uint32_t address, bool transpose) {
  HERE();
  if (now->checks && address % 16 == 0) access_shared(*now->self->block, at(address, 16, "ldmatrix"), 16, false, *now->self);
  Load l = {r, address, transpose};
  collective(transpose ? "ldmatrix.trans" : "ldmatrix", ~0u, &l, [](void** o, int, void*) {
    for (int m = 0; m < 4; m++) {
      uint16_t matrix[8][8];
      for (int row = 0; row < 8; row++) {
        const uint32_t a = ((Load*)o[m * 8 + row])->address;
        if (a % 16) fail("ldmatrix: address 0x%x is not a multiple of 16", a);
        std::memcpy(matrix[row], at(a, 16, "ldmatrix"), 16);
      }
      for (int i = 0; i < 32; i++) {
        const int row = i / 4, col = 2 * (i % 4);
        Load* l = (Load*)o[i];
        l->r[m] = l->transpose ? matrix[col][row] | (uint32_t)matrix[col + 1][row] << 16
                               : matrix[row][col] | (uint32_t)matrix[row][col + 1] << 16;
      }
    }
  });
}
void mma16816(float* c, const uint32_t* a, uint32_t b0, uint32_t b1) {
  Mma m = {c, a, b0, b1};
  collective("mma", ~0u, &m, [](void** o, int, void*) {
    float A[16][16], B[16][8];
    auto put = [](float& x, float& y, uint32_t v) { const float2 f = unpack2(v); x = f.x, y = f.y; };
    for (int i = 0; i < 32; i++) {
      const int g = i / 4, t = 2 * (i % 4);
      const Mma& m = *(Mma*)o[i];
      for (int j = 0; j < 4; j++)
        put(A[g + 8 * (j & 1)][t + 8 * (j >> 1)], A[g + 8 * (j & 1)][t + 1 + 8 * (j >> 1)], m.a[j]);
      put(B[t][g], B[t + 1][g], m.b0), put(B[t + 8][g], B[t + 9][g], m.b1);
    }
    for (int i = 0; i < 32; i++)
      for (int j = 0; j < 4; j++) {
        float sum = 0;
        for (int k = 0; k < 16; k++) sum += A[i / 4 + 8 * (j >> 1)][k] * B[k][2 * (i % 4) + (j & 1)];
        ((Mma*)o[i])->c[j] += sum;
      }
  });
}

void cluster_arrive() {
  if (now->self->cluster_arrived) fail("barrier.cluster.arrive twice in one phase");
  now->self->cluster_arrived = true, now->self->cluster_target = now->cluster_phase + 1;
  if (now->checks) release(*now->self, now->cluster_coming);
  now->cluster_pending--;
  check_cluster();
}
void cluster_wait() {
  while (now->cluster_phase < now->self->cluster_target) pause("barrier.cluster.wait");
  acquire(*now->self, now->cluster_known);
}
void store_shared16(uint32_t address, const float* v, bool cluster) {
  if (address % 16) fail("st.shared.v4: address 0x%x is not a multiple of 16", address);
  if (!cluster && (int)(address >> 20) != now->self->rank) fail("st.shared to another block");
  HERE();
  unsigned char* to = at(address, 16, "st.shared");
  if (now->checks) access_shared(*now->blocks[address >> 20], to, 16, true, *now->self);
  std::memcpy(to, v, 16);
}
void mbar_init(uint32_t bar, int count) {
  HERE();
  unsigned char* p = at(bar, 8, "mbarrier.init");
  Barrier& b = now->mbarriers[bar];
  b = Barrier();
  b.expected = b.pending = count, b.tx = 0, b.phase = 0;
  if (!now->checks) return;
  if (now->next_slot == now->slots) fail("more than %d mbarriers in a cluster", BARRIER_SLOTS);
  b.slot = now->next_slot++, b.initialiser = now->self->order.slot;
  access_shared(*now->self->block, p, 8, true, *now->self);
}
void mbar_fence_init() {
  if (!now->checks) return;
  for (auto& entry : now->mbarriers)
    if (entry.second.initialiser == now->self->order.slot) entry.second.fenced = true;
}
namespace {
// A thread uses a barrier, itself or by a copy that it starts: it must know that it is initialised.
Barrier& used_barrier(uint32_t bar, bool by_copy) {
  Barrier& b = barrier_at(bar);
  if (!now->checks) return b;
  const Cell& c = *cell_of(*now->blocks[bar >> 20], at(bar, 8, "mbarrier"));
  if (!now->self->order.knows(c.writer, c.written))
    clash(*now->blocks[bar >> 20], c, "uses an mbarrier at", "not ordered after its initialisation by", c.writer, c.written_at);
  if (!b.fenced && (by_copy || (int)(bar >> 20) != now->self->rank))
    clash(*now->blocks[bar >> 20], c, "uses an mbarrier at", "without fence.mbarrier_init after its initialisation by", c.writer, c.written_at);
  return b;
}
}
void mbar_arrive(uint32_t bar, int bytes) {
  HERE();
  Barrier& b = used_barrier(bar, false);
  release(*now->self, b.coming);
  b.tx += bytes, b.pending--;
  check_phase(b);
}
void mbar_wait(uint32_t bar, int parity) {
  HERE();
  Barrier& b = used_barrier(bar, false);
  while (b.phase == parity) wait_in(b.waiting, "mbarrier.try_wait");
  acquire(*now->self, b.known);
}
void mbar_arrive_cp(uint32_t bar) {
  HERE();
  Async op = {{}, {}, nullptr, &used_barrier(bar, false), 0, true};
  release(*now->self, op.bar->coming);
  for (auto& g : now->self->groups) op.copies.insert(op.copies.end(), g.begin(), g.end());
  op.copies.insert(op.copies.end(), now->self->open.begin(), now->self->open.end());
  now->self->groups.clear(), now->self->open.clear();
  later(std::move(op));
}
void bulk_copy(uint32_t dst, const void* src, int bytes, uint32_t bar) {
  if (dst % 16 || bytes % 16 || bytes <= 0) fail("cp.async.bulk of %d bytes to 0x%x: multiples of 16 only", bytes, dst);
  check_source(src, (size_t)bytes, "cp.async.bulk");
  HERE();
  Copy copy = {at(dst, (size_t)bytes, "cp.async.bulk"), src, bytes, bytes, nullptr};
  Barrier& b = used_barrier(bar, true);
  copy_begins(copy);
  later({{copy}, {}, nullptr, &b, bytes, false});
}
void prefetch(const void* src, int bytes) {
  if ((uintptr_t)src % 16 || bytes % 16 || !allocation_of(src, (size_t)bytes).data)
    fail("prefetch of %d bytes at %p", bytes, src);
}
void st_async(uint32_t address, uint32_t bar, const float* v) {
  if (address % 16) fail("st.async: address 0x%x is not a multiple of 16", address);
  if (address >> 20 != bar >> 20) fail("st.async: data and barrier lie in different blocks");
  HERE();
  Async op = {{}, {}, at(address, 16, "st.async"), &used_barrier(bar, true), 16, false};
  copy_begins({op.data_dst, v, 16, 16, nullptr});
  op.data.resize(16);
  std::memcpy(op.data.data(), v, 16);
  later(std::move(op));
}

// ---- wgmma --------------------------------------------------------------------------------------------------------

namespace {
Warpgroup& warpgroup() { return now->self->block->warpgroups[(size_t)now->self->id / 128]; }
void meet_warpgroup(const char* what, void* operand, Finish finish) {
  meet(warpgroup().meeting, 128, ~0u, now->self->id % 128, what, operand, finish, nullptr);
}
// Element (row, k) of a no-swizzle K-major operand: core matrices of 8 rows by 8 halves, 128 contiguous bytes each.
// What cp.async wrote there must have landed before the fence.proxy.async of every thread that takes part.
float element(uint64_t descriptor, int row, int k, uint32_t fenced) {
  const uint32_t start = (uint32_t)(descriptor & 0x3FFF) << 4, k_step = (uint32_t)(descriptor >> 16 & 0x3FFF) << 4,
                 row_step = (uint32_t)(descriptor >> 32 & 0x3FFF) << 4;
  const uint32_t address = start + (uint32_t)(k / 8) * k_step + (uint32_t)(row / 8) * row_step +
                           (uint32_t)(row % 8) * 16 + (uint32_t)(k % 8) * 2;
  const unsigned char* from = at(address | (uint32_t)now->self->rank << 20, 2, "wgmma operand");
  if (now->self->block->landed[(size_t)(from - now->self->block->shared) / 16] > fenced)
    fail("wgmma reads what cp.async wrote, without fence.proxy.async between");
  uint16_t h;
  std::memcpy(&h, from, 2);
  return half_to_float(h);
}
// Calls `f` with each cell of both operands.
template <class F> void operands(const Product& p, F f) {
  Block& block = *now->self->block;
  const auto one = [&](uint64_t descriptor, int rows) {
    const uint32_t start = (uint32_t)(descriptor & 0x3FFF) << 4, k_step = (uint32_t)(descriptor >> 16 & 0x3FFF) << 4,
                   row_step = (uint32_t)(descriptor >> 32 & 0x3FFF) << 4;
    for (int row = 0; row < rows; row++)
      for (int k = 0; k < 2; k++) {
        const uint32_t address = start + (uint32_t)k * k_step + (uint32_t)(row / 8) * row_step + (uint32_t)(row % 8) * 16;
        Cell* c = cell_of(block, at(address | (uint32_t)now->self->rank << 20, 16, "wgmma operand"));
        for (int i = 0; i < 8; i++) f(block, c[i]);
      }
  };
  one(p.a, 64), one(p.b, p.n);
}
// A product begins: all its threads must know what they multiply, and that it is visible to wgmma.
void product_begins(const Product& p, const std::vector<const Order*>& threads) {
  if (!now->checks) return;
  std::vector<const Order*> different;
  for (const Order* o : threads)
    if (different.empty() || different.back()->base != o->base) different.push_back(o);
  operands(p, [&](Block& block, Cell& c) {
    if (c.copier) clash(block, c, "wgmma reads", "into which an asynchronous copy is in flight, of", c.copier - 1, c.written_at);
    if (c.kind == Cell::NEVER) fail("wgmma reads byte %zu of shared memory, which nothing wrote (%s)", (size_t)(&c - block.cells.data()) * 2, line_of(code_place()).c_str());
    for (const Order* o : different) {
      if (!o->knows(c.writer, c.written)) clash(block, c, "wgmma reads", "not ordered after the write of", c.writer, c.written_at);
      if (c.kind != Cell::ASYNC && !o->knows_fenced(c.writer, c.written))
        clash(block, c, "wgmma reads", "without fence.proxy.async after the write of", c.writer, c.written_at);
    }
    if (c.operands < 255) c.operands++;
  });
}
void product_ends(const Product& p) {
  if (!now->checks) return;
  const Order& leader = now->threads[(size_t)(now->self->order.slot / 128 * 128)]->order;
  operands(p, [&](Block&, Cell& c) {
    c.operands--;
    Cell::Read* r = c.reads;
    while (r < c.reads + Cell::READS && r->at && r->slot / 32 != leader.slot / 32) r++;
    if (r == c.reads + Cell::READS) r = c.reads + c.next++ % Cell::READS;
    *r = {(uint16_t)leader.slot, leader.now, code_place()};
  });
}
void run(Product& p) {
  if (p.ran) return;
  p.ran = true;
  std::vector<float> a(64 * 16), b((size_t)p.n * 16);
  for (int r = 0; r < 64; r++) for (int k = 0; k < 16; k++) a[(size_t)(r * 16 + k)] = element(p.a, r, k, p.fenced);
  for (int r = 0; r < p.n; r++) for (int k = 0; k < 16; k++) b[(size_t)(r * 16 + k)] = element(p.b, r, k, p.fenced);
  for (int i = 0; i < 128; i++) {
    const int lane = i % 32;
    for (int nt = 0; nt < p.n / 8; nt++)
      for (int j = 0; j < 4; j++) {
        const int row = i / 32 * 16 + lane / 4 + 8 * (j >> 1), col = nt * 8 + 2 * (lane % 4) + (j & 1);
        float sum = 0;
        for (int k = 0; k < 16; k++) sum += a[(size_t)(row * 16 + k)] * b[(size_t)(col * 16 + k)];
        float& d = p.d[i][nt * 4 + j];
        d = p.accumulate ? d + sum : sum;
      }
  }
}
void run(std::vector<Product>& products) {
  for (Product& p : products) run(p);
}
void end(std::vector<Product>& products) {
  run(products);
  for (const Product& p : products) product_ends(p);
}
struct Operand { float* d; int n; uint64_t a, b; int accumulate; uint32_t fenced; const Order* order; };
}  // namespace
void wgmma(float* d, int n, uint64_t a, uint64_t b, int accumulate) {
  HERE();
  Operand o = {d, n, a, b, accumulate, now->self->fenced, &now->self->order};
  meet_warpgroup("wgmma", &o, [](void** all, int, void*) {
    const Operand& first = *(Operand*)all[0];
    Product p = {{}, first.n, first.a, first.b, first.accumulate, first.fenced};
    std::vector<const Order*> orders;
    for (int i = 0; i < 128; i++) {
      const Operand& o = *(Operand*)all[i];
      if (o.n != p.n || o.a != p.a || o.b != p.b || o.accumulate != p.accumulate)
        fail("wgmma: lanes of a warpgroup disagree");
      p.d[i] = o.d, orders.push_back(o.order);
      if (o.fenced < p.fenced) p.fenced = o.fenced;
    }
    product_begins(p, orders);
    warpgroup().open.push_back(p);
  });
}
void wgmma_fence() { meet_warpgroup("wgmma.fence", nullptr, [](void**, int, void*) {}); }
void wgmma_commit() {
  meet_warpgroup("wgmma.commit", nullptr, [](void**, int, void*) {
    Warpgroup& w = warpgroup();
    w.groups.push_back(std::move(w.open));
    w.open.clear();
    if (chance(4))
      for (auto& group : w.groups) run(group);
  });
}
void wgmma_wait(int n) {
  meet_warpgroup("wgmma.wait", &n, [](void** all, int, void*) {
    Warpgroup& w = warpgroup();
    while ((int)w.groups.size() > *(int*)all[0]) end(w.groups.front()), w.groups.pop_front();
  });
}
void fence_async_proxy() {
  Thread& t = *now->self;
  t.fenced = now->landings;
  if (now->checks) t.order.base = now->joins.of(t.order.base, nullptr), t.order.fenced = t.order.now;
}
void atomic_access(const void* p, size_t bytes) {
  HERE();
  check_plain(p, bytes, true, Cell::ATOMIC);
}
void set_registers(int n) {
  if (n < 24 || n > 256 || n % 8) fail("setmaxnreg to %d", n);
  meet_warpgroup("setmaxnreg", nullptr, [](void**, int, void*) {});
}

}  // namespace emu

// ---- what the compiler calls before each plain access of a kernel (-fsanitize=thread) ---------------------------------

extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_read(void**) {}
void __tsan_vptr_update(void**, void*) {}
// Registration of kernels, when the library is loaded, is no kernel.
#define ACCESS(name, bytes, write) \
  void __tsan_##name(void* p) { if (emu::now && emu::now->self) emu::now->pc = __builtin_return_address(0), emu::check_plain(p, bytes, write); }
#define SIZE(n) ACCESS(read##n, n, false) ACCESS(write##n, n, true) ACCESS(unaligned_read##n, n, false) ACCESS(unaligned_write##n, n, true) \
  ACCESS(read_write##n, n, true) ACCESS(unaligned_read_write##n, n, true)
SIZE(1) SIZE(2) SIZE(4) SIZE(8) SIZE(16)
#undef SIZE
#undef ACCESS
void __tsan_read_range(void* p, unsigned long n) { if (n && emu::now && emu::now->self) emu::now->pc = __builtin_return_address(0), emu::check_plain(p, n, false); }
void __tsan_write_range(void* p, unsigned long n) { if (n && emu::now && emu::now->self) emu::now->pc = __builtin_return_address(0), emu::check_plain(p, n, true); }
void* __tsan_memcpy(void* to, const void* from, unsigned long n) {
  __tsan_read_range((void*)from, n), __tsan_write_range(to, n);
  return std::memcpy(to, from, n);
}
void* __tsan_memset(void* to, int value, unsigned long n) {
  __tsan_write_range(to, n);
  return std::memset(to, value, n);
}
}

// ---- C interface ---------------------------------------------------------------------------------------------------

// Device memory between unreadable pages, filled with 0xFF; `constant` memory may be read before griddepcontrol.wait.
extern "C" void* emu_alloc(size_t bytes, int constant) {
  const size_t data = (bytes + 255) / 256 * 256, mapped = (data + 4095) / 4096 * 4096 + 8192;
  auto* pages = (unsigned char*)mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) return nullptr;
  mprotect(pages, 4096, PROT_NONE);
  mprotect(pages + mapped - 4096, 4096, PROT_NONE);
  unsigned char* p = pages + mapped - 4096 - data;
  std::memset(pages + 4096, 0xFF, mapped - 8192);
  const std::lock_guard<std::mutex> guard(emu::allocations_lock);
  auto written = std::make_shared<std::vector<uint32_t>>(constant ? 0 : data / 16 + 1);
  emu::allocations.push_back({pages, mapped, p, bytes, constant != 0, std::move(written)});
  return p;
}
// Returns 0, or 1 if the bytes around the buffer were overwritten.
extern "C" int emu_free(void* p) {
  const std::lock_guard<std::mutex> guard(emu::allocations_lock);
  for (size_t i = 0; i < emu::allocations.size(); i++) {
    const emu::Allocation a = emu::allocations[i];
    if (a.data != p) continue;
    int bad = 0;
    for (unsigned char* q = a.pages + 4096; q < a.data; q++) bad |= *q != 0xFF;
    for (unsigned char* q = a.data + a.bytes; q < a.pages + a.mapped - 4096; q++) bad |= *q != 0xFF;
    munmap(a.pages, a.mapped);
    emu::allocations.erase(emu::allocations.begin() + (long)i);
    return bad;
  }
  return 1;
}
// Runs one grid. `seed` 0: threads in order and asynchronous work as late as possible; otherwise shuffled by it.
// RTMO_EMULATOR_ORDER=1 in the environment: the order of all accesses is checked, which takes several times as long. Returns 0, or 1 with a message in `error`. Several host threads may run a grid each at the same time.
extern "C" int emu_launch(const char* name, const unsigned* grid, unsigned cluster, unsigned threads, unsigned shared,
                          const void* params, size_t params_bytes, int dependent, uint64_t seed, char* error,
                          size_t error_bytes) {
  using namespace emu;
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction action = {};
    action.sa_sigaction = on_signal, action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (int signal : {SIGSEGV, SIGBUS, SIGILL}) sigaction(signal, &action, &earlier[signal]);
  });
  std::unique_ptr<Run> run;
  {
    const std::lock_guard<std::mutex> guard(idle_lock);
    if (!idle.empty()) run = std::move(idle.back()), idle.pop_back();
  }
  if (!run) run = std::make_unique<Run>();
  now = run.get();
  stack_t alt = {}, old_alt;
  alt.ss_sp = run->signal_stack, alt.ss_size = sizeof run->signal_stack;
  sigaltstack(&alt, &old_alt);
  now->kernel_name = name, now->self = nullptr, now->message[0] = 0;
  if (sigsetjmp(now->escape, 1) == 0) {
    Kernel* k = kernels;
    while (k && std::strcmp(k->name, name)) k = k->next;
    if (!k) fail("no such kernel");
    if (k->params != params_bytes) fail("takes %zu bytes of parameters, got %zu", k->params, params_bytes);
    if ((int)threads > k->threads || threads == 0) fail("%u threads, at most %d are allowed", threads, k->threads);
    if (shared > 227 * 1024) fail("%u bytes of shared memory", shared);
    if (cluster < 1 || cluster > 8 || grid[2] % cluster) fail("grid depth %u in clusters of %u", grid[2], cluster);
    if (!grid[0] || !grid[1] || !grid[2] || grid[1] > 65535 || grid[2] > 65535)
      fail("grid (%u, %u, %u)", grid[0], grid[1], grid[2]);
    now->entry = k->entry, now->parameters = params, now->shared_bytes = shared, now->dependent = dependent != 0;
    now->seen.clear();
    const char* asked = std::getenv("RTMO_EMULATOR_ORDER");
    now->checks = asked && !std::strcmp(asked, "1");
    now->number = ++launches, now->early_trigger = false;
    now->random_state = seed ? seed * 0x9E3779B97F4A7C15ull | 1 : 0;
    const size_t n = (size_t)grid[0] * grid[1] * (grid[2] / cluster);
    size_t step = 1, at = 0;
    if (seed)   // visit the clusters in a scattered order: any step that shares no factor with n
      for (step = n / 2 + draw((unsigned)n) / 2 + 1;; step++) {
        size_t a = step, b = n;
        while (b) {
          const size_t r = a % b;
          a = b, b = r;
        }
        if (a == 1) break;
      }
    for (size_t i = 0; i < n; i++, at = (at + step) % n)
      run_cluster(grid, (unsigned)(at % grid[0]), (unsigned)(at / grid[0] % grid[1]), cluster,
                  (unsigned)(at / grid[0] / grid[1]) * cluster, threads);
  }
  sigaltstack(&old_alt, nullptr);
  before = {now->number, now->early_trigger};
  now = nullptr, place = nullptr;
  const bool failed = run->message[0];
  if (failed) std::snprintf(error, error_bytes, "%s", run->message);
  const std::lock_guard<std::mutex> guard(idle_lock);
  idle.push_back(std::move(run));
  return failed;
}
