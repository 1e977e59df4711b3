// SPDX-License-Identifier: Apache-2.0
//
// The ceilings of the distance kernels on a card: steps of the reduction on registers alone, the special
// function unit, and reading memory. Compiled by benchmarks/cuda_ceilings.py through the kernels' own
// compiler and headers, so that a step is the very instructions of the kernels.
#include "linf/elements.cuh"

namespace linf {
namespace LINF_ISA {

// After this the compiler knows nothing of the value, which stays in its register.
LINF_INLINE void hide(float& value) { asm volatile("" : "+f"(value)); }
LINF_INLINE void hide(Halves& value) { asm volatile("" : "+r"(value.bits)); }

LINF_INLINE void start(float& value, int32_t k) { value = 0.37f * static_cast<float>(threadIdx.x + k); }
// Halves from 1 on, all different.
LINF_INLINE void start(Halves& value, int32_t k) { value = {0x3c003c00u + 0x00070003u * (threadIdx.x + k)}; }

LINF_INLINE void keep(float* sink, float value) { *sink = value; }
LINF_INLINE void keep(float* sink, Halves value) { *sink = __uint_as_float(value.bits); }

// Every x against every w, each difference once a round: too many for the assembler, which sees through
// `hide`, to compute them once for all. An accumulator takes two at a time, whose maxima some cards join in
// one instruction.
constexpr int32_t kOperands = 16, kDown = kOperands / 2, kAcross = 4;

// `rounds` * kOperands * kOperands steps a thread, from registers to registers.
template <typename Value>
LINF_INLINE void steps(int32_t rounds, float* sink, int64_t* cycles) {
  Value x[kOperands], w[kOperands], best[kDown][kAcross] = {};
#pragma unroll
  for (int32_t k = 0; k < kOperands; ++k) start(x[k], k), start(w[k], kOperands + k);
  const int64_t begin = clock64();
#pragma unroll 1
  for (int32_t round = 0; round < rounds; ++round) {
#pragma unroll
    for (int32_t k = 0; k < kOperands; ++k) hide(x[k]);
#pragma unroll
    for (int32_t k = 0; k < kOperands * kOperands / 2; ++k) {
      const int32_t i = k / kAcross % kDown, j = k / kAcross / kDown * kAcross + k % kAcross;
      Value& state = best[i][j % kAcross];
      state = farther(farther(state, x[i], w[j]), x[i + kDown], w[j]);
    }
  }
  Value all = {};
#pragma unroll
  for (int32_t k = 0; k < kDown * kAcross; ++k) all = maximum(all, best[k / kAcross][k % kAcross]);
  if (threadIdx.x == 0) cycles[blockIdx.x] = clock64() - begin;
  keep(sink + blockIdx.x * blockDim.x + threadIdx.x, all);
}

// `rounds` * kChains pairs of a logarithm and a power a thread.
constexpr int32_t kChains = 8;
LINF_INLINE void powers(int32_t rounds, float* sink) {
  float chains[kChains];
#pragma unroll
  for (int32_t k = 0; k < kChains; ++k) start(chains[k], k + 1);
#pragma unroll 2
  for (int32_t round = 0; round < rounds; ++round)
#pragma unroll
    for (int32_t k = 0; k < kChains; ++k) chains[k] = exp2_approx(log2_approx(chains[k]));
  float all = 0;
#pragma unroll
  for (int32_t k = 0; k < kChains; ++k) all = maximum(all, chains[k]);
  keep(sink + blockIdx.x * blockDim.x + threadIdx.x, all);
}

// Reads `quads` times 16 bytes once, Ahead of them at a time. The sum is never what is asked for, which the
// compiler does not know.
template <int32_t Ahead>
LINF_INLINE void read(int32_t quads, const uint4* from, float* sink) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  uint32_t all = 1;
  int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (; at + (Ahead - 1) * stride < quads; at += Ahead * stride) {
    uint4 read[Ahead];
#pragma unroll
    for (int32_t k = 0; k < Ahead; ++k) read[k] = load_once(from + at + k * stride);
#pragma unroll
    for (int32_t k = 0; k < Ahead; ++k) all |= read[k].x | read[k].y | read[k].z | read[k].w;
  }
  for (; at < quads; at += stride) all |= load_once(from + at).x;
  if (all == 0) *sink = 0;
}

}  // namespace LINF_ISA
}  // namespace linf

LINF_KERNEL(128, 4) register_steps(int32_t rounds, float* sink, int64_t* cycles) {
  linf::device::steps<float>(rounds, sink, cycles);
}
LINF_KERNEL(128, 4) register_halves(int32_t rounds, float* sink, int64_t* cycles) {
  linf::device::steps<linf::device::Halves>(rounds, sink, cycles);
}
LINF_KERNEL(128, 8) register_powers(int32_t rounds, float* sink, int64_t*) {
  linf::device::powers(rounds, sink);
}
LINF_KERNEL(256, 4) read_memory_2(int32_t quads, const uint4* from, float* sink) {
  linf::device::read<2>(quads, from, sink);
}
LINF_KERNEL(256, 4) read_memory_4(int32_t quads, const uint4* from, float* sink) {
  linf::device::read<4>(quads, from, sink);
}
LINF_KERNEL(256, 4) read_memory_8(int32_t quads, const uint4* from, float* sink) {
  linf::device::read<8>(quads, from, sink);
}
