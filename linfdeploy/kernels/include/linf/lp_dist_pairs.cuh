// SPDX-License-Identifier: Apache-2.0
//
// What the backward pass of the l_p distance computes once for each pair of rows, and
// the sum of shares of grad_x.
#pragma once

#include "linf/lp_dist_sparse.cuh"

namespace linf {
namespace LINF_ISA {

struct Pairs {
  int32_t kind, batch, outputs;
  int32_t padded;  // batch, of the planes
  float p;
  const float *scale, *sum, *grad_y;
  float* planes;
};

// What is constant along a pair of rows. Out of range it makes every slope 0.
struct PairScalars {
  float inverse, slope, largest, threshold;
};

// With a scale of 1 the kernels save a product a term, where the slope is well inside float's range. Others
// take the distance itself as scale: its rounding is multiplied by 7 only.
LINF_INLINE PairScalars eighth_pair(float scale, float sum, float grad_y) {
  const float slope = grad_y * powf(sum, -0.875f), size = fabsf(slope);
  if (scale == 1.0f && ((0x1p-100f <= size && size <= 0x1p100f) || grad_y == 0)) return {1.0f, slope, 0, 0};
  return {1.0f / (scale * eighth_root(sum)), grad_y, 0, 0};
}

LINF_INLINE PairScalars pair_of(const Pairs& pairs, int32_t at) {
  const float scale = pairs.scale[at], sum = pairs.sum[at], grad_y = pairs.grad_y[at];
  if (!in_range(scale)) return {0, 0, 0, infinite_threshold()};
  if (pairs.kind == kEight) return eighth_pair(scale, sum, grad_y);
  return {1.0f / scale, grad_y * powf(sum, 1 / pairs.p - 1), scale, scale * negligible_ratio(pairs.p - 1)};
}

// Rows past the batch are pairs too, out of range. Lanes lie along the batch, as the planes do; the block's
// outputs share what is read across it.
LINF_INLINE void prepare_pair(const Pairs& pairs) {
  const int32_t row_blocks = pairs.padded / kPairRows;
  const int32_t b = blockIdx.x % row_blocks * kPairRows + threadIdx.x % kPairRows;
  const int32_t o = blockIdx.x / row_blocks * kPairOutputs + threadIdx.x / kPairRows;
  if (o >= pairs.outputs) return;
  const PairScalars scalars =
      b < pairs.batch ? pair_of(pairs, b * pairs.outputs + o) : PairScalars{0, 0, 0, infinite_threshold()};
  const int64_t size = static_cast<int64_t>(pairs.outputs) * pairs.padded;
  float* const to = pairs.planes + static_cast<int64_t>(o) * pairs.padded + b;
  to[kInversePlane * size] = scalars.inverse;
  to[kSlopePlane * size] = scalars.slope;
  if (pairs.kind != kLarge) return;
  to[kLargestPlane * size] = scalars.largest;
  to[kThresholdPlane * size] = scalars.threshold;
}

LINF_INLINE void add_shares(int32_t size, int32_t shares, const float* parts, float* grad_x) {
  const int32_t at = blockIdx.x * kRootThreads + threadIdx.x;
  if (at >= size) return;
  float total = 0;
  for (int32_t share = 0; share < shares; ++share) total += parts[static_cast<int64_t>(share) * size + at];
  grad_x[at] = total;
}

}  // namespace LINF_ISA
}  // namespace linf
