// SPDX-License-Identifier: Apache-2.0
//
// The kernels that TensorRT starts by itself against those of the CPU: the same bits, on the grid that
// aot_entries.h promises, for every batch and whatever the alignment.
#include <algorithm>
#include <vector>

#include "aot_entries.h"
#include "convolutions.h"
#include "launch.h"
#include "shapes.h"

using linf::machine::kernels;

namespace {

// One of the kernels whose name begins with this.
const linf::AotKernel& any_kernel(Shape& s, const char* prefix) {
  std::vector<const linf::AotKernel*> found;
  for (const linf::AotKernel& kernel : linf::kAotKernels)
    if (!std::strncmp(kernel.name, prefix, std::strlen(prefix))) found.push_back(&kernel);
  return *found[s.below(static_cast<int>(found.size()))];
}

template <typename... Arguments>
int start(const linf::AotKernel& kernel, int64_t rows, int64_t columns, Arguments... arguments) {
  void* addresses[] = {&arguments...};
  const int64_t down = (rows + kernel.rows - 1) / kernel.rows;
  const int64_t across = (columns + kernel.columns - 1) / kernel.columns;
  return emulated_cuLaunchKernel(emulated_function(kernel.name),
                                 static_cast<unsigned>(std::max<int64_t>(1, down * across)), 1, 1,
                                 kernel.threads, 1, 1, kernel.shared_bytes, nullptr, addresses, nullptr);
}

// Such a kernel, and sizes for it. Lanes that exchange numbers are slow here, so few rows get few; now and
// then there is nothing to do.
const linf::AotKernel& kernel_and_sizes(Shape& s, const char* prefix) {
  const linf::AotKernel& kernel = any_kernel(s, prefix);
  if (kernel.rows <= linf::kFewRows) s.n.batch = 1 + s.n.batch / 10, s.n.outputs = 1 + s.n.outputs / 10;
  if (s.below(16) == 0) s.n.batch = 0;
  if (s.below(16) == 0) s.n.outputs = 0;
  return kernel;
}

}  // namespace

void check_linf_dist_aot_float32(Shape& s) {
  const linf::AotKernel& kernel = kernel_and_sizes(s, "linf_dist_aot_f32");
  const auto x = floats(s, int64_t{s.n.batch} * s.n.inputs), w = floats(s, int64_t{s.n.outputs} * s.n.inputs);
  const auto bias = floats(s, s.n.outputs);
  const auto expected = results<float>(s, int64_t{s.n.batch} * s.n.outputs),
             y = results<float>(s, expected.size());
  kernels.linf_dist(s.cpu(), x.get(), w.get(), bias.get(), expected.get());
  const int code = start(kernel, s.n.batch, s.n.outputs, x.get(), w.get(), bias.get(), s.n.batch, s.n.inputs,
                         s.n.outputs, y.get());
  expect(!code && y == expected, kernel.name, s);
}

void check_linf_dist_aot_float16(Shape& s) {
  const linf::AotKernel& kernel = kernel_and_sizes(s, "linf_dist_aot_f16");
  const auto x = halves(s, int64_t{s.n.batch} * s.n.inputs), w = halves(s, int64_t{s.n.outputs} * s.n.inputs);
  const auto bias = halves(s, s.n.outputs);
  const auto expected = results<uint16_t>(s, int64_t{s.n.batch} * s.n.outputs);
  const auto y = results<uint16_t>(s, expected.size());
  std::vector<float> scratch((s.n.batch + linf::kHalfRows) * s.n.inputs);
  kernels.linf_dist_fp16(s.cpu(), x.get(), w.get(), bias.get(), expected.get(), scratch.data());
  const int code = start(kernel, s.n.batch, s.n.outputs, x.get(), w.get(), bias.get(), s.n.batch, s.n.inputs,
                         s.n.outputs, y.get());
  expect(!code && y == expected, kernel.name, s);
}

void check_conv_aot(Shape& s) {
  linf::Convolution c = fitting_convolution(s);
  if (s.below(16) == 0) c.batch = 0;
  const LinfWindow n = window_of(c);
  const int64_t rows = c.batch * n.places[0] * n.places[1], size = rows * c.outputs;
  const auto x = floats(s, c.batch * c.channels * c.size[0] * c.size[1]);
  const auto w = floats(s, c.outputs * c.channels * c.kernel[0] * c.kernel[1]), bias = floats(s, c.outputs);
  const auto expected = results<float>(s, size), y = results<float>(s, size);
  linf::linf_dist_conv(kernels, c, x.get(), w.get(), bias.get(), expected.get());
  const int code =
      start(any_kernel(s, "linf_dist_conv_aot"), rows, c.outputs, x.get(), w.get(), bias.get(), n.images,
            n.channels, n.image[0], n.image[1], n.filters, n.kernel[0], n.kernel[1], n.stride[0], n.stride[1],
            n.dilation[0], n.dilation[1], n.padding[0], n.padding[1], n.places[0], n.places[1], y.get());
  expect(!code && y == expected, "linf_dist_conv_aot", s);
}
