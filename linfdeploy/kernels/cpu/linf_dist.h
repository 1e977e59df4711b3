// SPDX-License-Identifier: Apache-2.0
//
// CPU kernels of linf/linf_dist.h: lanes run along the inputs, four outputs share each load of x.
#pragma once

#include "vector.h"

// The definition is written in terms of Vec.
#include "linf/linf_dist.h"

namespace linf {
namespace LINF_ISA {

constexpr int64_t kRows = 4;

// The maxima of Rows consecutive outputs for one input row.
template <int64_t Rows>
inline void linf_dist_rows(int64_t inputs, const float* x, const float* w, float* y) {
  Vec best[Rows] = {};
  for_each_vector(inputs, [&](int64_t i, int64_t, auto load_part, auto) {
    const Vec xi = load_part(x + i);
    for (int64_t r = 0; r < Rows; ++r) best[r] = farther(best[r], xi, Vec(load_part(w + r * inputs + i)));
  });
  for (int64_t r = 0; r < Rows; ++r) y[r] = reduce_max(best[r]);
}

inline void linf_dist(Sizes n, const float* x, const float* w, const float* bias, float* y) {
  parallel((n.outputs + kRows - 1) / kRows, n, [=](int64_t block) {
    const int64_t o = block * kRows;
    for (int64_t b = 0; b < n.batch; ++b) {
      const float* row = x + b * n.inputs;
      float* out = y + b * n.outputs + o;
      if (o + kRows <= n.outputs) {
        linf_dist_rows<kRows>(n.inputs, row, w + o * n.inputs, out);
      } else {
        for (int64_t r = 0; o + r < n.outputs; ++r)
          linf_dist_rows<1>(n.inputs, row, w + (o + r) * n.inputs, out + r);
      }
      for (int64_t r = 0; bias && r < kRows && o + r < n.outputs; ++r) out[r] += bias[o + r];
    }
  });
}

// The lowest index whose distance equals `best`; 0 when none does, as for NaN.
inline int64_t first_at(int64_t inputs, const float* x, const float* w, float best) {
  for (int64_t i = 0; i < inputs; ++i) {
    const float d = x[i] - w[i];
    if ((d < 0 ? -d : d) == best) return i;
  }
  return 0;
}

inline void linf_dist_argmax(Sizes n, const float* x, const float* w, float* y, int64_t* index) {
  linf_dist(n, x, w, nullptr, y);
  parallel(n.batch, n, [=](int64_t b) {
    for (int64_t o = 0; o < n.outputs; ++o)
      index[b * n.outputs + o] = first_at(n.inputs, x + b * n.inputs, w + o * n.inputs, y[b * n.outputs + o]);
  });
}

inline void linf_dist_backward(Sizes n, const float* x, const float* w, const int64_t* index,
                               const float* grad_y, float* grad_x, float* grad_w) {
  fill_zero(grad_x, n.batch * n.inputs);
  fill_zero(grad_w, n.outputs * n.inputs);
  parallel(1, n, [=](int64_t) {
    for (int64_t b = 0; b < n.batch; ++b) {
      for (int64_t o = 0; o < n.outputs; ++o) {
        const int64_t i = index[b * n.outputs + o];
        const float g = grad_y[b * n.outputs + o];
        const float signed_g = x[b * n.inputs + i] < w[o * n.inputs + i] ? -g : g;
        grad_x[b * n.inputs + i] += signed_g;
        grad_w[o * n.inputs + i] -= signed_g;
      }
    }
  });
}

inline void linf_dist_bounds(Sizes n, const float* lower, const float* upper, const float* w, float* y_lower,
                             float* y_upper) {
  parallel(n.outputs, n, [=](int64_t o) {
    for (int64_t b = 0; b < n.batch; ++b) {
      Vec least = zero(), most = zero();
      for_each_vector(n.inputs, [&](int64_t i, int64_t, auto load_part, auto) {
        const Vec l = load_part(lower + b * n.inputs + i);
        const Vec u = load_part(upper + b * n.inputs + i);
        const Vec wi = load_part(w + o * n.inputs + i);
        least = maximum(nearest(l, u, wi), least);
        most = maximum(farthest(l, u, wi), most);
      });
      y_lower[b * n.outputs + o] = reduce_max(least);
      y_upper[b * n.outputs + o] = reduce_max(most);
    }
  });
}

}  // namespace LINF_ISA
}  // namespace linf
