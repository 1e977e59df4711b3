// SPDX-License-Identifier: Apache-2.0
//
// Several vectors that are computed side by side. A polynomial is a chain of dependent operations, each of
// which takes three or four cycles: only several chains next to each other keep the units busy.
//
// Halves of halves, not an array: compilers keep the members of nested structures in registers, while those
// of an array that a loop walks live in memory.
#pragma once

#include "vector.h"

#define LINF_INLINE inline __attribute__((always_inline))

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

// The highest power of two in n >= 1.
inline int32_t highest_bit(int32_t n) { return 1 << (31 - __builtin_clz(static_cast<uint32_t>(n))); }

}  // namespace LINF_ISA
}  // namespace linf
