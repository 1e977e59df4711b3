// SPDX-License-Identifier: Apache-2.0
//
// Up to kFewRows rows of x against every row of w: bound by reading w, once. A block takes kRowsOutputs rows
// of w; its threads lie along them, 16 bytes each, and every one keeps the maximum over its own inputs for
// every pair of rows. The threads' maxima are merged exactly: in a warp by exchange, then in shared memory.
#pragma once

#include "linf/elements.cuh"
#include "linf/geometry.h"
#include "linf/matrix.cuh"

namespace linf {
namespace LINF_ISA {

// The words of a row, as values.
template <typename Element>
struct RowPiece {
  static constexpr int32_t kCount = 4 * Element::kValues;
  typename Element::Value values[kCount];
};

template <typename Element>
LINF_INLINE RowPiece<Element> piece_of(const Quad& quad) {
  RowPiece<Element> piece;
#pragma unroll
  for (int32_t k = 0; k < 4; ++k) Element::expand(quad.words[k], piece.values + k * Element::kValues);
  return piece;
}

// Takes the words [word, word + 4) of all rows into `best`. A row past the last stands for the last.
template <typename Element, int32_t Batch, int32_t Alignment, typename Value>
LINF_INLINE void step_rows(const Matrix& x, const Matrix& w, int32_t first_output, int32_t word,
                           Value (&best)[kRowsOutputs][Batch]) {
  RowPiece<Element> weights[kRowsOutputs];
#pragma unroll
  for (int32_t o = 0; o < kRowsOutputs; ++o)
    weights[o] =
        piece_of<Element>(w.template quad<Alignment, true>(smaller(first_output + o, w.rows - 1), word));
#pragma unroll
  for (int32_t b = 0; b < Batch; ++b) {
    const RowPiece<Element> inputs =
        piece_of<Element>(x.template quad<Alignment, false>(smaller(b, x.rows - 1), word));
#pragma unroll
    for (int32_t o = 0; o < kRowsOutputs; ++o)
#pragma unroll
      for (int32_t k = 0; k < RowPiece<Element>::kCount; ++k)
        best[o][b] = farther(best[o][b], inputs.values[k], weights[o].values[k]);
  }
}

// This thread's share of all words.
template <typename Element, int32_t Batch, int32_t Alignment, typename Value>
LINF_INLINE void step_all(const Matrix& x, const Matrix& w, int32_t first_output,
                          Value (&best)[kRowsOutputs][Batch]) {
  const int32_t words = w.words();
#pragma unroll(Alignment == 16 && Batch == 1 ? 2 : 1)
  for (int32_t word = threadIdx.x * 4; word < words; word += kRowsThreads * 4)
    step_rows<Element, Batch, Alignment>(x, w, first_output, word, best);
}

// The largest of a warp's values, in all its lanes.
template <typename Value>
LINF_INLINE Value warp_maximum(Value v) {
#pragma unroll
  for (int32_t distance = kWarp / 2; distance > 0; distance /= 2) v = maximum(v, from_lane(v, distance));
  return v;
}

// The `block`th kRowsOutputs rows of w against all of x, at most Batch rows.
template <typename Element, int32_t Batch>
LINF_INLINE void reduce_rows(const Matrix& x, const Matrix& w, int32_t block,
                             const typename Element::Number* bias, typename Element::Result* y) {
  using Value = typename Element::Value;
  constexpr int32_t kResults = kRowsOutputs * Batch, kWarps = kRowsThreads / kWarp;
  const int32_t first_output = block * kRowsOutputs;
  const int32_t warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  Value best[kRowsOutputs][Batch] = {};
  if (w.alignment == 16)
    step_all<Element, Batch, 16>(x, w, first_output, best);
  else if (w.alignment == 4)
    step_all<Element, Batch, 4>(x, w, first_output, best);
  else
    step_all<Element, Batch, 1>(x, w, first_output, best);

  Value* const shared = reinterpret_cast<Value*>(shared_memory());
#pragma unroll
  for (int32_t k = 0; k < kResults; ++k) {
    const Value largest = warp_maximum(best[k / Batch][k % Batch]);
    if (lane == k % kWarp) shared[warp * kResults + k] = largest;
  }
  __syncthreads();
  const int32_t o = first_output + threadIdx.x / Batch, b = threadIdx.x % Batch;
  if (threadIdx.x >= kResults || o >= w.rows || b >= x.rows) return;
  Value largest = shared[threadIdx.x];
#pragma unroll
  for (int32_t k = 1; k < kWarps; ++k) largest = maximum(largest, shared[k * kResults + threadIdx.x]);
  y[b * w.rows + o] = Element::result(largest, bias, o);
}

}  // namespace LINF_ISA
}  // namespace linf
