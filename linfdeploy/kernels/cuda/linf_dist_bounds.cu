// SPDX-License-Identifier: Apache-2.0
//
// Both ends of the l_inf distance over boxes: see linf/linf_dist_bounds.cuh.
#include "linf/linf_dist_bounds.cuh"

LINF_KERNEL(linf::BoundsTile::kThreads, 6)
linf_dist_bounds(int32_t batch, int32_t inputs, int32_t outputs, int32_t alignment, const float* lower,
                 const float* upper, const float* w, float* y_lower, float* y_upper) {
  using namespace linf::device;
  const Matrix boxes[] = {matrix_of(lower, batch, inputs, alignment),
                          matrix_of(upper, batch, inputs, alignment)};
  const LinfDistBounds reduction{y_lower, y_upper, outputs};
  reduce_tile<linf::BoundsTile>(reduction, boxes, matrix_of(w, outputs, inputs, alignment));
}
