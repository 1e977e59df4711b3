// SPDX-License-Identifier: Apache-2.0
//
// Panels: rows of 32-bit words, packed so that the same word of all rows lies side by side, and the register
// tile that runs over them. A word is one float, two int16 or four bytes; one machinery serves every type.
#pragma once

#include "vector.h"

namespace linf {
namespace LINF_ISA {

#if defined(__AVX512F__)
constexpr int64_t kTileStates = 16;  // of 32 registers
#else
constexpr int64_t kTileStates = 8;  // of 16 registers
#endif

// The register tile of a reduction R: kGroups registers of rows of x against kOutputs rows of w.
template <typename R>
struct Tile {
  static constexpr int64_t kGroups = R::kStates > 1 ? 1 : 2;
  static constexpr int64_t kOutputs = kTileStates / R::kStates / kGroups;
  static constexpr int64_t kRows = kGroups * kWidth;  // of a panel
};

// Rows of 32-bit words, one after the other. The last word of a row may be cut short.
struct Rows {
  const char* data;
  int64_t bytes;  // of a row

  int64_t words() const { return (bytes + 3) / 4; }
  int64_t whole_words() const { return bytes / 4; }
  const char* at(int64_t row, int64_t word) const { return data + row * bytes + word * 4; }
  int32_t word(int64_t row, int64_t i) const {
    int32_t value = 0;
    std::memcpy(&value, at(row, i), i < whole_words() ? 4 : static_cast<size_t>(bytes % 4));
    return value;
  }
};

// The running states of one row of x and one row of w, for each lane.
template <typename R>
struct States {
  Vec of[R::kStates];
};

// Four rows of four words, turned round.
inline void transpose4(const char* from, int64_t from_bytes, float* to, int64_t to_words) {
#if defined(__SSE2__)
  __m128 row[4];
  for (int64_t r = 0; r < 4; ++r) std::memcpy(&row[r], from + r * from_bytes, sizeof row[r]);
  _MM_TRANSPOSE4_PS(row[0], row[1], row[2], row[3]);
  for (int64_t i = 0; i < 4; ++i) std::memcpy(to + i * to_words, &row[i], sizeof row[i]);
#else
  for (int64_t r = 0; r < 4; ++r)
    for (int64_t i = 0; i < 4; ++i) std::memcpy(to + i * to_words + r, from + r * from_bytes + i * 4, 4);
#endif
}

// Packs words [begin, end) of `rows` rows as [word][row] for a panel of `lanes` rows; words lie `step` floats
// apart. Lanes without a row become zero.
inline void pack(Rows x, int64_t first, int64_t rows, int64_t begin, int64_t end, float* panel, int64_t lanes,
                 int64_t step) {
  const int64_t whole = x.whole_words() < end ? x.whole_words() : end;
  const auto pack_word = [=](int64_t r, int64_t i) {
    const int32_t word = r < rows ? x.word(first + r, i) : 0;
    std::memcpy(panel + (i - begin) * step + r, &word, sizeof word);
  };
  for (int64_t r = 0; r < lanes; r += 4) {
    int64_t i = begin;
    for (; r + 4 <= rows && i + 4 <= whole; i += 4)
      transpose4(x.at(first + r, i), x.bytes, panel + (i - begin) * step + r, step);
    for (; i < end; ++i)
      for (int64_t k = 0; k < 4; ++k) pack_word(r + k, i);
  }
}

// Runs words [begin, end) of a panel, which is packed as [word][operand][row], against Outputs rows of w.
template <typename R, int64_t Outputs>
inline void run_tile(const float* panel, Rows w, int64_t output, int64_t begin, int64_t end,
                     States<R> (*states)[Tile<R>::kGroups]) {
  constexpr int64_t kGroups = Tile<R>::kGroups;
  States<R> s[Outputs][kGroups];
#pragma GCC unroll 16
  for (int64_t t = 0; t < Outputs * kGroups; ++t)
    s[t / kGroups][t % kGroups] = states[t / kGroups][t % kGroups];
  const auto take = [&](int64_t i, auto word_of) __attribute__((always_inline)) {
    Vec x[kGroups][R::kOperands];
#pragma GCC unroll 4
    for (int64_t t = 0; t < kGroups * R::kOperands; ++t)
      x[t % kGroups][t / kGroups] = load(panel + ((i - begin) * R::kOperands * kGroups + t) * kWidth);
#pragma GCC unroll 16
    for (int64_t r = 0; r < Outputs; ++r) {
      const Vec word = vec_of(VecInt{} + word_of(r, i));
#pragma GCC unroll 2
      for (int64_t g = 0; g < kGroups; ++g) R::step(s[r][g].of, x[g], word);
    }
  };
  const int64_t whole = w.whole_words() < end ? w.whole_words() : end;
  for (int64_t i = begin; i < whole; ++i)
    take(i, [=](int64_t r, int64_t at) {
      int32_t word;
      std::memcpy(&word, w.at(output + r, at), sizeof word);
      return word;
    });
  for (int64_t i = whole; i < end; ++i)
    take(i, [=](int64_t r, int64_t at) { return w.word(output + r, at); });
#pragma GCC unroll 16
  for (int64_t t = 0; t < Outputs * kGroups; ++t)
    states[t / kGroups][t % kGroups] = s[t / kGroups][t % kGroups];
}

}  // namespace LINF_ISA
}  // namespace linf
