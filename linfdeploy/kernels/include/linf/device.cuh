// SPDX-License-Identifier: Apache-2.0
//
// What every kernel for CUDA begins with: one thread's types and arithmetic, in terms of which the
// definitions (linf_dist.h) are compiled for it. Compiled by nvcc, NVRTC (which has no standard headers) and,
// with the tests' emulator in front of it, by any C++17 compiler.
#pragma once

#if defined(__CUDACC_RTC__)
using int32_t = int;
using uint32_t = unsigned int;
using uint64_t = unsigned long long;
using int64_t = long long;
using uint8_t = unsigned char;
using int8_t = signed char;
using int16_t = short;
using uint16_t = unsigned short;
#else
#include <cstdint>
#endif

#define LINF_ISA device
#define LINF_INLINE __device__ __forceinline__
// An entry: a kernel with a name of its own for every tool that looks it up. At most Threads threads a block;
// at least Blocks blocks are to fit a multiprocessor, which bounds the registers.
#define LINF_KERNEL(Threads, Blocks) extern "C" __global__ void __launch_bounds__(Threads, Blocks)

namespace linf {
namespace LINF_ISA {

template <bool Condition, typename Yes, typename No>
struct If {
  using Type = Yes;
};
template <typename Yes, typename No>
struct If<false, Yes, No> {
  using Type = No;
};

LINF_INLINE float zero() { return 0.0f; }
LINF_INLINE float negative_zero() { return -0.0f; }
LINF_INLINE float absolute(float v) { return fabsf(v); }
LINF_INLINE float maximum(float a, float b) { return fmaxf(a, b); }
LINF_INLINE float lowest(float a, float b) { return fminf(a, b); }
// x - w, rounded once: never contracted with what comes before or after it.
LINF_INLINE float difference(float x, float w) { return __fsub_rn(x, w); }
LINF_INLINE float maximum_magnitude(float best, float d) { return fmaxf(best, fabsf(d)); }

LINF_INLINE int32_t smaller(int32_t a, int32_t b) { return a < b ? a : b; }
LINF_INLINE int32_t pieces(int32_t size, int32_t piece) { return (size + piece - 1) / piece; }

}  // namespace LINF_ISA
}  // namespace linf

// The definition is written in terms of these.
#include "linf/linf_dist.h"
