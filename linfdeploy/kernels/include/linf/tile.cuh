// SPDX-License-Identifier: Apache-2.0
//
// Every row of x against every row of w, for batches large enough to share what is read. A block computes one
// tile: stages of its rows come to shared memory in the background, while each thread reduces the stage
// before into its Rows x Columns results. A fragment of four words of eight rows of x and eight of w is 16
// reads for 256 terms, so the arithmetic units, at two instructions a term, are what limits it.
//
// A reduction has: Element; State, of one result; start(state, b, o, inside), where a result
// outside the matrix is computed but not used; step(state, fragments of x, fragment of w, first
// word); finish(state, b, o).
#pragma once

#include "linf/elements.cuh"
#include "linf/geometry.h"
#include "linf/matrix.cuh"

namespace linf {
namespace LINF_ISA {

// Where this thread's results lie in its tile.
template <typename Shape>
LINF_INLINE int32_t thread_down() {
  const int32_t warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  return warp / (Shape::kAcross / 8) * 4 + lane / 8;
}
template <typename Shape>
LINF_INLINE int32_t thread_across() {
  const int32_t warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  return warp % (Shape::kAcross / 8) * 8 + lane % 8;
}

// Begins to copy the words [word, word + kStageWords) of Count rows from row `first` on.
template <typename Shape, int32_t Count, int32_t Alignment, typename Rows>
LINF_INLINE void fill(uint32_t* stage, const Rows& rows, int32_t first, int32_t word) {
  constexpr int32_t kQuads = kStageWords / 4,
                    kTurns = (Count * kQuads + Shape::kThreads - 1) / Shape::kThreads;
  const int32_t thread = recomputed(threadIdx.x);
#pragma unroll(Alignment == 16 ? kTurns : 1)
  for (int32_t turn = 0; turn < kTurns; ++turn) {
    const int32_t quad = turn * Shape::kThreads + thread, row = quad / kQuads, column = quad % kQuads * 4;
    if (Count * kQuads % Shape::kThreads == 0 || quad < Count * kQuads)
      rows.template copy_quad<Alignment>(stage + row * kRowStride + column, first + row, word + column);
  }
}

template <typename Shape, typename X, typename W>
struct TileOperands {
  X x[Shape::kOperands];
  W w;
  int32_t first_row, first_column;

