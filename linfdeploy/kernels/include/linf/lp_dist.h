// SPDX-License-Identifier: Apache-2.0
//
// The l_p distance that training relaxes l_inf to: y = (sum_i |x_i - w_i|^p)^(1/p).
//
// Powers are taken of ratios a/m <= 1, where m is the largest term (forward) or the distance (backward), so
// nothing overflows. log2(a/m) is computed from (a' - m) / (a' + m), where a' is a scaled by a power of two
// next to m: the difference is exact by Sterbenz's lemma, so p = 1000 costs no accuracy where terms count.
#pragma once

namespace linf {
namespace LINF_ISA {

// Terms below 2^-100 of the largest are zero in any float sum; the clamp also keeps denormals away, which are
// an order of magnitude slower.
constexpr float kSmallestExponent = -100.0f;

// 2^v for v <= 0, with v below kSmallestExponent taken as kSmallestExponent.
inline Vec exp2_clamped(Vec v) {
  v = maximum(v, zero() + kSmallestExponent);
  const Vec shifted = v + 12582912.0f;  // 1.5 * 2^23: rounds to the nearest integer
  const VecInt whole = bits_of(shifted) - 0x4b400000;
  const Vec t = (v - (shifted - 12582912.0f)) * 0.6931471805599453f;  // in [-0.35, 0.35]
  const Vec series =
      1.0f +
      t * (1.0f + t * (1.0f / 2 + t * (1.0f / 6 + t * (1.0f / 24 + t * (1.0f / 120 + t * (1.0f / 720))))));
  return series * vec_of((whole + 127) << 23);
}

// (a / m)^p for 0 <= a <= m (1 + 2^-23), 2^-99 < m < 2^99, inverse = 1/m. Zero for a = 0.
inline Vec power_of_ratio(Vec a, Vec m, Vec inverse, float p) {
  const VecInt ratio_bits = bits_of(a * inverse);
  const VecInt exponent =
      (ratio_bits - 0x3f3504f3) >> 23;  // 0x3f3504f3 = sqrt(1/2): a' / m is in [0.70, 1.42)
  const Vec scaled = a * vec_of((127 - exponent) << 23);
  const Vec s = (scaled - m) / (scaled + m);
  const Vec s2 = s * s;
  const Vec atanh_over_s = 1.0f + s2 * (1.0f / 3 + s2 * (1.0f / 5 + s2 * (1.0f / 7 + s2 * (1.0f / 9))));
  const Vec log2_of_ratio = float_of(exponent) + 2.8853900817779268f * s * atanh_over_s;
  return select(ratio_bits >= 0x00800000, exp2_clamped(log2_of_ratio * p), zero());
}

}  // namespace LINF_ISA
}  // namespace linf
