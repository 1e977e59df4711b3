// SPDX-License-Identifier: Apache-2.0
//
// Several vectors that are computed side by side. A polynomial is a chain of dependent operations, each of
// which takes three or four cycles: only several chains next to each other keep the units busy.
//
// Halves of halves, not an array: compilers keep the members of nested structures in registers, while those
// of an array that a loop walks live in memory.
#pragma once

#include "vector.h"

namespace linf {
namespace LINF_ISA {

// b in every lane: b - 0 is b, for any b, which compilers know; b + 0 is not.
LINF_INLINE Vec splat(float b) { return b - zero(); }

template <int64_t Count>
struct Vectors {
  Vectors<Count / 2> low, high;
};
template <>
struct Vectors<1> {
  Vec only;
};

// {f(from), f(from + 1), ...}
template <int64_t Count, typename F>
LINF_INLINE Vectors<Count> vectors_of(F f, int64_t from = 0) {
  if constexpr (Count == 1)
    return {f(from)};
  else
    return {vectors_of<Count / 2>(f, from), vectors_of<Count / 2>(f, from + Count / 2)};
}

// Vector k, which has to be a constant once all is inlined.
template <int64_t Count>
LINF_INLINE Vec at(const Vectors<Count>& v, int64_t k) {
  if constexpr (Count == 1)
    return v.only;
  else
    return k < Count / 2 ? at(v.low, k) : at(v.high, k - Count / 2);
}

template <int64_t Count>
LINF_INLINE Vectors<Count> loaded(const float* p) {
  return vectors_of<Count>([=](int64_t k) { return load(p + k * kWidth); });
}

// f of every vector, and of every pair of vectors.
template <int64_t Count, typename F>
LINF_INLINE Vectors<Count> each(const Vectors<Count>& a, F f) {
  if constexpr (Count == 1)
    return {f(a.only)};
  else
    return {each(a.low, f), each(a.high, f)};
}
template <int64_t Count, typename F>
LINF_INLINE Vectors<Count> each(const Vectors<Count>& a, const Vectors<Count>& b, F f) {
  if constexpr (Count == 1)
    return {f(a.only, b.only)};
  else
    return {each(a.low, b.low, f), each(a.high, b.high, f)};
}

template <int64_t Count>
LINF_INLINE Vectors<Count> operator+(const Vectors<Count>& a, const Vectors<Count>& b) {
  return each(a, b, [](Vec u, Vec v) { return u + v; });
}
template <int64_t Count>
LINF_INLINE Vectors<Count> operator-(const Vectors<Count>& a, const Vectors<Count>& b) {
  return each(a, b, [](Vec u, Vec v) { return u - v; });
}
template <int64_t Count>
LINF_INLINE Vectors<Count> operator*(const Vectors<Count>& a, const Vectors<Count>& b) {
  return each(a, b, [](Vec u, Vec v) { return u * v; });
}
template <int64_t Count>
LINF_INLINE Vectors<Count> operator+(const Vectors<Count>& a, float b) {
  return each(a, [b](Vec v) { return v + b; });
}
template <int64_t Count>
LINF_INLINE Vectors<Count> operator-(const Vectors<Count>& a, float b) {
  return each(a, [b](Vec v) { return v - b; });
}
template <int64_t Count>
LINF_INLINE Vectors<Count> operator*(const Vectors<Count>& a, float b) {
  return each(a, [b](Vec v) { return v * b; });
}
template <int64_t Count>
LINF_INLINE Vectors<Count> maximum(const Vectors<Count>& a, float b) {
  return each(a, [b](Vec v) { return maximum(v, splat(b)); });
}
template <int64_t Count>
LINF_INLINE Vectors<Count> absolute(const Vectors<Count>& a) {
  return each(a, [](Vec v) { return absolute(v); });
}
// a sgn(b): 0 where b is 0.
template <int64_t Count>
LINF_INLINE Vectors<Count> signed_like(const Vectors<Count>& a, const Vectors<Count>& b) {
  return each(a, b, [](Vec u, Vec v) { return select(v != zero(), with_sign(u, sign_of(v)), zero()); });
}

// One bit for each of 32 lanes: whether a > b.
LINF_INLINE uint64_t bits_above(const Vectors<2 * kParts>& a, Vec b) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(at(a, 0), b, _CMP_GT_OQ) |
         static_cast<uint64_t>(_mm512_cmp_ps_mask(at(a, 1), b, _CMP_GT_OQ)) << kWidth;
#elif defined(__AVX2__)
  // Packing works on halves of a register: bytes come out in fours, the lower halves of all four vectors
  // first.
  const auto above = [&](int64_t k) { return (__m256i)(at(a, k) > b); };
  const __m256i bytes =
      _mm256_packs_epi16(_mm256_packs_epi32(above(0), above(1)), _mm256_packs_epi32(above(2), above(3)));
  const __m256i in_order = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  return static_cast<uint32_t>(_mm256_movemask_epi8(in_order));
#else
  uint64_t bits = 0;
#pragma GCC unroll 8
  for (int64_t k = 0; k < 2 * kParts; ++k) bits |= lanes_above(at(a, k), b) << k * kWidth;
  return bits;
#endif
}

// The highest power of two in n >= 1.
inline int32_t highest_bit(int32_t n) { return 1 << (31 - __builtin_clz(static_cast<uint32_t>(n))); }

}  // namespace LINF_ISA
}  // namespace linf
