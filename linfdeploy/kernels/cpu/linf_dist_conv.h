// SPDX-License-Identifier: Apache-2.0
//
// The l_inf-distance convolution on top of the dense kernel: y[n, o, p] is the distance of the window at
// place p of image n to filter o. Places outside the image hold zeros, which take part in the maximum like
// any other.
#pragma once

#include <cstdint>

#include "kernels.h"

namespace linf {

// Shapes, row-major float32: x (batch, channels, size), w (outputs, channels, kernel), y (batch, outputs,
// out). Pairs are vertical, horizontal.
struct Convolution {
  int64_t batch, channels, outputs;
  int64_t size[2], kernel[2], stride[2], dilation[2];
  int64_t pads[4];  // above, left, below, right, as ONNX orders them
  Pool pool;
};

// No stride, dilation, kernel or padding may be larger, so that no arithmetic on sizes overflows.
constexpr int64_t kMaxWindow = 1 << 16;

// How often the window fits along an axis; 0 where it does not.
int64_t places(const Convolution& c, int axis);

// A null bias adds nothing. Takes scratch memory of at most kMaxWorkers blocks, however large the batch: the
// unfolded input, kernel[0] * kernel[1] times as large as the input, is never there as a whole. Throws
// std::bad_alloc, before anything is written.
void linf_dist_conv(const Kernels& kernels, const Convolution& c, const float* x, const float* w,
                    const float* bias, float* y);

}  // namespace linf
