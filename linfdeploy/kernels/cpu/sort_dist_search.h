// SPDX-License-Identifier: Apache-2.0
//
// The largest differences of panels of rows.
//
// As l_inf distances of panels (pairs.h) come the largest differences of blocks of inputs. Those of K blocks
// are K differences: so the K-th largest of them, t, is at most the K-th largest difference of all, and only
// blocks with a difference above t, of which there are fewer than K, are looked into. What is found there
// goes into lists of the K largest so far, which lie side by side as the rows of the panel do. Where a list
// has less than t, the missing differences are t itself: no larger one is outside, and there are K of at
// least t.
//
// Of few inputs every difference is put into the lists at once.
#pragma once

#include "linf_dist_bounds.h"
#include "vectors.h"

// The definition is written in terms of Vec.
#include "linf/sort_dist.h"

namespace linf {
namespace LINF_ISA {

// The lists of a task, one after the other.
constexpr int64_t kListFloats = 1 << 16;
// At most so many blocks, a bit each.
constexpr int64_t kMostBlocks = 64;
// With fewer blocks for each term many more than K differences would be above t.
constexpr int64_t kBlocksATerm = 3;
// Looking into blocks pays from so many inputs a term on.
constexpr int64_t kInputsATerm = 16;

// What is searched: R gives the maxima of blocks, value() the differences of which they are the largest.
struct SortForward {
  using R = LinfDist;
  static constexpr int64_t kEnds = 1;
  LINF_INLINE static Vec value(int64_t, const Vec (&x)[1], Vec w) { return absolute(difference(x[0], w)); }
};
struct SortBounds {
  using R = LinfDistBounds;
  static constexpr int64_t kEnds = 2;
  LINF_INLINE static Vec value(int64_t end, const Vec (&x)[2], Vec w) {
    return end ? farthest_of(x[0], x[1], w) : nearest_of(x[0], x[1], w);
  }
};

// Rows and where the results go.
template <typename S>
struct SortOperands {
  const float* x[S::R::kOperands];
  const float* w;
  SortWeights c;
  const float* bias;
  float* y[S::kEnds];
};

template <typename S>
LINF_INLINE float finished(const SortOperands<S>& s, float sum, int64_t output) {
  const float distance = s.c.steps > 0 ? to_multiple(sum, s.c.steps) : sum;
  return s.bias ? distance + s.bias[output] : distance;
}

// The largest values so far of kWidth pairs, falling, in registers, where there are enough of these. In front
// of the `terms` that count stand infinities.
template <int64_t Length>
struct Largest {
  Vec of[Length];

  LINF_INLINE void start(const float* list, int64_t terms) {
#pragma GCC unroll 32
    for (int64_t k = 0; k < Length; ++k)
      of[k] = k < Length - terms ? splat(__builtin_inff()) : load(list + (k - Length + terms) * kWidth);
  }
  LINF_INLINE void keep(float* list, int64_t terms) const {
#pragma GCC unroll 32
    for (int64_t k = 0; k < Length; ++k)
      if (k >= Length - terms) store(list + (k - Length + terms) * kWidth, of[k]);
  }
  Vec last() const { return of[Length - 1]; }
  LINF_INLINE void insert(Vec value) {
#pragma GCC unroll 32
    for (int64_t k = 0; k < Length; ++k) {
      const Vec before = of[k];
      of[k] = maximum(before, value);
      value = minimum(before, value);
    }
  }
};

// A row of x and one of w.
struct PairAt {
  int64_t b, o;
};

template <typename S>
struct SortSpace {
  using R = typename S::R;
  static constexpr int64_t kGroups = Tile<R>::kGroups, kOutputs = Tile<R>::kOutputs, kRows = Tile<R>::kRows;
  static constexpr int64_t kWords = Workspace<R>::kWords;

