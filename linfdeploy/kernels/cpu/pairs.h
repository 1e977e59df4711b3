// SPDX-License-Identifier: Apache-2.0
//
// Every row of x against every row of w, at the limit of the instruction set.
//
//     for each block of rows and chunk of outputs           a task of the pool
//       for each block of words
//         pack x                                            stays in the second-level cache
//         for each tile of outputs, for each panel          states in registers, w in the first-level cache
//           for each word: step                             a lane is a row, a word of w is broadcast
//       turn the states round, to a lane an output, and hand them out
//
// So nothing is reduced across lanes, and w is read as it lies. Packing a word costs as much as some four
// steps, and all outputs of a chunk share it. Rows that would leave most of a panel empty, and layers with
// too few outputs to pay for packing, are walked row by row, with lanes along the words.
//
// A reduction R says what is done:
//   kOperands                    arrays of x that go together: an interval has two
//   kStates, kResults            registers of running states of a pair of rows; numbers that come out
//   start(states)                the neutral element; a word that is zero in x and in w must change nothing
//   step(states, x, w)           takes in one word of every lane
//   finish(states, k)            the k-th result of every lane, a non-negative float or integer
//   emit(k, b, o, words, count)  receives the k-th results of row b and outputs o, ..., o + count - 1
#pragma once

#include "panels.h"

namespace linf {
namespace LINF_ISA {

constexpr int64_t kBlockRows = 64;
constexpr int64_t kOutputsWorthPacking = 16;

template <typename R>
struct Operands {
  Rows x[R::kOperands];
  Rows w;
};

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t pieces(int64_t size, int64_t piece) { return (size + piece - 1) / piece; }

// Rows of a block and outputs of a chunk.
struct Task {
  int64_t row, rows, output, outputs;
};

// What one task works on.
template <typename R>
struct Workspace {
  static constexpr int64_t kRows = Tile<R>::kRows, kPanels = kBlockRows / kRows, kOutputs = Tile<R>::kOutputs;
  static constexpr int64_t kWords = 1024 / R::kOperands, kChunk = 512 / R::kStates;

  alignas(64) float panels[kPanels][kWords * R::kOperands * kRows];
  alignas(64) States<R> states[kPanels][kChunk][Tile<R>::kGroups];

  void start(Task task) {
    for (auto& panel : states)
      for (int64_t o = 0; o < task.outputs; ++o)
        for (States<R>& state : panel[o]) R::start(state.of);
  }

  void pack_words(const Rows (&x)[R::kOperands], Task task, int64_t begin, int64_t end) {
    for (int64_t p = 0; p * kRows < task.rows; ++p)
      for (int64_t k = 0; k < R::kOperands; ++k)
        pack(x[k], task.row + p * kRows, smaller(kRows, task.rows - p * kRows), begin, end,
             panels[p] + k * kRows, kRows, R::kOperands * kRows);
  }

  template <int64_t Outputs>
  void step_outputs(Rows w, Task task, int64_t o, int64_t begin, int64_t end) {
    for (int64_t p = 0; p * kRows < task.rows; ++p)
      run_tile<R, Outputs>(panels[p], w, task.output + o, begin, end, states[p] + o);
  }

  void step_words(Rows w, Task task, int64_t begin, int64_t end) {
    int64_t o = 0;
    for (; o + kOutputs <= task.outputs; o += kOutputs) step_outputs<kOutputs>(w, task, o, begin, end);
    for (; o < task.outputs; ++o) step_outputs<1>(w, task, o, begin, end);
  }

