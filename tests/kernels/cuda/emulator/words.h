// SPDX-License-Identifier: Apache-2.0
//
// The words of CUDA C++ that device code is written in, for a C++17 compiler. Included before it.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "block.h"

#define __device__
#define __host__
#define __global__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
// The build reads the bounds from preprocessed source.
#if !EMULATOR_KEEPS_BOUNDS
#define __launch_bounds__(...)
#endif

// clang-format off
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
// clang-format on
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

namespace emulator {

template <typename To, typename From>
inline To bits_as(From value) {
  static_assert(sizeof(To) >= sizeof(From), "all bits are to be kept");
  To to{};
  std::memcpy(&to, &value, sizeof value);
  return to;
}
template <typename T>
inline T from_bits(uint64_t bits) {
  static_assert(sizeof(T) <= sizeof bits, "a shuffle moves at most 8 bytes");
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// PTX's max and min: a NaN loses against a number, and +0 is above -0. The library's would be calls; most
// comparisons end like the one before, which a processor predicts.
inline float larger(float a, float b) {
  if (a > b) return a;
  if (a < b) return b;
  if (a == b) return bits_as<float>(bits_as<uint32_t>(a) & bits_as<uint32_t>(b));
  return b != b ? a : b;
}
inline float smaller(float a, float b) {
  if (a < b) return a;
  if (a > b) return b;
  if (a == b) return bits_as<float>(bits_as<uint32_t>(a) | bits_as<uint32_t>(b));
  return b != b ? a : b;
}

}  // namespace emulator

// What the C library declares is left alone, but device code means these.
#define fmaxf(a, b) ::emulator::larger(a, b)
#define fminf(a, b) ::emulator::smaller(a, b)

#define EMULATOR_MAX_MIN(T)                        \
  inline T max(T a, T b) { return a > b ? a : b; } \
  inline T min(T a, T b) { return a < b ? a : b; }
EMULATOR_MAX_MIN(int)
EMULATOR_MAX_MIN(unsigned)
EMULATOR_MAX_MIN(long)
EMULATOR_MAX_MIN(unsigned long)
EMULATOR_MAX_MIN(long long)
EMULATOR_MAX_MIN(unsigned long long)
#undef EMULATOR_MAX_MIN
inline float max(float a, float b) { return emulator::larger(a, b); }
inline float min(float a, float b) { return emulator::smaller(a, b); }

inline uint32_t __float_as_uint(float v) { return emulator::bits_as<uint32_t>(v); }
inline int32_t __float_as_int(float v) { return emulator::bits_as<int32_t>(v); }
inline float __uint_as_float(uint32_t v) { return emulator::bits_as<float>(v); }
inline float __int_as_float(int32_t v) { return emulator::bits_as<float>(v); }

// Compiled without contraction, each is rounded once.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }

inline int __popc(uint32_t v) { return __builtin_popcount(v); }
inline int __clz(int v) { return v ? __builtin_clz(static_cast<unsigned>(v)) : 32; }
inline int __ffs(int v) { return __builtin_ffs(v); }

// Byte i of the result is the byte of {y, x} that the i-th four bits of `selector` choose.
inline uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t selector) {
  const uint64_t bytes = uint64_t{y} << 32 | x;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i)
    result |= static_cast<uint32_t>(bytes >> (selector >> 4 * i & 7) * 8 & 0xff) << 8 * i;
  return result;
}

namespace emulator {

// Applies `lane_result` to each Bytes wide part of two words.
template <int Bytes, typename Result>
inline uint32_t each_part(uint32_t a, uint32_t b, Result lane_result) {
  constexpr uint32_t mask = Bytes == 1 ? 0xffu : 0xffffu;
  uint32_t result = 0;
  for (int shift = 0; shift < 32; shift += 8 * Bytes)
    result |= (static_cast<uint32_t>(lane_result(a >> shift & mask, b >> shift & mask)) & mask) << shift;
  return result;
}
// A part as a signed number.
inline int as_byte(uint32_t v) { return static_cast<int8_t>(v); }
inline int as_short(uint32_t v) { return static_cast<int16_t>(v); }

}  // namespace emulator

#define EMULATOR_PARTS(name, bytes, expression)                                                        \
  inline uint32_t name(uint32_t left, uint32_t right) {                                                \
    return emulator::each_part<bytes>(left, right, [](uint32_t a, uint32_t b) { return expression; }); \
  }
