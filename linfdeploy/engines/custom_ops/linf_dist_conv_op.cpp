// SPDX-License-Identifier: Apache-2.0
#include "linf_dist_conv_op.h"

#include <algorithm>

namespace linf::ort {
namespace {

std::string listed(const std::vector<int64_t>& values) {
  std::string text;
  for (size_t i = 0; i < values.size() && i < 8; ++i) text += (i ? ", " : "") + std::to_string(values[i]);
  return "[" + text + (values.size() > 8 ? ", ..." : "") + "]";
}

// An attribute of `count` integers, or `count` times `otherwise` where it is absent.
template <typename Node>
void read(const OrtApi& api, const Node* node, const char* name, int64_t least, int64_t otherwise,
          size_t count, int64_t* out) {
  const std::vector<int64_t> values = integers(api, node, name);
  const auto fits = [least](int64_t value) { return value >= least && value <= kMaxWindow; };
  if (!values.empty() && (values.size() != count || !std::all_of(values.begin(), values.end(), fits)))
    throw std::invalid_argument(std::string("LinfDistConv: ") + name + " is " + listed(values) +
                                "; expected " + std::to_string(count) + " integers of " +
                                std::to_string(least) + " to " + std::to_string(kMaxWindow));
  for (size_t i = 0; i < count; ++i) out[i] = values.empty() ? otherwise : values[i];
}

// The attributes. A kernel_shape of 0 stands for an absent one: it is then the shape of W.
template <typename Node>
Convolution window_of(const OrtApi& api, const Node* node) {
  Convolution window{};
  read(api, node, "kernel_shape", 1, 0, 2, window.kernel);
  read(api, node, "strides", 1, 1, 2, window.stride);
  read(api, node, "dilations", 1, 1, 2, window.dilation);
  read(api, node, "pads", 0, 0, 4, window.pads);
  return window;
}

Convolution checked_window(const OrtApi& api, const OrtKernelInfo* info) {
  const int64_t group = integer(api, info, "group", 1);
  if (group != 1)
    throw std::invalid_argument("LinfDistConv: group is " + std::to_string(group) + "; expected 1");
  const std::string auto_pad = text(api, info, "auto_pad");
  if (!auto_pad.empty() && auto_pad != "NOTSET")
    throw std::invalid_argument("LinfDistConv: auto_pad is " + auto_pad.substr(0, 32) +
                                "; expected NOTSET: give pads");
  return window_of(api, info);
}

void set_kernel(Convolution& c, const int64_t (&kernel)[2], const std::string& w) {
  for (int axis = 0; axis < 2; ++axis) {
    if ((c.kernel[axis] != 0 && c.kernel[axis] != kernel[axis]) || kernel[axis] < 1 ||
        kernel[axis] > kMaxWindow)
      throw std::invalid_argument("LinfDistConv: W is " + w + " and kernel_shape is " +
                                  listed({c.kernel[0], c.kernel[1]}) + "; expected W (O, C, *kernel_shape)");
    c.kernel[axis] = kernel[axis];
  }
}

}  // namespace

LinfDistConv::LinfDistConv(const OrtApi& ort, const OrtKernelInfo* info, int threads)
    : api(ort), kernels_(*kernels_for(nullptr)), threads_(threads), window_(checked_window(ort, info)) {}

Convolution LinfDistConv::fitted(const OrtKernelContext* context, Threads* used) const {
  const Shape x = shape_of(api, input(api, context, 0)), w = shape_of(api, input(api, context, 1)),
              b = shape_of(api, input(api, context, 2));
  if (x.rank != 4 || w.rank != 4 || x[1] != w[1] || w[1] < 1 || w[0] < 1)
    throw std::invalid_argument("LinfDistConv: X is " + x.text() + " and W is " + w.text() +
                                "; expected X (N, C, H, W) and W (O, C, kH, kW) with the same C >= 1");
  if (b.rank != 1 || b[0] != w[0])
    throw std::invalid_argument("LinfDistConv: W is " + w.text() + " and B is " + b.text() +
                                "; expected B (O,) with W's O");
  Convolution c = window_;
  set_kernel(c, {w[2], w[3]}, w.text());
  c.batch = x[0], c.channels = x[1], c.outputs = w[0];
  c.size[0] = x[2], c.size[1] = x[3];
  c.pool = pool(used);
  if (places(c, 0) < 1 || places(c, 1) < 1)
    throw std::invalid_argument("LinfDistConv: X is " + x.text() + " and W is " + w.text() +
                                "; expected a window that fits into the padded image");
  return c;
}

void LinfDistConv::compute(OrtKernelContext* context) const {
  Threads used{api, context, threads_};
  const Convolution c = fitted(context, &used);
  const int64_t shape[] = {c.batch, c.outputs, places(c, 0), places(c, 1)};
  OrtValue* y = output(api, context, shape, 4);
  if (c.batch == 0) return;
  linf_dist_conv(kernels_, c, data_of<const float>(api, input(api, context, 0)),
                 data_of<const float>(api, input(api, context, 1)),
                 data_of<const float>(api, input(api, context, 2)), data_of<float>(api, y));
}

void LinfDistConv::infer(const OrtApi& api, OrtShapeInferContext* context) {
  const Extents x = extents_of(api, context, 0), w = extents_of(api, context, 1);
  if (x.size() != 4 || w.size() != 4) return;
  Convolution c = window_of(api, context);
  Extents y{x[0], w[0]};
  for (int axis = 0; axis < 2; ++axis) {
    c.size[axis] = x[2 + axis].size;
    c.kernel[axis] = w[2 + axis].size;
    if (c.size[axis] < 0 || c.kernel[axis] < 1 || c.kernel[axis] > kMaxWindow) return;
    y.push_back({places(c, axis), ""});
  }
  infer_output(api, context, y);
}

}  // namespace linf::ort
