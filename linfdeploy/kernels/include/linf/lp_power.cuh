// SPDX-License-Identifier: Apache-2.0
//
// Powers of ratios on CUDA, for the l_p distance as linf/lp_dist.h defines it. Three kinds of p:
//
//     p = 8     by multiplication, each rounded once: of d^8 the relative error is at most 2^-21, of a
//               slope, with the roundings of the ratio, 2^-19
//     p < 40    2^(e log2 r) by the special function unit
//     p >= 40   as before, log2 from the exact difference to the largest term
//
// The errors of the second: log2 is within 2^-22 of 1 or of itself, whichever is larger, and 2^v within
// 2^-22. A factor r is taken apart, so the exponents are e = p - 1 for a term, p - 2 for a slope:
//
//     error of r^p      (ln2 (p - 1) 2^-22 + 2^-22) r^p + rounding: 1/p of it in the distance, below 4e-7
//     error of r^(p-1)  (ln2 (p - 2) 2^-22 + 2^-22) r^(p-1) + rounding: at most 7e-6, at p = 40
//
// for ratios from 1/2 on; smaller ones have |log2 r| times that, and a power that shrinks faster, but for
// p < 3.
#pragma once

#include "linf/ptx.cuh"

namespace linf {
namespace LINF_ISA {

// Beyond these a reciprocal or the sum of two terms would overflow. Training meets no such distance: it is
// taken as its largest term and has no gradient.
constexpr float kSmallestDistance = 1e-29f, kLargestDistance = 1e38f;
LINF_INLINE bool in_range(float largest) {
  return kSmallestDistance <= largest && largest <= kLargestDistance;
}

// Where sums of (x - w)^8 are as good as those of ratios: what underflows below is nothing beside it.
constexpr float kSmallestEighth = 0x1p-100f, kLargestEighth = 0x1p120f;
LINF_INLINE bool eighth_in_range(float sum) { return kSmallestEighth <= sum && sum <= kLargestEighth; }

LINF_INLINE float eighth_root(float v) { return sqrtf(sqrtf(sqrtf(v))); }

// Ratios below this count as this where their logarithm is taken: it stays finite.
constexpr float kSmallestRatio = 0x1p-120f;

// Ratios below this may be left out of a sum of powers: 4096 terms below 2^-37 of the largest are less than
// half a unit in the last place of the sum. No ratio above 1 - 2^-16 is, however large p: rounding would
// decide. From the exponent 39 on it is above 1/2, so d - m is exact where d counts (Sterbenz).
LINF_INLINE float negligible_ratio(float exponent) { return fminf(exp2f(-37.0f / exponent), 1 - 0x1p-16f); }

LINF_INLINE float power_now(float p, const float* p_now) { return p_now ? *p_now : p; }

// r^e for small exponents, also of 0 (which then is 2^-120).
LINF_INLINE float small_power(float ratio, float exponent) {
  return exp2_approx(exponent * log2_approx(fmaxf(ratio, kSmallestRatio)));
}

// log2(1 + z) / z on [-0.483, 0]: the polynomial of degree 8 of the least relative error by Remez
// exchange, 1.5e-8; in floats 8.4e-8. Relative to log2, not to 1, as it will be multiplied by p.
LINF_INLINE float log2_over_z(float z) {
  float q = 1.85774493f;
  q = fmaf(q, z, 2.03860521f);
  q = fmaf(q, z, 1.51034319f);
  q = fmaf(q, z, 0.176210061f);
  q = fmaf(q, z, 0.363994449f);
  q = fmaf(q, z, -0.353157699f);
  q = fmaf(q, z, 0.481268287f);
  q = fmaf(q, z, -0.721340597f);
  return fmaf(q, z, 1.44269502f);
}

// (distance / largest)^e where the ratio is not negligible, for e >= 39. The difference is exact, so the
// relative error of the logarithm, 3e-7, is not multiplied by e but by e log2 r, which is at most 37.
LINF_INLINE float large_power(float distance, float largest, float inverse, float exponent) {
  const float z = (distance - largest) * inverse;
  return exp2_approx(exponent * (z * log2_over_z(z)));
}

// Whether any of four terms counts: the largest does. Two instructions a term, from sm_100 on, where a
// maximum takes three operands, even fewer.
LINF_INLINE bool any_above(const float (&x)[4], const float (&w)[4], float threshold) {
  float largest = distance(x[0], w[0]);
#pragma unroll
  for (int32_t k = 1; k < 4; ++k) largest = farther(largest, x[k], w[k]);
  return largest > threshold;
}

// Thirty-two flags, as the last bits of two floats of which the first is 2^23: set by an addition, in the
// pipe that comparisons leave idle.
struct Flags {
  float halves[2] = {0x1p23f, 0x1p23f};

  LINF_INLINE void set(int32_t k, bool flag) {
    if (flag) halves[k / 16] += static_cast<float>(1 << k % 16);
  }
  LINF_INLINE uint32_t bits() const {
    return __float_as_uint(halves[1]) << 16 | (__float_as_uint(halves[0]) & 0xffffu);
  }
};

// Calls visit(k, x[k] - w[k]) for the terms that count. Mostly it is one, so a turn a term is cheaper than
// four powers side by side.
template <typename Visit>
LINF_INLINE void for_each_above(const float (&x)[4], const float (&w)[4], float threshold, Visit visit) {
  float d[4];
  uint32_t terms = 0;
#pragma unroll
  for (int32_t k = 0; k < 4; ++k) {
    d[k] = difference(x[k], w[k]);
    if (fabsf(d[k]) > threshold) terms |= 1u << k;
  }
  for (; terms; terms &= terms - 1) {
    const int32_t k = __ffs(static_cast<int32_t>(terms)) - 1;
    visit(k, k & 2 ? (k & 1 ? d[3] : d[2]) : (k & 1 ? d[1] : d[0]));
  }
}

// No term counts.
LINF_INLINE float infinite_threshold() { return __uint_as_float(0x7f800000u); }

}  // namespace LINF_ISA
}  // namespace linf
