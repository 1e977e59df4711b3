// SPDX-License-Identifier: Apache-2.0
//
// What the launchers share: how a kernel is started, and which tile spreads a matrix most evenly over a card.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "entries.h"
#include "launchers.h"
#include "linf/geometry.h"

namespace linf {

constexpr int64_t pieces_of(int64_t size, int64_t piece) { return (size + piece - 1) / piece; }

// Starts an entry with these arguments, which must be of the entry's own types.
template <typename... Arguments>
int start(const LinfLauncher* launcher, KernelEntry entry, LinfGrid grid, Arguments... arguments) {
  if (grid.blocks == 0) return 0;
  void* addresses[] = {&arguments...};
  return launcher->start(launcher, static_cast<int32_t>(entry), grid, addresses);
}

// A kernel that is compiled for a shape of tiles.
struct TileChoice {
  KernelEntry entry;
  int rows, columns, threads, shared_bytes;
  // Of the speed of the largest tiles, for what a smaller tile reads more often.
  double efficiency;

  LinfGrid grid(int64_t batch, int64_t outputs) const {
    return {static_cast<uint32_t>(pieces_of(batch, rows) * pieces_of(outputs, columns)),
            static_cast<uint32_t>(threads), static_cast<uint32_t>(shared_bytes)};
  }
  // The time of the multiprocessor that gets most tiles.
  double time(int64_t batch, int64_t outputs, int32_t multiprocessors) const {
    const auto tiles = static_cast<int64_t>(grid(batch, outputs).blocks);
    return static_cast<double>(pieces_of(tiles, multiprocessors) * rows * columns) / efficiency;
  }
};

template <typename Shape>
constexpr TileChoice choice(KernelEntry entry, double efficiency = 1.0) {
  return {entry, Shape::kRows, Shape::kColumns, Shape::kThreads, Shape::kSharedBytes, efficiency};
}

inline TileChoice fastest(std::initializer_list<TileChoice> choices, int64_t batch, int64_t outputs,
                          int32_t multiprocessors) {
  const TileChoice* best = choices.begin();
  for (const TileChoice& next : choices)
    if (next.time(batch, outputs, multiprocessors) < best->time(batch, outputs, multiprocessors))
      best = &next;
  return *best;
}

// What the addresses of all rows are multiples of: 16, 4 or 1 bytes. The rows of a
// matrix are `row_bytes` long.
inline int32_t alignment_of(int64_t row_bytes, std::initializer_list<const void*> data) {
  uintptr_t bits = static_cast<uintptr_t>(row_bytes);
  for (const void* address : data) bits |= reinterpret_cast<uintptr_t>(address);
  return alignment_of_bits(bits);
}

// The distances of float32 alone, which other kernels begin with.
int start_linf_dist_f32(const LinfLauncher* launcher, LinfSizes n, const float* x, const float* w,
                        const float* bias, float* y);

}  // namespace linf
