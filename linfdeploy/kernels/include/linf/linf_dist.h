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
inline T distance(T x, T w) {
  return absolute(x - w);
}

// max(best, distance(x, w)): a step of the reduction.
template <typename T>
inline T farther(T best, T x, T w) {
  return maximum_magnitude(best, x - w);
}

// The farthest point of [lower, upper] from w, at the forward pass's own rounding: rounding is monotone, so
// |fl(x - w)| <= farthest(...) for every float x in the interval, and an end point attains it.
template <typename T>
inline T farthest(T lower, T upper, T w) {
  return maximum(absolute(lower - w), absolute(upper - w));
}

// The nearest point of [lower, upper] to w. May be negative when w lies inside; the reduction starts from 0,
// which is then the sound bound.
template <typename T>
inline T nearest(T lower, T upper, T w) {
  return maximum(lower - w, w - upper);
}

}  // namespace LINF_ISA
}  // namespace linf
