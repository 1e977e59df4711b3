// SPDX-License-Identifier: Apache-2.0
#include "block.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

#include "fiber.h"

__thread emulator::Index threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {
namespace {

// Called where the compiler cannot look, so that sanitizers see what the emulator does for a thread.
void* (*volatile copy_bytes)(void*, const void*, size_t) = std::memcpy;

// Far from zero as float32 and float16, of any sign: a maximum shows it, where NaN would drop out of one.
uint32_t garbage(uint64_t at) {
  const uint64_t mixed = (at + 1) * 0x9e3779b97f4a7c15u;
  return 0x78007800u | (static_cast<uint32_t>(mixed >> 32) & 0x83ff83ffu);
}

// `offset` is where in the block's shared memory `to` is.
void spoil(char* to, size_t offset, size_t bytes) {
  uint32_t words[64];
  for (size_t i = 0; i < bytes; i += sizeof words) {
    for (size_t j = 0; j < 64; ++j) words[j] = garbage((offset + i) / 4 + j);
    copy_bytes(to + i, words, std::min(sizeof words, bytes - i));
  }
}

struct Copy {
  void* to;
  const void* from;
  uint32_t bytes;
  bool there;
  uint64_t group;
};

// Lanes that wait for each other, or that have not all read yet what the others brought.
struct Meeting {
  uint32_t mask = 0, arrived = 0, unread = 0;  // unread 0: free, or still waiting
  uint32_t nonzero = 0;                        // lanes with such values
  Place place{};
  uint64_t values[kLanes] = {};
};

enum class State { kReady, kAtBarrier, kInMeeting, kEnded };

struct Block;

struct Thread {
  explicit Thread(void (*body)()) : fiber(body) {}
  Fiber fiber;
  Block* block = nullptr;
  uint32_t number = 0;
  State state = State::kReady;
  Place place{};
  std::vector<Copy> copies;
  uint64_t groups = 0;
};

// A lane is at one meeting at a time. No memory is taken while threads run: sanitizers watch that too.
struct Warp {
  Meeting meetings[kLanes];
};

// A block's state; kept by a worker, whose stacks serve one block after the other.
struct Block {
  const Launch* launch = nullptr;
  uint64_t number = 0;
  Fiber scheduler;
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<Warp> warps;
  std::unique_ptr<char[]> shared;
  uint32_t live = 0, waiting = 0;
  uint64_t generation = 0;
  Place barrier{};
  uint64_t random = 0;
  // What is before the block, after it, and at its barriers: one who is early at the next barrier must not be
  // taken to be at this one.
  char begin, end, barriers[2];
};

__thread Thread* current;

// Not inlined: a stack may be continued by another thread of the system, where `current` is another variable.
__attribute__((noinline)) Thread& self() { return *current; }

// The first who reports is the only one: never unlocked.
std::mutex reports;

void print(const Block& block, const Thread& thread) {
  const Launch& launch = *block.launch;
  std::fprintf(stderr, "emulator: %s, block %llu, thread %u", launch.kernel,
               static_cast<unsigned long long>(block.number), thread.number);
}

[[noreturn]] void report_deadlock(const Block& block) {
  reports.lock();
  for (uint32_t i = 0; i < block.launch->block.size(); ++i) {
    const Thread& thread = *block.threads[i];
    print(block, thread);
    if (thread.state == State::kEnded)
      std::fprintf(stderr, " has ended\n");
    else
      std::fprintf(stderr, " waits in %s at %s:%d\n", thread.place.what, thread.place.file,
                   thread.place.line);
  }
  std::fprintf(stderr, "emulator: deadlock: no thread of the block can go on\n");
  std::abort();
}

bool same(const Place& a, const Place& b) {
  return a.line == b.line && (a.file == b.file || !std::strcmp(a.file, b.file));
}

void leave(Thread& thread) { Fiber::change(thread.fiber, thread.block->scheduler); }

void open_barrier(Block& block) {
  for (uint32_t i = 0; i < block.launch->block.size(); ++i) {
    Thread& thread = *block.threads[i];
    if (thread.state == State::kAtBarrier) thread.state = State::kReady;
  }
  block.waiting = 0;
  ++block.generation;
}

void end_thread(Thread& thread) {
  Block& block = *thread.block;
  release(&block.end);
  thread.state = State::kEnded;
  if (--block.live && block.waiting == block.live) open_barrier(block);
}

// What a thread's stack runs: one kernel after the other.
void run_threads() {
  for (;;) {
    acquire(&self().block->begin);
    const Launch& launch = *self().block->launch;
    launch.run(launch.function, launch.arguments);
    end_thread(self());
    leave(self());
  }
}

uint32_t draw(Block& block, uint32_t below) {
  block.random = block.random * 6364136223846793005u + 1442695040888963407u;
  return static_cast<uint32_t>((block.random >> 33) % below);
}

void arrange(Block& block, std::vector<uint32_t>& order) {
  const uint32_t size = static_cast<uint32_t>(order.size());
  for (uint32_t i = 0; i < size; ++i) order[i] = block.launch->order == Order::kDescending ? size - 1 - i : i;
  if (block.launch->order != Order::kRandom) return;
  for (uint32_t i = size; i > 1; --i) std::swap(order[i - 1], order[draw(block, i)]);
}

void resume(Block& block, Thread& thread) {
  const Index& size = block.launch->block;
  threadIdx = {thread.number % size.x, thread.number / size.x % size.y, thread.number / size.x / size.y};
  current = &thread;
  Fiber::change(block.scheduler, thread.fiber);
}

// Lets a warp go on alone, as far as it can. Says whether it could.
bool run_warp(Block& block, uint32_t warp, std::vector<uint32_t>& lanes) {
  bool ran = false, again = true;
  while (again) {
    again = false;
    arrange(block, lanes);
    for (uint32_t lane : lanes) {
      Thread& thread = *block.threads[warp * kLanes + lane];
      if (thread.state != State::kReady) continue;
      resume(block, thread);
      ran = again = true;
    }
  }
  return ran;
}

void run_threads_of(Block& block) {
  std::vector<uint32_t> warps(block.launch->block.size() / kLanes), lanes(kLanes);
  while (block.live) {
    bool ran = false;
    arrange(block, warps);
    for (uint32_t warp : warps) ran = run_warp(block, warp, lanes) || ran;
    if (!ran) report_deadlock(block);
  }
}

void begin_block(Block& block, uint64_t number) {
  const Launch& launch = *block.launch;
  const uint64_t rows = launch.grid.y;
  blockIdx = {static_cast<uint32_t>(number % launch.grid.x),
              static_cast<uint32_t>(number / launch.grid.x % rows),
              static_cast<uint32_t>(number / launch.grid.x / rows)};
  block.number = number;
  block.random = (number + 1) * 0x9e3779b97f4a7c15u + launch.seed;
  block.shared.reset(new char[launch.shared_bytes]);
  spoil(block.shared.get(), 0, launch.shared_bytes);
  block.live = static_cast<uint32_t>(launch.block.size());
  block.waiting = 0;
  for (uint32_t i = 0; i < block.live; ++i) {
    block.threads[i]->state = State::kReady;
    block.threads[i]->copies.clear();
    block.threads[i]->groups = 0;
  }
  release(&block.begin);
}

void run_block(Block& block, uint64_t number) {
  begin_block(block, number);
  run_threads_of(block);
  acquire(&block.end);
  block.shared.reset();
}

void prepare(Block& block, const Launch& launch) {
  block.launch = &launch;
  block.scheduler.adopt();
  block.warps.resize(launch.block.size() / kLanes);
  while (block.threads.size() < launch.block.size()) {
    auto thread = std::make_unique<Thread>(run_threads);
    thread->block = &block;
    thread->number = static_cast<uint32_t>(block.threads.size());
    block.threads.push_back(std::move(thread));
  }
}

void check_meeting(const Thread& thread, const Meeting& meeting) {
  if (!(meeting.mask >> (thread.number % kLanes) & 1)) refuse("calls for lanes of which it is none");
  if (!same(meeting.place, thread.place)) refuse("meets lanes that are elsewhere in the kernel");
}

// The meeting with these lanes, whether or not another lane is there already.
Meeting& meeting_of(Thread& thread, uint32_t mask) {
  Meeting* free = nullptr;
  for (Meeting& meeting : thread.block->warps[thread.number / kLanes].meetings) {
    if (meeting.unread) continue;  // somebody is still to read what this one brought
    if (meeting.arrived && meeting.mask == mask) return meeting;
    if (!meeting.arrived && !free) free = &meeting;
    if (!meeting.mask) break;  // none after this one was ever used
  }
  free->mask = mask;
  free->nonzero = 0;
  free->place = thread.place;
  return *free;
}

void open_meeting(Thread& thread, Meeting& meeting) {
  meeting.unread = meeting.mask;
  meeting.arrived = 0;
  const uint32_t first = thread.number / kLanes * kLanes;
  for (uint32_t lane = 0; lane < kLanes; ++lane)
    if (meeting.mask >> lane & 1) thread.block->threads[first + lane]->state = State::kReady;
}

enum class Memory { kOrdered, kUnordered };

// Brings a value and returns when all lanes have; the caller reads, and then calls part().
Meeting& meet(uint32_t mask, uint64_t value, Place place, Memory memory = Memory::kUnordered) {
  Thread& thread = self();
  const uint32_t lane = thread.number % kLanes;
  thread.place = place;
  Meeting& meeting = meeting_of(thread, mask);
  check_meeting(thread, meeting);
  if (memory == Memory::kOrdered) release(&meeting);
  meeting.values[lane] = value;
  meeting.nonzero |= uint32_t{value != 0} << lane;
  meeting.arrived |= 1u << lane;
  thread.state = State::kInMeeting;
  if (meeting.arrived == mask) open_meeting(thread, meeting);
  leave(thread);
  if (memory == Memory::kOrdered) acquire(&meeting);
  return meeting;
}

void part(Meeting& meeting) { meeting.unread &= ~(1u << lane()); }

}  // namespace

void refuse(const char* what) {
  reports.lock();
  print(*self().block, self());
  std::fprintf(stderr, " %s\n", what);
  std::abort();
}

void check_aligned(const void* at, size_t bytes, const char* what) {
  if (reinterpret_cast<uintptr_t>(at) % bytes) refuse(what);
}

int lane() { return static_cast<int>(self().number % kLanes); }

char* shared_memory() { return self().block->shared.get(); }

void barrier(Place place) {
  Thread& thread = self();
  Block& block = *thread.block;
  thread.place = place;
  if (!block.waiting) block.barrier = place;
  if (!same(block.barrier, place)) refuse("is at another barrier than the rest: divergent barrier");
  char* const at = &block.barriers[block.generation & 1];
  release(at);
  thread.state = State::kAtBarrier;
  if (++block.waiting == block.live) open_barrier(block);
  leave(thread);
  acquire(at);
}

void warp_barrier(uint32_t mask, Place place) { part(meet(mask, 0, place, Memory::kOrdered)); }

uint64_t shuffle(uint32_t mask, uint64_t value, int lane, Place place) {
  if (!(mask >> lane & 1)) refuse("shuffles from a lane that does not take part");
  Meeting& meeting = meet(mask, value, place);
  const uint64_t got = meeting.values[lane];
  part(meeting);
  return got;
}

uint32_t match(uint32_t mask, uint64_t value, Place place) {
  Meeting& meeting = meet(mask, value, place);
  uint32_t equal = 0;
  for (int i = 0; i < kLanes; ++i) equal |= uint32_t{meeting.values[i] == value} << i;
  part(meeting);
  return equal & mask;
}

uint32_t ballot(uint32_t mask, bool yes, Place place) {
  Meeting& meeting = meet(mask, yes, place);
  const uint32_t all = meeting.nonzero;
  part(meeting);
  return all;
}

void copy_async(void* to, const void* from, uint32_t bytes, bool there) {
  Thread& thread = self();
  char* const shared = thread.block->shared.get();
  const uintptr_t offset = static_cast<char*>(to) - shared;
  check_aligned(to, bytes, "copies in the background to a misaligned address");
  check_aligned(from, bytes, "copies in the background from a misaligned address");
  if (offset + bytes > thread.block->launch->shared_bytes) refuse("copies to outside of the shared memory");
  spoil(static_cast<char*>(to), offset, bytes);
  thread.copies.push_back({to, from, bytes, there, thread.groups});
}

void commit_copies() { ++self().groups; }

void wait_for_copies(uint64_t open) {
  Thread& thread = self();
  static const char zeros[16] = {};
  size_t done = 0;
  // Those of a group that is not closed are waited for by nobody.
  for (const Copy& copy : thread.copies) {
    if (copy.group + open >= thread.groups) break;
    copy_bytes(copy.to, copy.there ? copy.from : zeros, copy.bytes);
    ++done;
  }
  thread.copies.erase(thread.copies.begin(), thread.copies.begin() + static_cast<ptrdiff_t>(done));
}

void run_blocks(int worker, const Launch& launch, uint64_t first, uint64_t step) {
  static Block blocks[kWorkers];
  Block& block = blocks[worker];
  gridDim = launch.grid;
  blockDim = launch.block;
  prepare(block, launch);
  for (uint64_t number = first; number < launch.grid.size(); number += step) run_block(block, number);
}

}  // namespace emulator
