// SPDX-License-Identifier: Apache-2.0
//
// CPU kernels of linf/linf_dist.h.
#pragma once

#include "pairs.h"

// The definition is written in terms of Vec.
#include "linf/linf_dist.h"

namespace linf {
namespace LINF_ISA {

// Rows of floats.
inline Rows rows_of(const float* data, int64_t inputs) {
  return {reinterpret_cast<const char*>(data), inputs * static_cast<int64_t>(sizeof(float))};
}

// max |x - w| + bias, as a reduction of pairs.h.
struct LinfDist {
  static constexpr int64_t kOperands = 1, kStates = 1, kResults = 1;
  const float* bias;
  float* y;
  int64_t outputs;

  static void start(Vec (&state)[1]) { state[0] = zero(); }
  static void step(Vec (&state)[1], const Vec (&x)[1], Vec w) { state[0] = farther(state[0], x[0], w); }
  static Vec finish(const Vec (&state)[1], int64_t) { return state[0]; }
  void emit(int64_t, int64_t b, int64_t o, const float* words, int64_t count) const {
    float* row = y + b * outputs + o;
    for (int64_t i = 0; i < count; ++i) row[i] = bias ? words[i] + bias[o + i] : words[i];
  }
};

inline void linf_dist(Sizes n, const float* x, const float* w, const float* bias, float* y) {
  reduce_pairs(LinfDist{bias, y, n.outputs}, {{rows_of(x, n.inputs)}, rows_of(w, n.inputs)}, n);
}

// The lowest index whose distance equals `best`; 0 when none does, as for NaN.
inline int64_t first_at(int64_t inputs, const float* x, const float* w, float best) {
  constexpr int64_t kTogether = 4;
  const Vec all_best = zero() + best;
  const auto equal = [=](int64_t i) { return distance(load(x + i), load(w + i)) == all_best; };
  int64_t i = 0;
  for (; i + kTogether * kWidth <= inputs; i += kTogether * kWidth) {
    VecInt found = equal(i);
#pragma GCC unroll 4
    for (int64_t k = 1; k < kTogether; ++k) found |= equal(i + k * kWidth);
    if (lanes_of(found)) break;
  }
  for (; i + kWidth <= inputs; i += kWidth)
    if (const uint32_t lanes = lanes_of(equal(i))) return i + __builtin_ctz(lanes);
  for (; i < inputs; ++i) {
    const float d = x[i] - w[i];
    if ((d < 0 ? -d : d) == best) return i;
  }
  return 0;
}

// The search takes some rows of w at a time, which stay in the cache for all rows of x.
inline void linf_dist_argmax(Sizes n, const float* x, const float* w, float* y, int64_t* index) {
  constexpr int64_t kSome = 4;
  linf_dist(n, x, w, nullptr, y);
  parallel(pieces(n.outputs, kSome), n, [=](int64_t block) {
    const int64_t end = smaller((block + 1) * kSome, n.outputs);
    for (int64_t b = 0; b < n.batch; ++b)
      for (int64_t o = block * kSome; o < end; ++o) {
        const int64_t at = b * n.outputs + o;
        index[at] = first_at(n.inputs, x + b * n.inputs, w + o * n.inputs, y[at]);
      }
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

}  // namespace LINF_ISA
}  // namespace linf
