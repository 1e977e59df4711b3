// SPDX-License-Identifier: Apache-2.0
//
// What device code says to the machine that CUDA C++ has no words for, each a function. All inline PTX is
// here, so that another `linf/ptx.cuh`, earlier in the include path, lets the kernels run elsewhere: the
// emulator of the tests does.
#pragma once

#include "linf/device.cuh"

namespace linf {
namespace LINF_ISA {

// The block's shared memory, as much as the launch asked for; 16-byte aligned.
LINF_INLINE char* shared_memory() {
  extern __shared__ uint4 linf_shared[];
  return reinterpret_cast<char*>(linf_shared);
}

// The same value, of unknown origin: what follows from it is computed where it is used, instead of being kept
// in registers across a loop that has none to spare.
LINF_INLINE int32_t recomputed(int32_t value) {
  asm volatile("" : "+r"(value));
  return value;
}

// Copies Bytes (4 or 16) to shared memory in the background, or zeros where `there` is false: `from` is not
// read then, and may lie anywhere. Both addresses are multiples of Bytes.
template <int32_t Bytes>
LINF_INLINE void copy_async(void* to, const void* from, bool there) {
  static_assert(Bytes == 4 || Bytes == 16, "sizes that the hardware copies");
#if __CUDA_ARCH__ >= 800
  const uint32_t shared = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  const uint32_t bytes = there ? Bytes : 0;
  if constexpr (Bytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(from), "r"(bytes)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared), "l"(from), "r"(bytes)
                 : "memory");
#else
  using Word = typename If<Bytes == 16, uint4, uint32_t>::Type;
  *static_cast<Word*>(to) = there ? *static_cast<const Word*>(from) : Word{};
#endif
}

// Closes a group of this thread's copies.
LINF_INLINE void commit_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most Open groups of this thread's copies are under way. Other threads see the copies after
// the next barrier.
template <int32_t Open>
LINF_INLINE void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(Open) : "memory");
#endif
}

// 16 bytes that are read once: they take no room in the first-level cache. Not for
// memory that this kernel writes.
LINF_INLINE uint4 load_once(const uint4* from) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
}

// Two float16 in a word, each difference rounded to nearest even; denormals are kept.
LINF_INLINE uint32_t subtract_halves(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}

// max(best, |d|) of two float16 in a word, best >= 0. Magnitudes are ordered as their bits.
LINF_INLINE uint32_t farther_halves(uint32_t best, uint32_t d) {
#if __CUDA_ARCH__ >= 800
  uint32_t magnitude, larger;
  asm("abs.f16x2 %0, %1;" : "=r"(magnitude) : "r"(d));
  asm("max.f16x2 %0, %1, %2;" : "=r"(larger) : "r"(best), "r"(magnitude));
  return larger;
#else
  const uint32_t high = max(best & 0xffff0000u, d & 0x7fff0000u), low = max(best & 0xffffu, d & 0x7fffu);
  return high | low;
#endif
}

LINF_INLINE float float_of_half(uint16_t half) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
  return value;
}

// Rounded to nearest even.
LINF_INLINE uint16_t half_of_float(float value) {
  uint16_t half;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
  return half;
}

// 2^v within a relative 2^-22; results below 2^-126 are 0. 2^(-inf) = 0.
LINF_INLINE float exp2_approx(float v) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(v));
  return power;
}

// log2(v) within 2^-22: absolutely for v in (0.5, 2), relatively outside; v below 2^-126 counts as 0.
LINF_INLINE float log2_approx(float v) {
  float exponent;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(exponent) : "f"(v));
  return exponent;
}

}  // namespace LINF_ISA
}  // namespace linf
