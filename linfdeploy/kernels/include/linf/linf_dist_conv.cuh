// SPDX-License-Identifier: Apache-2.0
//
// The l_inf-distance convolution on CUDA: the tiles of tile.cuh, whose rows of x are windows, gathered from
// the images on their way to shared memory. The unfolded input, kernel[0] kernel[1] times as large as the
// images, never is.
#pragma once

#include "linf/linf_dist.cuh"
#include "linf/window.h"

namespace linf {
namespace LINF_ISA {

// Row `place` is the window at (image, row, column), word k of it the pixel (channel,
// row, column) of the window.
struct Windows {
  const float* images;
  Window window;
  int32_t rows;

  // Pixels are copied one by one, whatever the alignment of w.
  template <int32_t Alignment>
  LINF_INLINE void copy_quad(uint32_t* to, int32_t place, int32_t word) const {
    int32_t column, line;
    const int32_t lines = window.places[1].split(place, column), image = window.places[0].split(lines, line);
    const int32_t top = line * window.stride[0] - window.padding[0];
    const int32_t left = column * window.stride[1] - window.padding[1];
#pragma unroll
    for (int32_t k = 0; k < 4; ++k) copy_pixel(to + k, image, top, left, word + k, place < rows);
  }

 private:
  LINF_INLINE void copy_pixel(uint32_t* to, int32_t image, int32_t top, int32_t left, int32_t word,
                              bool exists) const {
    int32_t across, down;
    const int32_t filter_rows = window.kernel[1].split(word, across);
    const int32_t channel = window.kernel[0].split(filter_rows, down);
    const int32_t y = top + down * window.dilation[0], x = left + across * window.dilation[1];
    const bool there =
        exists && channel < window.channels && 0 <= y && y < window.image[0] && 0 <= x && x < window.image[1];
    copy_async<4>(to, there ? images + pixel(image, channel, y, x) : images, there);
  }
  LINF_INLINE int32_t pixel(int32_t image, int32_t channel, int32_t y, int32_t x) const {
    return ((image * window.channels + channel) * window.image[0] + y) * window.image[1] + x;
  }
};

// As LinfDist, for images of results: y (images, filters, places).
struct LinfDistConv : LinfDist<Float32> {
  const Window& window;

  LINF_INLINE void finish(const State& best, int32_t row, int32_t filter) const {
    const int32_t places = window.places[0].divisor * window.places[1].divisor, image = row / places;
    y[(image * outputs + filter) * places + row - image * places] = Element::result(best, bias, filter);
  }
};

}  // namespace LINF_ISA
}  // namespace linf
