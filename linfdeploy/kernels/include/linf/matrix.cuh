// SPDX-License-Identifier: Apache-2.0
//
// Rows of numbers in global memory, read in quads of 32-bit words whatever their alignment. What lies past
// the end of a row, and rows past the last, read as zeros.
#pragma once

#include "linf/geometry.h"
#include "linf/ptx.cuh"

namespace linf {
namespace LINF_ISA {

// The words of a 16-byte read.
struct Quad {
  uint32_t words[4];
};

struct Matrix {
  const char* data;
  // At most kMostRowBytes, so that no position in a stage overflows.
  int32_t row_bytes, rows;
  // What the address of every row of all operands is a multiple of: 16, 4 or 1 bytes.
  int32_t alignment;

  LINF_INLINE const char* row_at(int32_t row) const { return data + static_cast<int64_t>(row) * row_bytes; }
  LINF_INLINE int32_t words() const { return (row_bytes + 3) / 4; }

  // Copies the words [word, word + 4) of a row to shared memory, in the background if
  // Alignment, that of the rows, allows.
  template <int32_t Alignment>
  LINF_INLINE void copy_quad(uint32_t* to, int32_t row, int32_t word) const {
    const bool exists = row < rows;
    const char* const begin = row_at(row);
    if constexpr (Alignment == 16) {
      copy_async<16>(to, begin + word * 4, exists && word * 4 < row_bytes);
    } else {
#pragma unroll 1
      for (int32_t k = 0; k < 4; ++k) {
        if constexpr (Alignment == 4)
          copy_async<4>(to + k, begin + (word + k) * 4, exists && (word + k) * 4 < row_bytes);
        else
          to[k] = exists ? word_of_bytes(begin, word + k) : 0;
      }
    }
  }

  // The same words, for a row that exists; Once if no other block will read them.
  template <int32_t Alignment, bool Once>
  LINF_INLINE Quad quad(int32_t row, int32_t word) const {
    const char* const begin = row_at(row);
    if constexpr (Alignment == 16) {
      const uint4* const from = reinterpret_cast<const uint4*>(begin + word * 4);
      const uint4 v = Once ? load_once(from) : *from;
      return {{v.x, v.y, v.z, v.w}};
    } else {
      Quad quad;
#pragma unroll
      for (int32_t k = 0; k < 4; ++k)
        quad.words[k] = Alignment == 4 ? whole_word(begin, word + k) : word_of_bytes(begin, word + k);
      return quad;
    }
  }

 private:
  LINF_INLINE uint32_t whole_word(const char* begin, int32_t word) const {
    return word * 4 < row_bytes ? reinterpret_cast<const uint32_t*>(begin)[word] : 0;
  }
  LINF_INLINE uint32_t word_of_bytes(const char* begin, int32_t word) const {
    uint32_t bytes = 0;
#pragma unroll 1
    for (int32_t k = 0; k < 4; ++k) {
      const int32_t at = word * 4 + k;
      if (at < row_bytes) bytes |= static_cast<uint32_t>(static_cast<uint8_t>(begin[at])) << 8 * k;
    }
    return bytes;
  }
};

// For operands that no launcher has looked at: the alignment of all their rows.
template <typename Number>
LINF_INLINE int32_t alignment_of(const Number* x, const Number* w, int32_t inputs) {
  return alignment_of_bits(reinterpret_cast<uint64_t>(x) | reinterpret_cast<uint64_t>(w) |
                           inputs * sizeof(Number));
}

template <typename Number>
LINF_INLINE Matrix matrix_of(const Number* data, int32_t rows, int32_t inputs, int32_t alignment) {
  return {reinterpret_cast<const char*>(data), inputs * static_cast<int32_t>(sizeof(Number)), rows,
          alignment};
}

}  // namespace LINF_ISA
}  // namespace linf
