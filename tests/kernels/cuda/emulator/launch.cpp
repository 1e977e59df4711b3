// SPDX-License-Identifier: Apache-2.0
#include "launch.h"

#include <cstdio>
#include <cstring>
#include <mutex>
#include <thread>

#include "aot_entries.h"
#include "entries.h"
#include "launchers.h"

#define EMULATED_DECLARATION(name, ...) extern const emulator::Entry emulated_##name;
LINF_ENTRIES(EMULATED_DECLARATION)
LINF_AOT_ENTRIES(EMULATED_DECLARATION)
#undef EMULATED_DECLARATION

namespace emulator {
namespace {

// By number, and after these the ones that are only known by name.
#define EMULATED_ADDRESS(name, ...) &emulated_##name,
const Entry* const kEntries[] = {LINF_ENTRIES(EMULATED_ADDRESS) LINF_AOT_ENTRIES(EMULATED_ADDRESS)};
#undef EMULATED_ADDRESS
constexpr int kCount = sizeof kEntries / sizeof *kEntries;

// What a launch may ask for without a word to the driver before it.
constexpr uint32_t kMostSharedBytes = 48 * 1024;

// Launches follow one another, whoever makes them.
std::mutex one_at_a_time;
Order order_now = Order::kAscending;
uint32_t seed_now = 0;
int workers_now = kWorkers;

const char* fault_of(const Entry& entry, const Launch& launch) {
  if (!launch.grid.size() || !launch.block.size()) return "a grid or block is empty";
  if (launch.block.size() > entry.most_threads) return "more threads than the kernel's launch bound";
  if (launch.block.size() % kLanes) return "threads are no whole number of warps";
  if (launch.grid.y > 65535 || launch.grid.z > 65535) return "the grid is too large";
  if (launch.shared_bytes > kMostSharedBytes) return "more shared memory than any launch may have";
  return nullptr;
}

int refused(const Entry& entry, const Launch& launch, const char* fault) {
  std::fprintf(stderr, "emulator: cannot launch %s with %llu blocks, %llu threads and %u bytes: %s\n",
               entry.name, static_cast<unsigned long long>(launch.grid.size()),
               static_cast<unsigned long long>(launch.block.size()), launch.shared_bytes, fault);
  return 1;
}

void run(const Launch& launch) {
  const int workers = launch.grid.size() == 1 ? 1 : workers_now;
  std::thread others[kWorkers];
  for (int i = 1; i < workers; ++i) others[i] = std::thread(run_blocks, i, std::cref(launch), i, workers);
  run_blocks(0, launch, 0, static_cast<uint64_t>(workers));
  for (int i = 1; i < workers; ++i) others[i].join();
}

int start(const Entry& entry, Index grid, Index block, uint32_t shared_bytes, void** arguments) {
  std::lock_guard<std::mutex> lock(one_at_a_time);
  const Launch launch{entry.name, entry.run,    entry.function, arguments, grid,
                      block,      shared_bytes, order_now,      seed_now};
  if (const char* fault = fault_of(entry, launch)) return refused(entry, launch, fault);
  run(launch);
  return 0;
}

int start_number(const LinfLauncher*, int32_t number, LinfGrid grid, void** arguments) {
  if (number < 0 || number >= kCount) return 1;
  return start(*kEntries[number], {grid.blocks, 1, 1}, {grid.threads, 1, 1}, grid.shared_bytes, arguments);
}

}  // namespace
}  // namespace emulator

void emulated_schedule(int order, uint32_t seed, int workers) {
  std::lock_guard<std::mutex> lock(emulator::one_at_a_time);
  emulator::order_now = static_cast<emulator::Order>(order);
  emulator::seed_now = seed;
  emulator::workers_now = workers < emulator::kWorkers ? workers : emulator::kWorkers;
}

const LinfLauncher* emulated_launcher(int multiprocessors) {
  static LinfLauncher launcher{emulator::start_number, 0};
  launcher.multiprocessors = multiprocessors;
  return &launcher;
}

void* emulated_function(const char* name) {
  for (const emulator::Entry* entry : emulator::kEntries)
    if (!std::strcmp(entry->name, name)) return const_cast<emulator::Entry*>(entry);
  return nullptr;
}

int emulated_cuLaunchKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                            unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                            void*, void** arguments, void**) {
  return emulator::start(*static_cast<const emulator::Entry*>(function), {grid_x, grid_y, grid_z},
                         {block_x, block_y, block_z}, shared_bytes, arguments);
}
