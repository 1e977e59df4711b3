// SPDX-License-Identifier: Apache-2.0
//
// The roots of the l_p distance on CUDA, a thread each: y = scale sum^(1/p).
#pragma once

#include "linf/lp_geometry.h"
#include "linf/lp_power.cuh"

namespace linf {
namespace LINF_ISA {

// scale is the largest term. A sum is at least 1, the power of the largest term, however that was rounded.
LINF_INLINE void take_root(int32_t size, float p, const float* scale, float* sum, float* y) {
  const int32_t at = blockIdx.x * kRootThreads + threadIdx.x;
  if (at >= size) return;
  const float largest = scale[at], total = fmaxf(sum[at], 1.0f);
  sum[at] = total;
  y[at] = in_range(largest) ? largest * powf(total, 1 / p) : largest;
}

struct ScaledSum {
  float scale, sum;
};

// The sum for p = 8 with the largest term as scale, by all lanes of a warp side by side; 1
// where that is out of range.
LINF_INLINE ScaledSum scaled_eighth_sum(int32_t inputs, const float* x, const float* w) {
  const int32_t lane = threadIdx.x % kWarp;
  float largest = 0, sum = 0;
  for (int32_t i = lane; i < inputs; i += kWarp) largest = farther(largest, x[i], w[i]);
  for (int32_t lanes = kWarp / 2; lanes; lanes /= 2)
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, lanes));
  if (!in_range(largest)) return {largest, 1};
  const float inverse = 1.0f / largest;
  for (int32_t i = lane; i < inputs; i += kWarp) {
    const float r = difference(x[i], w[i]) * inverse, r2 = r * r, r4 = r2 * r2;
    sum = fmaf(r4, r4, sum);
  }
  for (int32_t lanes = kWarp / 2; lanes; lanes /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
  return {largest, fmaxf(sum, 1.0f)};
}

// Sums of p = 8 that left float's range are taken again, one after the other: no network that trains has any.
LINF_INLINE void take_eighth_root(int32_t batch, int32_t inputs, int32_t outputs, const float* x,
                                  const float* w, float* scale, float* sum, float* y) {
  const int32_t size = batch * outputs, at = blockIdx.x * kRootThreads + threadIdx.x;
  const int32_t lane = threadIdx.x % kWarp;
  ScaledSum result = {1, at < size ? sum[at] : 1.0f};
  uint32_t again = __ballot_sync(0xffffffffu, !eighth_in_range(result.sum));
  for (; again; again &= again - 1) {
    const int32_t other = __ffs(static_cast<int32_t>(again)) - 1, other_at = at - lane + other;
    const ScaledSum scaled =
        scaled_eighth_sum(inputs, x + other_at / outputs * inputs, w + other_at % outputs * inputs);
    if (lane == other) result = scaled;
  }
  if (at >= size) return;
  scale[at] = result.scale;
  sum[at] = result.sum;
  y[at] = result.scale * eighth_root(result.sum);
}

}  // namespace LINF_ISA
}  // namespace linf
