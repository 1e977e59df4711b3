// SPDX-License-Identifier: Apache-2.0
//
// Random shapes and operands for the kernels' test program.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>

#include "kernels.h"
#include "launchers.h"

namespace linf::machine {
// The CPU kernels, compiled for this machine.
extern const Kernels kernels;
}  // namespace linf::machine

struct Options {
  int shapes = 300, largest = 300;
  const char* only = "";
  uint32_t seed = 1;
};

// What data looks like.
enum class Style { kNormal, kTies, kDenormal };

// One random case: sizes, data and how the kernels are run.
class Shape {
 public:
  Shape(const Options& options, uint32_t number);

  LinfSizes n;
  uint32_t number;
  Style style;
  const LinfLauncher* launcher;
  std::mt19937 random;

  linf::Sizes cpu() const { return {n.batch, n.inputs, n.outputs, linf::fork_join(1)}; }
  int below(int limit) { return static_cast<int>(random() % static_cast<uint32_t>(limit)); }
  // 0, or 1 so that no address is a multiple of 16.
  int offset() { return displaced_ ? below(2) : 0; }
  float value();

 private:
  int size(int largest);
  bool displaced_;
};

// A heap block of exactly `size` elements, or of one more in front that is not part of it.
template <typename T>
class Operand {
 public:
  Operand(Shape& shape, int64_t size) : size_(size), offset_(shape.offset()), block_(new T[size + offset_]) {}
  T* get() const { return size_ ? block_.get() + offset_ : nullptr; }
  int64_t size() const { return size_; }
  T& operator[](int64_t i) const { return block_[i + offset_]; }
  bool operator==(const Operand& other) const {
    return size_ == other.size_ && (!size_ || !std::memcmp(get(), other.get(), sizeof(T) * size_));
  }
  void spoil() const {
    if (size_) std::memset(static_cast<void*>(get()), 0x5a, sizeof(T) * size_);
  }

 private:
  int64_t size_, offset_;
  std::unique_ptr<T[]> block_;
};

template <typename T>
Operand<T> results(Shape& shape, int64_t size) {
  Operand<T> values(shape, size);
  values.spoil();
  return values;
}
Operand<float> floats(Shape& shape, int64_t size);
// float16, as bits.
Operand<uint16_t> halves(Shape& shape, int64_t size);
template <typename T>
Operand<T> integers(Shape& shape, int64_t size) {
  Operand<T> values(shape, size);
  const uint32_t range = shape.style == Style::kTies ? 5 : 1 << 16;
  for (int64_t i = 0; i < size; ++i) values[i] = static_cast<T>(shape.random() % range);
  return values;
}

// Counts what does not hold, and prints the first few.
bool expect(bool holds, const char* what, const Shape& shape, const char* more = "");
int failures();

// The checks: one for each launcher, and of what is started without one.
void check_linf_dist_float32(Shape& shape);
void check_linf_dist_float16(Shape& shape);
void check_linf_dist_integers(Shape& shape);
void check_argmax(Shape& shape);
void check_bounds(Shape& shape);
void check_backward(Shape& shape);
void check_conv(Shape& shape);
void check_linf_dist_aot_float32(Shape& shape);
void check_linf_dist_aot_float16(Shape& shape);
void check_conv_aot(Shape& shape);
void check_lp_dist(Shape& shape);
