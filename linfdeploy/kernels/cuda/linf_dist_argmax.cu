// SPDX-License-Identifier: Apache-2.0
//
// The l_inf distance with its argmax, and the gradient that is scattered along it: see linf/linf_dist.cuh.
#include "linf/linf_dist.cuh"

LINF_KERNEL(linf::ArgmaxTile::kThreads, 6)
linf_dist_argmax(int32_t batch, int32_t inputs, int32_t outputs, int32_t alignment, const float* x,
                 const float* w, float* y, int64_t* index) {
  using namespace linf::device;
  const Matrix rows[] = {matrix_of(x, batch, inputs, alignment)};
  const LinfDistArgmax reduction{x, w, y, index, inputs, outputs};
  reduce_tile<linf::ArgmaxTile>(reduction, rows, matrix_of(w, outputs, inputs, alignment));
}

// A block for every row and every kScatterColumns columns of it; `of_weights` says of which gradient.
LINF_KERNEL(linf::kScatterThreads, 4)
linf_dist_scatter(int32_t batch, int32_t inputs, int32_t outputs, int32_t of_weights, const float* x,
                  const float* w, const int64_t* index, const float* grad_y, float* grad) {
  using namespace linf::device;
  const int32_t parts = pieces(inputs, linf::kScatterColumns), row = blockIdx.x / parts;
  const int32_t begin = static_cast<int32_t>(blockIdx.x % parts) * linf::kScatterColumns;
  const ScatterRow of{x, w, index, grad_y, inputs, outputs, row, of_weights != 0};
  scatter_row(of, of_weights ? batch : outputs, begin, smaller(begin + linf::kScatterColumns, inputs), grad);
}
