// SPDX-License-Identifier: Apache-2.0
//
// The gradients of the l_p distance on CUDA, both in one pass over all terms, each sum in a fixed order:
//
//     slope(b, o, i) = g(b, o) sgn(d) (|d|/scale)^(p-1), d = x_bi - w_oi, g = grad_y sum^(-(p-1)/p)
//     grad_x[b, i] = sum_o slope(b, o, i),    grad_w[o, i] = -sum_b slope(b, o, i)
//
// A block owns some inputs of a share of the outputs. It walks down the batch a tile of rows at a time, and
// for each tile through its outputs, a stage at a time. Lanes lie along the inputs, so what belongs to a pair
// of rows (g, 1/scale) is the same for a warp: one read serves kThreadInputs x 32 terms. grad_x of a tile
// stays with its thread until all outputs of the share were there; shares are added up by a kernel of their
// own. For grad_w every warp sums over its own rows; the warps' sums are added in order and then to grad_w in
// global memory, of which each number belongs to one thread.
#pragma once

#include "linf/lp_geometry.h"
#include "linf/lp_power.cuh"

namespace linf {
namespace LINF_ISA {

struct SlopeSums {
  int32_t batch, inputs, outputs;
  int32_t padded;  // batch, of the planes
  int32_t share;   // outputs of a share
  const float *x, *w;
  const float* planes;  // (planes, outputs, padded batch)
  float* grad_x;        // (shares, batch, inputs), or null
  float* grad_w;        // or null
  float p;
};

// What one block computes.
template <typename Tile>
struct SlopePart {
  int32_t input, first_output, end_output, share;

