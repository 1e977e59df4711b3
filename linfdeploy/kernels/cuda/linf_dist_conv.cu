// SPDX-License-Identifier: Apache-2.0
//
// The l_inf-distance convolution: see linf/linf_dist_conv.cuh. The filters' rows are w, of `inputs` pixels
// each; `rows` windows stand for the batch.
#include "linf/linf_dist_conv.cuh"

LINF_KERNEL(linf::MediumTile::kThreads, 6)
linf_dist_conv(int32_t rows, int32_t inputs, int32_t filters, linf::Window window, const float* x,
               const float* w, const float* bias, float* y) {
  using namespace linf::device;
  const Windows windows[] = {{x, window, rows}};
  const LinfDistConv reduction{{bias, y, filters}, window};
  reduce_tile<linf::MediumTile>(reduction, windows, matrix_of(w, filters, inputs, 4));
}
