// SPDX-License-Identifier: Apache-2.0
//
// Small kernels, right ones and wrong ones, that show what the emulator finds. Each turns 64 floats of a
// block into as many.
#include "linf/ptx.cuh"

namespace linf {
namespace LINF_ISA {

constexpr int32_t kThreads = 64;

LINF_INLINE float* floats() { return reinterpret_cast<float*>(shared_memory()); }
LINF_INLINE int32_t place() { return static_cast<int32_t>(blockIdx.x * kThreads + threadIdx.x); }

}  // namespace LINF_ISA
}  // namespace linf

using namespace linf::device;

LINF_KERNEL(kThreads, 1) reverse(float* y, const float* x) {
  floats()[threadIdx.x] = x[place()];
  __syncthreads();
  y[place()] = floats()[kThreads - 1 - threadIdx.x];
}

LINF_KERNEL(kThreads, 1) reverse_without_barrier(float* y, const float* x) {
  floats()[threadIdx.x] = x[place()];
  y[place()] = floats()[kThreads - 1 - threadIdx.x];
}

LINF_KERNEL(kThreads, 1) rotate(float* y, const float* x) {
  floats()[threadIdx.x] = x[place()];
  for (int32_t turn = 0; turn < 3; ++turn) {
    __syncthreads();
    const float next = floats()[(threadIdx.x + 1) % kThreads];
    __syncthreads();
    floats()[threadIdx.x] = next;
  }
  y[place()] = floats()[threadIdx.x];
}

LINF_KERNEL(kThreads, 1) rotate_without_barrier(float* y, const float* x) {
  floats()[threadIdx.x] = x[place()];
  for (int32_t turn = 0; turn < 3; ++turn) {
    __syncthreads();
    const float next = floats()[(threadIdx.x + 1) % kThreads];
    floats()[threadIdx.x] = next;
  }
  y[place()] = floats()[threadIdx.x];
}

LINF_KERNEL(kThreads, 1) overrun(float* y, const float* x) {
  floats()[threadIdx.x + 1] = x[place()];
  __syncthreads();
  y[place()] = floats()[threadIdx.x + 1];
}

// In two groups, of which the first is waited for first.
LINF_KERNEL(kThreads, 1) copied(float* y, const float* x) {
  float* const first = floats() + threadIdx.x;
  copy_async<4>(first, x + place(), true);
  commit_copies();
  copy_async<4>(first + kThreads, x, false);
  commit_copies();
  wait_for_copies<1>();
  __syncthreads();
  const float other = floats()[kThreads - 1 - threadIdx.x];
  wait_for_copies<0>();
  y[place()] = other + first[kThreads];
}

LINF_KERNEL(kThreads, 1) copied_without_wait(float* y, const float* x) {
  copy_async<4>(floats() + threadIdx.x, x + place(), true);
  commit_copies();
  wait_for_copies<1>();
  y[place()] = floats()[threadIdx.x];
}

LINF_KERNEL(kThreads, 1) copied_uncommitted(float* y, const float* x) {
  copy_async<4>(floats() + threadIdx.x, x + place(), true);
  wait_for_copies<0>();
  y[place()] = floats()[threadIdx.x];
}

LINF_KERNEL(kThreads, 1) copied_misaligned(float* y, const float* x) {
  copy_async<16>(floats() + threadIdx.x, x, true);
  y[place()] = 0;
}

LINF_KERNEL(kThreads, 1) copied_outside(float* y, const float* x) {
  copy_async<4>(floats() + threadIdx.x + 2 * kThreads, x, true);
  y[place()] = 0;
}

LINF_KERNEL(kThreads, 1) ended_early(float* y, const float* x) {
  floats()[threadIdx.x] = x[place()];
  y[place()] = 0;
  if (threadIdx.x >= 40) return;
  __syncthreads();
  if (threadIdx.x < 30) y[place()] = floats()[threadIdx.x + 1];
}

LINF_KERNEL(kThreads, 1) divergent(float* y, const float* x) {
  if (threadIdx.x < 32) {
    __syncthreads();
    y[place()] = x[place()];
  } else {
    __syncthreads();
    y[place()] = 0;
  }
}

LINF_KERNEL(kThreads, 1) lane_missing(float* y, const float* x) {
  float v = x[place()];
  if (threadIdx.x != 3) v = __shfl_xor_sync(0xffffffff, v, 1);
  __syncthreads();
  y[place()] = v;
}

LINF_KERNEL(kThreads, 1) lanes_elsewhere(float* y, const float* x) {
  float v = x[place()];
  if (threadIdx.x % 2)
    v = __shfl_xor_sync(0xffffffff, v, 1);
  else
    v = __shfl_sync(0xffffffff, v, 0);
  y[place()] = v;
}

// Half of the block waits for the other half, which waits for lanes that have ended.
LINF_KERNEL(kThreads, 1) half_the_block(float* y, const float* x) {
  if (threadIdx.x == 40) return;
  if (threadIdx.x >= 32) __syncwarp();
  __syncthreads();
  y[place()] = x[place()];
}

// A sum over each half warp, how many have the same value, and how many are positive.
LINF_KERNEL(kThreads, 1) lanes(float* y, const float* x) {
  const float v = x[place()];
  float sum = v;
  for (int32_t far = 8; far; far >>= 1) sum += __shfl_xor_sync(0xffffffff, sum, far);
  const float below = __shfl_down_sync(0xffffffff, v, 5), first = __shfl_sync(0xffffffff, v, 16, 16);
  const uint32_t half = threadIdx.x & 16 ? 0xffff0000u : 0x0000ffffu;
  const int32_t same = __popc(__match_any_sync(half, v)), positive = __popc(__ballot_sync(half, v > 0));
  const bool any = __any_sync(0xffffffff, v > 100), all = __all_sync(0xffffffff, v >= 0);
  y[place()] = sum + 1000 * same + 100000 * positive + below / 128 + first / 16384 + (any ? 0.5f : 0) +
               (all ? 0.25f : 0);
}

LINF_KERNEL(kThreads, 1) warp_rotate(float* y, const float* x) {
  floats()[threadIdx.x] = x[place()];
  __syncwarp();
  y[place()] = floats()[threadIdx.x ^ 1];
}

LINF_KERNEL(kThreads, 1) warp_rotate_by_vote(float* y, const float* x) {
  floats()[threadIdx.x] = x[place()];
  __any_sync(0xffffffff, 1);
  y[place()] = floats()[threadIdx.x ^ 1];
}

// Two blocks write where only one may.
LINF_KERNEL(kThreads, 1) same_place(float* y, const float* x) { y[threadIdx.x] = x[threadIdx.x]; }