  LINF_INLINE SlopePart(const SlopeSums& s) {
    const int32_t columns = pieces(s.inputs, Tile::kInputs);
    const int32_t block = recomputed(blockIdx.x);
    input = block % columns * Tile::kInputs;
    share = block / columns;
    first_output = smaller(share * s.share, s.outputs);
    end_output = smaller(first_output + s.share, s.outputs);
  }
  LINF_INLINE int32_t stages() const { return pieces(end_output - first_output, Tile::kOutputs); }
  LINF_INLINE int32_t output(int32_t stage) const { return first_output + stage * Tile::kOutputs; }
};

// Begins to copy a stage: weights (kOutputs, kInputs), then planes (kOutputs, kRows). Outputs past the end
// have planes of zeros.
template <typename Tile, int32_t Planes>
LINF_INLINE void copy_stage(const SlopeSums& s, const SlopePart<Tile>& part, int32_t row, int32_t output,
                            float* to) {
  constexpr int32_t kQuads = Planes * Tile::kPlane / 4;
  const uint32_t thread = recomputed(threadIdx.x);
  const int32_t i = part.input + thread % Tile::kInputs;
#pragma unroll
  for (int32_t turn = 0; turn < Tile::kWeights / Tile::kThreads; ++turn) {
    const uint32_t k = turn * Tile::kThreads + thread;
    const int32_t o = output + k / Tile::kInputs;
    copy_async<4>(to + k, s.w + static_cast<int64_t>(o) * s.inputs + i, o < part.end_output && i < s.inputs);
  }
#pragma unroll
  for (int32_t turn = 0; turn < (kQuads + Tile::kThreads - 1) / Tile::kThreads; ++turn) {
    const uint32_t quad = turn * Tile::kThreads + thread, k = quad * 4;
    if (kQuads % Tile::kThreads && quad >= kQuads) break;
    const int32_t o = output + k % Tile::kPlane / Tile::kRows;
    const int64_t plane_row = static_cast<int64_t>(k / Tile::kPlane) * s.outputs + o;
    copy_async<16>(to + Tile::kWeights + k, s.planes + plane_row * s.padded + row + k % Tile::kRows,
                   o < part.end_output);
  }
  commit_copies();
}

// Adds the warps' sums of a stage to grad_w, which the first rows find uninitialized. What was there before
// is read at once for all of a thread's weights.
template <typename Tile>
LINF_INLINE void add_to_weights(const SlopeSums& s, const SlopePart<Tile>& part, bool first, int32_t output,
                                const float* sums) {
  constexpr int32_t kTurns = Tile::kWeights / Tile::kThreads, kOutputs = Tile::kThreads / Tile::kInputs;
  const uint32_t thread = recomputed(threadIdx.x);
  const int32_t i = part.input + thread % Tile::kInputs, o = output + thread / Tile::kInputs;
  float* const to = s.grad_w + static_cast<int64_t>(o) * s.inputs + i;
  const int32_t there = i < s.inputs ? part.end_output - o : 0, step = kOutputs * s.inputs;
  float before[kTurns];
#pragma unroll
  for (int32_t turn = 0; turn < kTurns; ++turn)
    before[turn] = turn * kOutputs < there && !first ? to[static_cast<int64_t>(turn) * step] : 0.0f;
#pragma unroll
  for (int32_t turn = 0; turn < kTurns; ++turn) {
    const float* const from = sums + turn * Tile::kThreads + thread;
    float total = from[0];
#pragma unroll
    for (int32_t warp = 1; warp < Tile::kWarps; ++warp) total += from[warp * Tile::kWeights];
    if (turn * kOutputs < there) to[static_cast<int64_t>(turn) * step] = before[turn] - total;
  }
}

// The same where most sums are zeros, which are not worth a read: four weights that follow each other at
// once. Leaves zeros behind for the next.
template <typename Tile>
LINF_INLINE void add_sparse_to_weights(const SlopeSums& s, const SlopePart<Tile>& part, bool first,
                                       int32_t output, float* sums) {
  static_assert(Tile::kWeights == 4 * Tile::kThreads, "four weights for each thread");
  const uint32_t at = recomputed(threadIdx.x) * 4u;
  const int32_t i = part.input + at % Tile::kInputs, o = output + at / Tile::kInputs;
  float total[4] = {};
#pragma unroll
  for (int32_t warp = 0; warp < Tile::kWarps; ++warp) {
    float4& of_warp = *reinterpret_cast<float4*>(sums + warp * Tile::kWeights + at);
    const float4 v = of_warp;
    of_warp = make_float4(0, 0, 0, 0);
    total[0] += v.x, total[1] += v.y, total[2] += v.z, total[3] += v.w;
  }
  const bool zeros = total[0] == 0 && total[1] == 0 && total[2] == 0 && total[3] == 0;
  if (o >= part.end_output || (zeros && !first)) return;
  float* const to = s.grad_w + static_cast<int64_t>(o) * s.inputs + i;
#pragma unroll
  for (int32_t v = 0; v < 4; ++v)
    if (i + v < s.inputs) to[v] = (first ? 0.0f : to[v]) - total[v];
}

// All of one block. A pass takes a tile of rows in (begin), then each stage (take), and gives grad_x back
// (end). While a stage is computed, the next one is copied and the sums of the one before are added up, so
// one barrier a stage is enough.
template <typename Pass>
LINF_INLINE void walk(const SlopeSums& s, Pass& pass, float* shared) {
  using Tile = typename Pass::Tile;
  constexpr int32_t kStage = Tile::template kStage<Pass::kPlanes>;
  const SlopePart<Tile> part(s);
  float* const sums = shared + kStages * kStage;
  const int32_t stages = part.stages();
  for (int32_t row = 0; row < s.batch; row += Tile::kRows) {
    pass.begin(s, part, row);
    if (stages) copy_stage<Tile, Pass::kPlanes>(s, part, row, part.output(0), shared);
    for (int32_t k = 0; k <= stages; ++k) {
      wait_for_copies<0>();
      __syncthreads();
      const int32_t now = k % kStages, other = now ^ 1;
      if (k + 1 < stages)
        copy_stage<Tile, Pass::kPlanes>(s, part, row, part.output(k + 1), shared + other * kStage);
      if (Pass::kWeights && k) {
        float* const before = sums + other * Tile::kSums;
        if constexpr (Pass::kSparse)
          add_sparse_to_weights<Tile>(s, part, row == 0, part.output(k - 1), before);
        else
          add_to_weights<Tile>(s, part, row == 0, part.output(k - 1), before);
      }
      if (k < stages) pass.take(shared + now * kStage, sums + now * Tile::kSums);
    }
    pass.end(s, row);
  }
}

// A row's inputs that this thread holds.
template <typename Tile>
struct ThreadPlace {
  int32_t row, input;
  LINF_INLINE ThreadPlace(const SlopePart<Tile>& part, int32_t first_row) {
    const uint32_t thread = recomputed(threadIdx.x);
    row = first_row + thread / kWarp * Tile::kThreadRows;
    input = part.input + thread % kWarp * Tile::kThreadInputs;
  }
};

template <typename Tile>
using ThreadTerms = float[Tile::kThreadRows][Tile::kThreadInputs];

// Calls visit(r, v, where) for each number of a thread's that exists.
template <typename Tile, typename Visit>
LINF_INLINE void for_each_term(const SlopeSums& s, const ThreadPlace<Tile>& place, Visit visit) {
#pragma unroll
  for (int32_t r = 0; r < Tile::kThreadRows; ++r)
#pragma unroll
    for (int32_t v = 0; v < Tile::kThreadInputs; ++v)
      if (place.row + r < s.batch && place.input + v < s.inputs)
        visit(r, v, (place.row + r) * s.inputs + place.input + v);
}

template <typename Tile>
LINF_INLINE void load_rows(const SlopeSums& s, const ThreadPlace<Tile>& place, ThreadTerms<Tile>& x) {
#pragma unroll
  for (auto& row : x)
#pragma unroll
    for (float& number : row) number = 0;
  for_each_term<Tile>(s, place, [&](int32_t r, int32_t v, int32_t at) { x[r][v] = s.x[at]; });
}

// A slope is a product of two factors, so that it is added by one instruction.
struct Slope {
  float factor, power;
};

// p = 8 where scales are 1: six factors d, and g d.
struct PlainEighth {
  static constexpr bool kScaled = false;
  LINF_INLINE Slope operator()(float d, float, float g) const {
    const float d2 = d * d, d4 = d2 * d2;
    return {g * d, d2 * d4};
  }
};
// d / scale. Out of range the inverse is 0, and the ratio of an infinite difference no number: it becomes
// `limit`, whose powers are finite, and g = 0 hides it.
LINF_INLINE float finite_ratio(float d, float inverse, float limit) { return fminf(d * inverse, limit); }

// p = 8. Some scales may be 1, where differences are below the limit.
struct ScaledEighth {
  static constexpr bool kScaled = true;
  LINF_INLINE Slope operator()(float d, float inverse, float g) const {
    const float r = finite_ratio(d, inverse, 0x1p16f), r2 = r * r, r4 = r2 * r2;
    return {g * r, r2 * r4};
  }
};
// The ratio itself is a factor, which is right for d = 0 and keeps the sign.
struct AnyPower {
  static constexpr bool kScaled = true;
  float exponent;
  LINF_INLINE Slope operator()(float d, float inverse, float g) const {
    const float r = finite_ratio(d, inverse, 2.0f);
    return {g * r, small_power(fabsf(r), exponent)};
  }
};

LINF_INLINE void read_four(const float* from, float (&to)[4]) {
  const float4 v = *reinterpret_cast<const float4*>(from);
  to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}

// One output against a thread's rows and inputs: adds to grad_x, returns the sum over the rows.
template <bool X, bool W, typename Power>
LINF_INLINE float4 add_slopes(const Power& power, const ThreadTerms<DenseSlopes>& x, const float* w_row,
                              const float* planes, ThreadTerms<DenseSlopes>& grad_x) {
  float w[4], sums[4] = {};
  read_four(w_row, w);
#pragma unroll
  for (int32_t half = 0; half < 2; ++half) {
    float inverse[4], g[4];
    if (Power::kScaled) read_four(planes + half * 4, inverse);
    read_four(planes + DenseSlopes::kPlane + half * 4, g);
#pragma unroll
    for (int32_t r = 0; r < 4; ++r)
#pragma unroll
      for (int32_t v = 0; v < 4; ++v) {
        const Slope slope = power(difference(x[half * 4 + r][v], w[v]), inverse[r], g[r]);
        if (X) grad_x[half * 4 + r][v] = fmaf(slope.factor, slope.power, grad_x[half * 4 + r][v]);
        if (W) sums[v] = fmaf(slope.factor, slope.power, sums[v]);
      }
  }
  return make_float4(sums[0], sums[1], sums[2], sums[3]);
}

// Every term counts.
template <int32_t Kind, bool X, bool W>
struct DensePass {
  using Tile = DenseSlopes;
  static constexpr int32_t kPlanes = kDensePlanes;
  static constexpr bool kWeights = W, kSparse = false;
  float p;
  ThreadTerms<Tile> x, grad_x;

