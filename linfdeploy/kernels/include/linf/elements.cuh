// SPDX-License-Identifier: Apache-2.0
//
// The numbers that distances are taken of, as a thread computes with them. Rows are read as 32-bit words,
// which hold one, two or four numbers; `expand` makes of a word the values that the arithmetic units take:
//
//     numbers   values                     difference and maximum are exact because
//     float32   1 float a word             (rounded once, as everywhere)
//     float16   1 pair of halves           (each rounded once to float16)
//     int16     2 floats, 2^23 + n         integers up to 2^24 are floats
//     uint8     2 pairs of halves, 2^10 + n   integers up to 2^11 are halves
//     int8      as uint8, after + 128
//
// Integers are moved to a power of two by pasting its bits in front, a byte
// permutation, and differ as before.
#pragma once

#include "linf/ptx.cuh"

namespace linf {
namespace LINF_ISA {

// Two float16.
struct Halves {
  uint32_t bits;
};
LINF_INLINE Halves difference(Halves x, Halves w) { return {subtract_halves(x.bits, w.bits)}; }
LINF_INLINE Halves maximum_magnitude(Halves best, Halves d) { return {farther_halves(best.bits, d.bits)}; }
LINF_INLINE Halves maximum(Halves a, Halves b) { return {farther_halves(a.bits, b.bits)}; }
// The larger of the two, neither negative: their order is that of their bits.
LINF_INLINE uint16_t larger_half(Halves v) {
  const uint32_t low = v.bits & 0xffffu, high = v.bits >> 16;
  return static_cast<uint16_t>(low > high ? low : high);
}
LINF_INLINE Halves from_lane(Halves v, int32_t distance) {
  return {__shfl_xor_sync(0xffffffffu, v.bits, distance)};
}
LINF_INLINE float from_lane(float v, int32_t distance) { return __shfl_xor_sync(0xffffffffu, v, distance); }

struct Float32 {
  using Number = float;
  using Value = float;
  using Result = float;
  // Values in a word; words that a thread holds of a row at a time.
  static constexpr int32_t kValues = 1, kFragment = 4;

  static LINF_INLINE void expand(uint32_t word, Value* values) { values[0] = __uint_as_float(word); }
  // The distance, plus a bias unless it is null; each step rounded once.
  static LINF_INLINE Result result(Value best, const Number* bias, int32_t o) {
    return bias ? __fadd_rn(best, bias[o]) : best;
  }
};

struct Float16 {
  using Number = uint16_t;
  using Value = Halves;
  using Result = uint16_t;
  static constexpr int32_t kValues = 1, kFragment = 4;

  static LINF_INLINE void expand(uint32_t word, Value* values) { values[0] = {word}; }
  // The sum of two float16 as floats is rounded to float16 as if once: 24 bits are at least 2 * 11 + 2.
  static LINF_INLINE Result result(Value best, const Number* bias, int32_t o) {
    const uint16_t distance = larger_half(best);
    return bias ? half_of_float(__fadd_rn(float_of_half(distance), float_of_half(bias[o]))) : distance;
  }
};

struct Int16 {
  using Number = int16_t;
  using Value = float;
  using Result = uint16_t;
  static constexpr int32_t kValues = 2, kFragment = 2;

  static LINF_INLINE void expand(uint32_t word, Value* values) {
    const uint32_t biased = word ^ 0x80008000u, two_to_23 = 0x4b000000u;
    values[0] = __uint_as_float(__byte_perm(biased, two_to_23, 0x7610));
    values[1] = __uint_as_float(__byte_perm(biased, two_to_23, 0x7632));
  }
  static LINF_INLINE Result result(Value best, const Number*, int32_t) { return static_cast<Result>(best); }
};

struct Uint8 {
  using Number = uint8_t;
  using Value = Halves;
  using Result = uint8_t;
  static constexpr int32_t kValues = 2, kFragment = 2;

  static LINF_INLINE void expand(uint32_t word, Value* values) {
    const uint32_t two_to_10 = 0x64646464u;
    values[0] = {__byte_perm(word, two_to_10, 0x4140)};
    values[1] = {__byte_perm(word, two_to_10, 0x4342)};
  }
  static LINF_INLINE Result result(Value best, const Number*, int32_t) {
    return static_cast<Result>(float_of_half(larger_half(best)));
  }
};

struct Int8 : Uint8 {
  using Number = int8_t;
  static LINF_INLINE void expand(uint32_t word, Value* values) { Uint8::expand(word ^ 0x80808080u, values); }
  static LINF_INLINE Result result(Value best, const Number*, int32_t o) {
    return Uint8::result(best, nullptr, o);
  }
};

// What a thread holds of a row at a time.
template <typename Element>
struct Fragment {
  static constexpr int32_t kCount = Element::kFragment * Element::kValues;
  typename Element::Value values[kCount];
};

template <typename Element>
LINF_INLINE Fragment<Element> fragment_of(const uint32_t (&words)[Element::kFragment]) {
  Fragment<Element> fragment;
#pragma unroll
  for (int32_t k = 0; k < Element::kFragment; ++k)
    Element::expand(words[k], fragment.values + k * Element::kValues);
  return fragment;
}

}  // namespace LINF_ISA
}  // namespace linf