EMULATOR_PARTS(__vabsdiffu4, 1, a > b ? a - b : b - a)
EMULATOR_PARTS(__vabsdiffu2, 2, a > b ? a - b : b - a)
EMULATOR_PARTS(__vabsdiffs4, 1, abs(emulator::as_byte(a) - emulator::as_byte(b)))
EMULATOR_PARTS(__vabsdiffs2, 2, abs(emulator::as_short(a) - emulator::as_short(b)))
EMULATOR_PARTS(__vmaxu4, 1, a > b ? a : b)
EMULATOR_PARTS(__vmaxu2, 2, a > b ? a : b)
EMULATOR_PARTS(__vminu4, 1, a < b ? a : b)
EMULATOR_PARTS(__vminu2, 2, a < b ? a : b)
EMULATOR_PARTS(__vmaxs2, 2, max(emulator::as_short(a), emulator::as_short(b)))
EMULATOR_PARTS(__vmins2, 2, min(emulator::as_short(a), emulator::as_short(b)))
EMULATOR_PARTS(__vmaxs4, 1, max(emulator::as_byte(a), emulator::as_byte(b)))
EMULATOR_PARTS(__vmins4, 1, min(emulator::as_byte(a), emulator::as_byte(b)))
EMULATOR_PARTS(__vsub2, 2, a - b)
EMULATOR_PARTS(__vsub4, 1, a - b)
EMULATOR_PARTS(__vadd2, 2, a + b)
EMULATOR_PARTS(__vadd4, 1, a + b)
#undef EMULATOR_PARTS

template <typename T>
inline T __ldg(const T* from) {
  return *from;
}

// Ordered by nothing: who reads what another thread added needs a barrier.
inline int atomicAdd(int* to, int v) { return __atomic_fetch_add(to, v, __ATOMIC_RELAXED); }
inline unsigned atomicAdd(unsigned* to, unsigned v) { return __atomic_fetch_add(to, v, __ATOMIC_RELAXED); }
template <typename T>
inline T atomicMax(T* to, T v) {
  T before = __atomic_load_n(to, __ATOMIC_RELAXED);
  while (before < v &&
         !__atomic_compare_exchange_n(to, &before, v, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return before;
}

// Default arguments, so that a thread that waits can say where.
#define EMULATOR_FROM const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(EMULATOR_FROM) { emulator::barrier({"__syncthreads", file, line}); }
inline void __syncwarp(uint32_t mask = 0xffffffffu, EMULATOR_FROM) {
  emulator::warp_barrier(mask, {"__syncwarp", file, line});
}
inline uint32_t __ballot_sync(uint32_t mask, int yes, EMULATOR_FROM) {
  return emulator::ballot(mask, yes != 0, {"__ballot_sync", file, line});
}
inline int __any_sync(uint32_t mask, int yes, EMULATOR_FROM) {
  return emulator::ballot(mask, yes != 0, {"__any_sync", file, line}) != 0;
}
inline int __all_sync(uint32_t mask, int yes, EMULATOR_FROM) {
  return emulator::ballot(mask, yes != 0, {"__all_sync", file, line}) == mask;
}
template <typename T>
inline uint32_t __match_any_sync(uint32_t mask, T value, EMULATOR_FROM) {
  return emulator::match(mask, emulator::bits_as<uint64_t>(value), {"__match_any_sync", file, line});
}

// Lanes are grouped by `width`, a power of two: one that lies outside the caller's group is the caller.
template <typename T>
inline T __shfl_sync(uint32_t mask, T value, int from, int width = 32, EMULATOR_FROM) {
  const int lane = (emulator::lane() & -width) | (from & (width - 1));
  return emulator::from_bits<T>(
      emulator::shuffle(mask, emulator::bits_as<uint64_t>(value), lane, {"__shfl_sync", file, line}));
}
template <typename T>
inline T __shfl_xor_sync(uint32_t mask, T value, int bits, int width = 32, EMULATOR_FROM) {
  const int self = emulator::lane(), lane = self ^ bits;
  return emulator::from_bits<T>(emulator::shuffle(mask, emulator::bits_as<uint64_t>(value),
                                                  lane < (self | (width - 1)) + 1 ? lane : self,
                                                  {"__shfl_xor_sync", file, line}));
}
template <typename T>
inline T __shfl_down_sync(uint32_t mask, T value, uint32_t by, int width = 32, EMULATOR_FROM) {
  const int self = emulator::lane(), lane = self + static_cast<int>(by);
  return emulator::from_bits<T>(emulator::shuffle(mask, emulator::bits_as<uint64_t>(value),
                                                  lane <= (self | (width - 1)) ? lane : self,
                                                  {"__shfl_down_sync", file, line}));
}
template <typename T>
inline T __shfl_up_sync(uint32_t mask, T value, uint32_t by, int width = 32, EMULATOR_FROM) {
  const int self = emulator::lane(), lane = self - static_cast<int>(by);
  return emulator::from_bits<T>(emulator::shuffle(mask, emulator::bits_as<uint64_t>(value),
                                                  lane >= (self & -width) ? lane : self,
                                                  {"__shfl_up_sync", file, line}));
}
#undef EMULATOR_FROM
