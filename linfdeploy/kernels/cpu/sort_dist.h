// SPDX-License-Identifier: Apache-2.0
//
// CPU kernels of linf/sort_dist.h.
//
// Lanes go along the inputs. What a value has to exceed, the K-th largest so far, stays in a register, so
// most blocks of inputs cost their differences, a comparison and a branch that is never taken: of I inputs in
// random order some K log(I / K) are inserted.
#pragma once

#include "linf_dist.h"
#include "vectors.h"

// The definition is written in terms of Vec.
#include "linf/sort_dist.h"

namespace linf {
namespace LINF_ISA {

constexpr int64_t kSortBlock = 2 * kLanes;
using SortBlock = Vectors<2 * kParts>;

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

// values(i, count) are those of inputs i, ..., i + count - 1 in the first lanes of a block. None is negative.
template <typename Values>
LINF_INLINE void find_top(int64_t inputs, int64_t terms, Values values, Top& top) {
  for (int64_t k = 0; k < terms; ++k) {
    top.value[k] = -1;
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
      inputs, terms,
      [=](int64_t i, int64_t count) __attribute__((always_inline)) {
        return absolute(each(block_of(x + i, count), block_of(w + i, count),
                             [](Vec a, Vec b) { return difference(a, b); }));
      },
      top);
}

inline float sorted_distance(const Top& top, const SortWeights& c) {
  const float sum = weighted_sum(top.value, c.of, c.terms);
  return c.steps > 0 ? to_multiple(sum, c.steps) : sum;
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

inline void sort_dist(Sizes n, const float* x, const float* w, SortWeights c, const float* bias, float* y) {
  for_each_pair(n, [=](int64_t b, int64_t o) {
    Top top;
    find_farthest(n.inputs, c.terms, x + b * n.inputs, w + o * n.inputs, top);
    const float distance = sorted_distance(top, c);
    y[b * n.outputs + o] = bias ? distance + bias[o] : distance;
  });
}

inline void sort_dist_argtop(Sizes n, const float* x, const float* w, int64_t terms, int64_t* index) {
  for_each_pair(n, [=](int64_t b, int64_t o) {
    Top top;
    find_farthest(n.inputs, terms, x + b * n.inputs, w + o * n.inputs, top);
    std::memcpy(index + (b * n.outputs + o) * terms, top.input, static_cast<size_t>(terms) * sizeof(int64_t));
  });
}

inline void sort_dist_bounds(Sizes n, const float* lower, const float* upper, const float* w, SortWeights c,
                             float* y_lower, float* y_upper) {
  for_each_pair(n, [=](int64_t b, int64_t o) {
    const float *const low = lower + b * n.inputs, *const high = upper + b * n.inputs;
    const float* const row = w + o * n.inputs;
    // Rows of x, and of w, in step.
    const auto ends = [=](auto end_of) {
      Top top;
      find_top(
          n.inputs, c.terms,
          [=](int64_t i, int64_t count) __attribute__((always_inline)) {
            const SortBlock l = block_of(low + i, count), u = block_of(high + i, count);
            const SortBlock v = block_of(row + i, count);
            return vectors_of<2 * kParts>([&](int64_t k) { return end_of(at(l, k), at(u, k), at(v, k)); });
          },
          top);
      return sorted_distance(top, c);
    };
    y_lower[b * n.outputs + o] = ends([](Vec l, Vec u, Vec v) { return nearest_of(l, u, v); });
    y_upper[b * n.outputs + o] = ends([](Vec l, Vec u, Vec v) { return farthest_of(l, u, v); });
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
