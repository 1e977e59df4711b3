// SPDX-License-Identifier: Apache-2.0
//
// CPU kernels of linf/lp_dist.h: the backward pass.
#pragma once

#include "lp_dist.h"

namespace linf {
namespace LINF_ISA {

// Inputs that are finished before the next: x and grad_x of a batch then stay in the second-level cache.
constexpr int64_t kColumns = 512;

// Outputs that share a load and a store of grad_x. With more, rows of w and grad_w that lie a multiple of
// 4096 bytes apart would no longer fit into a set of the first-level cache.
constexpr int64_t kTile = 2;

// Terms below this share of their pair's slope may count as that, and pairs of a slope below this share of
// the largest as nothing: a float sum does not see the difference, and products with a denormal result, of
// which a net in training is full, cost ten times as much as others.
constexpr float kNegligibleExponent = -50.0f, kNegligibleSlope = 0x1p-50f;

// A part of the gradient's rows. What is not asked for is null.
struct Strip {
  const float *x, *w;
  float *grad_x, *grad_w;

  Strip at(int64_t i) const {
    return {x + i, w + i, grad_x ? grad_x + i : nullptr, grad_w ? grad_w + i : nullptr};
  }
};

template <int32_t Kind, int64_t Rows>
LINF_INLINE Vectors<Rows * kParts> slopes(const Vectors<Rows * kParts>& d, const Pair* pairs,
                                          const Power& p) {
  return slope_of<Kind>(d, along_rows<Rows>(pairs, &Pair::largest), along_rows<Rows>(pairs, &Pair::inverse),
                        along_rows<Rows>(pairs, &Pair::slope), p);
}

// The sum over rows of `rows`, pairs first: the same order, however many rows are computed at once.
template <int64_t Rows>
LINF_INLINE Vectors<kParts> sum_of_rows(const Vectors<Rows * kParts>& rows) {
  if constexpr (Rows == 1) {
    return rows;
  } else {
    return sum_of_rows<Rows / 2>(rows.low) + sum_of_rows<Rows / 2>(rows.high);
  }
}

// All loads before all stores: rows often lie a multiple of 4096 bytes apart, where a load waits for a store.
template <int64_t Rows>
LINF_INLINE void subtract(const Vectors<Rows * kParts>& slope, float* grad_w, int64_t stride) {
  const auto place = [=](int64_t k) { return grad_w + k / kParts * stride + k % kParts * kWidth; };
  const auto before = vectors_of<Rows * kParts>([=](int64_t k) { return load(place(k)); });
  const auto after = before - slope;
#pragma GCC unroll 4
  for (int64_t k = 0; k < Rows * kParts; ++k) store(place(k), at(after, k));
}

// Subtracts the slopes of one group of Rows rows from grad_w and returns their sum, grad_x's share.
template <int32_t Kind, int64_t Rows>
LINF_INLINE Vectors<kParts> add_to_weights(const Strip& s, int64_t stride, const Pair* pairs,
                                           const Power& p) {
  if constexpr (Rows > kRowsAtOnce) {
    const Strip later = {s.x, s.w + Rows / 2 * stride, nullptr,
                         s.grad_w ? s.grad_w + Rows / 2 * stride : nullptr};
    const auto sum = add_to_weights<Kind, Rows / 2>(s, stride, pairs, p);
    return sum + add_to_weights<Kind, Rows / 2>(later, stride, pairs + Rows / 2, p);
  } else {
    const auto slope = slopes<Kind, Rows>(differences<Rows>(s.x, s.w, stride), pairs, p);
    if (s.grad_w) subtract<Rows>(slope, s.grad_w, stride);
    return sum_of_rows<Rows>(slope);
  }
}

// One group of Rows rows.
template <int32_t Kind, int64_t Rows>
LINF_INLINE void add_group(const Strip& s, int64_t stride, const Pair* pairs, const Power& p) {
  const auto sum = add_to_weights<Kind, Rows>(s, stride, pairs, p);
  for (int64_t part = 0; s.grad_x && part < kParts; ++part)
    store(s.grad_x + part * kWidth, load(s.grad_x + part * kWidth) + at(sum, part));
}

// The end of Rows rows that is no full group.
template <int32_t Kind, int64_t Rows>
inline void add_tail(const Strip& s, int64_t stride, int64_t count, const Pair* pairs, const Power& p) {
  const Tail<1> x(s.x, 0, count);
  const Tail<Rows> w(s.w, stride, count);
  Tail<1> grad_x(s.grad_x, 0, count);
  Tail<Rows> grad_w(s.grad_w, stride, count);
  add_group<Kind, Rows>({x.at, w.at, grad_x.at, grad_w.at}, kLanes, pairs, p);
  grad_x.give_back(s.grad_x, 0, count);
  grad_w.give_back(s.grad_w, stride, count);
}

template <int32_t Kind, int64_t Rows>
inline void add_rows(int64_t columns, const Strip& s, int64_t stride, const Pair* pairs, const Power& p) {
  int64_t i = 0;
  for (; i + kLanes <= columns; i += kLanes) add_group<Kind, Rows>(s.at(i), stride, pairs, p);
  if (i < columns) add_tail<Kind, Rows>(s.at(i), stride, columns - i, pairs, p);
}

// Up to kTile rows of w against one row of x. A slope of zero adds nothing; it stands for pairs out of range
// too, which may hold infinities.
template <int32_t Kind>
inline void add_tile(int64_t columns, int64_t rows, const Strip& s, int64_t stride, const float* largest,
                     const float* slope, const Power& p) {
  Pair pairs[kTile];
  int64_t used = 0;
  for (int64_t r = 0; r < rows; ++r) {
    pairs[r] = pair_of(largest[r], slope[r]);
    used += slope[r] != 0;
  }
  if (used == kTile) return add_rows<Kind, kTile>(columns, s, stride, pairs, p);
  for (int64_t r = 0; r < rows; ++r) {
    if (slope[r] == 0) continue;
    const Strip row = {s.x, s.w + r * stride, s.grad_x, s.grad_w ? s.grad_w + r * stride : nullptr};
    add_rows<Kind, 1>(columns, row, stride, pairs + r, p);
  }
}

// slope = grad_y S^(-(p-1)/p), or 0 where the distance is out of range.
inline void slopes_of(int64_t size, float p, const float* largest, const float* sum, const float* grad_y,
                      float* slope) {
  const float exponent = (1 / p - 1) / kExponentUnit;
  for_each_vector(size, [=](int64_t i, int64_t, auto load_part, auto store_part) {
    const Vectors<1> total = {load_part(sum + i)};
    const Vec scaled = Vec(load_part(grad_y + i)) * exp2_clamped(log2_of(total) * exponent).only;
    store_part(slope + i, select(in_range(Vec(load_part(largest + i))), scaled, zero()));
  });
}

// Makes slopes zero that are negligible.
inline void drop_negligible(int64_t size, float* slope) {
  Vec most = zero();
  for_each_vector(size, [&](int64_t i, int64_t, auto load_part, auto) {
    most = maximum(absolute(Vec(load_part(slope + i))), most);
  });
  const Vec least = splat(reduce_max(most) * kNegligibleSlope);
  for_each_vector(size, [=](int64_t i, int64_t, auto load_part, auto store_part) {
    const Vec found = load_part(slope + i);
    store_part(slope + i, select(absolute(found) >= least, found, zero()));
  });
}

// The outputs [begin, end), for the whole batch.
struct Outputs {
  Sizes n;
  int64_t begin, end;
  Strip all;
  const float *largest, *slope;