  Workspace<R> space;
  States<R> most[kMostBlocks][kOutputs][kGroups];
  // Differences above t of each lane, and zeros.
  alignas(64) float found[(kWords + 2) * kWidth];
  alignas(64) float lists[kListFloats];

  static int64_t most_outputs(int64_t terms) {
    return kListFloats / (kBlockRows * S::kEnds * terms) / kOutputs * kOutputs;
  }
  float* list(Task task, int64_t terms, int64_t panel, int64_t output, int64_t group, int64_t end) {
    return lists + (((panel * task.outputs + output) * kGroups + group) * S::kEnds + end) * terms * kWidth;
  }
};

// Inputs of a block: half a group where there would be too few blocks.
inline int64_t inputs_of_block(int64_t inputs, int64_t terms) {
  const bool few = pieces(inputs, kLanes) < kBlocksATerm * terms;
  return few && pieces(inputs, kLanes / 2) <= kMostBlocks ? kLanes / 2 : kLanes;
}

// Some inputs of a panel, in blocks.
struct Stretch {
  int64_t begin, end, block;

  int64_t blocks() const { return pieces(end - begin, block); }
};

template <int64_t Outputs, typename S>
inline void find_maxima(Rows w, const float* panel, int64_t output, Stretch of, SortSpace<S>& space) {
  using R = typename S::R;
  for (int64_t i = of.begin, b = 0; i < of.end; i += of.block, ++b) {
    for (int64_t o = 0; o < Outputs; ++o)
      for (States<R>& state : space.most[b][o]) R::start(state.of);
    run_tile<R, Outputs>(panel + (i - of.begin) * R::kOperands * space.kRows, w, output, i,
                         smaller(i + of.block, of.end), space.most[b]);
  }
}

// A list in a tile: that of one end of the results of kWidth rows and an output.
struct Place {
  int64_t output, group, end;
};

template <typename S>
LINF_INLINE Vec maximum_of(const SortSpace<S>& space, int64_t block, Place at) {
  return S::R::finish(space.most[block][at.output][at.group].of, at.end);
}

// t of each lane: the K-th largest of what the list has and of the blocks' maxima.
template <int64_t Length, typename S>
inline Vec threshold_of(const SortSpace<S>& space, const float* list, int64_t terms, int64_t blocks,
                        Place at) {
  Largest<Length> largest;
  largest.start(list, terms);
  for (int64_t b = 0; b < blocks; ++b) {
    const Vec value = maximum_of(space, b, at);
    if (lanes_of(value > largest.last())) largest.insert(value);
  }
  return largest.last();
}

// A bit for each block that has something above t, for each lane.
template <typename S>
inline void mark_above(const SortSpace<S>& space, Vec threshold, int64_t blocks, Place at,
                       uint32_t (&marked)[2][kWidth]) {
  VecInt bits[2] = {};
  for (int64_t b = 0; b < blocks; ++b)
    bits[b / 32] |= (maximum_of(space, b, at) > threshold) & static_cast<int32_t>(1u << b % 32);
  std::memcpy(marked, bits, sizeof bits);
}

LINF_INLINE Vec words_at(const float* row, int64_t i, int64_t inputs) {
  if (i + kWidth <= inputs) return load(row + i);
  return i < inputs ? load_tail(row + i, inputs - i) : zero();
}

// The differences of a block of a pair of rows, and a bit for each that is above the threshold.
template <typename S>
LINF_INLINE uint32_t block_above(const SortOperands<S>& s, int64_t inputs, int64_t b, const float* w,
                                 int64_t end, int64_t first, int64_t size, float threshold, float* values) {
  uint64_t bits = 0;
  for (int64_t k = 0; k < size; k += kWidth) {
    Vec x[S::R::kOperands];
#pragma GCC unroll 2
    for (int64_t operand = 0; operand < S::R::kOperands; ++operand)
      x[operand] = words_at(s.x[operand] + b * inputs, first + k, inputs);
    const Vec value = S::value(end, x, words_at(w, first + k, inputs));
    store(values + k, value);
    bits |= static_cast<uint64_t>(lanes_of(value > splat(threshold))) << k;
  }
  return static_cast<uint32_t>(bits & ((1ull << size) - 1));
}

// Lists what is above t in the marked blocks of a pair of rows, and zeros behind it; returns how much it is.
template <typename S>
inline int64_t list_above(const SortOperands<S>& s, Sizes n, PairAt pair, int64_t end, Stretch of,
                          uint64_t marked, float threshold, float* found) {
  const uint32_t last = 1u << (of.block - 1);
  int64_t count = 0;
  for (; marked; marked &= marked - 1) {
    alignas(64) float values[kLanes];
    uint32_t bits = block_above(s, n.inputs, pair.b, s.w + pair.o * n.inputs, end,
                                of.begin + __builtin_ctzll(marked) * of.block, of.block, threshold, values);
    const int64_t above = __builtin_popcount(bits);
    // Seldom more than two; where it is one, what comes next overwrites the other.
    found[count * kWidth] = values[__builtin_ctz(bits | last)];
    bits &= bits - 1;
    found[(count + 1) * kWidth] = values[__builtin_ctz(bits | last)];
    if (__builtin_expect(above > 2, 0))
      for (int64_t k = 2; k < above; ++k) {
        bits &= bits - 1;
        found[(count + k) * kWidth] = values[__builtin_ctz(bits)];
      }
    count += above;
  }
  // Both, since with NaN a marked block may have nothing.
  found[count * kWidth] = found[(count + 1) * kWidth] = 0;
  return count;
}

// Brings a list up to date with the inputs of a stretch, whose maxima have been found.
template <int64_t Length, typename S>
inline void update_list(const SortOperands<S>& s, Sizes n, Task tile, Place at, Stretch of, float* list,
                        SortSpace<S>& space) {
  const int64_t terms = s.c.terms;
  const Vec threshold = threshold_of<Length>(space, list, terms, of.blocks(), at);
  alignas(64) uint32_t marked[2][kWidth];
  mark_above(space, threshold, of.blocks(), at, marked);
  float above[kWidth];
  store(above, threshold);
  int64_t most = 0;
  for (int64_t lane = 0, row = at.group * kWidth; lane < kWidth && row + lane < tile.rows; ++lane) {
    const uint64_t bits = marked[0][lane] | static_cast<uint64_t>(marked[1][lane]) << 32;
    const PairAt pair = {tile.row + row + lane, tile.output + at.output};
    const int64_t count = list_above(s, n, pair, at.end, of, bits, above[lane], space.found + lane);
    most = count > most ? count : most;
  }
  Largest<Length> largest;
  largest.start(list, terms);
  for (int64_t k = 0; k < most; ++k) {
    largest.insert(load(space.found + k * kWidth));
    store(space.found + k * kWidth, zero());
  }
#pragma GCC unroll 32
  for (int64_t k = 0; k < Length; ++k) largest.of[k] = maximum(threshold, largest.of[k]);
  largest.keep(list, terms);
}

// Puts all differences of a stretch into a list.
template <int64_t Length, typename S>
inline void insert_all(const SortOperands<S>& s, Sizes n, Task tile, Place at, Stretch of, const float* panel,
                       float* list) {
  constexpr int64_t kGroups = SortSpace<S>::kGroups, kOperands = S::R::kOperands;
  const float* const w = s.w + (tile.output + at.output) * n.inputs;
  Largest<Length> largest;
  largest.start(list, s.c.terms);
  for (int64_t i = of.begin; i < of.end; ++i) {
    Vec x[kOperands];
#pragma GCC unroll 2
    for (int64_t k = 0; k < kOperands; ++k)
      x[k] = load(panel + (((i - of.begin) * kOperands + k) * kGroups + at.group) * kWidth);
    const Vec value = S::value(at.end, x, splat(w[i]));
    if (lanes_of(value > largest.last())) largest.insert(value);
  }
  largest.keep(list, s.c.terms);
}

// All panels of a block of rows against a tile of outputs.
template <int64_t Outputs, int64_t Length, typename S>
inline void search_largest(const SortOperands<S>& s, Sizes n, Task task, int64_t output, Stretch of,
                           SortSpace<S>& space) {
  const bool by_blocks = n.inputs >= kInputsATerm * s.c.terms;
  for (int64_t p = 0; p * space.kRows < task.rows; ++p) {
    const float* const panel = space.space.panels[p];
    const int64_t row = p * space.kRows;
    const Task tile = {task.row + row, smaller(space.kRows, task.rows - row), task.output + output, Outputs};
    if (by_blocks) find_maxima<Outputs>(rows_of(s.w, n.inputs), panel, tile.output, of, space);
    for (int64_t o = 0; o < Outputs; ++o)
      for (int64_t g = 0; g * kWidth < tile.rows; ++g)
        for (int64_t e = 0; e < S::kEnds; ++e) {
          float* const list = space.list(task, s.c.terms, p, output + o, g, e);
          if (by_blocks)
            update_list<Length>(s, n, tile, {o, g, e}, of, list, space);
          else
            insert_all<Length>(s, n, tile, {o, g, e}, of, panel, list);
        }
  }
}

// The weighted sums of a task's lists.
template <typename S>
inline void emit_sums(const SortOperands<S>& s, Sizes n, Task task, SortSpace<S>& space) {
  Vec largest[kMostTerms], c[kMostTerms];
  for (int64_t k = 0; k < s.c.terms; ++k) c[k] = splat(s.c.of[k]);
  for (int64_t row = 0; row < task.rows; row += kWidth)
    for (int64_t o = 0; o < task.outputs; ++o)
      for (int64_t e = 0; e < S::kEnds; ++e) {
        const float* const list =
            space.list(task, s.c.terms, row / space.kRows, o, row % space.kRows / kWidth, e);
        for (int64_t k = 0; k < s.c.terms; ++k) largest[k] = load(list + k * kWidth);
        float sums[kWidth];
        store(sums, weighted_sum(largest, c, s.c.terms));
        for (int64_t r = 0; r < kWidth && row + r < task.rows; ++r)
          s.y[e][(task.row + row + r) * n.outputs + task.output + o] = finished(s, sums[r], task.output + o);
      }
}

template <int64_t Length, typename S>
inline void search_all(const SortOperands<S>& s, Sizes n, Task task, SortSpace<S>& space) {
  Rows rows[S::R::kOperands];
  for (int64_t k = 0; k < S::R::kOperands; ++k) rows[k] = rows_of(s.x[k], n.inputs);
  for (int64_t begin = 0; begin < n.inputs; begin += space.kWords) {
    const int64_t end = smaller(begin + space.kWords, n.inputs);
    const Stretch of = {begin, end, inputs_of_block(end - begin, s.c.terms)};
    space.space.pack_words(rows, task, begin, end);
    int64_t o = 0;
    for (; o + space.kOutputs <= task.outputs; o += space.kOutputs)
      search_largest<SortSpace<S>::kOutputs, Length>(s, n, task, o, of, space);
    for (; o < task.outputs; ++o) search_largest<1, Length>(s, n, task, o, of, space);
  }
}

template <typename S>
inline void sort_packed(const SortOperands<S>& s, Sizes n, Task task) {
  SortSpace<S> space;
  std::memset(space.found, 0, sizeof space.found);
  std::memset(space.lists, 0, sizeof space.lists);
  if (s.c.terms <= 4)
    search_all<4>(s, n, task, space);
  else if (s.c.terms <= 10)
    search_all<10>(s, n, task, space);
  else
    search_all<kMostTerms>(s, n, task, space);
  emit_sums(s, n, task, space);
}

}  // namespace LINF_ISA
}  // namespace linf
