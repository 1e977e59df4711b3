// SPDX-License-Identifier: Apache-2.0
//
// How CUDA kernels cut their work: the one place that launchers on the host and kernels on the device read.
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define LINF_HOST_DEVICE __host__ __device__ inline
#else
#define LINF_HOST_DEVICE inline
#endif

namespace linf {

constexpr int kWarp = 32;
// Blocks may use this much shared memory on every card without asking for it.
constexpr int kSharedLimit = 48 * 1024;

// A stage holds so many 32-bit words of each of a tile's rows, in rows of kRowStride words: eight
// rows that follow each other then begin in eight different groups of four banks, so 16-byte reads
// never wait for each other.
constexpr int kStageWords = 16, kRowStride = 20;
// Positions in a row are counted in 32 bits, and those of its last stage go beyond its end by less than a
// stage.
constexpr int kMostRowBytes = 0x7fffffff - kStageWords * 4 + 1;
// What rows can be read by, 16, 4 or 1 bytes: `bits` is the bitwise or of their addresses and of their
// length.
LINF_HOST_DEVICE int alignment_of_bits(unsigned long long bits) {
  return bits % 16 == 0 ? 16 : bits % 4 == 0 ? 4 : 1;
}
// One stage is computed while the next is copied.
constexpr int kStages = 2;

// A block computes a tile of every row against every row. Its threads form a grid, Down x Across, of warps of
// 4 x 8; each holds Rows x Columns results in registers, of rows that lie Down and columns that lie Across
// apart. Operands matrices take the place of x.
template <int Down, int Across, int Rows, int Columns, int Operands = 1>
struct Tile {
  static constexpr int kDown = Down, kAcross = Across, kThreadRows = Rows, kThreadColumns = Columns;
  static constexpr int kOperands = Operands, kThreads = Down * Across;
  static constexpr int kRows = Down * Rows, kColumns = Across * Columns;
  static constexpr int kStageRows = Operands * kRows + kColumns;
  static constexpr int kSharedBytes = kStages * kStageRows * kRowStride * 4;
  static_assert(Down % 4 == 0 && Across % 8 == 0, "warps of 4 x 8 threads");
  static_assert(kSharedBytes <= kSharedLimit, "no more shared memory than every card gives");
};

// The larger a tile, the less it reads; the smaller, the more evenly tiles spread over the card.
using LargeTile = Tile<16, 8, 8, 8>;
using MediumTile = Tile<8, 8, 8, 8>;
using SmallTile = Tile<8, 8, 4, 4>;
// Reductions with more than one number for each result.
using ArgmaxTile = Tile<8, 8, 8, 4>;
using BoundsTile = Tile<8, 8, 4, 8, 2>;

// Up to kFewRows rows of x: a block reads kRowsOutputs rows of w once, its threads side by side along them.
constexpr int kFewRows = 8, kRowsOutputs = 4, kRowsThreads = 256;
constexpr int rows_shared_bytes(int batch) { return kRowsThreads / kWarp * kRowsOutputs * batch * 4; }

// Such a block in the words of a tile.
template <int Rows>
struct FewRows {
  static constexpr int kRows = Rows, kColumns = kRowsOutputs, kThreads = kRowsThreads;
  static constexpr int kSharedBytes = rows_shared_bytes(Rows);
};

// A block scatters one row of gradients; each of its warps owns an equal share of up
// to kScatterColumns columns.
constexpr int kScatterThreads = 256, kScatterColumns = kSharedLimit / 4;

}  // namespace linf
