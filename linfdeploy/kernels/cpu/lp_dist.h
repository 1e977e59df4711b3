// SPDX-License-Identifier: Apache-2.0
//
// CPU kernels of linf/lp_dist.h: the forward pass. Every sum has the order of sixteen lanes side by side,
// whatever the number of threads and the width of a register.
#pragma once

#include "linf_dist.h"
#include "lp_dist_rows.h"

namespace linf {
namespace LINF_ISA {

// Outputs that are summed with a row of x before the next row is looked at: they stay in the first-level
// cache.
constexpr int64_t kSumTile = 4;

// The sum of row r's lanes; at least 1, the power of the largest term.
template <int64_t Count>
LINF_INLINE float sum_of_lanes(const Vectors<Count>& sums, int64_t r) {
  Vec parts[kParts];
  for (int64_t part = 0; part < kParts; ++part) parts[part] = at(sums, r * kParts + part);
  const float sum = reduce_sum(parts);
  return sum > 1 ? sum : 1;
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

// largest (sum)^(1/p), and the largest where it is out of range.
inline void distances(int64_t size, float p, const float* largest, const float* sum, float* y) {
  const float exponent = 1 / (p * kExponentUnit);
  for_each_vector(size, [=](int64_t i, int64_t, auto load_part, auto store_part) {
    const Vec m = load_part(largest + i);
    const Vec s = load_part(sum + i);
    const Vectors<1> total = {s};
    const Vec root = p == 1 ? s : exp2_clamped(log2_of(total) * exponent).only;
    store_part(y + i, select(in_range(m), m * root, m));
  });
}

// The sums of a tile of outputs, [begin, end), for the whole batch.
struct RowTile {
  Sizes n;
  int64_t begin, end;
  const float *x, *w, *largest;
  float* sum;
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

// Rows of a search and their sums.
struct Searched {
  Found found;
  Row rows[kMostRows];
  Vectors<kParts> sums[kMostRows];
};

inline void sum_found(int64_t inputs, int64_t count, const Power& p, Searched& s) {
  for (int64_t begin = 0; begin < inputs; begin += kSearched) {
    const int64_t size = inputs - begin < kSearched ? inputs - begin : kSearched;
    search_rows(size, begin, count, s.rows, p.negligible, s.found);
    for (int64_t k = 0; k < s.found.count; ++k) {
      const int64_t r = s.found.at[k].row, i = begin + s.found.at[k].input;
      const auto d = differences<1>(s.rows[r].x + i, s.rows[r].w + i, 0);
      s.sums[r] = s.sums[r] + terms<kExactDifference, 1>(d, &s.rows[r].pair, p);
    }
  }
  for (int64_t r = 0, tail = inputs % kLanes; tail && r < count; ++r) {
    const Tail<1> x(s.rows[r].x + inputs - tail, 0, tail), w(s.rows[r].w + inputs - tail, 0, tail);
    s.sums[r] = s.sums[r] + terms<kExactDifference, 1>(differences<1>(x.at, w.at, 0), &s.rows[r].pair, p);
  }
}

// As sum_tile, without the groups that are negligible from end to end.
inline void sum_tile_searched(const RowTile& t, const Power& p) {
  Searched s;
  const int64_t i = t.n.inputs, wide = t.end - t.begin;
  for (int64_t b = 0; b < t.n.batch; b += kMostRows / kSumTile) {
    const int64_t high = t.n.batch - b < kMostRows / kSumTile ? t.n.batch - b : kMostRows / kSumTile;
    for (int64_t r = 0; r < high * wide; ++r) {
      const int64_t row = b + r / wide, o = t.begin + r % wide;
      s.rows[r] = {t.x + row * i, t.w + o * i, pair_of(t.largest[row * t.n.outputs + o], 0)};
      s.sums[r] = vectors_of<kParts>([](int64_t) { return zero(); });
    }
    sum_found(i, high * wide, p, s);
    for (int64_t r = 0; r < high * wide; ++r)
      t.sum[(b + r / wide) * t.n.outputs + t.begin + r % wide] = sum_of_lanes(s.sums[r], 0);
  }
}

using SumTile = void (*)(const RowTile& t, const Power& p);
// The exponents that are met most are constants of their own loops.
inline SumTile summing(const Power& p) {
  if (p.negligible > 0) return sum_tile_searched;
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

inline void lp_dist(Sizes n, const float* x, const float* w, float p, bool skip, float* y, float* largest,
                    float* sum) {
  linf_dist(n, x, w, nullptr, largest);
  const Power power = power_for(p, p, skip);
  const auto sum_of = summing(power);
  parallel((n.outputs + kSumTile - 1) / kSumTile, n, [=](int64_t tile) {
    const int64_t o = tile * kSumTile, end = n.outputs - o < kSumTile ? n.outputs : o + kSumTile;
    sum_of({n, o, end, x, w, largest, sum}, power);
  });
  parallel(n.batch, n, [=](int64_t b) {
    const int64_t at = b * n.outputs;
    distances(n.outputs, p, largest + at, sum + at, y + at);
  });
}

}  // namespace LINF_ISA
}  // namespace linf
