// SPDX-License-Identifier: Apache-2.0
//
// The kernels of the l_inf distance against those of the CPU: the same bits.
#include <cmath>
#include <vector>

#include "convolutions.h"
#include "launch.h"
#include "shapes.h"

using linf::machine::kernels;

void check_linf_dist_float32(Shape& s) {
  const auto x = floats(s, int64_t{s.n.batch} * s.n.inputs), w = floats(s, int64_t{s.n.outputs} * s.n.inputs);
  const auto bias = floats(s, s.number % 2 ? s.n.outputs : 0);
  const auto expected = results<float>(s, int64_t{s.n.batch} * s.n.outputs),
             y = results<float>(s, expected.size());
  kernels.linf_dist(s.cpu(), x.get(), w.get(), bias.get(), expected.get());
  const int code = linf_dist_cuda(s.launcher, LINF_FLOAT32, s.n, x.get(), w.get(), bias.get(), y.get());
  expect(!code && y == expected, "linf_dist float32", s);
}

void check_linf_dist_float16(Shape& s) {
  const auto x = halves(s, int64_t{s.n.batch} * s.n.inputs), w = halves(s, int64_t{s.n.outputs} * s.n.inputs);
  const auto bias = halves(s, s.number % 2 ? s.n.outputs : 0);
  const auto expected = results<uint16_t>(s, int64_t{s.n.batch} * s.n.outputs);
  const auto y = results<uint16_t>(s, expected.size());
  std::vector<float> scratch((s.n.batch + linf::kHalfRows) * s.n.inputs);
  kernels.linf_dist_fp16(s.cpu(), x.get(), w.get(), bias.get(), expected.get(), scratch.data());
  const int code = linf_dist_cuda(s.launcher, LINF_FLOAT16, s.n, x.get(), w.get(), bias.get(), y.get());
  expect(!code && y == expected, "linf_dist float16", s);
}

namespace {

template <typename T, typename U>
void check_integers(Shape& s, LinfDtype dtype, void (*cpu)(linf::Sizes, const T*, const T*, U*),
                    const char* what) {
  const auto x = integers<T>(s, int64_t{s.n.batch} * s.n.inputs);
  const auto w = integers<T>(s, int64_t{s.n.outputs} * s.n.inputs);
  const auto expected = results<U>(s, int64_t{s.n.batch} * s.n.outputs), y = results<U>(s, expected.size());
  cpu(s.cpu(), x.get(), w.get(), expected.get());
  const int code = linf_dist_cuda(s.launcher, dtype, s.n, x.get(), w.get(), nullptr, y.get());
  expect(!code && y == expected, what, s);
}

// The gradient's sums in double, and the sums of magnitudes that an error is relative to.
struct Scatter {
  explicit Scatter(int64_t size) : sums(size), magnitudes(size) {}
  void add(int64_t at, double value) {
    sums[at] += value;
    magnitudes[at] += std::fabs(value);
  }
  bool near(const Operand<float>& found) const {
    for (int64_t i = 0; i < found.size(); ++i)
      if (!(std::fabs(found[i] - sums[i]) <= 1e-5 * magnitudes[i])) return false;
    return true;
  }
  std::vector<double> sums, magnitudes;
};

// What the launcher makes, each gradient by itself and both at once, in two orders of threads.
void check_scatter(Shape& s, const Operand<float>& x, const Operand<float>& w, const Operand<int64_t>& index,
                   const Operand<float>& grad_y, const Scatter& of_x, const Scatter& of_w) {
  const auto grad_x = results<float>(s, x.size()), grad_w = results<float>(s, w.size());
  const auto same_x = results<float>(s, x.size()), same_w = results<float>(s, w.size());
  const auto run = [&](float* to_x, float* to_w) {
    return linf_dist_backward_cuda(s.launcher, s.n, x.get(), w.get(), index.get(), grad_y.get(), to_x, to_w);
  };
  int code = run(grad_x.get(), grad_w.get());
  emulated_schedule(2, s.number + 1, 1);
  code += run(same_x.get(), nullptr) + run(nullptr, same_w.get());
  expect(!code && of_x.near(grad_x) && of_w.near(grad_w), "linf_dist_backward", s);
  expect(same_x == grad_x && same_w == grad_w, "linf_dist_backward", s, " in another order");
}

}  // namespace

