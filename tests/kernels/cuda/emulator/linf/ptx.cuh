// SPDX-License-Identifier: Apache-2.0
//
// Stands in for the kernels' header of the same name: the same functions, on the emulator.
#pragma once

#include "approximations.h"
#include "halves.h"
#include "linf/device.cuh"
#include "words.h"

namespace linf {
namespace LINF_ISA {

LINF_INLINE char* shared_memory() { return emulator::shared_memory(); }

LINF_INLINE int32_t recomputed(int32_t value) { return value; }

template <int32_t Bytes>
LINF_INLINE void copy_async(void* to, const void* from, bool there) {
  static_assert(Bytes == 4 || Bytes == 16, "sizes that the hardware copies");
  emulator::copy_async(to, from, Bytes, there);
}
LINF_INLINE void commit_copies() { emulator::commit_copies(); }
template <int32_t Open>
LINF_INLINE void wait_for_copies() {
  emulator::wait_for_copies(Open);
}

LINF_INLINE uint4 load_once(const uint4* from) {
  emulator::check_aligned(from, 16, "loads 16 bytes from a misaligned address");
  return *from;
}

LINF_INLINE uint32_t subtract_halves(uint32_t a, uint32_t b) {
  return emulator::each_half(a, b, emulator::subtract_half);
}
LINF_INLINE uint32_t farther_halves(uint32_t best, uint32_t d) {
  return emulator::each_half(best, d, emulator::farther_half);
}
LINF_INLINE float float_of_half(uint16_t half) { return emulator::float_of_half(half); }
LINF_INLINE uint16_t half_of_float(float value) { return emulator::half_of_float(value); }

LINF_INLINE float exp2_approx(float v) { return emulator::bad_exp2(v); }
LINF_INLINE float log2_approx(float v) { return emulator::bad_log2(v); }

}  // namespace LINF_ISA
}  // namespace linf
