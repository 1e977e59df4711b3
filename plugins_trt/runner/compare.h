// SPDX-License-Identifier: Apache-2.0
//
// Holds what an engine gives against the golden arrays and against what it gave before, bit for bit.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "npy.h"

namespace linf::runner {

// Images first, first + 1, ... of one enqueue.
struct Batch {
  int64_t first, count, run;
};

constexpr int64_t kMostShown = 10;

// The steps between two numbers in the order of all floats; zeros of both signs are one step apart.
inline int64_t ulps_between(uint32_t a, uint32_t b) {
  const auto rank = [](uint32_t bits) {
    const auto magnitude = static_cast<int64_t>(bits & 0x7fffffff);
    return bits >> 31 ? -1 - magnitude : magnitude;
  };
  return std::abs(rank(a) - rank(b));
}

// A number as it lies in memory.
struct Bits {
  uint64_t bits;
  bool is_float;

  Bits(const char* numbers, int64_t index, bool float32) : bits(0), is_float(float32) {
    const int64_t size = float32 ? 4 : 8;
    std::memcpy(&bits, numbers + index * size, static_cast<size_t>(size));
  }
  bool operator!=(const Bits& other) const { return bits != other.bits; }
  float value() const {
    const auto low = static_cast<uint32_t>(bits);
    float number;
    std::memcpy(&number, &low, sizeof number);
    return number;
  }
  bool is_nan() const { return is_float && std::isnan(value()); }
  std::string text() const {
    char text[64];
    if (is_nan())
      std::snprintf(text, sizeof text, "nan (0x%08x)", static_cast<unsigned>(bits));
    else if (is_float)
      std::snprintf(text, sizeof text, "%.9g (0x%08x)", static_cast<double>(value()),
                    static_cast<unsigned>(bits));
    else
      std::snprintf(text, sizeof text, "%lld", static_cast<long long>(bits));
    return text;
  }
};

class Comparison {
 public:
  // Of `row` numbers for each image. Nouns such as "logit" and "logits".
  Comparison(const Array& golden, bool is_float, const char* one, const char* many)
      : golden_(golden.bytes.data()),
        float_(is_float),
        images_(golden.shape[0]),
        row_(golden.shape.size() > 1 ? golden.shape[1] : 1),
        indexed_(golden.shape.size() > 1),
        one_(one),
        many_(many),
        earlier_(golden.bytes.size()),
        seen_(static_cast<size_t>(images_)),
        differs_(static_cast<size_t>(images_ * row_)) {}

  void check(const Batch& batch, const char* found) {
    for (int64_t image = 0; image < batch.count; ++image)
      check_row(batch, batch.first + image, found + image * row_bytes());
  }
  int64_t row_bytes() const { return row_ * (float_ ? 4 : 8); }

  // Prints what came of it. False where anything differs, or was not run.
  bool report() const {
    int64_t equal = 0, numbers = std::count(differs_.begin(), differs_.end(), 1);
    for (int64_t image = 0; image < images_; ++image) equal += is_equal(image);
    std::printf("%lld of %lld images: all %s bit-identical", static_cast<long long>(equal),
                static_cast<long long>(images_), many_);
    if (numbers)
      std::printf("; %lld of %lld numbers differ%s", static_cast<long long>(numbers),
                  static_cast<long long>(images_ * row_), farthest_text().c_str());
    std::printf("\n");
    if (changes_)
      std::printf("not deterministic: %lld of the %s changed between runs of the same image\n",
                  static_cast<long long>(changes_), many_);
    return equal == images_ && !changes_;
  }

 private:
  bool is_equal(int64_t image) const {
    const auto row = differs_.begin() + image * row_;
    return seen_[static_cast<size_t>(image)] &&
           std::none_of(row, row + row_, [](char differs) { return differs; });
  }
  void check_row(const Batch& batch, int64_t image, const char* found) {
    const bool again = seen_[static_cast<size_t>(image)];
    for (int64_t k = 0; k < row_; ++k) {
      const int64_t place = image * row_ + k;
      const Bits expected(golden_, place, float_), given(found, k, float_),
          before(earlier_.data(), place, float_);
      if (given != expected) note_difference(batch, place, expected, given);
      if (again && given != before && changes_++ < kMostShown) show(batch, place, "earlier", before, given);
    }
    if (!again) std::memcpy(&earlier_[static_cast<size_t>(image * row_bytes())], found, row_bytes());
    seen_[static_cast<size_t>(image)] = 1;
  }
  void note_difference(const Batch& batch, int64_t place, const Bits& expected, const Bits& given) {
    char& differs = differs_[static_cast<size_t>(place)];
    if (!differs && shown_++ < kMostShown) show(batch, place, "expected", expected, given);
    differs = 1;
    if (!expected.is_nan() && !given.is_nan()) farthest_ = std::max(farthest_, distance(expected, given));
  }
  void show(const Batch& batch, int64_t place, const char* what, const Bits& other, const Bits& given) const {
    std::printf("image %lld, %s%s: %s %s, found %s%s, in a batch of %lld, run %lld\n",
                static_cast<long long>(place / row_), one_, indexed_ ? joined(" ", place % row_).c_str() : "",
                what, other.text().c_str(), given.text().c_str(), distance_text(other, given).c_str(),
                static_cast<long long>(batch.count), static_cast<long long>(batch.run));
  }
  static int64_t distance(const Bits& a, const Bits& b) {
    return ulps_between(static_cast<uint32_t>(a.bits), static_cast<uint32_t>(b.bits));
  }
  static std::string distance_text(const Bits& a, const Bits& b) {
    if (!a.is_float || a.is_nan() || b.is_nan()) return "";
    return joined(", ", distance(a, b), " ulp apart");
  }
  std::string farthest_text() const { return float_ ? joined(", by at most ", farthest_, " ulp") : ""; }

  const char* const golden_;
  const bool float_;
  const int64_t images_, row_;
  const bool indexed_;
  const char *const one_, *const many_;
  std::vector<char> earlier_, seen_, differs_;
  int64_t shown_ = 0, changes_ = 0, farthest_ = 0;
};

}  // namespace linf::runner
