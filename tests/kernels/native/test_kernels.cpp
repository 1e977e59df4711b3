// SPDX-License-Identifier: Apache-2.0
//
// Runs every kernel of every variant this machine has, at odd sizes, against scalar loops in double
// precision. Built with sanitizers by test_native.py: arrays lie in heap blocks of exactly their size, so one
// float too far is an error. The last case is large enough for several threads. Exits with 0 when all agree.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "kernels.h"
#include "linf_dist_conv.h"

namespace {

int failures = 0;

// A heap block of exactly `size` floats; null when empty, as an empty tensor may be.
struct Floats {
  explicit Floats(int64_t size) : size(size), data(size ? new float[size] : nullptr) {}
  float* get() const { return data.get(); }
  float& operator[](int64_t i) const { return data[i]; }
  int64_t size;
  std::unique_ptr<float[]> data;
};

Floats random_floats(std::mt19937& random, int64_t size) {
  std::normal_distribution<float> normal;
  Floats values(size);
  for (int64_t i = 0; i < size; ++i) values[i] = random() % 8 ? normal(random) : 0.0f;
  return values;
}

void expect(bool holds, const char* isa, const char* what, linf::Sizes n) {
  if (holds) return;
  ++failures;
  std::printf("%s %s at batch %lld, inputs %lld, outputs %lld, threads %d\n", isa, what,
              static_cast<long long>(n.batch), static_cast<long long>(n.inputs),
              static_cast<long long>(n.outputs), n.pool.threads);
}

bool near(double found, double expected, double scale) {
  return std::abs(found - expected) <= 1e-4 * scale + 1e-12;
}

// One case: the operands, and what plain loops say.
struct Case {
  linf::Sizes n;
  Floats x, w, grad_y;

  Case(linf::Sizes n, std::mt19937& random)
      : n(n),
        x(random_floats(random, n.batch * n.inputs)),
        w(random_floats(random, n.outputs * n.inputs)),
        grad_y(random_floats(random, n.batch * n.outputs)) {}