  // From input i on, row b of the batch and row o of w.
  Strip strip(int64_t b, int64_t o, int64_t i) const {
    const int64_t x = b * n.inputs + i, w = o * n.inputs + i;
    return {all.x + x, all.w + w, all.grad_x ? all.grad_x + x : nullptr,
            all.grad_w ? all.grad_w + w : nullptr};
  }
};

template <int32_t Kind>
inline void add_outputs(const Outputs& f, const Power& p) {
  for (int64_t i = 0; i < f.n.inputs; i += kColumns) {
    const int64_t columns = f.n.inputs - i < kColumns ? f.n.inputs - i : kColumns;
    for (int64_t o = f.begin; o < f.end; o += kTile) {
      const int64_t rows = f.end - o < kTile ? f.end - o : kTile;
      for (int64_t b = 0; b < f.n.batch; ++b) {
        const int64_t at = b * f.n.outputs + o;
        add_tile<Kind>(columns, rows, f.strip(b, o, i), f.n.inputs, f.largest + at, f.slope + at, p);
      }
    }
  }
}

// Adds the slopes of what counts to the gradients that are asked for.
struct ScatterLive {
  const Outputs& f;
  const Power& p;

  void largest_of(int64_t, Task, const Candidates&) const {}
  float largest(int64_t b, int64_t o) const { return f.largest[b * f.n.outputs + o]; }
  float slope(int64_t b, int64_t o) const { return f.slope[b * f.n.outputs + o]; }
  void take(Task task, Live& live) const {
    evaluate(live, [&](const auto& d, const auto& m, const auto& inverse, const auto& slope) {
      return slope_of<kExactDifference>(d, m, inverse, slope, p);
    });
    add_to_inputs(task, live);
    add_to_outputs(task, live);
  }
  // One after the other: a load from one gradient would often wait for a store to the other, a multiple of
  // 4096 bytes away.
  void add_to_inputs(Task task, const Live& live) const {
    float* const grad = f.all.grad_x;
    for (int64_t k = 0; grad && k < live.count; ++k)
      grad[pair_at(task, live.pair[k]).b * f.n.inputs + live.input[k]] += live.difference[k];
  }
  void add_to_outputs(Task task, const Live& live) const {
    float* const grad = f.all.grad_w;
    for (int64_t k = 0; grad && k < live.count; ++k)
      grad[pair_at(task, live.pair[k]).o * f.n.inputs + live.input[k]] -= live.difference[k];
  }
  void finish(Task, const Live&) const {}
};

// As add_outputs, of what counts only.
inline void add_outputs_searched(const Outputs& f, const Power& p) {
  for (int64_t block = 0; block < search_blocks(f.n); ++block)
    search_block(ScatterLive{f, p}, {f.n, f.all.x, f.all.w, p.negligible}, block, f.begin, f.end - f.begin);
}

using AddOutputs = void (*)(const Outputs& f, const Power& p);
// The exponents that are met most are constants of their own loops.
inline AddOutputs adding(const Power& p) {
  if (p.negligible > 0) return add_outputs_searched;
  switch (p.kind) {
    case 0:
      return add_outputs<0>;
    case 1:
      return add_outputs<1>;
    case 7:
      return add_outputs<7>;
    case kLogarithm:
      return add_outputs<kLogarithm>;
    case kExactDifference:
      return add_outputs<kExactDifference>;
    default:
      return add_outputs<kFactors>;
  }
}

// grad_x += the partial sums of the blocks, in order.
inline void add_blocks(Sizes n, const float* scratch, float* grad_x) {
  const int64_t x_size = n.batch * n.inputs;
  parallel(n.batch, n, [=](int64_t b) {
    for (int64_t block = 0; block < kGradBlocks - 1; ++block) {
      const float* from = scratch + block * x_size + b * n.inputs;
      float* to = grad_x + b * n.inputs;
      for (int64_t i = 0; i < n.inputs; ++i) to[i] += from[i];
    }
  });
}

// Outputs are cut into kGradBlocks blocks, whatever the number of threads. The first sums its part of grad_x
// in place, the others in `scratch`.
inline void lp_dist_backward(Sizes n, const float* x, const float* w, float p, float kept_bits,
                             const float* largest, const float* sum, const float* grad_y, float* grad_x,
                             float* grad_w, float* scratch) {
  const int64_t x_size = n.batch * n.inputs, blocks = kGradBlocks - 1;
  float* const slope = scratch + (grad_x ? blocks * x_size : 0);
  parallel(n.batch, n, [=](int64_t b) {
    const int64_t at = b * n.outputs;
    slopes_of(n.outputs, p, largest + at, sum + at, grad_y + at, slope + at);
  });
  drop_negligible(n.batch * n.outputs, slope);
  const Power power = power_for(p, p - 1, kept_bits, kNegligibleExponent);
  const auto add = adding(power);
  parallel(kGradBlocks, n, [=](int64_t block) {
    const int64_t begin = block * n.outputs / kGradBlocks, end = (block + 1) * n.outputs / kGradBlocks;
    float* const to = block && grad_x ? scratch + (block - 1) * x_size : grad_x;
    if (grad_x) fill_zero(to, x_size);
    if (grad_w) fill_zero(grad_w + begin * n.inputs, (end - begin) * n.inputs);
    add({n, begin, end, {x, w, to, grad_w}, largest, slope}, power);
  });
  if (grad_x) add_blocks(n, scratch, grad_x);
}

}  // namespace LINF_ISA
}  // namespace linf
