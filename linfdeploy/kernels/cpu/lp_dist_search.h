// SPDX-License-Identifier: Apache-2.0
//
// Large exponents, where a few inputs in a thousand count. As l_inf distances of panels (pairs.h), at their
// speed, come the largest differences of every 32 inputs of a pair of rows; only blocks with one that counts
// are looked into; and only inputs that count are raised to a power, side by side.
#pragma once

#include "linf_dist.h"
#include "lp_dist_rows.h"

namespace linf {
namespace LINF_ISA {

// Inputs of a block, and of a search: a bit each block.
constexpr int64_t kBlock = 2 * kLanes;
constexpr int64_t kSearched = 32 * kBlock;

using SearchTile = Tile<LinfDist>;

// A panel of rows of x against a tile of outputs: the largest differences of each block, what has to be
// exceeded to count, and the blocks in which something does.
struct Candidates {
  States<LinfDist> most[kSearched / kBlock][SearchTile::kOutputs][SearchTile::kGroups];
  alignas(64) float negligible[SearchTile::kOutputs][SearchTile::kRows];
  alignas(64) uint32_t blocks[SearchTile::kOutputs][SearchTile::kRows];
};

template <int64_t Outputs>
inline void find_largest(const float* panel, Rows w, int64_t output, int64_t begin, int64_t end,
                         Candidates& c) {
  for (int64_t i = begin; i < end; i += kBlock) {
    auto* const most = c.most[(i - begin) / kBlock];
    for (int64_t t = 0; t < Outputs * SearchTile::kGroups; ++t)
      LinfDist::start(most[t / SearchTile::kGroups][t % SearchTile::kGroups].of);
    run_tile<LinfDist, Outputs>(panel + (i - begin) * SearchTile::kRows, w, output, i,
                                smaller(i + kBlock, end), most);
  }
}

// The largest difference of all blocks: the distance itself, where one search sees all inputs.
inline Vec largest_of_blocks(const Candidates& c, int64_t size, int64_t output, int64_t group) {
  Vec largest = zero();
  for (int64_t block = 0; block * kBlock < size; ++block)
    largest = maximum(c.most[block][output][group].of[0], largest);
  return largest;
}

inline void mark_blocks(int64_t size, int64_t output, Candidates& c) {
  for (int64_t group = 0; group < SearchTile::kGroups; ++group) {
    const Vec negligible = load(c.negligible[output] + group * kWidth);
    VecInt found = {};
    for (int64_t block = 0; block * kBlock < size; ++block)
      found |= (c.most[block][output][group].of[0] > negligible) & static_cast<int32_t>(1u << block);
    std::memcpy(c.blocks[output] + group * kWidth, &found, sizeof found);
  }
}

// What counts in the pairs of rows of a tile, pair by pair and in ascending order of inputs: all are raised
// to a power side by side, whichever pair they are of. It is emptied when a search might no longer fit.
constexpr int64_t kEvaluated = 4 * kWidth;
struct Live {
  static constexpr int64_t kMost = 2 * kSearched;
  int64_t count;
  int32_t pair[kMost + kEvaluated], input[kMost + kEvaluated];
  // x - w, the largest difference of the pair, and a factor; the results take the place of the differences.
  float difference[kMost + kEvaluated], largest[kMost + kEvaluated], slope[kMost + kEvaluated];
  // Of each pair, for a pass that sums. Input i goes to partial sum i mod 4: one alone would be a long chain.
  double sum[SearchTile::kOutputs * SearchTile::kRows][4];

