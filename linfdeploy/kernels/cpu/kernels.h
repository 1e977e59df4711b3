// SPDX-License-Identifier: Apache-2.0
//
// The table of CPU kernels, one instance per instruction set. Plain types only: no SIMD type leaves a
// variant.
//
// Shapes, all row-major, float32 where nothing else is said: x, lower, upper (batch, inputs); w (outputs,
// inputs); everything named y or grad_y (batch, outputs). `pool` runs the blocks; no result depends on it.
#pragma once

#include <cstdint>

#include "parallel.h"

namespace linf {

struct Sizes {
  int64_t batch, inputs, outputs;
  Pool pool;
};

// lp_dist_backward sums grad_x in this many blocks of outputs, whatever the number of threads. Its scratch
// holds all but the first, and one number for each distance.
constexpr int64_t kGradBlocks = 8;
inline int64_t lp_dist_backward_scratch(const Sizes& n) {
  return (kGradBlocks - 1) * n.batch * n.inputs + n.batch * n.outputs;
}

// linf_dist_fp16 needs scratch of (batch + kHalfRows) * inputs floats.
constexpr int64_t kHalfRows = 256;

// The weights of a sorted distance, c_1, ..., c_K with 1 <= K <= kMostTerms and K <= inputs; none is
// negative. With steps > 0, a power of two, distances are rounded to multiples of 1 / steps.
constexpr int64_t kMostTerms = 32;
struct SortWeights {
  const float* of;
  int64_t terms;
  float steps;
};

struct Kernels {
  const char* isa;
  // y = max_i |x_i - w_i| + bias; a null bias adds nothing
  void (*linf_dist)(Sizes, const float* x, const float* w, const float* bias, float* y);
  // y = max_i |x_i - w_i| and the lowest index that attains it
  void (*linf_dist_argmax)(Sizes, const float* x, const float* w, float* y, int64_t* index);
  // scatters grad_y to the inputs and weights that attained the maximum; grad_x and grad_w are overwritten
  void (*linf_dist_backward)(Sizes, const float* x, const float* w, const int64_t* index, const float* grad_y,
                             float* grad_x, float* grad_w);
  // y_lower <= linf_dist(x) <= y_upper, in float arithmetic, for every float x with lower <= x <= upper
  void (*linf_dist_bounds)(Sizes, const float* lower, const float* upper, const float* w, float* y_lower,
                           float* y_upper);
  // y = max_i |x_i - w_i|, exact for all values
  void (*linf_dist_uint8)(Sizes, const uint8_t* x, const uint8_t* w, uint8_t* y);
  void (*linf_dist_int8)(Sizes, const int8_t* x, const int8_t* w, uint8_t* y);
  void (*linf_dist_int16)(Sizes, const int16_t* x, const int16_t* w, uint16_t* y);
  // y = max_i |x_i - w_i| + bias of float16, given as their bits, rounded to float16 after the difference and
  // after the sum; a null bias adds nothing
  void (*linf_dist_fp16)(Sizes, const uint16_t* x, const uint16_t* w, const uint16_t* bias, uint16_t* y,
                         float* scratch);
  // y = (sum_i |x_i - w_i|^p)^(1/p) = largest * sum^(1/p), where `largest` is the largest |x_i - w_i| and
  // `sum` that of the powers of their ratios to it. Terms below 2^-kept_bits of the largest may be
  // left out; 0 keeps all.
  void (*lp_dist)(Sizes, const float* x, const float* w, float p, float kept_bits, float* y, float* largest,
                  float* sum);
  // grad_x and grad_w are overwritten; a null one is not computed
  void (*lp_dist_backward)(Sizes, const float* x, const float* w, float p, float kept_bits,
                           const float* largest, const float* sum, const float* grad_y, float* grad_x,
                           float* grad_w, float* scratch);
  // y = sum_k c_k |x - w|_(k) + bias, of the K largest |x_i - w_i|, falling; a null bias adds nothing
  void (*sort_dist)(Sizes, const float* x, const float* w, SortWeights c, const float* bias, float* y);
  // index (batch, outputs, K): which inputs these are; of equal distances, the lowest input comes first
  void (*sort_dist_argtop)(Sizes, const float* x, const float* w, int64_t terms, int64_t* index);
  // y_lower <= sort_dist(x) <= y_upper, in float arithmetic, for every float x with lower <= x <= upper
  void (*sort_dist_bounds)(Sizes, const float* lower, const float* upper, const float* w, SortWeights c,
                           float* y_lower, float* y_upper);
  // scatters c_k grad_y to the inputs and weights of the k-th largest; grad_x and grad_w are overwritten
  void (*sort_dist_backward)(Sizes, const float* x, const float* w, const int64_t* index, SortWeights c,
                             const float* grad_y, float* grad_x, float* grad_w);
};

// The fastest variant that this processor runs; `isa` ("avx512", "avx2", "baseline") forces one.
// Null when this processor or this build lacks it.
const Kernels* kernels_for(const char* isa);

}  // namespace linf
