// SPDX-License-Identifier: Apache-2.0
//
// What enqueue computes, for every type, tactic and kind of size, against plain loops, bit by bit.
#include <cmath>
#include <functional>
#include <random>

#include "checks.h"
#include "memory.h"

namespace conformance {
namespace {

// Sixteen bits as a number, and the nearest sixteen bits, ties to even: from the format's definition.
double value_of_half(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double magnitude = exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
  return bits & 0x8000 ? -magnitude : magnitude;
}
uint16_t half_of_value(double value) {
  const double magnitude = std::fabs(value);
  const int exponent = magnitude < std::ldexp(1, -14) ? -14 : std::ilogb(magnitude);
  const double unit = std::ldexp(1, exponent - 10), rounded = std::nearbyint(magnitude / unit);
  const auto bits = static_cast<uint32_t>((exponent + 14) * 1024 + rounded);
  return static_cast<uint16_t>((value < 0 ? 0x8000u : 0u) | bits);
}

struct Float32 {
  using Number = float;
  static constexpr auto kType = nv::DataType::kFLOAT;
  static double value(float number) { return number; }
  static float rounded(double value) { return static_cast<float>(value); }
};
struct Float16 {
  using Number = uint16_t;
  static constexpr auto kType = nv::DataType::kHALF;
  static double value(uint16_t number) { return value_of_half(number); }
  static uint16_t rounded(double value) { return half_of_value(value); }
};

template <typename Format>
std::vector<typename Format::Number> random_numbers(std::mt19937& random, int64_t size) {
  std::normal_distribution<double> normal(0, 20);
  std::vector<typename Format::Number> made(static_cast<size_t>(size));
  for (auto& number : made) number = Format::rounded(random() % 8 ? normal(random) : 0.0);
  return made;
}

// max over k of |x(k) - w(k)|, each difference rounded, then plus b, rounded. A difference of two floats or
// halves, and the sum of two, is rounded from double as if from the exact number, for numbers of the sizes
// used here.
template <typename Format>
typename Format::Number distance(int64_t count, const std::function<double(int64_t)>& x,
                                 const std::function<double(int64_t)>& w, double b) {
  double farthest = 0;
  for (int64_t k = 0; k < count; ++k)
    farthest = std::fmax(farthest, std::fabs(Format::value(Format::rounded(x(k) - w(k)))));
  return Format::rounded(farthest + b);
}

// Runs a plugin on these inputs; an empty result where it fails.
template <typename Number>
std::vector<Number> run(nv::IPluginV3& plugin, const std::vector<nv::PluginTensorDesc>& tensors,
                        const std::vector<const std::vector<Number>*>& inputs, size_t results) {
  const Buffer x(*inputs[0]), w(*inputs[1]), b(*inputs[2]);
  // Bits that no result has, so that one which was not written shows.
  const Buffer y(std::vector<Number>(results, Number(-1)));
  const void* const in[] = {x.get(), w.get(), b.get()};
  void* const out[] = {y.get()};
  const Sides sides(plugin);
  if (sides.runtime->onShapeChange(tensors.data(), 3, &tensors[3], 1) ||
      sides.runtime->enqueue(tensors.data(), &tensors[3], in, out, nullptr, nullptr))
    return {};
  return y.template values<Number>();
}

template <typename Format>
void check_dense(Tally& tally, nv::IPluginV3& plugin, int64_t n, int64_t i, int64_t o,
                 const std::string& what) {
  using Number = typename Format::Number;
  std::mt19937 random(static_cast<unsigned>(n * 10007 + i * 101 + o));
  const auto x = random_numbers<Format>(random, n * i), w = random_numbers<Format>(random, o * i),
             b = random_numbers<Format>(random, o);
  std::vector<Number> expected;
  for (int64_t row = 0; row < n; ++row)
    for (int64_t column = 0; column < o; ++column)
      expected.push_back(distance<Format>(
          i, [&](int64_t k) { return Format::value(x[static_cast<size_t>(row * i + k)]); },
          [&](int64_t k) { return Format::value(w[static_cast<size_t>(column * i + k)]); },
          Format::value(b[static_cast<size_t>(column)])));
  const auto of = [](std::initializer_list<int64_t> sizes) { return tensor(Format::kType, sizes); };
  tally.expect(run<Number>(plugin, {of({n, i}), of({o, i}), of({o}), of({n, o})}, {&x, &w, &b},
                           expected.size()) == expected,
               what + ", " + std::to_string(n) + " x " + std::to_string(i) + " x " + std::to_string(o));
}

template <typename Format>
void check_all_dense(Tally& tally, nv::IPluginCreatorV3One& creator, const std::string& name) {
  constexpr int64_t kSizes[][3] = {{1, 1, 1},   {1, 785, 10}, {2, 64, 33},   {5, 31, 129},
                                   {8, 100, 7}, {9, 17, 65},  {33, 40, 130}, {130, 19, 66}};
  const PluginPtr plugin = created(creator, {});
  const Sides sides(*plugin);
  std::vector<int32_t> tactics(static_cast<size_t>(sides.build->getNbTactics()));
  sides.build->getValidTactics(tactics.data(), static_cast<int32_t>(tactics.size()));
  tactics.push_back(0);
  for (const int32_t tactic : tactics) {
    const PluginPtr one(plugin->clone());
    Sides(*one).runtime->setTactic(tactic);
    for (const auto& size : kSizes)
      check_dense<Format>(tally, *one, size[0], size[1], size[2],
                          name + ", tactic " + std::to_string(tactic));
  }
  const std::vector<typename Format::Number> none, w(15), b(3);
  const auto of = [](std::initializer_list<int64_t> sizes) { return tensor(Format::kType, sizes); };
  const Buffer x(none), weights(w), biases(b), y(none);
  const nv::PluginTensorDesc tensors[] = {of({0, 5}), of({3, 5}), of({3}), of({0, 3})};
  const void* const in[] = {x.get(), weights.get(), biases.get()};
  void* const out[] = {y.get()};
  tally.expect(sides.runtime->enqueue(tensors, &tensors[3], in, out, nullptr, nullptr) == 0,
               name + ": an empty batch");
}

struct ConvCase {
  int64_t images, channels, filters, height, width, kernel_height, kernel_width;
  std::vector<int32_t> strides, pads, dilations;