  void start() {
    count = 0;
    std::memset(sum, 0, sizeof sum);
  }
};

// Lists the inputs of a block as entry k and on; returns where the next go. Entries are written in twos: what
// is too much, the block's first input, is overwritten by what comes next.
inline int64_t append(int64_t first, uint64_t bits, int64_t k, Live& live) {
  const int64_t next = k + __builtin_popcountll(bits);
  constexpr uint64_t kEnd = 1ull << kBlock;  // counts as input 0
  for (; bits; k += 2)
#pragma GCC unroll 2
    for (int64_t to = k; to < k + 2; ++to, bits &= bits - 1)
      live.input[to] = static_cast<int32_t>(first + __builtin_ctzll(bits | kEnd) % kBlock);
  return next;
}

// What is the same for all entries of a pair, from entry k on. In groups of sixteen: a loop that often ends a
// step earlier or later is predicted wrongly.
inline void describe(int64_t k, int32_t pair, float largest, float slope, Live& live) {
  const VecInt pairs = VecInt{} + pair;
  for (; k < live.count; k += kLanes)
#pragma GCC unroll 4
    for (int64_t i = k; i < k + kLanes; i += kWidth) {
      std::memcpy(live.pair + i, &pairs, sizeof pairs);
      store(live.largest + i, splat(largest));
      store(live.slope + i, splat(slope));
    }
}

// Calls f(differences, largest, inverse, slope) for four vectors after the other.
template <typename F>
inline void evaluate(Live& live, F f) {
  for (int64_t k = live.count; k < live.count + kEvaluated; ++k) {
    live.difference[k] = live.slope[k] = 0;
    live.largest[k] = 1;
  }
  for (int64_t k = 0; k < live.count; k += kEvaluated) {
    const auto largest = loaded<4>(live.largest + k);
    const auto inverse = each(largest, [](Vec m) { return 1.0f / m; });
    const auto found = f(loaded<4>(live.difference + k), largest, inverse, loaded<4>(live.slope + k));
#pragma GCC unroll 4
    for (int64_t v = 0; v < 4; ++v) store(live.difference + k + v * kWidth, at(found, v));
  }
}

// One bit for each input of a block: whether its |x - w| is above `negligible`.
LINF_INLINE uint64_t bits_of_block(const float* x, const float* w, Vec negligible) {
  return bits_above(absolute(loaded<2 * kParts>(x) - loaded<2 * kParts>(w)), negligible);
}
inline uint64_t bits_of_tail(const float* x, const float* w, int64_t size, Vec negligible) {
  float x_tail[kBlock] = {}, w_tail[kBlock] = {};
  std::memcpy(x_tail, x, static_cast<size_t>(size) * sizeof(float));
  std::memcpy(w_tail, w, static_cast<size_t>(size) * sizeof(float));
  return bits_of_block(x_tail, w_tail, negligible);
}

// Lists what counts in the given blocks among the inputs [begin, end). All blocks are looked into before the
// first is listed: a branch that depends on what was found then has not to wait for it.
inline void list_live(const float* x, const float* w, int64_t begin, int64_t end, uint32_t blocks,
                      float negligible, Live& live) {
  struct {
    int64_t first;
    uint64_t bits;
  } found[kSearched / kBlock];
  int64_t count = 0, k = live.count;
  for (; blocks; blocks &= blocks - 1) {
    const int64_t i = begin + __builtin_ctz(blocks) * kBlock;
    found[count++] = {i, i + kBlock <= end ? bits_of_block(x + i, w + i, splat(negligible))
                                           : bits_of_tail(x + i, w + i, end - i, splat(negligible))};
  }
  for (int64_t block = 0; block < count; ++block) k = append(found[block].first, found[block].bits, k, live);
  live.count = k;
}

// What is searched. A pass P over what counts has
//   largest_of(size, task, c)    may take note of the largest differences first
//   largest(b, o), slope(b, o)   of a pair of rows; nothing counts where the slope is 0
//   take(task, live)             receives what counts
//   finish(task, live)           comes after all of a tile
struct Searched {
  Sizes n;
  const float *x, *w;
  float negligible;  // ratio to the largest

