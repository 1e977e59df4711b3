// SPDX-License-Identifier: Apache-2.0
//
// The l_inf distance, y = max_i |x_i - w_i|: one term, the reduction and both interval ends.
//
// Why it is exact to test: a subtraction is correctly rounded, |.| and max are exact, so the bits of y do not
// depend on the order of the reduction, on tiling or on the batch. Every device must produce the same ones.
//
// T is float or a SIMD vector of floats; LINF_ISA names the instruction set a variant is compiled for, and
// everything stays inside its namespace, so that no variant's code can leak into another's.
#pragma once

namespace linf {
namespace LINF_ISA {

// 0 is the neutral element: distances are never negative.
template <typename T>
LINF_INLINE T distance(T x, T w) {
  return absolute(difference(x, w));
}

// max(best, distance(x, w)): a step of the reduction.
template <typename T>
LINF_INLINE T farther(T best, T x, T w) {
  return maximum_magnitude(best, difference(x, w));
}

// The distance over a box [lower, upper]. With a = fl(w - lower) and b = fl(upper - w), an interval's
// farthest point is max(a, b) away from w and its nearest max(-a, -b, 0), so both ends of the maximum follow
// from the extremes of a and b over all terms. Rounding is monotone: nearest <= |fl(x - w)| <= farthest for
// every float x of the box, and both are attained.
//
// Extremes are {max(a, b, 0), min(a, b, -0)}.
template <typename T>
LINF_INLINE void start_extremes(T (&extremes)[2]) {
  extremes[0] = zero();
  extremes[1] = negative_zero();
}
template <typename T>
LINF_INLINE void extend_extremes(T (&extremes)[2], T lower, T upper, T w) {
  const T a = difference(w, lower), b = difference(upper, w);
  extremes[0] = maximum(b, maximum(a, extremes[0]));
  extremes[1] = lowest(lowest(extremes[1], a), b);
}
template <typename T>
LINF_INLINE T farthest(const T (&extremes)[2]) {
  return absolute(extremes[0]);
}
template <typename T>
LINF_INLINE T nearest(const T (&extremes)[2]) {
  return absolute(extremes[1]);
}

}  // namespace LINF_ISA
}  // namespace linf
