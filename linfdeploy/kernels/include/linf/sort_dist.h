// SPDX-License-Identifier: Apache-2.0
//
// The sorted distance, y = sum_k c_k |x - w|_(k): the K largest of |x_i - w_i|, falling, weighted by c.
//
// The bits depend on nothing but the operands: the differences are those of linf_dist.h, the K largest of
// them are a set that no order of the search changes, and the sum runs from the largest to the smallest, each
// product and each partial sum rounded once. Where all values are multiples of one power of two and have few
// enough bits, nothing rounds at all, and the order of the sum does not matter either.
//
// With c >= 0 every step is monotone in every |x_i - w_i|, roundings included, so the same steps on the
// nearest and the farthest values of intervals bound y with no slack.
//
// LINF_ISA names the instruction set a variant is compiled for, as in linf_dist.h.
#pragma once

namespace linf {
namespace LINF_ISA {

// Puts a value that exceeds the last of the `terms` largest so far, falling, in its place behind its equals.
// `input` goes along.
template <typename T, typename Index>
LINF_INLINE void insert_largest(T* largest, Index* inputs, Index terms, T value, Index input) {
  Index k = terms - 1;
  for (; k > 0 && largest[k - 1] < value; --k) {
    largest[k] = largest[k - 1];
    inputs[k] = inputs[k - 1];
  }
  largest[k] = value;
  inputs[k] = input;
}

template <typename T, typename Index>
LINF_INLINE T weighted_sum(const T* largest, const T* c, Index terms) {
  T sum = c[0] * largest[0];
  for (Index k = 1; k < terms; ++k) sum += c[k] * largest[k];
  return sum;
}

// The nearest multiple of 1 / steps, a power of two, halves upwards; of 0 <= y < 2^23 / steps. Rounding
// halves to even would not do: it does not commute with adding an odd multiple, and then the layer is not
// 1-Lipschitz.
template <typename T>
LINF_INLINE T to_multiple(T y, T steps) {
  return static_cast<T>(static_cast<int>(y * steps + static_cast<T>(0.5))) / steps;
}

// The ends of |x - w| for x in [lower, upper], at the roundings of distance().
template <typename T>
LINF_INLINE T farthest_of(T lower, T upper, T w) {
  return maximum(maximum(difference(w, lower), difference(upper, w)), zero());
}
template <typename T>
LINF_INLINE T nearest_of(T lower, T upper, T w) {
  return maximum(maximum(difference(lower, w), difference(w, upper)), zero());
}

}  // namespace LINF_ISA
}  // namespace linf