  Vec result(int64_t row, int64_t output, int64_t k) const {
    return R::finish(states[row / kRows][output][row % kRows / kWidth].of, k);
  }
};

// The k-th results of kWidth rows and up to kWidth outputs, from a lane a row to a lane an output.
template <typename R>
inline void emit_square(const R& reduction, const Workspace<R>& space, Task task, int64_t row, int64_t output,
                        int64_t k) {
  float by_output[kWidth][kWidth] = {}, by_row[kWidth][kWidth];
  const int64_t rows = smaller(kWidth, task.rows - row), outputs = smaller(kWidth, task.outputs - output);
  for (int64_t o = 0; o < outputs; ++o) store(by_output[o], space.result(row, output + o, k));
  for (int64_t o = 0; o < kWidth; o += 4)
    for (int64_t r = 0; r < kWidth; r += 4)
      transpose4(reinterpret_cast<const char*>(by_output[o] + r), sizeof by_output[0], by_row[r] + o, kWidth);
  for (int64_t r = 0; r < rows; ++r)
    reduction.emit(k, task.row + row + r, task.output + output, by_row[r], outputs);
}

template <typename R>
inline void emit_task(const R& reduction, const Workspace<R>& space, Task task) {
  for (int64_t row = 0; row < task.rows; row += kWidth)
    for (int64_t output = 0; output < task.outputs; output += kWidth)
      for (int64_t k = 0; k < R::kResults; ++k) emit_square(reduction, space, task, row, output, k);
}

template <typename R>
inline void run_packed(const R& reduction, const Operands<R>& operands, Task task) {
  Workspace<R> space;
  space.start(task);
  const int64_t words = operands.w.words();
  for (int64_t begin = 0; begin < words; begin += space.kWords) {
    const int64_t end = smaller(begin + space.kWords, words);
    space.pack_words(operands.x, task, begin, end);
    space.step_words(operands.w, task, begin, end);
  }
  emit_task(reduction, space, task);
}

// The last words of a row, fewer than kWidth, and zeros.
inline Vec last_words(Rows rows, int64_t row, int64_t word) {
  Vec v{};
  std::memcpy(&v, rows.at(row, word), static_cast<size_t>(rows.bytes - word * 4));
  return v;
}

// The largest word of all lanes of each of four registers: non-negative floats are ordered like their bits.
inline void largest_words(const Vec (&v)[4], float (&largest)[4]) {
  float lanes[4][kWidth], by_lane[kWidth][4];
  std::memcpy(lanes, v, sizeof lanes);
  for (int64_t i = 0; i < kWidth; i += 4)
    transpose4(reinterpret_cast<const char*>(lanes[0] + i), sizeof lanes[0], by_lane[i], 4);
  int32_t best[4], other[4];
  std::memcpy(best, by_lane[0], sizeof best);
  for (int64_t i = 1; i < kWidth; ++i) {
    std::memcpy(other, by_lane[i], sizeof other);
    for (int64_t r = 0; r < 4; ++r) best[r] = best[r] > other[r] ? best[r] : other[r];
  }
  std::memcpy(largest, best, sizeof best);
}

// One row of x against Outputs <= 4 rows of w, with lanes along the words.
template <int64_t Outputs, typename R>
inline void run_row(const R& reduction, const Operands<R>& operands, int64_t row, int64_t output) {
  States<R> s[4];
  for (States<R>& state : s) R::start(state.of);
  const auto take = [&](int64_t i, auto words_at) __attribute__((always_inline)) {
    Vec x[R::kOperands];
#pragma GCC unroll 2
    for (int64_t k = 0; k < R::kOperands; ++k) x[k] = words_at(operands.x[k], row, i);
#pragma GCC unroll 4
    for (int64_t r = 0; r < Outputs; ++r) R::step(s[r].of, x, words_at(operands.w, output + r, i));
  };
  const int64_t vectors = operands.w.whole_words() / kWidth * kWidth;
  for (int64_t i = 0; i < vectors; i += kWidth)
    take(i, [](Rows rows, int64_t r, int64_t word) {
      return load(reinterpret_cast<const float*>(rows.at(r, word)));
    });
  if (vectors * 4 < operands.w.bytes) take(vectors, last_words);
  for (int64_t k = 0; k < R::kResults; ++k) {
    Vec results[4];
    float largest[4];
    for (int64_t r = 0; r < 4; ++r) results[r] = R::finish(s[r].of, k);
    largest_words(results, largest);
    reduction.emit(k, row, output, largest, Outputs);
  }
}

template <typename R>
inline void run_rows(const R& reduction, const Operands<R>& operands, Task task) {
  constexpr int64_t kTogether = 4;
  for (int64_t b = task.row; b < task.row + task.rows; ++b) {
    int64_t o = task.output;
    for (; o + kTogether <= task.output + task.outputs; o += kTogether)
      run_row<kTogether>(reduction, operands, b, o);
    for (; o < task.output + task.outputs; ++o) run_row<1>(reduction, operands, b, o);
  }
}

// Rows that go into panels: all but a rest that fills less than half of one.
inline int64_t rows_to_pack(Sizes n, int64_t panel) {
  if (n.outputs < kOutputsWorthPacking) return 0;
  const int64_t rest = n.batch % panel;
  return rest > panel / 2 ? n.batch : n.batch - rest;
}

// Cuts the work into tasks, enough for every thread to have its share, and runs them.
template <typename R>
inline void reduce_pairs(const R& reduction, const Operands<R>& operands, Sizes n) {
  if (n.batch == 0 || n.outputs == 0) return;
  const int64_t packed = rows_to_pack(n, Tile<R>::kRows), row_blocks = pieces(packed, kBlockRows);
  // Several tasks a thread: one that starts late, as a new one does, then leaves little to wait for.
  const int64_t wanted = n.pool.threads > 1 ? pieces(8 * n.pool.threads, row_blocks + 1) : 1;
  const int64_t chunk =
      smaller(Workspace<R>::kChunk, pieces(pieces(n.outputs, wanted), kTileStates) * kTileStates);
  const int64_t chunks = pieces(n.outputs, chunk);
  parallel((row_blocks + (packed < n.batch)) * chunks, n, [&](int64_t block) {
    const int64_t row = block / chunks * kBlockRows, output = block % chunks * chunk;
    const int64_t outputs = smaller(chunk, n.outputs - output);
    if (block / chunks < row_blocks)
      run_packed(reduction, operands, {row, smaller(kBlockRows, packed - row), output, outputs});
    else
      run_rows(reduction, operands, {packed, n.batch - packed, output, outputs});
  });
}

}  // namespace LINF_ISA
}  // namespace linf
