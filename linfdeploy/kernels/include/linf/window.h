// SPDX-License-Identifier: Apache-2.0
//
// A convolution's window as CUDA kernels take it: made by a launcher on the host, read on the device.
#pragma once

#if !defined(__CUDACC_RTC__)
#include <cstdint>
#endif

#include "linf/geometry.h"

namespace linf {

// Division of numbers from 0 to 2^31 - 1 by a constant that is known at launch: a product and a shift. With
// 2^(s-1) < d <= 2^s and m = ceil(2^(31+s) / d), the error m d - 2^(31+s) is below d <= 2^s, which is why n m
// / 2^(31+s) never reaches the next integer for n < 2^31.
struct Divisor {
  int32_t divisor;
  uint32_t multiplier;
  int32_t shift;

  // n / divisor; the rest goes to `rest`.
  LINF_HOST_DEVICE int32_t split(int32_t n, int32_t& rest) const {
    const int32_t quotient =
        static_cast<int32_t>(static_cast<uint64_t>(static_cast<uint32_t>(n)) * multiplier >> (31 + shift));
    rest = n - quotient * divisor;
    return quotient;
  }
};

LINF_HOST_DEVICE Divisor divisor_of(int32_t d) {
  int32_t shift = 0;
  while ((static_cast<int64_t>(1) << shift) < d) ++shift;
  const uint64_t power = static_cast<uint64_t>(1) << (31 + shift);
  return {d, static_cast<uint32_t>((power + d - 1) / d), shift};
}

struct Window {
  int32_t channels, image[2], stride[2], dilation[2], padding[2];
  Divisor kernel[2], places[2];
};

}  // namespace linf
