// SPDX-License-Identifier: Apache-2.0
//
// Sizes of tensors, as the kernels can index them.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>

#include "linf/geometry.h"

namespace linf::trt {

// The elements of a tensor, or more than an index holds; negative where a dimension is unknown.
inline int64_t elements(const nvinfer1::Dims& dims) {
  int64_t product = 1;
  for (int32_t k = 0; k < dims.nbDims; ++k) {
    if (dims.d[k] < 0) return -1;
    if (dims.d[k] != 0 && product > INT32_MAX / dims.d[k]) return int64_t{INT32_MAX} + 1;
    product *= dims.d[k];
  }
  return product;
}

inline bool fits_an_index(const nvinfer1::Dims& dims) {
  const int64_t count = elements(dims);
  return 0 <= count && count <= INT32_MAX;
}

// Rows of `numbers` of a type that has at most four bytes.
inline bool fits_a_row(int64_t numbers) { return numbers <= kMostRowBytes / 4; }

}  // namespace linf::trt
