// SPDX-License-Identifier: Apache-2.0
//
// float16, given as its bits: exact, and every result rounded once.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace emulator {

#if defined(__F16C__)

inline float float_of_half(uint16_t half) { return _cvtsh_ss(half); }
inline uint16_t half_of_float(float value) { return _cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT); }

#else

// The exponent's place in a float; what is too small for one of its own comes out as a product.
inline float float_of_half(uint16_t half) {
  uint32_t bits = static_cast<uint32_t>(half & 0x7fff) << 13;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  value *= 0x1p112f;
  std::memcpy(&bits, &value, sizeof bits);
  if ((half & 0x7c00) == 0x7c00) bits |= 0x7f800000;
  bits |= static_cast<uint32_t>(half & 0x8000) << 16;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Rounds a whole number of the half's last places to nearest even.
inline uint16_t half_of_float(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return static_cast<uint16_t>(sign | 0x7fff);
  if (bits >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);
  const uint32_t exponent = bits >> 23;
  const uint32_t dropped = exponent < 113 ? 126 - exponent : 13;  // bits below the last place
  if (dropped > 24) return sign;
  const uint32_t mantissa = (bits & 0x7fffff) | 0x800000;
  uint32_t kept = mantissa >> dropped;
  const uint32_t rest = mantissa & ((1u << dropped) - 1), middle = 1u << (dropped - 1);
  kept += rest > middle || (rest == middle && (kept & 1));
  // The leading one, where it is there, adds to the exponent.
  return static_cast<uint16_t>(sign | (kept + (exponent < 113 ? 0 : (exponent - 113) << 10)));
}

#endif

// The difference of two float16 fits a float, or is closer to it than any middle of two float16: so rounding
// twice is rounding once.
inline uint16_t subtract_half(uint16_t a, uint16_t b) {
  return half_of_float(float_of_half(a) - float_of_half(b));
}

// max.f16 of a half and a magnitude: NaN loses.
inline uint16_t farther_half(uint16_t best, uint16_t d) {
  const uint16_t magnitude = d & 0x7fff;
  if (magnitude > 0x7c00) return best > 0x7c00 ? 0x7fff : best;
  return best > 0x7c00 || magnitude > best ? magnitude : best;
}

template <typename Operation>
inline uint32_t each_half(uint32_t a, uint32_t b, Operation operation) {
  const uint16_t low = operation(static_cast<uint16_t>(a), static_cast<uint16_t>(b));
  const uint16_t high = operation(static_cast<uint16_t>(a >> 16), static_cast<uint16_t>(b >> 16));
  return static_cast<uint32_t>(high) << 16 | low;
}

}  // namespace emulator