void check_linf_dist_integers(Shape& s) {
  s.n.batch = 1 + s.n.batch / 2;  // three kernels a shape
  check_integers(s, LINF_INT16, kernels.linf_dist_int16, "linf_dist int16");
  check_integers(s, LINF_INT8, kernels.linf_dist_int8, "linf_dist int8");
  check_integers(s, LINF_UINT8, kernels.linf_dist_uint8, "linf_dist uint8");
}

void check_argmax(Shape& s) {
  const auto x = floats(s, int64_t{s.n.batch} * s.n.inputs), w = floats(s, int64_t{s.n.outputs} * s.n.inputs);
  const auto expected = results<float>(s, int64_t{s.n.batch} * s.n.outputs),
             y = results<float>(s, expected.size());
  const auto expected_index = results<int64_t>(s, y.size()), index = results<int64_t>(s, y.size());
  kernels.linf_dist_argmax(s.cpu(), x.get(), w.get(), expected.get(), expected_index.get());
  const int code = linf_dist_argmax_cuda(s.launcher, s.n, x.get(), w.get(), y.get(), index.get());
  expect(!code && y == expected, "linf_dist_argmax", s, " value");
  expect(index == expected_index, "linf_dist_argmax", s, " index");
}

void check_bounds(Shape& s) {
  const auto lower = floats(s, int64_t{s.n.batch} * s.n.inputs), upper = floats(s, lower.size());
  const auto w = floats(s, int64_t{s.n.outputs} * s.n.inputs);
  for (int64_t i = 0; i < lower.size(); ++i)
    if (lower[i] > upper[i]) std::swap(lower[i], upper[i]);
  const auto least = results<float>(s, int64_t{s.n.batch} * s.n.outputs),
             most = results<float>(s, least.size());
  const auto y_lower = results<float>(s, least.size()), y_upper = results<float>(s, least.size());
  kernels.linf_dist_bounds(s.cpu(), lower.get(), upper.get(), w.get(), least.get(), most.get());
  const int code =
      linf_dist_bounds_cuda(s.launcher, s.n, lower.get(), upper.get(), w.get(), y_lower.get(), y_upper.get());
  expect(!code && y_lower == least, "linf_dist_bounds", s, " lower");
  expect(y_upper == most, "linf_dist_bounds", s, " upper");
}

void check_backward(Shape& s) {
  // Lanes wait for each other at every entry, which is slow here: most shapes are cut.
  if (s.number % 16) s.n.batch = 1 + s.n.batch / 3, s.n.outputs = 1 + s.n.outputs / 3;
  const auto x = floats(s, int64_t{s.n.batch} * s.n.inputs), w = floats(s, int64_t{s.n.outputs} * s.n.inputs);
  const auto grad_y = floats(s, int64_t{s.n.batch} * s.n.outputs), y = results<float>(s, grad_y.size());
  const auto index = results<int64_t>(s, y.size());
  kernels.linf_dist_argmax(s.cpu(), x.get(), w.get(), y.get(), index.get());
  Scatter of_x(x.size()), of_w(w.size());
  for (int64_t at = 0; at < y.size(); ++at) {
    const int64_t in_x = at / s.n.outputs * s.n.inputs + index[at];
    const int64_t in_w = at % s.n.outputs * s.n.inputs + index[at];
    const double g = x[in_x] < w[in_w] ? -grad_y[at] : grad_y[at];
    of_x.add(in_x, g);
    of_w.add(in_w, -g);
  }
  check_scatter(s, x, w, index, grad_y, of_x, of_w);
}

void check_conv(Shape& s) {
  const linf::Convolution c = fitting_convolution(s);
  const LinfWindow window = window_of(c);
  const int64_t size = c.batch * c.outputs * window.places[0] * window.places[1];
  const auto x = floats(s, c.batch * c.channels * c.size[0] * c.size[1]);
  const auto w = floats(s, c.outputs * c.channels * c.kernel[0] * c.kernel[1]);
  const auto bias = floats(s, s.number % 2 ? c.outputs : 0);
  const auto expected = results<float>(s, size), y = results<float>(s, size);
  linf::linf_dist_conv(kernels, c, x.get(), w.get(), bias.get(), expected.get());
  const int code = linf_dist_conv_cuda(s.launcher, window, x.get(), w.get(), bias.get(), y.get());
  expect(!code && y == expected, "linf_dist_conv", s);
}
