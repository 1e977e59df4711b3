// SPDX-License-Identifier: Apache-2.0
//
// The kernels of the l_p distance against its definition in double precision. Of large shapes a few rows are
// looked at: powers in double cost more than the kernels.
#include <algorithm>
#include <cmath>
#include <vector>

#include "launch.h"
#include "shapes.h"

namespace {

constexpr float kPowers[] = {1, 1.5f, 2, 3, 7.3f, 8, 20, 39.5f, 40, 100, 1000};
constexpr int kCount = sizeof kPowers / sizeof *kPowers;

// Of a distance, relative; of a gradient, relative to the largest sum of magnitudes.
constexpr double kDistanceError = 2e-6, kGradientError = 2e-5;

class Lp {
 public:
  Lp(Shape& s, float p)
      : s(s),
        p(p),
        x(scaled(s, p, int64_t{s.n.batch} * s.n.inputs)),
        w(scaled(s, p, int64_t{s.n.outputs} * s.n.inputs)),
        grad_y(floats(s, int64_t{s.n.batch} * s.n.outputs)) {}

  double difference(int64_t b, int64_t o, int64_t i) const {
    // Rounded to float, as the kernels round it.
    return x[b * s.n.inputs + i] - w[o * s.n.inputs + i];
  }
  double distance(int64_t b, int64_t o) const {
    double largest = 0, sum = 0;
    for (int64_t i = 0; i < s.n.inputs; ++i) largest = std::max(largest, std::fabs(difference(b, o, i)));
    if (largest == 0) return 0;
    for (int64_t i = 0; i < s.n.inputs; ++i)
      sum += std::pow(std::fabs(difference(b, o, i)) / largest, double{p});
    return largest * std::pow(sum, 1.0 / p);
  }
  // The derivative of a distance by x_i.
  double slope(int64_t b, int64_t o, int64_t i, double distance) const {
    const double d = difference(b, o, i);
    return d == 0 ? 0 : std::copysign(std::pow(std::fabs(d) / distance, p - 1.0), d);
  }
  // Up to `most` of the numbers below `size`, or all when the shape is small.
  std::vector<int64_t> sample(int64_t size, int most) const {
    const bool all = int64_t{s.n.batch} * s.n.outputs * s.n.inputs <= 4096;
    std::vector<int64_t> chosen;
    for (int64_t i = 0; i < (all ? size : most); ++i)
      chosen.push_back(all ? i : static_cast<int64_t>(s.random() % static_cast<uint64_t>(size)));
    return chosen;
  }

  Shape& s;
  const float p;
  const Operand<float> x, w, grad_y;

