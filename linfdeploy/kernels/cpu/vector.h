// SPDX-License-Identifier: Apache-2.0
//
// Floats of one register as a GCC/Clang vector. Rows are walked in groups of sixteen lanes, which are one
// AVX-512, two AVX or four SSE/NEON vectors: all variants sum in the same order, so even float sums have the
// same bits.
//
// A variant may use no standard-library template: it would be emitted outside LINF_ISA, and the linker could
// keep the AVX-512 copy for everyone.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "kernels.h"
#include "parallel.h"

#define LINF_INLINE inline __attribute__((always_inline))

namespace linf {
namespace LINF_ISA {

#if defined(__AVX512F__)
constexpr int64_t kWidth = 16;
#elif defined(__AVX2__)
constexpr int64_t kWidth = 8;
#else
constexpr int64_t kWidth = 4;
#endif
constexpr int64_t kLanes = 16;
constexpr int64_t kParts = kLanes / kWidth;

typedef float Vec __attribute__((vector_size(sizeof(float) * kWidth)));
typedef int32_t VecInt __attribute__((vector_size(sizeof(int32_t) * kWidth)));

inline Vec zero() { return Vec{}; }
inline VecInt bits_of(Vec v) { return (VecInt)v; }
inline Vec vec_of(VecInt v) { return (Vec)v; }
inline Vec float_of(VecInt v) { return __builtin_convertvector(v, Vec); }
inline Vec select(VecInt mask, Vec yes, Vec no) {
  return vec_of((mask & bits_of(yes)) | (~mask & bits_of(no)));
}
inline Vec sign_of(Vec v) { return vec_of(bits_of(v) & (int32_t)0x80000000); }
inline Vec with_sign(Vec v, Vec sign) { return vec_of(bits_of(v) ^ bits_of(sign)); }
inline Vec absolute(Vec v) { return vec_of(bits_of(v) & 0x7fffffff); }

inline Vec negative_zero() { return vec_of(VecInt{} + (int32_t)0x80000000); }

// x - w, rounded once. As a fused multiply-subtract, where 256 bits are the widest: some processors take
// subtractions and maxima in the same two units, and products in two others.
inline Vec difference(Vec x, Vec w) {
#if defined(__FMA__) && !defined(__AVX512F__)
  return _mm256_fmsub_ps(x, Vec{} + 1.0f, w);
#else
  return x - w;
#endif
}

// a > b ? a : b, which compilers turn into a comparison and a blend if left to themselves.
inline Vec maximum(Vec a, Vec b) {
#if defined(__AVX512F__)
  return _mm512_max_ps(a, b);
#elif defined(__AVX2__)
  return _mm256_max_ps(a, b);
#elif defined(__SSE2__)
  return _mm_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}

inline Vec minimum(Vec a, Vec b) {
#if defined(__AVX512F__)
  return _mm512_min_ps(a, b);
#elif defined(__AVX2__)
  return _mm256_min_ps(a, b);
#elif defined(__SSE2__)
  return _mm_min_ps(a, b);
#else
  return a < b ? a : b;
#endif
}

// min(best, v) for best <= -0. As unsigned integers negative floats come after all others, the larger the
// magnitude the later; the integer unit is free where floats are subtracted and compared.
inline Vec lowest(Vec best, Vec v) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  return (Vec)_mm256_max_epu32((__m256i)best, (__m256i)v);
#else
  return minimum(best, v);
#endif
}

// max(best, |v|) for best >= 0: one instruction where there is one.
inline Vec maximum_magnitude(Vec best, Vec v) {
#if defined(__AVX512DQ__)
  return _mm512_range_ps(best, v, 0x0b);  // the larger magnitude, with its sign cleared
#else
  return maximum(absolute(v), best);
#endif
}

// A bit for each lane of a comparison's result.
inline uint32_t lanes_of(VecInt mask) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask((__m512i)mask);
#elif defined(__AVX2__)
  return static_cast<uint32_t>(_mm256_movemask_ps((__m256)mask));
#elif defined(__SSE2__)
  return static_cast<uint32_t>(_mm_movemask_ps((__m128)mask));
#else
  uint32_t lanes = 0;
  for (int64_t i = 0; i < kWidth; ++i) lanes |= (mask[i] ? 1u : 0u) << i;
  return lanes;
#endif
}

#if !defined(__AVX2__)
// A bit for each lane: whether a > b.
inline uint64_t lanes_above(Vec a, Vec b) {
#if defined(__SSE2__)
  return static_cast<uint64_t>(_mm_movemask_ps(_mm_cmpgt_ps(a, b)));
#else
  uint64_t bits = 0;
  for (int64_t lane = 0; lane < kWidth; ++lane) bits |= static_cast<uint64_t>(a[lane] > b[lane]) << lane;
  return bits;
#endif
}
#endif

inline Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }

// The last count < kWidth floats of a row, padded with zeros: |0 - 0| = 0 is neutral in max and sum.
inline Vec load_tail(const float* p, int64_t count) {
  Vec v{};
  std::memcpy(&v, p, static_cast<size_t>(count) * sizeof(float));
  return v;
}
inline void store_tail(float* p, Vec v, int64_t count) {
  std::memcpy(p, &v, static_cast<size_t>(count) * sizeof(float));
}

// Halving keeps the order of a float sum fixed.
template <int64_t Count, typename Combine>
inline float reduce(const Vec (&parts)[Count], Combine combine) {
  float lanes[Count * kWidth];
  std::memcpy(lanes, parts, sizeof lanes);
  for (int64_t width = Count * kWidth / 2; width > 0; width /= 2)
    for (int64_t i = 0; i < width; ++i) lanes[i] = combine(lanes[i], lanes[i + width]);
  return lanes[0];
}
inline float reduce_max(Vec v) {
  const Vec parts[1] = {v};
  return reduce(parts, [](float a, float b) { return a > b ? a : b; });
}
inline float reduce_sum(const Vec (&parts)[kParts]) {
  return reduce(parts, [](float a, float b) { return a + b; });
}

// An empty array may be a null pointer, which memset must not be given.
inline void fill_zero(float* p, int64_t size) {
  if (size > 0) std::memset(p, 0, static_cast<size_t>(size) * sizeof(float));
}

// Calls body(block) once for every block, from up to `threads` threads, unless the work is too little to
// share.
constexpr int64_t kTermsWorthAThread = 1 << 17;

template <typename Body>
inline void parallel(int64_t blocks, Sizes n, Body body) {
  const int64_t worthwhile = n.batch * n.inputs * n.outputs / kTermsWorthAThread + 1;
  if (worthwhile < n.pool.threads) n.pool.threads = static_cast<int>(worthwhile);
  parallel_for(
      n.pool, blocks, [](void* context, int64_t block) { (*static_cast<Body*>(context))(block); }, &body);
}

// Calls visit(offset, part, load, store) for every vector of a row, the last one padded with zeros; `part` is
// the vector's place in its group, for kernels whose order of summation counts.
template <typename Visit>
inline void for_each_vector(int64_t size, Visit visit) {
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
#pragma GCC unroll 4
    for (int64_t part = 0; part < kParts; ++part) visit(i + part * kWidth, part, load, store);
  }
  for (int64_t part = 0; i < size; i += kWidth, ++part) {
    const int64_t count = size - i < kWidth ? size - i : kWidth;
    visit(
        i, part, [count](const float* p) { return load_tail(p, count); },
        [count](float* p, Vec v) { store_tail(p, v, count); });
  }
}

}  // namespace LINF_ISA
}  // namespace linf
