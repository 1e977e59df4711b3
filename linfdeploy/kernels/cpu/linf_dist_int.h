// SPDX-License-Identifier: Apache-2.0
//
// The distance of integers, exact for every value: int8 and uint8 give uint8, int16 gives uint16.
#pragma once

#include "pairs.h"

namespace linf {
namespace LINF_ISA {

template <typename T>
struct Integers {
  typedef T Lanes __attribute__((vector_size(sizeof(Vec))));
};
template <typename T>
using Lanes = typename Integers<T>::Lanes;

template <typename T>
inline Lanes<T> larger(Lanes<T> a, Lanes<T> b) {
  return a > b ? a : b;
}
template <typename T>
inline Lanes<T> lesser(Lanes<T> a, Lanes<T> b) {
  return a < b ? a : b;
}

// |x - w| of any x and w of type T, as T's unsigned twin U: the larger minus the lesser never wraps.
template <typename T, typename U>
struct AnyRange {
  static Lanes<U> distance(Vec x, Vec w) {
    const Lanes<T> a = (Lanes<T>)x, b = (Lanes<T>)w;
    return (Lanes<U>)larger<T>(a, b) - (Lanes<U>)lesser<T>(a, b);
  }
};

// |x - w| where no two values are further apart than the largest value of S, the signed twin of T: one
// operation less. A difference taken modulo 2^8 or 2^16 is then the true one.
template <typename S, typename U>
struct NarrowRange {
  static Lanes<U> distance(Vec x, Vec w) {
    const Lanes<U> difference = (Lanes<U>)x - (Lanes<U>)w;
    const Lanes<S> d = (Lanes<S>)difference;
    return (Lanes<U>)(d < 0 ? -d : d);
  }
};

// max |x - w| as a reduction of pairs.h, several numbers a word.
template <typename Range, typename U>
struct LinfDistInt {
  static constexpr int64_t kOperands = 1, kStates = 1, kResults = 1;
  U* y;
  int64_t outputs;

  static void start(Vec (&state)[1]) { state[0] = zero(); }
  static void step(Vec (&state)[1], const Vec (&x)[1], Vec w) {
    state[0] = (Vec)larger<U>(Range::distance(x[0], w), (Lanes<U>)state[0]);
  }
  // The largest of a word's numbers, as an integer of the word's size.
  static Vec finish(const Vec (&state)[1], int64_t) {
    Lanes<uint32_t> word = (Lanes<uint32_t>)state[0];
    for (int64_t bits = 16; bits >= static_cast<int64_t>(8 * sizeof(U)); bits /= 2)
      word = (Lanes<uint32_t>)larger<U>((Lanes<U>)word, (Lanes<U>)(word >> static_cast<uint32_t>(bits)));
    return (Vec)(word & static_cast<uint32_t>(static_cast<U>(-1)));
  }
  void emit(int64_t, int64_t b, int64_t o, const float* words, int64_t count) const {
    for (int64_t i = 0; i < count; ++i) {
      int32_t word;
      std::memcpy(&word, words + i, sizeof word);
      y[b * outputs + o + i] = static_cast<U>(word);
    }
  }
};

template <typename T>
struct Extent {
  T least, most;
  void take(const T* values, int64_t size) {
    for (int64_t i = 0; i < size; ++i) {
      least = values[i] < least ? values[i] : least;
      most = values[i] > most ? values[i] : most;
    }
  }
};

// Whether no two values are further apart than half of T's range. Not looked at for few rows, where reading w
// is most of the work.
template <typename T>
inline bool is_narrow(Sizes n, const T* x, const T* w) {
  constexpr int64_t kRowsWorthLooking = 8, kHalf = (int64_t{1} << (8 * sizeof(T) - 1)) - 1;
  if (n.batch < kRowsWorthLooking || n.outputs == 0) return false;
  Extent<T> extent{x[0], x[0]};
  extent.take(x, n.batch * n.inputs);
  extent.take(w, n.outputs * n.inputs);
  return int64_t{extent.most} - int64_t{extent.least} <= kHalf;
}

template <typename S, typename T, typename U>
inline void linf_dist_int(Sizes n, const T* x, const T* w, U* y) {
  const int64_t bytes = n.inputs * static_cast<int64_t>(sizeof(T));
  const Rows x_rows{reinterpret_cast<const char*>(x), bytes}, w_rows{reinterpret_cast<const char*>(w), bytes};
  if (is_narrow(n, x, w))
    reduce_pairs(LinfDistInt<NarrowRange<S, U>, U>{y, n.outputs}, {{x_rows}, w_rows}, n);
  else
    reduce_pairs(LinfDistInt<AnyRange<T, U>, U>{y, n.outputs}, {{x_rows}, w_rows}, n);
}

inline void linf_dist_uint8(Sizes n, const uint8_t* x, const uint8_t* w, uint8_t* y) {
  linf_dist_int<int8_t>(n, x, w, y);
}
inline void linf_dist_int8(Sizes n, const int8_t* x, const int8_t* w, uint8_t* y) {
  linf_dist_int<int8_t>(n, x, w, y);
}
inline void linf_dist_int16(Sizes n, const int16_t* x, const int16_t* w, uint16_t* y) {
  linf_dist_int<int16_t>(n, x, w, y);
}

}  // namespace LINF_ISA
}  // namespace linf
