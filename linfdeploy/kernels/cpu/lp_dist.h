// SPDX-License-Identifier: Apache-2.0
//
// CPU kernels of linf/lp_dist.h. The order of every sum is fixed, whatever the number of threads.
#pragma once

#include <cmath>

#include "linf_dist.h"
#include "vector.h"

// The definition is written in terms of Vec.
#include "linf/lp_dist.h"

namespace linf {
namespace LINF_ISA {

// Beyond these the ratio's reciprocal or the sum of two terms would overflow. Training meets no such
// distance: it is taken as its largest term and has no gradient.
constexpr float kSmallestDistance = 1e-29f, kLargestDistance = 1e38f;
inline bool in_range(float y) { return kSmallestDistance <= y && y <= kLargestDistance; }

inline float lp_dist_one(int64_t inputs, const float* x, const float* w, float p, float largest) {
  if (!in_range(largest)) return largest;
  const Vec m = zero() + largest, inverse = 1.0f / m;
  Vec sum[kParts] = {};
  for_each_vector(inputs, [&](int64_t i, int64_t part, auto load_part, auto) {
    sum[part] += power_of_ratio(distance(Vec(load_part(x + i)), Vec(load_part(w + i))), m, inverse, p);
  });
  return static_cast<float>(largest * std::pow(static_cast<double>(reduce_sum(sum)), 1.0 / p));
}

inline void lp_dist(Sizes n, const float* x, const float* w, float p, float* y) {
  linf_dist(n, x, w, nullptr, y);
  parallel(n.outputs, n, [=](int64_t o) {
    for (int64_t b = 0; b < n.batch; ++b)
      y[b * n.outputs + o] =
          lp_dist_one(n.inputs, x + b * n.inputs, w + o * n.inputs, p, y[b * n.outputs + o]);
  });
}

// Adds g sgn(x - w) (|x - w| / y)^(p-1) to one row of grad_x and subtracts it from one row of grad_w.
inline void add_gradient(int64_t inputs, const float* x, const float* w, float p, float y, float g,
                         float* grad_x, float* grad_w) {
  if (!in_range(y)) return;
  const Vec distance_y = zero() + y, inverse = 1.0f / distance_y, scale = zero() + g;
  for_each_vector(inputs, [&](int64_t i, int64_t, auto load_part, auto store_part) {
    const Vec d = Vec(load_part(x + i)) - Vec(load_part(w + i));
    const Vec term = scale * with_sign(power_of_ratio(absolute(d), distance_y, inverse, p - 1), sign_of(d));
    store_part(grad_x + i, Vec(load_part(grad_x + i)) + term);
    store_part(grad_w + i, Vec(load_part(grad_w + i)) - term);
  });
}

// `scratch` holds kGradBlocks partial sums of grad_x: outputs are cut into that many blocks, whatever the
// number of threads, and the partial sums are added in order.
inline void lp_dist_backward(Sizes n, const float* x, const float* w, float p, const float* y,
                             const float* grad_y, float* grad_x, float* grad_w, float* scratch) {
  const int64_t x_size = n.batch * n.inputs;
  fill_zero(scratch, kGradBlocks * x_size);
  fill_zero(grad_w, n.outputs * n.inputs);
  parallel(kGradBlocks, n, [=](int64_t block) {
    const int64_t begin = block * n.outputs / kGradBlocks, end = (block + 1) * n.outputs / kGradBlocks;
    for (int64_t b = 0; b < n.batch; ++b)
      for (int64_t o = begin; o < end; ++o)
        add_gradient(n.inputs, x + b * n.inputs, w + o * n.inputs, p, y[b * n.outputs + o],
                     grad_y[b * n.outputs + o], scratch + block * x_size + b * n.inputs,
                     grad_w + o * n.inputs);
  });
  parallel(1, n, [=](int64_t) {
    for (int64_t i = 0; i < x_size; ++i) {
      float total = scratch[i];
      for (int64_t block = 1; block < kGradBlocks; ++block) total += scratch[block * x_size + i];
      grad_x[i] = total;
    }
  });
}

}  // namespace LINF_ISA
}  // namespace linf
