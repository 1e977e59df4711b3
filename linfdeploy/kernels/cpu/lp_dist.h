// SPDX-License-Identifier: Apache-2.0
//
// CPU kernels of linf/lp_dist.h: the forward pass. Every sum has the order of sixteen lanes side by side,
// whatever the number of threads and the width of a register.
#pragma once

#include "linf_dist.h"
#include "lp_dist_search.h"

namespace linf {
namespace LINF_ISA {

// Outputs that are summed with a row of x before the next row is looked at: they stay in the first-level
// cache.
constexpr int64_t kSumTile = 4;

// The sum of row r's lanes.
template <int64_t Count>
LINF_INLINE float sum_of_lanes(const Vectors<Count>& sums, int64_t r = 0) {
  Vec parts[kParts];
  for (int64_t part = 0; part < kParts; ++part) parts[part] = at(sums, r * kParts + part);
  return reduce_sum(parts);
}

// sum[r] = sum_i (|x_i - w_ri| / largest[r])^p for Rows rows of w.
template <int32_t Kind, int64_t Rows>
inline void sum_rows(int64_t inputs, const float* x, const float* w, const Power& p, const float* largest,
                     float* sum) {
  Pair pairs[Rows];
  for (int64_t r = 0; r < Rows; ++r) pairs[r] = pair_of(largest[r], 0);
  Vectors<Rows * kParts> sums = {};
  int64_t i = 0;
  for (; i + kLanes <= inputs; i += kLanes)
    sums = sums + terms<Kind, Rows>(differences<Rows>(x + i, w + i, inputs), pairs, p);
  if (i < inputs) {
    const Tail<1> x_tail(x + i, 0, inputs - i);
    const Tail<Rows> w_tail(w + i, inputs, inputs - i);
    sums = sums + terms<Kind, Rows>(differences<Rows>(x_tail.at, w_tail.at, kLanes), pairs, p);
  }
  for (int64_t r = 0; r < Rows; ++r) sum[r] = sum_of_lanes(sums, r);
}

// largest (sum)^(1/p), and the largest where it is out of range. A sum is at least 1, the power of the
// largest term, however that was rounded.
inline void distances(int64_t size, float p, const float* largest, float* sum, float* y) {
  const float exponent = 1 / (p * kExponentUnit);
  for_each_vector(size, [=](int64_t i, int64_t, auto load_part, auto store_part) {
    const Vec m = load_part(largest + i);
    const Vec s = maximum(load_part(sum + i), splat(1.0f));
    store_part(sum + i, s);
    const Vectors<1> total = {s};
    const Vec root = p == 1 ? s : exp2_clamped(log2_of(total) * exponent).only;
    store_part(y + i, select(in_range(m), m * root, m));
  });
}

// The sums of a tile of outputs, [begin, end), for the whole batch.
struct RowTile {
  Sizes n;
  int64_t begin, end;
  const float *x, *w;
  float *largest, *sum;
};

template <int32_t Kind, int64_t Rows>
inline void sum_some(const RowTile& t, int64_t b, int64_t o, const Power& p) {
  const int64_t i = t.n.inputs, at = b * t.n.outputs + o;
  sum_rows<Kind, Rows>(i, t.x + b * i, t.w + o * i, p, t.largest + at, t.sum + at);
}
template <int32_t Kind>
inline void sum_tile(const RowTile& t, const Power& p) {
  for (int64_t b = 0; b < t.n.batch; ++b) {
    int64_t o = t.begin;
    for (; o + kRowsAtOnce <= t.end; o += kRowsAtOnce) sum_some<Kind, kRowsAtOnce>(t, b, o, p);
    for (; o < t.end; ++o) sum_some<Kind, 1>(t, b, o, p);
  }
}

// Each search is summed in double precision: four sums, of inputs that are equal modulo 4, in ascending
// order. The sums of several searches are added up as floats.
struct SumLive {
  Searched s;
  Power p;
  float *largest_terms, *sum;