  int64_t places(size_t axis) const {
    const int64_t size = axis ? width : height, kernel = axis ? kernel_width : kernel_height;
    return (size + pads[axis] + pads[axis + 2] - dilations[axis] * (kernel - 1) - 1) / strides[axis] + 1;
  }
};

void check_conv(Tally& tally, nv::IPluginCreatorV3One& creator, const ConvCase& c) {
  std::mt19937 random(7);
  const auto x = random_numbers<Float32>(random, c.images * c.channels * c.height * c.width);
  const auto w = random_numbers<Float32>(random, c.filters * c.channels * c.kernel_height * c.kernel_width);
  const auto b = random_numbers<Float32>(random, c.filters);
  const int64_t window = c.channels * c.kernel_height * c.kernel_width;
  std::vector<float> expected;
  for (int64_t n = 0; n < c.images; ++n)
    for (int64_t o = 0; o < c.filters; ++o)
      for (int64_t p = 0; p < c.places(0); ++p)
        for (int64_t q = 0; q < c.places(1); ++q) {
          const auto pixel = [&](int64_t k) -> double {
            const int64_t channel = k / (c.kernel_height * c.kernel_width),
                          in = k % (c.kernel_height * c.kernel_width);
            const int64_t row = p * c.strides[0] - c.pads[0] + in / c.kernel_width * c.dilations[0];
            const int64_t column = q * c.strides[1] - c.pads[1] + in % c.kernel_width * c.dilations[1];
            if (row < 0 || row >= c.height || column < 0 || column >= c.width) return 0;
            return x[static_cast<size_t>(((n * c.channels + channel) * c.height + row) * c.width + column)];
          };
          expected.push_back(distance<Float32>(
              window, pixel, [&](int64_t k) { return w[static_cast<size_t>(o * window + k)]; },
              b[static_cast<size_t>(o)]));
        }
  const PluginPtr plugin = created(creator, {integers("strides", c.strides), integers("pads", c.pads),
                                             integers("dilations", c.dilations)});
  const auto of = [](std::initializer_list<int64_t> sizes) { return tensor(nv::DataType::kFLOAT, sizes); };
  tally.expect(run<float>(*plugin,
                          {of({c.images, c.channels, c.height, c.width}),
                           of({c.filters, c.channels, c.kernel_height, c.kernel_width}), of({c.filters}),
                           of({c.images, c.filters, c.places(0), c.places(1)})},
                          {&x, &w, &b}, expected.size()) == expected,
               "LinfDistConv: results over " + std::to_string(c.height) + " x " + std::to_string(c.width));
}

}  // namespace

void check_results(Tally& tally, const Library& library) {
  std::printf("results on %s\n", kWhere);
  check_all_dense<Float32>(tally, *library.linf_dist, "LinfDist float32");
  check_all_dense<Float16>(tally, *library.linf_dist, "LinfDist float16");
  const ConvCase cases[] = {{1, 1, 1, 3, 3, 1, 1, {1, 1}, {0, 0, 0, 0}, {1, 1}},
                            {2, 3, 5, 9, 7, 3, 2, {1, 1}, {1, 0, 1, 1}, {1, 1}},
                            {3, 2, 70, 11, 13, 3, 3, {2, 3}, {2, 1, 0, 2}, {2, 1}}};
  for (const ConvCase& each : cases) check_conv(tally, *library.linf_dist_conv, each);
}

}  // namespace conformance
