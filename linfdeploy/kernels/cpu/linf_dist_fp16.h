// SPDX-License-Identifier: Apache-2.0
//
// The distance of float16, rounded as float16 arithmetic rounds it, in float32 registers. Sound, because
// rounding is monotone: the largest of the rounded differences is the largest difference, rounded. And a
// difference of float16 that is rounded to float32 first is rounded to the same float16, since 24 bits are at
// least twice 11 and two.
#pragma once

#include "half.h"
#include "linf_dist.h"

namespace linf {
namespace LINF_ISA {

// fl16(fl16(max |x - w|) + bias), as a reduction of pairs.h over operands that were converted to float.
struct LinfDistFp16 {
  static constexpr int64_t kOperands = 1, kStates = 1, kResults = 1;
  const Half* bias;
  Half* y;
  int64_t outputs;

  static void start(Vec (&state)[1]) { LinfDist::start(state); }
  static void step(Vec (&state)[1], const Vec (&x)[1], Vec w) { LinfDist::step(state, x, w); }
  static Vec finish(const Vec (&state)[1], int64_t k) { return LinfDist::finish(state, k); }
  void emit(int64_t, int64_t b, int64_t o, const float* words, int64_t count) const {
    for (int64_t i = 0; i < count; ++i) {
      Half distance = half_of_float(words[i]);
      if (bias) distance = half_of_float(float_of_half(distance) + float_of_half(bias[o + i]));
      y[b * outputs + o + i] = distance;
    }
  }
};

inline void convert_rows(Sizes n, const Half* from, int64_t rows, float* to) {
  parallel(rows, n, [=](int64_t r) {
    const int64_t begin = r * n.inputs, end = begin + n.inputs;
    int64_t i = begin;
    for (; i + kWidth <= end; i += kWidth) store(to + i, load_halves(from + i));
    for (; i < end; ++i) to[i] = float_of_half(from[i]);
  });
}

// One row of x, converted, against one row of w as it lies.
inline float largest_distance(int64_t inputs, const float* x, const Half* w) {
  Vec best[2] = {};
  int64_t i = 0;
  for (; i + 2 * kWidth <= inputs; i += 2 * kWidth)
    for (int64_t k = 0; k < 2; ++k)
      best[k] = farther(best[k], load(x + i + k * kWidth), load_halves(w + i + k * kWidth));
  float largest = reduce_max(maximum(best[0], best[1]));
  for (; i < inputs; ++i) {
    const float d = x[i] - float_of_half(w[i]), magnitude = d < 0 ? -d : d;
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest;
}

// Reads w once, in half the bytes of float32: for few rows, where memory is the limit.
inline void run_few_rows(const LinfDistFp16& reduction, Sizes n, const float* x, const Half* w) {
  parallel(n.outputs, n, [=](int64_t o) {
    for (int64_t b = 0; b < n.batch; ++b) {
      const float largest = largest_distance(n.inputs, x + b * n.inputs, w + o * n.inputs);
      reduction.emit(0, b, o, &largest, 1);
    }
  });
}

// `scratch` holds x and kHalfRows rows of w as floats.
inline void linf_dist_fp16(Sizes n, const Half* x, const Half* w, const Half* bias, Half* y, float* scratch) {
  constexpr int64_t kFewRows = 4;
  float *x_floats = scratch, *w_floats = scratch + n.batch * n.inputs;
  convert_rows(n, x, n.batch, x_floats);
  if (n.batch <= kFewRows) return run_few_rows({bias, y, n.outputs}, n, x_floats, w);
  for (int64_t o = 0; o < n.outputs; o += kHalfRows) {
    Sizes some = n;
    some.outputs = smaller(kHalfRows, n.outputs - o);
    convert_rows(n, w + o * n.inputs, some.outputs, w_floats);
    const LinfDistFp16 reduction{bias ? bias + o : nullptr, y + o, n.outputs};
    reduce_pairs(reduction, {{rows_of(x_floats, n.inputs)}, rows_of(w_floats, n.inputs)}, some);
  }
}

}  // namespace LINF_ISA
}  // namespace linf
