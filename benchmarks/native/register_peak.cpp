// SPDX-License-Identifier: Apache-2.0
//
// The two ceilings of the distance kernels on this machine: steps of the reduction on registers alone, and
// reading memory. Compiled by benchmarks/ceilings.py once per instruction set, with the kernels' own flags
// and headers, so that a step is the very instructions of the kernels.
// clang-format off
#include "kernels.h"
#include "vector.h"
#include "linf/linf_dist.h"
// clang-format on

namespace linf {
namespace LINF_ISA {

// After this the compiler knows nothing of the value, which stays in its register.
#if defined(__AVX512F__)
#define LINF_OPAQUE(value) __asm__ volatile("" : "+v"(value))
#elif defined(__SSE2__)
#define LINF_OPAQUE(value) __asm__ volatile("" : "+x"(value))
#elif defined(__aarch64__)
#define LINF_OPAQUE(value) __asm__ volatile("" : "+w"(value))
#else
#error "register_peak.cpp: name this processor's vector registers in LINF_OPAQUE"
#endif

// Count accumulators, each moved on once per round; both operands are opaque each time, so that no difference
// is computed once for all.
template <int Count>
float steps(int64_t rounds, float start) {
  Vec best[Count] = {}, x = zero() + start, w = zero() - start;
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 24
    for (int k = 0; k < Count; ++k) {
      LINF_OPAQUE(x);
      LINF_OPAQUE(w);
      best[k] = farther(best[k], x, w);
      LINF_OPAQUE(best[k]);
    }
  }
  Vec all = zero();
#pragma GCC unroll 24
  for (int k = 0; k < Count; ++k) all = maximum(all, best[k]);
  return reduce_max(all);
}

// Reads Streams parts of `data` side by side; Ahead floats are asked for in advance, none for 0.
template <int Streams, int Ahead>
float read(const float* data, int64_t size) {
  constexpr int64_t kEach = 4;
  const int64_t part = size / Streams;
  Vec most[Streams] = {};
  for (int64_t i = 0; i + kEach * kWidth <= part; i += kEach * kWidth) {
#pragma GCC unroll 8
    for (int s = 0; s < Streams; ++s) {
#pragma GCC unroll 4
      for (int64_t k = 0; k < kEach; ++k) {
        const float* from = data + s * part + i + k * kWidth;
        if (Ahead > 0 && k * kWidth % 16 == 0) __builtin_prefetch(from + Ahead);
        most[s] = maximum(load(from), most[s]);
      }
    }
  }
  Vec all = zero();
#pragma GCC unroll 8
  for (int s = 0; s < Streams; ++s) all = maximum(all, most[s]);
  return reduce_max(all);
}

}  // namespace LINF_ISA
}  // namespace linf

extern "C" {

// Moves `accumulators` registers on `rounds` times. Returns the floats of a register, or 0 for an unrolling
// that is not here.
int64_t register_steps(int accumulators, int64_t rounds) {
  using namespace linf::LINF_ISA;
  volatile float sink = 0;
  switch (accumulators) {
#define LINF_CASE(count)                \
  case count:                           \
    sink = steps<count>(rounds, 1.25f); \
    break
    LINF_CASE(4);
    LINF_CASE(6);
    LINF_CASE(8);
    LINF_CASE(9);
    LINF_CASE(10);
    LINF_CASE(11);
    LINF_CASE(12);
    LINF_CASE(16);
    LINF_CASE(20);
    LINF_CASE(24);
    default:
      return 0;
  }
  (void)sink;
  return kWidth;
}

// Reads `size` floats once, as `variant` says. Returns whether there is such a variant.
int read_memory(int variant, const float* data, int64_t size) {
  using namespace linf::LINF_ISA;
  static float (*const variants[])(const float*, int64_t) = {
      read<1, 0>, read<2, 0>, read<4, 0>, read<8, 0>, read<1, 256>, read<2, 256>, read<4, 256>, read<8, 256>};
  if (variant < 0 || variant >= static_cast<int>(sizeof variants / sizeof *variants)) return 0;
  volatile float sink = variants[variant](data, size);
  (void)sink;
  return 1;
}

}  // extern "C"