  double difference(int64_t b, int64_t o, int64_t i) const {
    // Rounded to float, as the kernels round it.
    return x[b * n.inputs + i] - w[o * n.inputs + i];
  }
  int64_t farthest(int64_t b, int64_t o) const {
    int64_t best = 0;
    for (int64_t i = 1; i < n.inputs; ++i)
      if (std::abs(difference(b, o, i)) > std::abs(difference(b, o, best))) best = i;
    return best;
  }
  double lp(int64_t b, int64_t o, double p) const {
    double sum = 0;
    for (int64_t i = 0; i < n.inputs; ++i) sum += std::pow(std::abs(difference(b, o, i)), p);
    return std::pow(sum, 1 / p);
  }
  template <typename Visit>
  void each_output(Visit visit) const {
    for (int64_t b = 0; b < n.batch; ++b)
      for (int64_t o = 0; o < n.outputs; ++o) visit(b, o, b * n.outputs + o);
  }
};

void expect_gradient(const Floats& found, const std::vector<double>& expected, const char* isa,
                     const char* what, linf::Sizes n) {
  double scale = 1;
  for (double value : expected) scale = std::max(scale, std::abs(value));
  bool same = true;
  for (int64_t i = 0; i < found.size; ++i) same = same && near(found[i], expected[i], scale);
  expect(same, isa, what, n);
}

// Gradient of sum(grad_y * y) when dy/dx_i is slope(b, o)(i).
template <typename Slope>
void expect_gradients(const Case& c, const Floats& grad_x, const Floats& grad_w, const char* isa,
                      const char* what, Slope slope) {
  std::vector<double> x(grad_x.size), w(grad_w.size);
  c.each_output([&](int64_t b, int64_t o, int64_t at) {
    const auto slope_at = slope(b, o);
    for (int64_t i = 0; i < c.n.inputs; ++i) {
      const double term = c.grad_y[at] * slope_at(i);
      x[b * c.n.inputs + i] += term;
      w[o * c.n.inputs + i] -= term;
    }
  });
  expect_gradient(grad_x, x, isa, what, c.n);
  expect_gradient(grad_w, w, isa, what, c.n);
}

void check_linf(const linf::Kernels& k, const Case& c) {
  const int64_t size = c.n.batch * c.n.outputs;
  Floats y(size), same_y(size), bias(c.n.outputs), grad_x(c.x.size), grad_w(c.w.size);
  std::unique_ptr<int64_t[]> index(size ? new int64_t[size] : nullptr);
  for (int64_t o = 0; o < bias.size; ++o) bias[o] = static_cast<float>(o);
  k.linf_dist(c.n, c.x.get(), c.w.get(), bias.get(), y.get());
  k.linf_dist_argmax(c.n, c.x.get(), c.w.get(), same_y.get(), index.get());
  k.linf_dist_backward(c.n, c.x.get(), c.w.get(), index.get(), c.grad_y.get(), grad_x.get(), grad_w.get());
  c.each_output([&](int64_t b, int64_t o, int64_t at) {
    const int64_t i = c.farthest(b, o);
    const float distance = static_cast<float>(std::abs(c.difference(b, o, i)));
    expect(same_y[at] == distance && y[at] == distance + bias[o], k.isa, "linf_dist", c.n);
    expect(index[at] == i, k.isa, "linf_dist_argmax", c.n);
  });
  expect_gradients(c, grad_x, grad_w, k.isa, "linf_dist_backward", [&](int64_t b, int64_t o) {
    const int64_t farthest = c.farthest(b, o);
    const double sign = c.difference(b, o, farthest) < 0 ? -1.0 : 1.0;
    return [=](int64_t i) { return i == farthest ? sign : 0.0; };
  });
}

// Plain loops over the integers of type T, against a kernel that gives U.
template <typename T, typename U>
void check_integers(const char* isa, const char* what, const Case& c,
                    void (*kernel)(linf::Sizes, const T*, const T*, U*), int range, std::mt19937& random) {
  std::vector<T> x(c.x.size), w(c.w.size);
  std::vector<U> y(c.n.batch * c.n.outputs);
  for (T& value : x) value = static_cast<T>(random() % range);
  for (T& value : w) value = static_cast<T>(random() % range);
  kernel(c.n, x.data(), w.data(), y.data());
  c.each_output([&](int64_t b, int64_t o, int64_t at) {
    int most = 0;
    for (int64_t i = 0; i < c.n.inputs; ++i)
      most = std::max(most, std::abs(int{x[b * c.n.inputs + i]} - int{w[o * c.n.inputs + i]}));
    expect(y[at] == most, isa, what, c.n);
  });
}

void check_low_precision(const linf::Kernels& k, const Case& c) {
  std::mt19937 random(2);
  for (int range : {1 << 6, 1 << 8}) {
    check_integers(k.isa, "linf_dist_uint8", c, k.linf_dist_uint8, range, random);
    check_integers(k.isa, "linf_dist_int8", c, k.linf_dist_int8, range, random);
    check_integers(k.isa, "linf_dist_int16", c, k.linf_dist_int16, range * 256, random);
  }
  // Small integers are float16 of which every difference is one too; 0x6400 + n is 1024 + n.
  Floats scratch((linf::kHalfRows + c.n.batch) * c.n.inputs);
  std::vector<uint16_t> x(c.x.size), w(c.w.size), bias(c.n.outputs, 0x3c00), y(c.n.batch * c.n.outputs);
  for (uint16_t& value : x) value = static_cast<uint16_t>(0x6400 + random() % 1024);
  for (uint16_t& value : w) value = static_cast<uint16_t>(0x6400 + random() % 1024);
  k.linf_dist_fp16(c.n, x.data(), w.data(), bias.data(), y.data(), scratch.get());
  c.each_output([&](int64_t b, int64_t o, int64_t at) {
    int most = 0;
    for (int64_t i = 0; i < c.n.inputs; ++i)
      most = std::max(most, std::abs(x[b * c.n.inputs + i] - w[o * c.n.inputs + i]));
    expect(std::ldexp(1024 + (y[at] & 1023), (y[at] >> 10) - 25) == most + 1, k.isa, "linf_dist_fp16", c.n);
  });
}

void check_bounds(const linf::Kernels& k, const Case& c) {
  Floats upper(c.x.size), y_lower(c.n.batch * c.n.outputs), y_upper(c.n.batch * c.n.outputs);
  for (int64_t i = 0; i < upper.size; ++i) upper[i] = c.x[i] + 0.25f * static_cast<float>(i % 3);
  k.linf_dist_bounds(c.n, c.x.get(), upper.get(), c.w.get(), y_lower.get(), y_upper.get());
  c.each_output([&](int64_t b, int64_t o, int64_t at) {
    double least = 0, most = 0;
    for (int64_t i = 0; i < c.n.inputs; ++i) {
      const double from_lower = c.difference(b, o, i);
      const float from_upper = upper[b * c.n.inputs + i] - c.w[o * c.n.inputs + i];
      least = std::max({least, from_lower, -static_cast<double>(from_upper)});
      most = std::max({most, std::abs(from_lower), std::abs(static_cast<double>(from_upper))});
    }
    expect(y_lower[at] == least && y_upper[at] == most, k.isa, "linf_dist_bounds", c.n);
  });
}

void check_lp(const linf::Kernels& k, const Case& c, float p, float kept_bits) {
  const int64_t size = c.n.batch * c.n.outputs;
  Floats y(size), largest(size), sum(size), grad_x(c.x.size), grad_w(c.w.size), same_x(c.x.size);
  Floats scratch(linf::lp_dist_backward_scratch(c.n)), same_w(c.w.size);
  k.lp_dist(c.n, c.x.get(), c.w.get(), p, kept_bits, y.get(), largest.get(), sum.get());
  const auto backward = [&](const Floats* x, const Floats* w) {
    k.lp_dist_backward(c.n, c.x.get(), c.w.get(), p, kept_bits, largest.get(), sum.get(), c.grad_y.get(),
                       x ? x->get() : nullptr, w ? w->get() : nullptr, scratch.get());
  };
  backward(&grad_x, &grad_w);
  backward(&same_x, nullptr);
  backward(nullptr, &same_w);
  backward(nullptr, nullptr);
  for (int64_t i = 0; i < grad_x.size; ++i)
    expect(grad_x[i] == same_x[i], k.isa, "lp_dist grad_x alone", c.n);
  for (int64_t i = 0; i < grad_w.size; ++i)
    expect(grad_w[i] == same_w[i], k.isa, "lp_dist grad_w alone", c.n);
  c.each_output([&](int64_t b, int64_t o, int64_t at) {
    const double expected = c.lp(b, o, p);
    expect(near(y[at], expected, expected), k.isa, "lp_dist", c.n);
  });
  expect_gradients(c, grad_x, grad_w, k.isa, "lp_dist_backward", [&](int64_t b, int64_t o) {
    const double distance = c.lp(b, o, p);
    return [&c, b, o, p, distance](int64_t i) {
      const double d = c.difference(b, o, i);
      return d == 0 ? 0.0 : std::copysign(std::pow(std::abs(d) / distance, p - 1.0), d);
    };
  });
}

// All weights are multiples of 1/256 and sum to 1, as in nets that are deployed.
Floats sort_weights(int64_t terms) {
  Floats c(terms);
  for (int64_t k = 0; k < terms; ++k) c[k] = static_cast<float>(1.0 / 256);
  c[0] += static_cast<float>((256.0 - static_cast<double>(terms)) / 256);
  return c;
}

// The inputs of the `terms` largest differences, falling; of equal ones, the lowest input first.
std::vector<int64_t> farthest_first(const Case& c, int64_t b, int64_t o, int64_t terms) {
  std::vector<int64_t> order(c.n.inputs);
  std::iota(order.begin(), order.end(), int64_t{0});
  std::partial_sort(order.begin(), order.begin() + terms, order.end(), [&](int64_t i, int64_t j) {
    const double first = std::abs(c.difference(b, o, i)), second = std::abs(c.difference(b, o, j));
    return first > second || (first == second && i < j);
  });
  order.resize(terms);
  return order;
}

void check_sort(const linf::Kernels& k, const Case& c, int64_t terms) {
  const int64_t size = c.n.batch * c.n.outputs;
  const Floats weights = sort_weights(terms), bias(c.n.outputs), y(size), plain(size), rounded(size);
  const Floats lower(size), upper(size), grad_x(c.x.size), grad_w(c.w.size);
  std::unique_ptr<int64_t[]> top(size ? new int64_t[size * terms] : nullptr);
  const linf::SortWeights exact{weights.get(), terms, 0}, grid{weights.get(), terms, 8};
  for (int64_t o = 0; o < bias.size; ++o) bias[o] = static_cast<float>(o);
  k.sort_dist(c.n, c.x.get(), c.w.get(), exact, bias.get(), y.get());
  k.sort_dist(c.n, c.x.get(), c.w.get(), exact, nullptr, plain.get());
  k.sort_dist(c.n, c.x.get(), c.w.get(), grid, nullptr, rounded.get());
  k.sort_dist_argtop(c.n, c.x.get(), c.w.get(), terms, top.get());
  // Of points, the bounds are the distances.
  k.sort_dist_bounds(c.n, c.x.get(), c.x.get(), c.w.get(), exact, lower.get(), upper.get());
  k.sort_dist_backward(c.n, c.x.get(), c.w.get(), top.get(), exact, c.grad_y.get(), grad_x.get(),
                       grad_w.get());
  c.each_output([&](int64_t b, int64_t o, int64_t at) {
    const std::vector<int64_t> order = farthest_first(c, b, o, terms);
    double sum = 0;
    for (int64_t t = 0; t < terms; ++t) sum += weights[t] * std::abs(c.difference(b, o, order[t]));
    expect(near(plain[at], sum, sum), k.isa, "sort_dist", c.n);
    expect(y[at] == plain[at] + bias[o], k.isa, "sort_dist with bias", c.n);
    expect(rounded[at] == std::floor(plain[at] * 8 + 0.5f) / 8, k.isa, "sort_dist on a grid", c.n);
    expect(lower[at] == plain[at] && upper[at] == plain[at], k.isa, "sort_dist_bounds", c.n);
    expect(std::equal(order.begin(), order.end(), top.get() + at * terms), k.isa, "sort_dist_argtop", c.n);
  });
  expect_gradients(c, grad_x, grad_w, k.isa, "sort_dist_backward", [&](int64_t b, int64_t o) {
    const std::vector<int64_t> order = farthest_first(c, b, o, terms);
    std::vector<double> slope(c.n.inputs);
    for (int64_t t = 0; t < terms; ++t)
      slope[order[t]] = std::copysign(weights[t], c.difference(b, o, order[t]) < 0 ? -1.0 : 1.0);
    return [slope](int64_t i) { return slope[i]; };
  });
}

// Convolution by its definition, window by window; zeros around the image.
void check_conv(const linf::Kernels& k, const linf::Convolution& c, std::mt19937& random) {
  const int64_t high = linf::places(c, 0), wide = linf::places(c, 1);
  const Floats x = random_floats(random, c.batch * c.channels * c.size[0] * c.size[1]);
  const Floats w = random_floats(random, c.outputs * c.channels * c.kernel[0] * c.kernel[1]);
  const Floats bias = random_floats(random, c.outputs), y(c.batch * c.outputs * high * wide);
  linf::linf_dist_conv(k, c, x.get(), w.get(), bias.get(), y.get());
  for (int64_t i = 0; i < y.size; ++i) {
    const int64_t column = i % wide, row = i / wide % high, o = i / wide / high % c.outputs;
    const int64_t n = i / wide / high / c.outputs;
    float best = 0;
    for (int64_t j = 0; j < c.channels * c.kernel[0] * c.kernel[1]; ++j) {
      const int64_t channel = j / c.kernel[1] / c.kernel[0];
      const int64_t v = row * c.stride[0] - c.pads[0] + j / c.kernel[1] % c.kernel[0] * c.dilation[0];
      const int64_t h = column * c.stride[1] - c.pads[1] + j % c.kernel[1] * c.dilation[1];
      const bool inside = v >= 0 && v < c.size[0] && h >= 0 && h < c.size[1];
      const float pixel = inside ? x[((n * c.channels + channel) * c.size[0] + v) * c.size[1] + h] : 0.0f;
      best = std::max(best, std::abs(pixel - w[o * c.channels * c.kernel[0] * c.kernel[1] + j]));
    }
    expect(y[i] == best + bias[o], k.isa, "linf_dist_conv", {n, row, column, c.pool});
  }
}

void check_convs(const linf::Kernels& k) {
  std::mt19937 random(2);
  const linf::Convolution all[] = {
      {1, 1, 1, {1, 1}, {1, 1}, {1, 1}, {1, 1}, {0, 0, 0, 0}, linf::fork_join(1)},
      {3, 2, 5, {7, 6}, {3, 2}, {2, 1}, {1, 3}, {0, 3, 2, 1}, linf::fork_join(2)},
      {2, 1, 2, {2, 3}, {1, 2}, {1, 1}, {1, 4}, {5, 6, 0, 6}, linf::fork_join(1)},
      {0, 2, 3, {4, 4}, {2, 2}, {1, 1}, {1, 1}, {1, 1, 1, 1}, linf::fork_join(2)},
      {5, 3, 17, {19, 15}, {3, 3}, {1, 1}, {1, 1}, {1, 1, 1, 1}, linf::fork_join(4)},
  };
  for (const linf::Convolution& c : all) check_conv(k, c, random);
}

void check(const linf::Kernels& k) {
  std::mt19937 random(1);
  const int64_t all_sizes[][4] = {{1, 1, 1, 1},   {2, 15, 3, 2},  {3, 16, 4, 1},     {2, 17, 5, 3},
                                  {5, 31, 9, 2},  {1, 33, 1, 2},  {7, 2, 19, 4},     {4, 47, 7, 2},
                                  {3, 64, 13, 1}, {2, 65, 33, 2}, {0, 17, 5, 2},     {3, 17, 0, 2},
                                  {0, 1, 0, 1},   {33, 3, 2, 16}, {19, 257, 131, 4}, {67, 1027, 37, 2}};
  for (const auto& [batch, inputs, outputs, threads] : all_sizes) {
    const Case c({batch, inputs, outputs, linf::fork_join(static_cast<int>(threads))}, random);
    check_linf(k, c);
    check_low_precision(k, c);
    check_bounds(k, c);
    check_sort(k, c, std::min<int64_t>(inputs, inputs % 2 ? 10 : linf::kMostTerms));
    if (inputs > 1000) continue;  // plain loops over pow are slow
    for (float p : {1.0f, 2.0f, 3.0f, 7.3f, 8.0f, 13.0f, 30.5f}) check_lp(k, c, p, 37);
    for (float kept_bits : {0.0f, 37.0f}) check_lp(k, c, 100.3f, kept_bits);
  }
}

}  // namespace

int main() {
  int variants = 0;
  for (const char* isa : {"avx512", "avx2", "baseline"}) {
    const linf::Kernels* kernels = linf::kernels_for(isa);
    if (!kernels) continue;
    ++variants;
    check(*kernels);
    check_convs(*kernels);
    std::printf("%s: done\n", kernels->isa);
  }
  expect(linf::kernels_for("none") == nullptr, "none", "kernels_for", {0, 0, 0, linf::fork_join(0)});
  return failures || !variants ? 1 : 0;
}
