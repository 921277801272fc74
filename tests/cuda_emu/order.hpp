// What is ordered before what: vector clocks for the threads of a cluster, and a shadow of shared memory that says who wrote
// and read each two bytes last. emu.cpp calls it, and says in emu.hpp what it finds.
//
// A clock is a number for each thread and each memory barrier ("slot"): `known[s] >= c` means that what slot s did up to its time
// c happens before what comes now. A thread's own time goes on when it releases: at barriers and arrivals. An mbarrier's time is
// the number of its phases that have ended; copies that it counts are done by it.
//
// Two proxies: what threads and cp.async write ("generic"), and what wgmma reads ("async"). `known.fenced` is what of the generic
// writes a fence.proxy.async has made visible to wgmma: it grows at fences, and spreads as all knowledge does.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

namespace emu {

using Clock = uint32_t;

struct Known {
  std::vector<Clock> done, fenced;
  explicit Known(size_t slots = 0) : done(slots), fenced(slots) {}
  void join(const Known& other) {
    for (size_t i = 0; i < done.size(); i++) {
      if (other.done[i] > done[i]) done[i] = other.done[i];
      if (other.fenced[i] > fenced[i]) fenced[i] = other.fenced[i];
    }
  }
};
using Shared = std::shared_ptr<const Known>;

// Joins of the same two are asked for by each thread of a warp: the last ones are kept.
class Joins {
  struct Entry { Shared a, b, result; };
  Entry entries[64];

 public:
  void clear() { for (Entry& e : entries) e = {}; }
  // `b` empty: the knowledge of `a` after a fence.proxy.async.
  Shared of(const Shared& a, const Shared& b) {
    if (a == b) return a;
    Entry& e = entries[((uintptr_t)a.get() / 16 * 31 + (uintptr_t)b.get() / 16) % 64];
    if (e.a == a && e.b == b && e.result) return e.result;
    auto both = std::make_shared<Known>(*a);
    if (b) both->join(*b);
    else
      for (size_t i = 0; i < both->done.size(); i++) both->fenced[i] = both->done[i];
    e = {a, b, both};
    return e.result;
  }
};

// What a thread knows.
struct Order {
  Shared base;
  int slot = 0;
  Clock now = 1, fenced = 0;   // its own time, and up to when its own writes are fenced
  bool knows(int s, Clock c) const { return s == slot || base->done[(size_t)s] >= c; }
  bool knows_fenced(int s, Clock c) const { return s == slot ? fenced >= c : base->fenced[(size_t)s] >= c; }
  // Adds all that it knows to what others will acquire.
  void release(Known& to) {
    to.join(*base);
    if (now > to.done[(size_t)slot]) to.done[(size_t)slot] = now;
    if (fenced > to.fenced[(size_t)slot]) to.fenced[(size_t)slot] = fenced;
    now++;
  }
};

// Two bytes of shared memory.
struct Cell {
  enum Kind : uint8_t { NEVER, PLAIN, ASYNC, ATOMIC };
  static constexpr int READS = 4;
  Clock written = 0;
  uint32_t written_at = 0;   // place in the library's code
  uint16_t writer = 0;
  Kind kind = NEVER;
  uint8_t operands = 0;      // products in flight that read it
  uint16_t copier = 0;       // 1 + slot of the thread whose copy into it is in flight
  uint8_t next = 0;          // which of `reads` is replaced next
  struct Read { uint16_t slot; Clock at; uint32_t place; } reads[READS] = {};   // the last ones of some warps; `at` 0: none
};

}  // namespace emu
