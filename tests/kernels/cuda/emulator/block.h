// SPDX-License-Identifier: Apache-2.0
//
// One block of threads, as hostile as CUDA's rules allow. Each thread runs alone until it waits for others or
// ends; which goes next, the schedule says. So what no barrier orders happens in an order that the kernel's
// author did not think of, shared memory starts as garbage, and a copy in the background leaves garbage until
// the last moment at which it must be there.
#pragma once

#include <cstddef>
#include <cstdint>

namespace emulator {

struct Index {
  uint32_t x, y, z;
  uint64_t size() const { return uint64_t{x} * y * z; }
};

constexpr int kLanes = 32;

// Where in the device code a thread waits.
struct Place {
  const char* what;
  const char* file;
  int line;
};

// What device code calls. Barriers order memory; shuffles and votes, as on the hardware, order nothing.
void barrier(Place place);
void warp_barrier(uint32_t mask, Place place);
// The value of `lane`, when all lanes of `mask` are here.
uint64_t shuffle(uint32_t mask, uint64_t value, int lane, Place place);
// Which lanes of `mask` say yes; have the value of this lane.
uint32_t ballot(uint32_t mask, bool yes, Place place);
uint32_t match(uint32_t mask, uint64_t value, Place place);
int lane();
char* shared_memory();
void copy_async(void* to, const void* from, uint32_t bytes, bool there);
void commit_copies();
void wait_for_copies(uint64_t open);
// Ends the program with a line that says which thread of which kernel is at fault.
[[noreturn]] void refuse(const char* what);
// Refuses an address that is no multiple of `bytes`.
void check_aligned(const void* at, size_t bytes, const char* what);

// In which order threads run. The random ones draw anew whenever they can.
enum class Order : int { kAscending, kDescending, kRandom };

struct Launch {
  const char* kernel;
  // Runs the kernel once, for the thread that calls.
  void (*run)(const void* function, void** arguments);
  const void* function;
  void** arguments;
  Index grid, block;
  uint32_t shared_bytes;
  Order order;
  uint32_t seed;
};

// Runs every `step`th block from `first`, one after the other, on stacks that are kept for `worker`. Launches
// of the same worker must not overlap.
void run_blocks(int worker, const Launch& launch, uint64_t first, uint64_t step);
constexpr int kWorkers = 2;

}  // namespace emulator

// __thread, as thread_local would call a function at each access.
extern __thread emulator::Index threadIdx, blockIdx, blockDim, gridDim;
