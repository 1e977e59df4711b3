// SPDX-License-Identifier: Apache-2.0
//
// The l_p distance on CUDA, y = scale sum^(1/p). A kernel for each kind of p makes the sums; a small one
// after it takes the root:
//
//     p = 8     scale 1: one pass, four instructions a term. Sums out of range are taken again with the
//               largest term as scale.
//     p < 40    scale is the largest term, which a pass of linf_dist found. The special function unit
//               limits: two of its instructions a term, 16 lanes a clock and multiprocessor.
//     p >= 40   as before, of the terms that count only: a subtraction and a comparison a term.
//
// Errors of a sum: added up one by one, n positive terms have at most n 2^-24. p = 8 adds 64 terms to a part
// and the parts to the sum, (64 + n / 64) 2^-24, an eighth of which gets into the distance: below 1.1e-6 up
// to n = 5120. p < 40 adds 16 terms to a part and the parts with compensation: 17 2^-24, at p = 1 1.0e-6 of
// the distance, whatever n is. From p = 40 on a fortieth counts at most, and only few terms do.
#pragma once

#include "linf/lp_geometry.h"
#include "linf/lp_power.cuh"
#include "linf/tile.cuh"

namespace linf {
namespace LINF_ISA {

// As reduce_tile, for sums in parts of Reduction::kPartStages stages.
template <typename Shape, typename Reduction>
LINF_INLINE void sum_tile(const Reduction& reduction, const Matrix& x, const Matrix& w) {
  const auto operands = operands_of_tile<Shape>({x}, w);
  States<Shape, Reduction> states;
  for_each_result<Shape>(
      states, operands.first_row, operands.first_column,
      [&](auto& state, int32_t b, int32_t o) { reduction.start(state, b, o, b < x.rows && o < w.rows); });
  for_each_stage(operands, [&](const uint32_t* stage, int32_t word) {
    step_stage<Shape>(reduction, stage, word, states);
    constexpr int32_t kPart = Reduction::kPartStages * kStageWords;
    if ((word + kStageWords) % kPart != 0 && word + kStageWords < w.words()) return;
#pragma unroll
    for (auto& row : states)
#pragma unroll
      for (auto& state : row) reduction.end_part(state);
  });
  for_each_result<Shape>(states, operands.first_row, operands.first_column,
                         [&](auto& state, int32_t b, int32_t o) {
                           if (b < x.rows && o < w.rows) reduction.finish(state, b, o);
                         });
}

// sum_i d^8.
struct EighthSum {
  using Element = Float32;
  static constexpr int32_t kPartStages = 4;
  struct State {
    float part, total;
  };
  float* sum;
  int32_t outputs;

  LINF_INLINE void start(State& state, int32_t, int32_t, bool) const { state = {0, 0}; }
  LINF_INLINE void step(State& state, const Fragment<Element> (&x)[1], const Fragment<Element>& w,
                        int32_t) const {
#pragma unroll
    for (int32_t k = 0; k < 4; ++k) {
      const float d = difference(x[0].values[k], w.values[k]), d2 = d * d, d4 = d2 * d2;
      state.part = fmaf(d4, d4, state.part);
    }
  }
  LINF_INLINE void end_part(State& state) const { state = {0, state.total + state.part}; }
  LINF_INLINE void finish(const State& state, int32_t b, int32_t o) const {
    sum[b * outputs + o] = state.total;
  }
};

// sum_i r^p, r = |d| / scale. Out of range the inverse is 0; so is the sum, or no number.
struct RatioSum {
  using Element = Float32;
  static constexpr int32_t kPartStages = 1;
  struct State {
    float inverse, part, total;
    float lost;  // what rounding added to the total
  };
  const float* scale;
  float* sum;
  int32_t outputs;
  float p;

  LINF_INLINE void start(State& state, int32_t b, int32_t o, bool inside) const {
    const float largest = inside ? scale[b * outputs + o] : 0.0f;
    state = {in_range(largest) ? 1.0f / largest : 0.0f, 0, 0, 0};
  }
  LINF_INLINE void step(State& state, const Fragment<Element> (&x)[1], const Fragment<Element>& w,
                        int32_t) const {
#pragma unroll
    for (int32_t k = 0; k < 4; ++k) {
      const float ratio = distance(x[0].values[k], w.values[k]) * state.inverse;
      state.part = fmaf(ratio, small_power(ratio, p - 1), state.part);
    }
  }
  LINF_INLINE void end_part(State& state) const {
    const float part = state.part - state.lost, total = state.total + part;
    state = {state.inverse, 0, total, (total - state.total) - part};
  }
  LINF_INLINE void finish(const State& state, int32_t b, int32_t o) const {
    sum[b * outputs + o] = state.total;
  }
};

// sum_i r^p of what counts. Thresholds are in registers; sums, which are looked up by number, in shared
// memory, and four words of a row are compared before any is looked at, as in lp_dist_sparse.cuh.
struct LargeSum {
  using Shape = SearchTile;
  using Thresholds = float[Shape::kThreadRows][Shape::kThreadColumns];
  static constexpr int32_t kResults = Shape::kThreadRows * Shape::kThreadColumns;
  static_assert(kResults == 32, "a bit for each result");
  const float* scale;
  float* sum;
  int32_t outputs;
  float p, negligible;
  int32_t first_row, first_column;  // of this thread's results
  float* sums;                      // this thread's, kThreads apart

