// SPDX-License-Identifier: Apache-2.0
//
// The l_inf distance, its argmax and its gradient on CUDA. Two instructions a term: a subtraction,
// which the FMA pipe takes, and a maximum with an absolute value, which the ALU pipe takes, 64 lanes
// a clock and multiprocessor.
#pragma once

#include "linf/tile.cuh"

namespace linf {
namespace LINF_ISA {

// y = max |x - w| + bias, as a reduction of tile.cuh. A null bias adds nothing.
template <typename Number>
struct LinfDist {
  using Element = Number;
  using State = typename Element::Value;
  const typename Element::Number* bias;
  typename Element::Result* y;
  int32_t outputs;

  LINF_INLINE void start(State& best, int32_t, int32_t, bool) const { best = State{}; }
  LINF_INLINE void step(State& best, const Fragment<Element> (&x)[1], const Fragment<Element>& w,
                        int32_t) const {
#pragma unroll
    for (int32_t k = 0; k < Fragment<Element>::kCount; ++k) best = farther(best, x[0].values[k], w.values[k]);
  }
  LINF_INLINE void finish(const State& best, int32_t b, int32_t o) const {
    y[b * outputs + o] = Element::result(best, bias, o);
  }
};

// The distance and the lowest input that attains it. Of every four terms the largest is compared with what
// was found before; which of the four it was is looked for once, at the end.
struct LinfDistArgmax {
  using Element = Float32;
  struct State {
    float best;
    int32_t at;
  };
  const float *x, *w;
  float* y;
  int64_t* index;
  int32_t inputs, outputs;

  LINF_INLINE void start(State& state, int32_t, int32_t, bool) const { state = {-1.0f, 0}; }
  LINF_INLINE void step(State& state, const Fragment<Element> (&x)[1], const Fragment<Element>& w,
                        int32_t word) const {
    float largest = distance(x[0].values[0], w.values[0]);
#pragma unroll
    for (int32_t k = 1; k < Fragment<Element>::kCount; ++k)
      largest = farther(largest, x[0].values[k], w.values[k]);
    if (largest > state.best) state = {largest, word};
  }
  LINF_INLINE void finish(const State& state, int32_t b, int32_t o) const {
    const int32_t end = smaller(state.at + Fragment<Element>::kCount, inputs) - 1;
    int32_t i = state.at;
    while (i < end && distance(x[b * inputs + i], w[o * inputs + i]) != state.best) ++i;
    y[b * outputs + o] = state.best;
    index[b * outputs + o] = i;
  }
};

// The entries that a row of a gradient is gathered from: row b of grad_x from all outputs, row o of grad_w
// from the whole batch.
struct ScatterRow {
  const float *x, *w;
  const int64_t* index;
  const float* grad_y;
  int32_t inputs, outputs;
  int32_t row;
  bool of_weights;

  struct Entry {
    int32_t at;
    float value;
  };
  LINF_INLINE Entry entry(int32_t k) const {
    const int32_t b = of_weights ? k : row, o = of_weights ? row : k;
    const int32_t i = static_cast<int32_t>(index[b * outputs + o]);
    const bool negative = (x[b * inputs + i] < w[o * inputs + i]) != of_weights;
    const float g = grad_y[b * outputs + o];
    return {i, negative ? -g : g};
  }
};

// Adds each lane's value at its place, in ascending order of lanes where places are the same; for lanes
// without one, `at` is negative and unlike all others.
LINF_INLINE void add_in_order(float* sums, int32_t at, float value) {
  const uint32_t lane = threadIdx.x % kWarp;
  const int32_t before = __popc(__match_any_sync(0xffffffffu, at) & ((1u << lane) - 1));
  for (int32_t turn = 0; __any_sync(0xffffffffu, at >= 0 && before >= turn); ++turn) {
    if (at >= 0 && before == turn) sums[at] += value;
    __syncwarp();
  }
}

// One row of a gradient, `count` entries in ascending order, so the sums' bits are those of a plain loop.
// Every warp looks at all entries and adds those of its own share of the columns [begin, end).
LINF_INLINE void scatter_row(const ScatterRow& row, int32_t count, int32_t begin, int32_t end, float* grad) {
  float* const sums = reinterpret_cast<float*>(shared_memory());
  const int32_t warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int32_t share = pieces(end - begin, kScatterThreads / kWarp);
  const int32_t first = smaller(begin + warp * share, end), last = smaller(first + share, end);
  for (int32_t i = first + lane; i < last; i += kWarp) sums[i - begin] = 0;
  __syncwarp();
  for (int32_t k = lane; k - lane < count; k += kWarp) {
    const ScatterRow::Entry entry = k < count ? row.entry(k) : ScatterRow::Entry{-1, 0.0f};
    const bool mine = first <= entry.at && entry.at < last;
    add_in_order(sums, mine ? entry.at - begin : -1 - lane, entry.value);
  }
  for (int32_t i = first + lane; i < last; i += kWarp) grad[row.row * row.inputs + i] = sums[i - begin];
}

}  // namespace LINF_ISA
}  // namespace linf
