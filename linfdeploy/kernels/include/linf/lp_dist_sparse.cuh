// SPDX-License-Identifier: Apache-2.0
//
// The gradients of the l_p distance on CUDA where few terms count, from p = 40 on. The walk is that of the
// dense kernels, but a term costs a subtraction and a comparison: a thread compares four inputs of a pair of
// rows with the pair's threshold and keeps one bit of them. What counts it looks up afterwards, each thread
// its own: the warp takes as many turns as the thread with most, not one for each pair in which any thread
// found something. So sums are not in registers, which have no addresses, but in shared memory.
#pragma once

#include "linf/lp_dist_backward.cuh"

namespace linf {
namespace LINF_ISA {

// Where the planes of a stage begin, in this order.
enum PairPlane : int { kInversePlane, kSlopePlane, kLargestPlane, kThresholdPlane };

template <bool X, bool W>
struct SparsePass {
  using Tile = SparseSlopes;
  static constexpr int32_t kPlanes = kSparsePlanes;
  static constexpr bool kWeights = W, kSparse = true;
  const float* all_x;
  int32_t batch, inputs;
  float exponent;
  float* grad_x;  // (kRows, kInputs), in shared memory
  ThreadTerms<Tile> x;
  ThreadPlace<Tile> place;

  LINF_INLINE void begin(const SlopeSums& s, const SlopePart<Tile>& part, int32_t row) {
    place = ThreadPlace<Tile>(part, row);
    load_rows<Tile>(s, place, x);
    for (int32_t k = 0; X && k < Tile::kThreadRows * Tile::kThreadInputs; ++k)
      own(grad_x)[k / 4 * Tile::kInputs + k % 4] = 0;
  }
  LINF_INLINE void take(const float* stage, float* sums) const {
    const int32_t warp = threadIdx.x / kWarp;
    for (uint32_t pairs = pairs_that_count(stage); pairs; pairs &= pairs - 1)
      take_pair(stage, sums + warp * Tile::kWeights, __ffs(static_cast<int32_t>(pairs)) - 1);
  }
  LINF_INLINE void end(const SlopeSums& s, int32_t) const {
    if (!X) return;
    const SlopePart<Tile> part(s);
    float* const share = s.grad_x + static_cast<int64_t>(part.share) * s.batch * s.inputs;
    for_each_term<Tile>(
        s, place, [&](int32_t r, int32_t v, int32_t at) { share[at] = own(grad_x)[r * Tile::kInputs + v]; });
  }

 private:
  static LINF_INLINE int32_t column() { return threadIdx.x % kWarp * Tile::kThreadInputs; }
  static LINF_INLINE float* own(float* sums) {
    return sums + threadIdx.x / kWarp * Tile::kThreadRows * Tile::kInputs + column();
  }
  static LINF_INLINE const float* warp_planes(const float* stage) {
    return stage + Tile::kWeights + threadIdx.x / kWarp * Tile::kThreadRows;
  }

  // Bit o * kThreadRows + r: a term of output o and row r is above its threshold.
  LINF_INLINE uint32_t pairs_that_count(const float* stage) const {
    Flags pairs;
#pragma unroll
    for (int32_t o = 0; o < Tile::kOutputs; ++o) {
      float w[4];
      read_four(stage + o * Tile::kInputs + column(), w);
#pragma unroll
      for (int32_t half = 0; half < 2; ++half) {
        float threshold[4];
        read_four(warp_planes(stage) + kThresholdPlane * Tile::kPlane + o * Tile::kRows + half * 4,
                  threshold);
#pragma unroll
        for (int32_t r = 0; r < 4; ++r)
          pairs.set(o * Tile::kThreadRows + half * 4 + r, any_above(x[half * 4 + r], w, threshold[r]));
      }
    }
    return pairs.bits();
  }
  // Rows of x lie in the first-level cache: this thread has just read them.
  LINF_INLINE float x_again(int32_t r, int32_t v) const {
    const bool exists = place.row + r < batch && place.input + v < inputs;
    return exists ? all_x[(place.row + r) * inputs + place.input + v] : 0.0f;
  }
  LINF_INLINE void take_pair(const float* stage, float* sums, int32_t pair) const {
    const int32_t r = pair % Tile::kThreadRows, o = pair / Tile::kThreadRows;
    const float* const planes = warp_planes(stage) + o * Tile::kRows + r;
    float x_now[4], w[4];
#pragma unroll
    for (int32_t v = 0; v < 4; ++v) x_now[v] = x_again(r, v);
    read_four(stage + o * Tile::kInputs + column(), w);
    for_each_above(x_now, w, planes[kThresholdPlane * Tile::kPlane], [&](int32_t v, float d) {
      const float slope = slope_of(d, planes);
      if (X) own(grad_x)[r * Tile::kInputs + v] += slope;
      if (W) sums[o * Tile::kInputs + column() + v] += slope;
    });
  }
  LINF_INLINE float slope_of(float d, const float* planes) const {
    const float power = large_power(fabsf(d), planes[kLargestPlane * Tile::kPlane],
                                    planes[kInversePlane * Tile::kPlane], exponent);
    const float slope = planes[kSlopePlane * Tile::kPlane] * power;
    return d < 0 ? -slope : slope;
  }
};

template <bool X, bool W>
LINF_INLINE void sparse_slopes(const SlopeSums& s) {
  using Pass = SparsePass<X, W>;
  using Tile = typename Pass::Tile;
  float* const shared = reinterpret_cast<float*>(shared_memory());
  float* const sums = shared + kStages * Tile::template kStage<Pass::kPlanes>;
  for (int32_t k = threadIdx.x; k < kStages * Tile::kSums; k += Tile::kThreads) sums[k] = 0;
  // What other threads cleared is not used before the walk's first barrier.
  Pass pass{s.x, s.batch, s.inputs, s.p - 1, sums + kStages * Tile::kSums, {}, {SlopePart<Tile>(s), 0}};
  walk(s, pass, shared);
}

LINF_INLINE void sparse_slopes(const SlopeSums& s) {
  if (s.grad_x && s.grad_w)
    sparse_slopes<true, true>(s);
  else if (s.grad_x)
    sparse_slopes<true, false>(s);
  else
    sparse_slopes<false, true>(s);
}

}  // namespace LINF_ISA
}  // namespace linf