  LINF_INLINE void start(float& threshold, int32_t b, int32_t o, bool inside) const {
    const float largest = inside ? scale[b * outputs + o] : 0.0f;
    threshold = in_range(largest) ? largest * negligible : infinite_threshold();
  }
  // Bit i * kThreadColumns + j: a term of row i and column j is above its threshold.
  LINF_INLINE uint32_t results_that_count(const uint32_t* x_rows, const uint32_t* w_rows,
                                          const Thresholds& thresholds) const {
    Flags results;
    Fragment<Float32> x[Shape::kThreadRows];
#pragma unroll
    for (int32_t i = 0; i < Shape::kThreadRows; ++i)
      x[i] = read_fragment<Float32>(x_rows + i * Shape::kDown * kRowStride);
#pragma unroll
    for (int32_t j = 0; j < Shape::kThreadColumns; ++j) {
      const auto w = read_fragment<Float32>(w_rows + j * Shape::kAcross * kRowStride);
#pragma unroll
      for (int32_t i = 0; i < Shape::kThreadRows; ++i)
        results.set(i * Shape::kThreadColumns + j, any_above(x[i].values, w.values, thresholds[i][j]));
    }
    return results.bits();
  }
  LINF_INLINE void take(const uint32_t* x_rows, const uint32_t* w_rows, int32_t result) const {
    const int32_t i = result / Shape::kThreadColumns, j = result % Shape::kThreadColumns;
    const auto x = read_fragment<Float32>(x_rows + i * Shape::kDown * kRowStride);
    const auto w = read_fragment<Float32>(w_rows + j * Shape::kAcross * kRowStride);
    const float largest = scale[(first_row + i * Shape::kDown) * outputs + first_column + j * Shape::kAcross];
    const float inverse = 1.0f / largest;
    float total = sums[result * Shape::kThreads];
    for_each_above(x.values, w.values, largest * negligible,
                   [&](int32_t, float d) { total += large_power(fabsf(d), largest, inverse, p); });
    sums[result * Shape::kThreads] = total;
  }
  LINF_INLINE void step(const uint32_t* stage, const Thresholds& thresholds) const {
    const uint32_t* const x_rows = stage + thread_down<Shape>() * kRowStride;
    const uint32_t* const w_rows = stage + (Shape::kRows + thread_across<Shape>()) * kRowStride;
#pragma unroll 1
    for (int32_t k = 0; k < kStageWords; k += 4)
      for (uint32_t results = results_that_count(x_rows + k, w_rows + k, thresholds); results;
           results &= results - 1)
        take(x_rows + k, w_rows + k, __ffs(static_cast<int32_t>(results)) - 1);
  }
  LINF_INLINE void finish(int32_t result, int32_t b, int32_t o) const {
    sum[b * outputs + o] = sums[result * Shape::kThreads];
  }
};

LINF_INLINE void search_tile(const float* scale, float* sum, float p, const Matrix& x, const Matrix& w) {
  using Shape = LargeSum::Shape;
  const auto operands = operands_of_tile<Shape>({x}, w);
  float* const sums = reinterpret_cast<float*>(shared_memory() + Shape::kSharedBytes) + threadIdx.x;
  const LargeSum pass = {scale,
                         sum,
                         w.rows,
                         p,
                         negligible_ratio(p),
                         operands.first_row + thread_down<Shape>(),
                         operands.first_column + thread_across<Shape>(),
                         sums};
  for (int32_t result = 0; result < LargeSum::kResults; ++result) sums[result * Shape::kThreads] = 0;
  LargeSum::Thresholds thresholds;
  for_each_result<Shape>(
      thresholds, operands.first_row, operands.first_column,
      [&](float& threshold, int32_t b, int32_t o) { pass.start(threshold, b, o, b < x.rows && o < w.rows); });
  for_each_stage(operands, [&](const uint32_t* stage, int32_t) { pass.step(stage, thresholds); });
  int32_t result = 0;
  for_each_result<Shape>(thresholds, operands.first_row, operands.first_column,
                         [&](float&, int32_t b, int32_t o) {
                           if (b < x.rows && o < w.rows) pass.finish(result, b, o);
                           ++result;
                         });
}

}  // namespace LINF_ISA
}  // namespace linf
