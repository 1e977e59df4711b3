// SPDX-License-Identifier: Apache-2.0
//
// What both passes of lp_dist share: how powers are taken, and rows of a few vectors side by side.
#pragma once

#include <cmath>

#include "vector.h"
#include "vectors.h"

// The definition is written in terms of Vec.
#include "linf/lp_dist.h"

namespace linf {
namespace LINF_ISA {

// Beyond these the ratio's reciprocal or the sum of two terms would overflow. Training meets no such
// distance: it is taken as its largest term and has no gradient.
constexpr float kSmallestDistance = 1e-29f, kLargestDistance = 1e38f;
inline bool in_range(float largest) { return kSmallestDistance <= largest && largest <= kLargestDistance; }
inline VecInt in_range(Vec largest) { return (largest >= kSmallestDistance) & (largest <= kLargestDistance); }

// Four vectors are computed side by side: the groups of sixteen lanes of one, two or four rows.
constexpr int64_t kRowsAtOnce = 4 / kParts;
// Terms below 2^-kept_bits of the largest may be left out. With these, 4096 of them are less than half a unit
// in the last place of the sum, which divided by p is nothing in the distance.
constexpr float kAllBits = 37;
// From here on most terms are negligible, and a search for the others pays; with fewer bits, from a smaller p
// on. Below it, whole exponents are raised by multiplication, with one rounding a factor.
constexpr float kSearchFrom = 40;
// Whole exponents up to here as well where fewer bits are kept. While p is small, many terms of a trained net
// are near the largest, and ten multiplications cost less than a search; from p = 64 on they cost as much or
// more (docs/kernels.md). Their error, 2^-18, is far below what is left out.
constexpr float kMultipliedUpTo = 48;

// No ratio above this is negligible, however large p: their rounding would decide.
constexpr double kNeverNegligible = 1 - 0x1p-16;

inline float negligible_ratio(double exponent, double kept_bits) {
  const double ratio = std::exp2(-kept_bits / exponent);
  return static_cast<float>(ratio < kNeverNegligible ? ratio : kNeverNegligible);
}

// `kept_bits` of 0 leaves nothing out. Products below 2^smallest may count as that.
inline Power power_for(float p, float exponent, float kept_bits, float smallest) {
  const bool rough = kept_bits > 0 && kept_bits < kAllBits;
  const bool whole =
      p == static_cast<float>(static_cast<int32_t>(p)) && (rough ? p <= kMultipliedUpTo : p < kSearchFrom);
  const bool search = !whole && kept_bits > 0 && p * kAllBits >= kSearchFrom * (rough ? kept_bits : kAllBits);
  const bool large = search || p >= kSearchFrom;
  return {exponent,
          whole   ? static_cast<int32_t>(exponent)
          : large ? kExactDifference
                  : kLogarithm,
          static_cast<float>(std::exp2(2 * static_cast<double>(smallest) / exponent)),
          search ? negligible_ratio(exponent, kept_bits) : 0.0f};
}

// What is constant along a pair of rows.
struct Pair {
  Vec largest, inverse, slope;
};
// Out of range the inverse is 0, and what comes out is not used.
inline Pair pair_of(float largest, float slope) {
  return {splat(largest), splat(in_range(largest) ? 1.0f / largest : 0.0f), splat(slope)};
}

// x - w for one group of sixteen lanes of x and Rows rows of w.
template <int64_t Rows>
LINF_INLINE Vectors<Rows * kParts> differences(const float* x, const float* w, int64_t stride) {
  return vectors_of<Rows * kParts>([=](int64_t k) {
    const int64_t lane = k % kParts * kWidth;
    return load(x + lane) - load(w + k / kParts * stride + lane);
  });
}
template <int64_t Rows>
LINF_INLINE Vectors<Rows * kParts> along_rows(const Pair* pairs, Vec Pair::* member) {
  return vectors_of<Rows * kParts>([=](int64_t k) { return pairs[k / kParts].*member; });
}

template <int32_t Kind, int64_t Rows>
LINF_INLINE Vectors<Rows * kParts> terms(const Vectors<Rows * kParts>& d, const Pair* pairs, const Power& p) {
  return power_of<Kind>(d, along_rows<Rows>(pairs, &Pair::largest), along_rows<Rows>(pairs, &Pair::inverse),
                        p);
}

// The end of Rows rows that is no full group, padded with zeros: |0 - 0| = 0 adds nothing.
template <int64_t Rows>
struct Tail {
  // A null `from` leaves zeros: it must not get to memcpy, not even with a count of 0.
  Tail(const float* from, int64_t stride, int64_t count) {
    if (!from) return;
    for (int64_t r = 0; r < Rows; ++r)
      std::memcpy(at + r * kLanes, from + r * stride, static_cast<size_t>(count) * sizeof(float));
  }
  void give_back(float* to, int64_t stride, int64_t count) const {
    if (!to) return;
    for (int64_t r = 0; r < Rows; ++r)
      std::memcpy(to + r * stride, at + r * kLanes, static_cast<size_t>(count) * sizeof(float));
  }
  float at[Rows * kLanes] = {};
};

}  // namespace LINF_ISA
}  // namespace linf
