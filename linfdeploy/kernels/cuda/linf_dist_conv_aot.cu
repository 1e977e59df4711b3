// SPDX-License-Identifier: Apache-2.0
//
// The l_inf-distance convolution as TensorRT starts it by itself: see aot_entries.h and
// linf/linf_dist_conv.cuh. Nobody makes a Window for it beforehand, so each thread does.
#include "linf/linf_dist_conv.cuh"

LINF_KERNEL(linf::MediumTile::kThreads, 6)
linf_dist_conv_aot_medium(const float* x, const float* w, const float* bias, int32_t images, int32_t channels,
                          int32_t height, int32_t width, int32_t filters, int32_t kernel_height,
                          int32_t kernel_width, int32_t stride_down, int32_t stride_across,
                          int32_t dilation_down, int32_t dilation_across, int32_t padding_above,
                          int32_t padding_left, int32_t places_down, int32_t places_across, float* y) {
  using namespace linf::device;
  const int32_t rows = images * places_down * places_across;
  if (rows <= 0 || filters <= 0) return;
  const linf::Window window{channels,
                            {height, width},
                            {stride_down, stride_across},
                            {dilation_down, dilation_across},
                            {padding_above, padding_left},
                            {linf::divisor_of(kernel_height), linf::divisor_of(kernel_width)},
                            {linf::divisor_of(places_down), linf::divisor_of(places_across)}};
  const Windows windows[] = {{x, window, rows}};
  const LinfDistConv reduction{{bias, y, filters}, window};
  reduce_tile<linf::MediumTile>(reduction, windows,
                                matrix_of(w, filters, channels * kernel_height * kernel_width, 4));
}
