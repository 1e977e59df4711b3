// SPDX-License-Identifier: Apache-2.0
//
// The gradients of the l_p distance: what belongs to each pair of rows, all slopes, and the sum of the
// shares. See linf/lp_dist_backward.cuh and linf/lp_dist_sparse.cuh.
#include "linf/lp_dist_pairs.cuh"
#include "linf/lp_dist_sparse.cuh"

LINF_KERNEL(linf::kPairRows* linf::kPairOutputs, 4)
lp_dist_pairs(int32_t kind, int32_t batch, int32_t outputs, int32_t padded, float p, const float* p_now,
              const float* scale, const float* sum, const float* grad_y, float* planes) {
  linf::device::prepare_pair(
      {kind, batch, outputs, padded, linf::device::power_now(p, p_now), scale, sum, grad_y, planes});
}

LINF_KERNEL(linf::DenseSlopes::kThreads, 2)
lp_dist_backward_eight(int32_t batch, int32_t inputs, int32_t outputs, int32_t padded, int32_t share,
                       const float* x, const float* w, const float* planes, float* grad_x, float* grad_w,
                       float, const float*) {
  linf::device::dense_slopes<linf::kEight>(
      {batch, inputs, outputs, padded, share, x, w, planes, grad_x, grad_w, 8.0f});
}

LINF_KERNEL(linf::DenseSlopes::kThreads, 2)
lp_dist_backward_general(int32_t batch, int32_t inputs, int32_t outputs, int32_t padded, int32_t share,
                         const float* x, const float* w, const float* planes, float* grad_x, float* grad_w,
                         float p, const float* p_now) {
  linf::device::dense_slopes<linf::kGeneral>({batch, inputs, outputs, padded, share, x, w, planes, grad_x,
                                              grad_w, linf::device::power_now(p, p_now)});
}

LINF_KERNEL(linf::SparseSlopes::kThreads, 4)
lp_dist_backward_large(int32_t batch, int32_t inputs, int32_t outputs, int32_t padded, int32_t share,
                       const float* x, const float* w, const float* planes, float* grad_x, float* grad_w,
                       float p, const float* p_now) {
  linf::device::sparse_slopes({batch, inputs, outputs, padded, share, x, w, planes, grad_x, grad_w,
                               linf::device::power_now(p, p_now)});
}

LINF_KERNEL(linf::kRootThreads, 4)
lp_dist_add_shares(int32_t size, int32_t shares, const float* parts, float* grad_x) {
  linf::device::add_shares(size, shares, parts, grad_x);
}