  LINF_INLINE void fill_stage(uint32_t* stage, int32_t word) const {
    if (w.alignment == 16)
      fill_stage<16>(stage, word);
    else if (w.alignment == 4)
      fill_stage<4>(stage, word);
    else
      fill_stage<1>(stage, word);
  }
  template <int32_t Alignment>
  LINF_INLINE void fill_stage(uint32_t* stage, int32_t word) const {
#pragma unroll
    for (int32_t k = 0; k < Shape::kOperands; ++k)
      fill<Shape, Shape::kRows, Alignment>(stage + k * Shape::kRows * kRowStride, x[k], first_row, word);
    uint32_t* const columns = stage + Shape::kOperands * Shape::kRows * kRowStride;
    fill<Shape, Shape::kColumns, Alignment>(columns, w, first_column, word);
  }
};

// A fragment of a row in shared memory.
template <typename Element>
LINF_INLINE Fragment<Element> read_fragment(const uint32_t* row) {
  uint32_t words[Element::kFragment];
  if constexpr (Element::kFragment == 4) {
    const uint4 v = *reinterpret_cast<const uint4*>(row);
    words[0] = v.x, words[1] = v.y, words[2] = v.z, words[3] = v.w;
  } else {
    const uint2 v = *reinterpret_cast<const uint2*>(row);
    words[0] = v.x, words[1] = v.y;
  }
  return fragment_of<Element>(words);
}

template <typename Shape, typename Reduction>
using States = typename Reduction::State[Shape::kThreadRows][Shape::kThreadColumns];

// Takes fragments of one word each row on into all of a thread's results. Rows of w are read one by one: only
// one is in registers.
template <typename Shape, typename Reduction>
LINF_INLINE void step_fragment(const Reduction& reduction, const uint32_t* x_rows, const uint32_t* w_rows,
                               int32_t word, States<Shape, Reduction>& states) {
  using Element = typename Reduction::Element;
  Fragment<Element> x[Shape::kThreadRows][Shape::kOperands];
#pragma unroll
  for (int32_t i = 0; i < Shape::kThreadRows; ++i)
#pragma unroll
    for (int32_t k = 0; k < Shape::kOperands; ++k)
      x[i][k] = read_fragment<Element>(x_rows + (k * Shape::kRows + i * Shape::kDown) * kRowStride);
#pragma unroll
  for (int32_t j = 0; j < Shape::kThreadColumns; ++j) {
    const Fragment<Element> w = read_fragment<Element>(w_rows + j * Shape::kAcross * kRowStride);
#pragma unroll
    for (int32_t i = 0; i < Shape::kThreadRows; ++i) reduction.step(states[i][j], x[i], w, word);
  }
}

template <typename Shape, typename Reduction>
LINF_INLINE void step_stage(const Reduction& reduction, const uint32_t* stage, int32_t word,
                            States<Shape, Reduction>& states) {
  constexpr int32_t kFragment = Reduction::Element::kFragment;
  const uint32_t* const x_rows = stage + thread_down<Shape>() * kRowStride;
  const uint32_t* const w_rows =
      stage + (Shape::kOperands * Shape::kRows + thread_across<Shape>()) * kRowStride;
#pragma unroll 1
  for (int32_t k = 0; k < kStageWords; k += kFragment)
    step_fragment<Shape>(reduction, x_rows + k, w_rows + k, word + k, states);
}

// Calls visit(state, b, o) for each of a thread's results.
template <typename Shape, typename State, typename Visit>
LINF_INLINE void for_each_result(State (&states)[Shape::kThreadRows][Shape::kThreadColumns],
                                 int32_t first_row, int32_t first_column, Visit visit) {
#pragma unroll
  for (int32_t i = 0; i < Shape::kThreadRows; ++i)
#pragma unroll
    for (int32_t j = 0; j < Shape::kThreadColumns; ++j)
      visit(states[i][j], first_row + thread_down<Shape>() + i * Shape::kDown,
            first_column + thread_across<Shape>() + j * Shape::kAcross);
}

// The tile of one block. Blocks that follow each other take the tiles of one column of tiles, and so share w.
template <typename Shape, typename X, typename W>
LINF_INLINE TileOperands<Shape, X, W> operands_of_tile(const X (&x)[Shape::kOperands], const W& w) {
  const int32_t row_tiles = pieces(x[0].rows, Shape::kRows);
  TileOperands<Shape, X, W> operands{{},
                                     w,
                                     static_cast<int32_t>(blockIdx.x % row_tiles) * Shape::kRows,
                                     static_cast<int32_t>(blockIdx.x / row_tiles) * Shape::kColumns};
#pragma unroll
  for (int32_t k = 0; k < Shape::kOperands; ++k) operands.x[k] = x[k];
  return operands;
}

// Calls visit(stage, first word) for each stage, from the first to the last word of the rows.
template <typename Shape, typename X, typename W, typename Visit>
LINF_INLINE void for_each_stage(const TileOperands<Shape, X, W>& operands, Visit visit) {
  constexpr int32_t kStageSize = Shape::kStageRows * kRowStride;
  uint32_t* const shared = reinterpret_cast<uint32_t*>(shared_memory());
  const int32_t words = operands.w.words();
  operands.fill_stage(shared, 0);
  commit_copies();
  for (int32_t word = 0, now = 0; word < words; word += kStageWords, now ^= 1) {
    if (word + kStageWords < words) operands.fill_stage(shared + (now ^ 1) * kStageSize, word + kStageWords);
    commit_copies();
    wait_for_copies<1>();
    __syncthreads();
    visit(shared + now * kStageSize, word);
    __syncthreads();
  }
}

// The whole of one block.
template <typename Shape, typename Reduction, typename X, typename W>
LINF_INLINE void reduce_tile(const Reduction& reduction, const X (&x)[Shape::kOperands], const W& w) {
  const auto operands = operands_of_tile<Shape>(x, w);
  States<Shape, Reduction> states;
  for_each_result<Shape>(
      states, operands.first_row, operands.first_column,
      [&](auto& state, int32_t b, int32_t o) { reduction.start(state, b, o, b < x[0].rows && o < w.rows); });
  for_each_stage(operands, [&](const uint32_t* stage, int32_t word) {
    step_stage<Shape>(reduction, stage, word, states);
  });
  for_each_result<Shape>(states, operands.first_row, operands.first_column,
                         [&](auto& state, int32_t b, int32_t o) {
                           if (b < x[0].rows && o < w.rows) reduction.finish(state, b, o);
                         });
}

}  // namespace LINF_ISA
}  // namespace linf
