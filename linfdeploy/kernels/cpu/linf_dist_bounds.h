// SPDX-License-Identifier: Apache-2.0
//
// Both ends of the distance over a box, in one pass.
#pragma once

#include "linf_dist.h"

namespace linf {
namespace LINF_ISA {

// The ends of max |x - w| over boxes, as a reduction of pairs.h.
struct LinfDistBounds {
  static constexpr int64_t kOperands = 2, kStates = 2, kResults = 2;
  float *y_lower, *y_upper;
  int64_t outputs;

  static void start(Vec (&state)[2]) { start_extremes(state); }
  static void step(Vec (&state)[2], const Vec (&x)[2], Vec w) { extend_extremes(state, x[0], x[1], w); }
  static Vec finish(const Vec (&state)[2], int64_t k) { return k ? farthest(state) : nearest(state); }
  void emit(int64_t k, int64_t b, int64_t o, const float* words, int64_t count) const {
    std::memcpy((k ? y_upper : y_lower) + b * outputs + o, words, static_cast<size_t>(count) * sizeof(float));
  }
};

inline void linf_dist_bounds(Sizes n, const float* lower, const float* upper, const float* w, float* y_lower,
                             float* y_upper) {
  reduce_pairs(LinfDistBounds{y_lower, y_upper, n.outputs},
               {{rows_of(lower, n.inputs), rows_of(upper, n.inputs)}, rows_of(w, n.inputs)}, n);
}

}  // namespace LINF_ISA
}  // namespace linf
