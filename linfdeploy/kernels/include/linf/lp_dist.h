// SPDX-License-Identifier: Apache-2.0
//
// The l_p distance that training relaxes l_inf to: y = (sum_i |x_i - w_i|^p)^(1/p).
//
// Powers are taken of ratios a/m <= 1, where m is the largest term, so nothing overflows:
//
//     y = m S^(1/p),  S = sum_i (a_i/m)^p in [1, I];    dy/dx_i = sgn(d_i) (a_i/m)^(p-1) S^(-(p-1)/p)
//
// The derivative is written with m and S, not with y: y is rounded to float32, and raised to the power p - 1
// that would be an error of p 2^-24.
#pragma once

namespace linf {
namespace LINF_ISA {

// Terms below 2^-90 of the largest are nothing in a float sum. Powers are clamped there, because operations
// with denormal results cost ten times as much as others.
constexpr float kSmallestPower = 0x1p-90f, kSmallestExponent = -90.0f;
// Ratios below this count as this where their logarithm is taken, so that no power of two below overflows.
constexpr float kSmallestRatio = 0x1p-120f;
// 2^23, the weight of an exponent's lowest bit.
constexpr float kExponentUnit = 0x1p23f;

// log2(1 + z) / z 2^23 on [sqrt(1/2) - 1, sqrt(2) - 1]: the polynomial of degree 7 of the least relative
// error, 1.7e-7. Relative to log2, not to 1, as it will be multiplied by p. Found by Remez exchange.
template <int64_t Count>
LINF_INLINE Vectors<Count> log2_over_z(const Vectors<Count>& z) {
  constexpr float u = kExponentUnit;
  const auto z2 = z * z;
  const auto even = ((z2 * (u * 0.23404261f) + u * 0.28709868f) * z2 + u * 0.48092324f) * z2 + u * 1.4426950f;
  const auto odd =
      ((z2 * (u * -0.14581189f) + u * -0.2488769f) * z2 + u * -0.36023964f) * z2 + u * -0.7213528f;
  return odd * z + even;
}

// The whole part of log2(ratio) 2^23, such that what is left of the ratio is in [sqrt(1/2), sqrt(2)): the
// exponent stays in its place among the bits. 0x3f3504f3 = sqrt(1/2).
LINF_INLINE VecInt exponent_bits(Vec ratio) { return (bits_of(ratio) - 0x3f3504f3) & (int32_t)0xff800000; }

// log2(ratio) 2^23, with the ratio's own rounding in it: enough for small p, which multiplies that.
template <int64_t Count>
LINF_INLINE Vectors<Count> log2_of(const Vectors<Count>& ratio) {
  const auto whole = each(ratio, [](Vec r) { return float_of(exponent_bits(r)); });
  const auto z = each(ratio, [](Vec r) { return vec_of(bits_of(r) - exponent_bits(r)); }) - 1.0f;
  return z * log2_over_z(z) + whole;
}

// log2(a/m) 2^23 for ratio = fl(a/m), inverse = fl(1/m). A power of two brings a next to m, where their
// difference is exact by Sterbenz's lemma: so p = 1000 costs no accuracy where terms count.
template <int64_t Count>
LINF_INLINE Vectors<Count> log2_of(const Vectors<Count>& ratio, const Vectors<Count>& a,
                                   const Vectors<Count>& m, const Vectors<Count>& inverse) {
  const auto whole = each(ratio, [](Vec r) { return float_of(exponent_bits(r)); });
  const auto near_m = a * each(ratio, [](Vec r) { return vec_of(0x3f800000 - exponent_bits(r)); });
  const auto z = (near_m - m) * inverse;
  return z * log2_over_z(z) + whole;
}

// 2^v for v <= 126; below kSmallestExponent, v counts as that. On what is left of v, t in [-1/2, 1/2], it is
// 1 + t Q(t) with the Q of degree 4 of the least relative error, 9.2e-8, so that 2^0 is 1. By Remez exchange.
template <int64_t Count>
LINF_INLINE Vectors<Count> exp2_clamped(const Vectors<Count>& v) {
  constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest integer
  const auto clamped = maximum(v, kSmallestExponent);
  const auto rounded = clamped + kRounder;
  const auto t = clamped - (rounded - kRounder);
  const auto t2 = t * t;
  const auto odd = (t2 * 0.00132647291f + 0.0555073374f) * t2 + 0.693146978f;
  const auto even = (t2 * 0.00967151264f + 0.240222421f) * t2;
  const auto series = odd * t + even + 1.0f;
  return each(series, rounded, [](Vec u, Vec v) { return vec_of(bits_of(u) + (bits_of(v) << 23)); });
}

// base^n for n >= 1 by squaring, from the highest bit of n: a constant, or the same for all terms of a call.
template <int64_t Count>
LINF_INLINE Vectors<Count> whole_power(const Vectors<Count>& base, int32_t n) {
  auto power = base;
#pragma GCC unroll 8
  for (int32_t bit = highest_bit(n) >> 1; bit; bit >>= 1) {
    power = power * power;
    if (n & bit) power = power * base;
  }
  return power;
}

// How powers are taken: by a constant number of factors, or one of these.
constexpr int32_t kFactors = -1;          // a number of factors that Power says
constexpr int32_t kLogarithm = -2;        // 2^(exponent log2), ratios rounded
constexpr int32_t kExactDifference = -3;  // 2^(exponent log2), for large exponents

struct Power {
  float exponent;    // p in the forward pass, p - 1 in the backward pass
  int32_t kind;      // at least 0: so many factors
  float floor;       // squares of ratios below this count as this, which keeps products off denormals
  float negligible;  // terms of ratios below this may be left out; 0 for none
};

// 2^(exponent log2(|d|/m)). No ratio of zero gets out of here as such: its power is 2^-90 or, for exponents
// below 1, something finite.
template <int32_t Kind, int64_t Count>
LINF_INLINE Vectors<Count> power_by_logarithm(const Vectors<Count>& d, const Vectors<Count>& ratio,
                                              const Vectors<Count>& m, const Vectors<Count>& inverse,
                                              float exponent) {
  const float unit = exponent * (1 / kExponentUnit);
  if constexpr (Kind == kLogarithm) return exp2_clamped(log2_of(ratio) * unit);
  return exp2_clamped(log2_of(ratio, absolute(d), m, inverse) * unit);
}

// The forward term (|d|/m)^p; at most 2^-90 for d = 0.
template <int32_t Kind, int64_t Count>
LINF_INLINE Vectors<Count> power_of(const Vectors<Count>& d, const Vectors<Count>& m,
                                    const Vectors<Count>& inverse, const Power& p) {
  const auto ratio = d * inverse;
  if constexpr (Kind <= kLogarithm) {
    return power_by_logarithm<Kind>(d, absolute(ratio), m, inverse, p.exponent);
  } else {
    const int32_t factors = Kind == kFactors ? p.kind : Kind;
    if (factors == 1) return absolute(ratio);
    const auto even = whole_power(maximum(ratio * ratio, p.floor), factors >> 1);
    return factors & 1 ? even * absolute(ratio) : even;
  }
}

// The backward term slope sgn(d) (|d|/m)^(p-1), 0 for d = 0: the ratio itself is a factor of it.
template <int32_t Kind, int64_t Count>
LINF_INLINE Vectors<Count> slope_of(const Vectors<Count>& d, const Vectors<Count>& m,
                                    const Vectors<Count>& inverse, const Vectors<Count>& slope,
                                    const Power& p) {
  const auto ratio = d * inverse;
  if constexpr (Kind <= kLogarithm) {
    const auto above_zero = maximum(absolute(ratio), kSmallestRatio);
    return ratio * slope * power_by_logarithm<Kind>(d, above_zero, m, inverse, p.exponent - 1);
  } else {
    const int32_t factors = Kind == kFactors ? p.kind : Kind;
    if (factors == 0) return signed_like(slope, d);
    // An odd power keeps the sign; an even one gets it from ratio |ratio|.
    const auto first = factors & 1 ? ratio * slope : ratio * slope * absolute(ratio);
    const int32_t squares = (factors - 1) >> 1;
    return squares ? first * whole_power(maximum(ratio * ratio, p.floor), squares) : first;
  }
}

}  // namespace LINF_ISA
}  // namespace linf
