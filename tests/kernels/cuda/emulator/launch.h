// SPDX-License-Identifier: Apache-2.0
//
// Starting kernels by number, as the launchers do, and by address, as CUDA's driver does.
#pragma once

#include <cstdint>
#include <utility>

#include "block.h"

namespace emulator {

// A kernel: how to call it, and the most threads that a block of it may have.
struct Entry {
  const char* name;
  void (*run)(const void* function, void** arguments);
  const void* function;
  uint32_t most_threads;
};

// Calls a function of any type with arguments by address.
template <typename... Arguments>
struct Call {
  template <size_t... I>
  static void pass(void (*function)(Arguments...), void** arguments, std::index_sequence<I...>) {
    function(*static_cast<Arguments*>(arguments[I])...);
  }
  static void run(const void* function, void** arguments) {
    pass(reinterpret_cast<void (*)(Arguments...)>(const_cast<void*>(function)), arguments,
         std::index_sequence_for<Arguments...>());
  }
};
template <typename... Arguments>
Entry entry(const char* name, void (*function)(Arguments...), uint32_t most_threads) {
  return {name, Call<Arguments...>::run, reinterpret_cast<const void*>(function), most_threads};
}

// Defines the entry of a kernel, after its source.
#define EMULATED_ENTRY(name, most_threads)      \
  extern const emulator::Entry emulated_##name; \
  const emulator::Entry emulated_##name = emulator::entry(#name, name, most_threads);

}  // namespace emulator

extern "C" {
struct LinfLauncher;

// How the launches that follow run: the order of threads, what a random one starts with, and how many threads
// of the system run blocks side by side.
void emulated_schedule(int order, uint32_t seed, int workers);
// A launcher of the emulator.
const LinfLauncher* emulated_launcher(int multiprocessors);
// The address of a kernel; null where there is none of that name.
void* emulated_function(const char* name);
// cuLaunchKernel. Returns 0, or 1 for a launch that the driver would refuse.
int emulated_cuLaunchKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                            unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                            void* stream, void** arguments, void** extra);
}
