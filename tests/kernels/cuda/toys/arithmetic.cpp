// SPDX-License-Identifier: Apache-2.0
//
// The emulator's arithmetic against plain definitions: halves bit by bit, approximations within their bands
// and all over them. Exits with 0 when all hold.
#include <chrono>
#include <cmath>
#include <cstdio>
#include <random>

#include "approximations.h"
#include "halves.h"

namespace {

int failed = 0;

void expect(bool holds, const char* what, double at) {
  if (!holds && ++failed < 20) std::printf("%s at %.9g\n", what, at);
}

// What the bits of a finite float16 mean.
double meaning(uint16_t half) {
  const int exponent = half >> 10 & 31, fraction = half & 1023;
  const double magnitude = exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
  return half & 0x8000 ? -magnitude : magnitude;
}

// Rounding by definition: no neighbour is nearer, and of two equally near ones this is even.
void check_rounding(float value) {
  const uint16_t half = emulator::half_of_float(value), magnitude = half & 0x7fff;
  expect(std::signbit(value) == (half >> 15 == 1), "sign of a half", value);
  const double v = std::fabs(double{value}), here = magnitude == 0x7c00 ? 65536 : meaning(magnitude);
  if (magnitude < 0x7c00) {
    const double above = magnitude == 0x7bff ? 65536 : meaning(static_cast<uint16_t>(magnitude + 1));
    expect(v - here < above - v || (v - here == above - v && magnitude % 2 == 0) || v < here, "half", value);
  }
  if (magnitude > 0) {
    const double below = meaning(static_cast<uint16_t>(magnitude - 1));
    expect(here - v < v - below || (here - v == v - below && magnitude % 2 == 0) || v > here, "half", value);
  }
}

void check_halves() {
  std::mt19937 random(1);
  for (uint32_t half = 0; half < 0x10000; ++half) {
    if ((half & 0x7fff) >= 0x7c00) continue;
    expect(emulator::float_of_half(static_cast<uint16_t>(half)) == meaning(static_cast<uint16_t>(half)),
           "float", half);
    check_rounding(emulator::float_of_half(static_cast<uint16_t>(half)));
  }
  for (int i = 0; i < 1000000; ++i)
    check_rounding(
        std::ldexp(static_cast<float>(static_cast<int32_t>(random())), -static_cast<int>(random() % 62)));
  for (uint32_t i = 0; i + 1 < 0x7c00; ++i) {
    const double middle = (meaning(static_cast<uint16_t>(i)) + meaning(static_cast<uint16_t>(i + 1))) / 2;
    check_rounding(static_cast<float>(middle));
    check_rounding(-static_cast<float>(middle));
  }
  expect(emulator::float_of_half(0x7c00) == INFINITY, "infinity", 0);
  expect(emulator::half_of_float(65520) == 0x7c00, "infinity", 65520);
  expect(std::isnan(emulator::float_of_half(0x7e00)), "NaN", 0);
  expect((emulator::half_of_float(NAN) & 0x7fff) > 0x7c00, "NaN", 0);
  expect(emulator::farther_half(0x3c00, 0xbc01) == 0x3c01, "farther", 1);
  expect(emulator::farther_half(0x3c00, 0x7e00) == 0x3c00, "farther than NaN", 1);
  expect(emulator::subtract_half(0x3c00, 0x3c00) == 0, "difference", 0);
}

// The range of errors as parts of the allowed one.
struct Band {
  double least = 0, most = 0;
  void take(double error, double allowed, const char* what, double at) {
    expect(std::fabs(error) <= allowed, what, at);
    least = std::fmin(least, error / allowed);
    most = std::fmax(most, error / allowed);
  }
  void expect_used(const char* what) const { expect(least < -0.95 && most > 0.95, what, most); }
};

void check_exp2() {
  std::mt19937 random(2);
  std::uniform_real_distribution<float> exponents(-126, 127.9f), small(-1, 1);
  Band band;
  for (int i = 0; i < 2000000; ++i) {
    const float v = i % 2 ? exponents(random) : small(random);
    const double exact = std::exp2(double{v}), found = emulator::bad_exp2(v);
    if (exact < 0x1.00001p-126) continue;
    band.take(found - exact, 0x1p-22 * exact, "exp2", v);
  }
  band.expect_used("the band of exp2");
  expect(emulator::bad_exp2(-INFINITY) == 0 && emulator::bad_exp2(-126.01f) == 0, "exp2 of much less", -126);
  expect(emulator::bad_exp2(INFINITY) == INFINITY && emulator::bad_exp2(128) == INFINITY, "exp2 of more",
         128);
  expect(std::isnan(emulator::bad_exp2(NAN)), "exp2", NAN);
}

void check_log2() {
  std::mt19937 random(3);
  std::uniform_real_distribution<float> exponents(-125, 127), near_one(0.5f, 2);
  Band absolute, relative;
  for (int i = 0; i < 2000000; ++i) {
    const float v = i % 2 ? std::exp2(exponents(random)) : near_one(random);
    const double exact = std::log2(double{v}), found = emulator::bad_log2(v);
    if (v > 0.5f && v < 2)
      absolute.take(found - exact, 0x1p-22, "log2", v);
    else
      relative.take(found - exact, 0x1p-22 * std::fabs(exact), "log2", v);
  }
  absolute.expect_used("the band of log2 near 1");
  relative.expect_used("the band of log2");
  expect(std::fabs(emulator::bad_log2(1)) <= 0x1p-22, "log2", 1);
  expect(emulator::bad_log2(0) == -INFINITY && emulator::bad_log2(0x1p-127f) == -INFINITY, "log2", 0);
  expect(emulator::bad_log2(INFINITY) == INFINITY && std::isnan(emulator::bad_log2(-1)), "log2", -1);
}

}  // namespace

int main() {
  check_halves();
  check_exp2();
  check_log2();
  return failed ? 1 : 0;
}