  // One search sees all inputs: the distances need no pass of their own.
  bool finds_largest() const { return s.n.inputs <= kSearched; }
  void largest_of(int64_t size, Task task, const Candidates& c) const {
    if (!finds_largest()) return;
    alignas(64) float lanes[SearchTile::kRows];
    for (int64_t o = 0; o < task.outputs; ++o) {
      for (int64_t group = 0; group < SearchTile::kGroups; ++group)
        store(lanes + group * kWidth, largest_of_blocks(c, size, o, group));
      for (int64_t r = 0; r < task.rows; ++r)
        largest_terms[(task.row + r) * s.n.outputs + task.output + o] = lanes[r];
    }
  }
  float largest(int64_t b, int64_t o) const { return largest_terms[b * s.n.outputs + o]; }
  float slope(int64_t, int64_t) const { return 1; }
  void take(Task, Live& live) const {
    evaluate(live, [&](const auto& d, const auto& m, const auto& inverse, const auto&) {
      return power_of<kExactDifference>(d, m, inverse, p);
    });
    for (int64_t k = 0; k < live.count; ++k)
      live.sum[live.pair[k]][live.input[k] % 4] += static_cast<double>(live.difference[k]);
  }
  void finish(Task task, const Live& live) const {
    for (int64_t o = 0; o < task.outputs; ++o)
      for (int64_t r = 0; r < task.rows; ++r) {
        const double (&of_pair)[4] = live.sum[o * SearchTile::kRows + r];
        const double total = (of_pair[0] + of_pair[1]) + (of_pair[2] + of_pair[3]);
        sum[(task.row + r) * s.n.outputs + task.output + o] += static_cast<float>(total);
      }
  }
};

inline void sum_searched(const SumLive& pass) {
  const Sizes n = pass.s.n;
  const int64_t packed = pass.finds_largest() ? rows_to_search(n) : 0, at = packed * n.outputs;
  linf_dist({n.batch - packed, n.inputs, n.outputs, n.pool}, pass.s.x_row(packed), pass.s.w, nullptr,
            pass.largest_terms + at);
  fill_zero(pass.sum, n.batch * n.outputs);
  const int64_t blocks = search_blocks(n), chunk = 128, chunks = pieces(n.outputs, chunk);
  parallel(blocks * chunks, n, [&](int64_t task) {
    const int64_t output = task % chunks * chunk;
    search_block(pass, pass.s, task / chunks, output, smaller(chunk, n.outputs - output));
  });
}

using SumTile = void (*)(const RowTile& t, const Power& p);
// The exponents that are met most are constants of their own loops.
inline SumTile summing(const Power& p) {
  switch (p.kind) {
    case 1:
      return sum_tile<1>;
    case 2:
      return sum_tile<2>;
    case 8:
      return sum_tile<8>;
    case kLogarithm:
      return sum_tile<kLogarithm>;
    case kExactDifference:
      return sum_tile<kExactDifference>;
    default:
      return sum_tile<kFactors>;
  }
}

inline void sum_all(const RowTile& all, const Power& p) {
  const Sizes n = all.n;
  linf_dist(n, all.x, all.w, nullptr, all.largest);
  const auto sum_of = summing(p);
  parallel(pieces(n.outputs, kSumTile), n, [&](int64_t tile) {
    RowTile t = all;
    t.begin = tile * kSumTile;
    t.end = smaller(t.begin + kSumTile, n.outputs);
    sum_of(t, p);
  });
}

inline void lp_dist(Sizes n, const float* x, const float* w, float p, float kept_bits, float* y,
                    float* largest, float* sum) {
  const Power power = power_for(p, p, kept_bits, kSmallestExponent);
  if (power.negligible > 0)
    sum_searched({{n, x, w, power.negligible}, power, largest, sum});
  else
    sum_all({n, 0, 0, x, w, largest, sum}, power);
  parallel(n.batch, n, [=](int64_t b) {
    const int64_t at = b * n.outputs;
    distances(n.outputs, p, largest + at, sum + at, y + at);
  });
}

}  // namespace LINF_ISA
}  // namespace linf
