// SPDX-License-Identifier: Apache-2.0
//
// float16 as 16 bits: exact conversion to float, rounding to nearest even back.
#pragma once

#include "vector.h"

namespace linf {
namespace LINF_ISA {

typedef uint16_t Half;

#if defined(__F16C__) || defined(__AVX512F__)

inline float float_of_half(Half half) { return _cvtsh_ss(half); }
inline Half half_of_float(float value) { return _cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT); }

#else

// With the exponent moved up to float's; what is below 2^-14 comes out as a product, infinities and NaNs keep
// the largest exponent.
inline float float_of_half(Half half) {
  const uint32_t magnitude = static_cast<uint32_t>(half & 0x7fff) << 13;
  float value;
  std::memcpy(&value, &magnitude, sizeof value);
  value *= 0x1p112f;
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  bits |= static_cast<uint32_t>(half & 0x8000) << 16 | ((half & 0x7c00) == 0x7c00 ? 0x7f800000u : 0u);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Adding a power of two whose last place is the half's rounds to nearest even at that place.
inline Half half_of_float(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<Half>(sign | 0x7e00);   // NaN
  if (magnitude >= 0x477ff000) return static_cast<Half>(sign | 0x7c00);  // 65520 and more round to infinity
  const uint32_t exponent = magnitude < 0x38800000 ? 0x38800000 : magnitude & 0x7f800000;
  const uint32_t place = exponent + (13u << 23);
  float anchor, absolute_value;
  std::memcpy(&anchor, &place, sizeof anchor);
  std::memcpy(&absolute_value, &magnitude, sizeof absolute_value);
  anchor += absolute_value;
  uint32_t sum;
  std::memcpy(&sum, &anchor, sizeof sum);
  return static_cast<Half>(sign | (((exponent - 0x38800000) >> 13) + (sum - place)));
}

#endif

// kWidth halves as floats.
inline Vec load_halves(const Half* p) {
#if defined(__AVX512F__)
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__F16C__)
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  float values[kWidth];
  for (int64_t i = 0; i < kWidth; ++i) values[i] = float_of_half(p[i]);
  return load(values);
#endif
}

}  // namespace LINF_ISA
}  // namespace linf
