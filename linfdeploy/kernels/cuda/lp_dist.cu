// SPDX-License-Identifier: Apache-2.0
//
// The l_p distance: sums of powers for each kind of p, and their roots. See linf/lp_dist.cuh. `alignment` is
// that of the rows.
#include "linf/lp_dist.cuh"

#include "linf/lp_dist_root.cuh"

LINF_KERNEL(linf::SmallEighthTile::kThreads, 4)
lp_dist_eight_small(int32_t batch, int32_t inputs, int32_t outputs, int32_t alignment, const float* x,
                    const float* w, float* sum) {
  using namespace linf::device;
  sum_tile<linf::SmallEighthTile>(EighthSum{sum, outputs}, matrix_of(x, batch, inputs, alignment),
                                  matrix_of(w, outputs, inputs, alignment));
}

LINF_KERNEL(linf::EighthTile::kThreads, 4)
lp_dist_eight(int32_t batch, int32_t inputs, int32_t outputs, int32_t alignment, const float* x,
              const float* w, float* sum) {
  using namespace linf::device;
  sum_tile<linf::EighthTile>(EighthSum{sum, outputs}, matrix_of(x, batch, inputs, alignment),
                             matrix_of(w, outputs, inputs, alignment));
}

LINF_KERNEL(linf::RatioTile::kThreads, 3)
lp_dist_general(int32_t batch, int32_t inputs, int32_t outputs, int32_t alignment, const float* x,
                const float* w, float p, const float* p_now, const float* scale, float* sum) {
  using namespace linf::device;
  sum_tile<linf::RatioTile>(RatioSum{scale, sum, outputs, power_now(p, p_now)},
                            matrix_of(x, batch, inputs, alignment), matrix_of(w, outputs, inputs, alignment));
}

LINF_KERNEL(linf::SearchTile::kThreads, 4)
lp_dist_large(int32_t batch, int32_t inputs, int32_t outputs, int32_t alignment, const float* x,
              const float* w, float p, const float* p_now, const float* scale, float* sum) {
  using namespace linf::device;
  search_tile(scale, sum, power_now(p, p_now), matrix_of(x, batch, inputs, alignment),
              matrix_of(w, outputs, inputs, alignment));
}

LINF_KERNEL(linf::kRootThreads, 4)
lp_dist_root(int32_t size, float p, const float* p_now, const float* scale, float* sum, float* y) {
  linf::device::take_root(size, linf::device::power_now(p, p_now), scale, sum, y);
}

LINF_KERNEL(linf::kRootThreads, 4)
lp_dist_root_eight(int32_t batch, int32_t inputs, int32_t outputs, const float* x, const float* w,
                   float* scale, float* sum, float* y) {
  linf::device::take_eighth_root(batch, inputs, outputs, x, w, scale, sum, y);
}