  const float* x_row(int64_t b) const { return x + b * n.inputs; }
  const float* w_row(int64_t o) const { return w + o * n.inputs; }
  int64_t end(int64_t begin) const { return smaller(begin + kSearched, n.inputs); }
};

// A pair's number in a task: rows change fastest.
struct PairOf {
  int64_t b, o;
};
inline PairOf pair_at(Task task, int32_t pair) {
  return {task.row + pair % static_cast<int32_t>(SearchTile::kRows),
          task.output + pair / static_cast<int32_t>(SearchTile::kRows)};
}

// What a difference has to exceed to count.
template <typename P>
inline float negligible_of(const P& pass, const Searched& s, int64_t b, int64_t o) {
  return pass.slope(b, o) != 0 ? pass.largest(b, o) * s.negligible : __builtin_inff();
}

// The differences of all entries at once: a loop a pair would often end a step earlier or later.
template <typename P>
inline void take_live(const P& pass, const Searched& s, Task task, Live& live) {
  for (int64_t k = 0; k < live.count; ++k) {
    const PairOf at = pair_at(task, live.pair[k]);
    live.difference[k] = s.x_row(at.b)[live.input[k]] - s.w_row(at.o)[live.input[k]];
  }
  pass.take(task, live);
  live.count = 0;
}

template <typename P>
inline void search_pair(const P& pass, const Searched& s, Task task, int32_t pair, int64_t begin,
                        uint32_t blocks, float negligible, Live& live) {
  if (live.count > kSearched) take_live(pass, s, task, live);
  const PairOf at = pair_at(task, pair);
  const int64_t from = live.count;
  list_live(s.x_row(at.b), s.w_row(at.o), begin, s.end(begin), blocks, negligible, live);
  describe(from, pair, pass.largest(at.b, at.o), pass.slope(at.b, at.o), live);
}

template <int64_t Outputs, typename P>
inline void search_panel(const P& pass, const Searched& s, const float* panel, Task task, int64_t begin,
                         Candidates& c, Live& live) {
  constexpr int64_t kRows = SearchTile::kRows;
  const int64_t end = s.end(begin), size = end - begin;
  find_largest<Outputs>(panel, rows_of(s.w, s.n.inputs), task.output, begin, end, c);
  pass.largest_of(size, task, c);
  live.start();
  for (int64_t o = 0; o < Outputs; ++o) {
    for (int64_t r = 0; r < kRows; ++r)
      c.negligible[o][r] =
          r < task.rows ? negligible_of(pass, s, task.row + r, task.output + o) : __builtin_inff();
    mark_blocks(size, o, c);
    for (int64_t r = 0; r < task.rows; ++r)
      search_pair(pass, s, task, static_cast<int32_t>(o * kRows + r), begin, c.blocks[o][r],
                  c.negligible[o][r], live);
  }
  take_live(pass, s, task, live);
  pass.finish(task, live);
}

// All panels of a block of rows against a tile of outputs.
template <int64_t Outputs, typename P>
inline void search_panels(const P& pass, const Searched& s, const Workspace<LinfDist>& space, Task task,
                          int64_t output, int64_t begin, Candidates& c, Live& live) {
  for (int64_t p = 0; p * SearchTile::kRows < task.rows; ++p) {
    const int64_t row = p * SearchTile::kRows, rows = smaller(SearchTile::kRows, task.rows - row);
    search_panel<Outputs>(pass, s, space.panels[p], {task.row + row, rows, output, Outputs}, begin, c, live);
  }
}

template <typename P>
inline void search_packed(const P& pass, const Searched& s, Task task) {
  Workspace<LinfDist> space;
  Candidates c;
  Live live;
  constexpr int64_t kOutputs = SearchTile::kOutputs;
  for (int64_t begin = 0; begin < s.n.inputs; begin += kSearched) {
    space.pack_words({rows_of(s.x, s.n.inputs)}, task, begin, s.end(begin));
    int64_t o = task.output;
    const int64_t end = task.output + task.outputs;
    for (; o + kOutputs <= end; o += kOutputs)
      search_panels<kOutputs>(pass, s, space, task, o, begin, c, live);
    for (; o < end; ++o) search_panels<1>(pass, s, space, task, o, begin, c, live);
  }
}

// Rows that are too few for a panel: all blocks are looked into.
template <typename P>
inline void search_rows(const P& pass, const Searched& s, Task task) {
  Live live;
  for (int64_t b = task.row; b < task.row + task.rows; ++b)
    for (int64_t o = task.output; o < task.output + task.outputs; ++o)
      for (int64_t begin = 0; begin < s.n.inputs; begin += kSearched) {
        const Task one = {b, 1, o, 1};
        const uint32_t blocks = 0xffffffffu >> (32 - pieces(s.end(begin) - begin, kBlock));
        live.start();
        search_pair(pass, s, one, 0, begin, blocks, negligible_of(pass, s, b, o), live);
        take_live(pass, s, one, live);
        pass.finish(one, live);
      }
}

inline int64_t rows_to_search(Sizes n) { return rows_to_pack(n, SearchTile::kRows); }

// Rows and outputs in ascending order, whatever the width of a register.
template <typename P>
inline void search_block(const P& pass, const Searched& s, int64_t block, int64_t output, int64_t outputs) {
  const int64_t packed = rows_to_search(s.n), row = block * kBlockRows;
  if (row < packed)
    search_packed(pass, s, {row, smaller(kBlockRows, packed - row), output, outputs});
  else
    search_rows(pass, s, {packed, s.n.batch - packed, output, outputs});
}
// Blocks of rows: those in panels, and the rest.
inline int64_t search_blocks(Sizes n) {
  return pieces(rows_to_search(n), kBlockRows) + (rows_to_search(n) < n.batch);
}

}  // namespace LINF_ISA
}  // namespace linf
