// SPDX-License-Identifier: Apache-2.0
//
// Both ends of the l_inf distance over a box, in one pass: see linf_dist.h. Two subtractions and four
// extremes a term, so a quarter of the forward's speed at best.
#pragma once

#include "linf/tile.cuh"

namespace linf {
namespace LINF_ISA {

// The ends of max |x - w| over boxes, as a reduction of tile.cuh over lower and upper ends.
struct LinfDistBounds {
  using Element = Float32;
  struct State {
    float extremes[2];
  };
  float *y_lower, *y_upper;
  int32_t outputs;

  LINF_INLINE void start(State& state, int32_t, int32_t, bool) const { start_extremes(state.extremes); }
  LINF_INLINE void step(State& state, const Fragment<Element> (&x)[2], const Fragment<Element>& w,
                        int32_t) const {
#pragma unroll
    for (int32_t k = 0; k < Fragment<Element>::kCount; ++k)
      extend_extremes(state.extremes, x[0].values[k], x[1].values[k], w.values[k]);
  }
  LINF_INLINE void finish(const State& state, int32_t b, int32_t o) const {
    y_lower[b * outputs + o] = nearest(state.extremes);
    y_upper[b * outputs + o] = farthest(state.extremes);
  }
};

}  // namespace LINF_ISA
}  // namespace linf
