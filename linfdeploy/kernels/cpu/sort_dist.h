// SPDX-License-Identifier: Apache-2.0
//
// CPU kernels of linf/sort_dist.h.
//
// Rows go into panels (sort_dist_search.h). Where there are too few, and for indices, lanes go along the
// inputs of a pair of rows. What a value has to exceed, the K-th largest so far, stays in a register, so most
// blocks of inputs cost their differences, a comparison and a branch that is never taken. Of I inputs in
// random order some K log(I / K) would be inserted; where values are all that is asked for, a first pass
// finds something that the K-th largest is not below, as for panels.
#pragma once

#include "sort_dist_search.h"

namespace linf {
namespace LINF_ISA {

constexpr int64_t kSortBlock = 2 * kLanes;
using SortBlock = Vectors<2 * kParts>;
// Panels are packed from this part of their rows on.
constexpr int64_t kRowsWorthSorting = 8;

// The largest values of a pair of rows, falling; of equal ones, the lowest input first.
struct Top {
  float value[kMostTerms];
  int64_t input[kMostTerms];
};

// 32 floats, the last ones zeros where the row ends.
LINF_INLINE SortBlock block_of(const float* row, int64_t count) {
  if (count >= kSortBlock) return loaded<2 * kParts>(row);
  float padded[kSortBlock] = {};
  std::memcpy(padded, row, static_cast<size_t>(count) * sizeof(float));
  return loaded<2 * kParts>(padded);
}

template <int64_t Count>
LINF_INLINE void store_all(float* to, const Vectors<Count>& v) {
#pragma GCC unroll 8
  for (int64_t k = 0; k < Count; ++k) store(to + k * kWidth, at(v, k));
}

// The K-th largest of 32 values, of which as many are not below it.
inline float kth_largest(const SortBlock& block, int64_t terms) {
  float values[kSortBlock], ranks[kSortBlock];
  store_all(values, block);
  auto rank = each(block, [](Vec) { return zero(); });
  for (int64_t k = 0; k < kSortBlock; ++k)
    rank =
        each(rank, block, [&](Vec r, Vec v) { return r + select(splat(values[k]) > v, splat(1), zero()); });
  store_all(ranks, rank);
  float least = __builtin_inff();
  for (int64_t k = 0; k < kSortBlock; ++k)
    if (ranks[k] < static_cast<float>(terms) && values[k] < least) least = values[k];
  return least;
}

// At most the K-th largest value: of every 32nd input the largest is taken.
template <typename Values>
LINF_INLINE float least_of_top(int64_t inputs, int64_t terms, Values values) {
  SortBlock most = vectors_of<2 * kParts>([](int64_t) { return zero(); });
  for (int64_t i = 0; i < inputs; i += kSortBlock)
    most = each(values(i, inputs - i), most, [](Vec a, Vec b) { return maximum(a, b); });
  return kth_largest(most, terms);
}

// values(i, count) are those of inputs i, ..., i + count - 1 in the first lanes of a block. None is negative.
// At least K are not below `least`; those that equal it have no place.
template <typename Values>
LINF_INLINE void find_top(int64_t inputs, int64_t terms, float least, Values values, Top& top) {
  for (int64_t k = 0; k < terms; ++k) {
    top.value[k] = least;
    top.input[k] = 0;
  }
  for (int64_t i = 0; i < inputs; i += kSortBlock) {
    const int64_t count = inputs - i;
    const SortBlock block = values(i, count);
    uint64_t bits = bits_above(block, splat(top.value[terms - 1]));
    if (count < kSortBlock) bits &= (1ull << count) - 1;
    if (!bits) continue;
    float found[kSortBlock];
    store_all(found, block);
    for (; bits; bits &= bits - 1) {
      const int64_t lane = __builtin_ctzll(bits);
      if (found[lane] > top.value[terms - 1])
        insert_largest(top.value, top.input, terms, found[lane], i + lane);
    }
  }
}

inline void find_farthest(int64_t inputs, int64_t terms, const float* x, const float* w, Top& top) {
  find_top(
      inputs, terms, -1,
      [=](int64_t i, int64_t count) __attribute__((always_inline)) {
        return absolute(each(block_of(x + i, count), block_of(w + i, count),
                             [](Vec a, Vec b) { return difference(a, b); }));
      },
      top);
}

// Rows that are too few for a panel, with lanes along the inputs.
template <typename S>
inline void sort_rows(const SortOperands<S>& s, Sizes n, Task task) {
  Top top;
  for (int64_t b = task.row; b < task.row + task.rows; ++b)
    for (int64_t o = task.output; o < task.output + task.outputs; ++o)
      for (int64_t end = 0; end < S::kEnds; ++end) {
        const auto values = [&](int64_t i, int64_t count) __attribute__((always_inline)) {
          SortBlock x[S::R::kOperands];
#pragma GCC unroll 2
          for (int64_t k = 0; k < S::R::kOperands; ++k) x[k] = block_of(s.x[k] + b * n.inputs + i, count);
          const SortBlock w = block_of(s.w + o * n.inputs + i, count);
          return vectors_of<2 * kParts>([&](int64_t part) {
            Vec words[S::R::kOperands];
#pragma GCC unroll 2
            for (int64_t k = 0; k < S::R::kOperands; ++k) words[k] = at(x[k], part);
            return S::value(end, words, at(w, part));
          });
        };
        find_top(n.inputs, s.c.terms, least_of_top(n.inputs, s.c.terms, values), values, top);
        const float sum = weighted_sum(top.value, s.c.of, s.c.terms);
        s.y[end][b * n.outputs + o] = finished(s, sum, o);
      }
}

// A panel is worth it for a rest of few rows: finding its maxima is soon less than searching row by row.
inline int64_t rows_to_sort(Sizes n, int64_t panel) {
  if (n.outputs < kOutputsWorthPacking) return 0;
  const int64_t rest = n.batch % panel;
  return rest > panel / kRowsWorthSorting ? n.batch : n.batch - rest;
}

// Cuts the work into tasks as reduce_pairs does, and runs them.
template <typename S>
inline void sort_pairs(const SortOperands<S>& s, Sizes n) {
  if (n.batch == 0 || n.outputs == 0) return;
  const int64_t packed = rows_to_sort(n, SortSpace<S>::kRows), row_blocks = pieces(packed, kBlockRows);
  const int64_t wanted = n.pool.threads > 1 ? pieces(8 * n.pool.threads, row_blocks + 1) : 1;
  const int64_t chunk = smaller(SortSpace<S>::most_outputs(s.c.terms),
                                pieces(pieces(n.outputs, wanted), kTileStates) * kTileStates);
  const int64_t chunks = pieces(n.outputs, chunk);
  parallel((row_blocks + (packed < n.batch)) * chunks, n, [&](int64_t block) {
    const int64_t row = block / chunks * kBlockRows, output = block % chunks * chunk;
    const int64_t outputs = smaller(chunk, n.outputs - output);
    if (block / chunks < row_blocks)
      sort_packed(s, n, {row, smaller(kBlockRows, packed - row), output, outputs});
    else
      sort_rows(s, n, {packed, n.batch - packed, output, outputs});
  });
}

inline void sort_dist(Sizes n, const float* x, const float* w, SortWeights c, const float* bias, float* y) {
  sort_pairs(SortOperands<SortForward>{{x}, w, c, bias, {y}}, n);
}

inline void sort_dist_bounds(Sizes n, const float* lower, const float* upper, const float* w, SortWeights c,
                             float* y_lower, float* y_upper) {
  sort_pairs(SortOperands<SortBounds>{{lower, upper}, w, c, nullptr, {y_lower, y_upper}}, n);
}

// Calls body(b, o) for every pair; some rows of w stay in the cache for all rows of x.
template <typename Body>
inline void for_each_pair(Sizes n, Body body) {
  constexpr int64_t kSome = 4;
  parallel(pieces(n.outputs, kSome), n, [=](int64_t block) {
    const int64_t end = smaller((block + 1) * kSome, n.outputs);
    for (int64_t b = 0; b < n.batch; ++b)
      for (int64_t o = block * kSome; o < end; ++o) body(b, o);
  });
}

inline void sort_dist_argtop(Sizes n, const float* x, const float* w, int64_t terms, int64_t* index) {
  for_each_pair(n, [=](int64_t b, int64_t o) {
    Top top;
    find_farthest(n.inputs, terms, x + b * n.inputs, w + o * n.inputs, top);
    std::memcpy(index + (b * n.outputs + o) * terms, top.input, static_cast<size_t>(terms) * sizeof(int64_t));
  });
}

inline void sort_dist_backward(Sizes n, const float* x, const float* w, const int64_t* index, SortWeights c,
                               const float* grad_y, float* grad_x, float* grad_w) {
  fill_zero(grad_x, n.batch * n.inputs);
  fill_zero(grad_w, n.outputs * n.inputs);
  parallel(1, n, [=](int64_t) {
    for (int64_t b = 0; b < n.batch; ++b)
      for (int64_t o = 0; o < n.outputs; ++o) {
        const int64_t at = b * n.outputs + o;
        for (int64_t k = 0; k < c.terms; ++k) {
          const int64_t i = index[at * c.terms + k];
          const float g = grad_y[at] * c.of[k];
          const float signed_g = x[b * n.inputs + i] < w[o * n.inputs + i] ? -g : g;
          grad_x[b * n.inputs + i] += signed_g;
          grad_w[o * n.inputs + i] -= signed_g;
        }
      }
  });
}

}  // namespace LINF_ISA
}  // namespace linf
