// SPDX-License-Identifier: Apache-2.0
//
// The hardware's approximate functions, as bad as NVIDIA's documentation allows them to be: the
// true value with an error from the whole allowed band, which the argument's bits choose, so that
// it is the same in every run.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace emulator {

// In [-1, 1), for a float's bits.
inline double error_of(uint32_t bits) {
  uint32_t mixed = bits * 0x9e3779b1u;
  mixed = (mixed ^ mixed >> 15) * 0x85ebca77u;
  return static_cast<int32_t>(mixed ^ mixed >> 13) * 0x1p-31;
}

inline double power_of_two(int32_t exponent) {
  const uint64_t bits = static_cast<uint64_t>(exponent + 1023) << 52;
  double power;
  std::memcpy(&power, &bits, sizeof power);
  return power;
}

// What rounding to float may add to an error is taken off the band.
constexpr double kRelativeBand = 0x1p-22 - 0x1p-24;
constexpr double kAbsoluteBand = 0x1p-22 - 0x1p-25;

// The series of 2^t = e^(t ln 2); |t| <= 1/2 leaves out less than 1e-9.
inline double series_of_exp2(double t) {
  const double u = t * 0.69314718055994530942;
  return 1 +
         u * (1 + u * (1 / 2. + u * (1 / 6. + u * (1 / 24. + u * (1 / 120. + u * (1 / 720. + u / 5040))))));
}

// ex2.approx.ftz.f32
inline float bad_exp2(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, sizeof bits);
  if (v != v) return v;
  if (v >= 128) return INFINITY;
  if (v < -126) return 0;
  const double whole = std::nearbyint(double{v});
  const double value = series_of_exp2(v - whole) * power_of_two(static_cast<int32_t>(whole));
  const float result = static_cast<float>(value * (1 + kRelativeBand * error_of(bits)));
  return result < 0x1p-126f ? 0 : result;
}

// log2 of m in [sqrt(1/2), sqrt(2)) by the series of the area tangent; leaves out less than 2e-10 of it.
inline double series_of_log2(double m) {
  const double s = (m - 1) / (m + 1), t = s * s;
  return 2.8853900817779268 * s * (1 + t * (1 / 3. + t * (1 / 5. + t * (1 / 7. + t * (1 / 9. + t / 11)))));
}

// lg2.approx.ftz.f32
inline float bad_log2(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, sizeof bits);
  if (std::fabs(v) < 0x1p-126f) return -INFINITY;
  if (!(v > 0)) return NAN;
  if (v == INFINITY) return v;
  const uint32_t exponent = (bits - 0x3f3504f3u) & 0xff800000u;
  const uint32_t mantissa = bits - exponent;
  float m;
  std::memcpy(&m, &mantissa, sizeof m);
  const double value = series_of_log2(m) + (static_cast<int32_t>(exponent) >> 23);
  const double error = error_of(bits);
  if (v > 0.5f && v < 2) return static_cast<float>(value + kAbsoluteBand * error);
  return static_cast<float>(value * (1 + kRelativeBand * error));
}

}  // namespace emulator