 private:
  // Powers are taken of ratios, so that no unit of x may matter. A few values are denormal, of many: a
  // distance of denormals alone counts as its largest term and has no gradient. None for p = 1, where a ratio
  // below 2^-120 would have the slope of any other, but not here.
  static Operand<float> scaled(Shape& s, float p, int64_t size) {
    Operand<float> values = floats(s, size);
    const float units[] = {1, 1, 0x1p-20f, 0x1p20f};
    for (int64_t i = 0; i < size; ++i)
      values[i] *= p == 1 || s.n.inputs < 16 || s.below(64) ? units[s.number % 4] : 0x1p-130f;
    return values;
  }
};

// What the forward pass leaves.
struct Forward {
  explicit Forward(const Lp& lp)
      : y(results<float>(lp.s, lp.grad_y.size())),
        scale(results<float>(lp.s, y.size())),
        sum(results<float>(lp.s, y.size())) {}
  Operand<float> y, scale, sum;
};

// p for the launcher, which may only choose kernels by it, and where the kernels find it.
struct Given {
  explicit Given(const Lp& lp) : now(lp.p), p(lp.p) {
    if (lp.s.number % 2 == 0) return;
    address = &now;
    for (float other : kPowers)
      if (lp_dist_kind(other) == lp_dist_kind(lp.p)) p = other;
  }
  float now, p;
  const float* address = nullptr;
};

void check_distances(const Lp& lp, const Forward& f) {
  for (int64_t at : lp.sample(f.y.size(), 100)) {
    const double expected = lp.distance(at / lp.s.n.outputs, at % lp.s.n.outputs);
    const double kept = f.scale[at] * std::pow(double{f.sum[at]}, 1.0 / lp.p);
    if (!expect(std::fabs(f.y[at] - expected) <= kDistanceError * expected, "lp_dist", lp.s)) {
      std::printf("  p %g, output %lld: %.9g, not %.9g, scale %.9g, sum %.9g\n", lp.p,
                  static_cast<long long>(at), f.y[at], expected, f.scale[at], f.sum[at]);
      return;
    }
    if (!expect(std::fabs(kept - expected) <= kDistanceError * expected, "lp_dist", lp.s, " scale and sum"))
      return;
  }
}

// A row of a gradient in double: of x for given b, of w for given o.
struct Row {
  std::vector<double> sums, magnitudes;
};
Row row_of(const Lp& lp, bool of_weights, int64_t row) {
  const LinfSizes& n = lp.s.n;
  Row result{std::vector<double>(n.inputs), std::vector<double>(n.inputs)};
  for (int64_t other = 0; other < (of_weights ? n.batch : n.outputs); ++other) {
    const int64_t b = of_weights ? other : row, o = of_weights ? row : other;
    const double distance = lp.distance(b, o), g = lp.grad_y[b * n.outputs + o] * (of_weights ? -1.0 : 1.0);
    for (int64_t i = 0; i < n.inputs && distance > 0; ++i) {
      const double term = g * lp.slope(b, o, i, distance);
      result.sums[i] += term;
      result.magnitudes[i] += std::fabs(term);
    }
  }
  return result;
}

void check_gradient(const Lp& lp, bool of_weights, const Operand<float>& found) {
  const int64_t inputs = lp.s.n.inputs;
  const char* const what = of_weights ? " grad_w" : " grad_x";
  for (int64_t row : lp.sample(of_weights ? lp.s.n.outputs : lp.s.n.batch, 1)) {
    const Row expected = row_of(lp, of_weights, row);
    const double scale = *std::max_element(expected.magnitudes.begin(), expected.magnitudes.end());
    for (int64_t i = 0; i < inputs; ++i) {
      const double error = std::fabs(found[row * inputs + i] - expected.sums[i]);
      if (expect(error <= kGradientError * scale, "lp_dist_backward", lp.s, what)) continue;
      std::printf("  p %g, row %lld, input %lld: %.9g, not %.9g of %.9g\n", lp.p, static_cast<long long>(row),
                  static_cast<long long>(i), found[row * inputs + i], expected.sums[i], scale);
      return;
    }
  }
}

// Launches the backward pass; a null gradient is not asked for.
struct Backward {
  const Lp& lp;
  const Given& given;
  const Forward& f;

  int operator()(float* grad_x, float* grad_w) const {
    const std::unique_ptr<char[]> scratch(new char[lp_dist_backward_scratch_cuda(lp.s.n)]);
    return lp_dist_backward_cuda(lp.s.launcher, lp.s.n, lp.x.get(), lp.w.get(), given.p, given.address,
                                 f.scale.get(), f.sum.get(), lp.grad_y.get(), grad_x, grad_w, scratch.get());
  }
};

// Other orders of threads, and each gradient alone: the same bits.
void check_order(Shape& s, const Backward& run, const Operand<float>& grad_x, const Operand<float>& grad_w) {
  const auto same_x = results<float>(s, grad_x.size()), same_w = results<float>(s, grad_w.size());
  emulated_schedule(2, s.number + 1, 1);
  const int code = s.number % 3 ? run(same_x.get(), same_w.get())
                                : run(same_x.get(), nullptr) + run(nullptr, same_w.get());
  expect(!code && same_x == grad_x && same_w == grad_w, "lp_dist_backward", s, " in another order");
}

void check_gradients(const Backward& run) {
  Shape& s = run.lp.s;
  const auto grad_x = results<float>(s, run.lp.x.size()), grad_w = results<float>(s, run.lp.w.size());
  expect(!run(grad_x.get(), grad_w.get()), "lp_dist_backward", s, " start");
  check_gradient(run.lp, false, grad_x);
  check_gradient(run.lp, true, grad_w);
  if (s.number % 4 != 1) check_order(s, run, grad_x, grad_w);
}

}  // namespace

void check_lp_dist(Shape& s) {
  if (s.style == Style::kDenormal) s.style = Style::kNormal;
  // Powers are slow: most shapes are cut.
  if (s.number % 4 == 1)
    s.n.batch = 1 + s.n.batch / 2;
  else
    s.n.batch = 1 + s.n.batch / 4;
  const Lp lp(s, kPowers[s.number % kCount]);
  const Given given(lp);
  const Forward f(lp);
  const int code = lp_dist_cuda(s.launcher, s.n, lp.x.get(), lp.w.get(), given.p, given.address, f.y.get(),
                                f.scale.get(), f.sum.get());
  expect(!code, "lp_dist", s, " start");
  check_distances(lp, f);
  check_gradients({lp, given, f});
}