  LINF_INLINE void begin(const SlopeSums& s, const SlopePart<Tile>& part, int32_t row) {
    load_rows<Tile>(s, {part, row}, x);
#pragma unroll
    for (auto& of_row : grad_x)
#pragma unroll
      for (float& sum : of_row) sum = 0;
  }
  LINF_INLINE void take(const float* stage, float* sums) {
    if constexpr (Kind == kGeneral) {
      take_all(AnyPower{p - 2}, stage, sums);
    } else if (all_plain(stage)) {
      take_all(PlainEighth{}, stage, sums);
    } else {
      take_all(ScaledEighth{}, stage, sums);
    }
  }
  LINF_INLINE void end(const SlopeSums& s, int32_t row) const {
    if (!X) return;
    const SlopePart<Tile> part(s);
    float* const share = s.grad_x + static_cast<int64_t>(part.share) * s.batch * s.inputs;
    for_each_term<Tile>(s, {part, row}, [&](int32_t r, int32_t v, int32_t at) { share[at] = grad_x[r][v]; });
  }

 private:
  // The warp's rows in the planes of the stage's first output.
  static LINF_INLINE const float* warp_planes(const float* stage) {
    return stage + Tile::kWeights + threadIdx.x / kWarp * Tile::kThreadRows;
  }
  // Whether all the warp's pairs of the stage have a scale of 1: a lane looks at one of them.
  static LINF_INLINE bool all_plain(const float* stage) {
    static_assert(Tile::kOutputs * Tile::kThreadRows == kWarp, "a pair for each lane");
    const int32_t lane = threadIdx.x % kWarp;
    const float inverse =
        warp_planes(stage)[lane / Tile::kThreadRows * Tile::kRows + lane % Tile::kThreadRows];
    return __all_sync(0xffffffffu, inverse == 1.0f);
  }
  template <typename Power>
  LINF_INLINE void take_all(const Power& power, const float* stage, float* sums) {
    const int32_t warp = threadIdx.x / kWarp, column = threadIdx.x % kWarp * Tile::kThreadInputs;
#pragma unroll 1
    for (int32_t o = 0; o < Tile::kOutputs; ++o) {
      const float4 sum = add_slopes<X, W>(power, x, stage + o * Tile::kInputs + column,
                                          warp_planes(stage) + o * Tile::kRows, grad_x);
      if (W) *reinterpret_cast<float4*>(sums + warp * Tile::kWeights + o * Tile::kInputs + column) = sum;
    }
  }
};

template <int32_t Kind, bool X, bool W>
LINF_INLINE void dense_slopes(const SlopeSums& s) {
  DensePass<Kind, X, W> pass;
  pass.p = s.p;
  walk(s, pass, reinterpret_cast<float*>(shared_memory()));
}

// What is not asked for is not computed.
template <int32_t Kind>
LINF_INLINE void dense_slopes(const SlopeSums& s) {
  if (s.grad_x && s.grad_w)
    dense_slopes<Kind, true, true>(s);
  else if (s.grad_x)
    dense_slopes<Kind, true, false>(s);
  else
    dense_slopes<Kind, false, true>(s);
}

}  // namespace LINF_ISA
}  // namespace linf
