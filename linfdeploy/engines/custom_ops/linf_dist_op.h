// SPDX-License-Identifier: Apache-2.0
//
// The operator linfdeploy::LinfDist for float and float16; docs/operators.md defines it.
#pragma once

#include <optional>

#include "ort_api.h"

namespace linf::ort {

// Of W, once it has been looked at.
struct LinfDistSizes {
  int64_t inputs, outputs;
};

// T is float, or the bits of a float16. The kernels read and write ONNX Runtime's own memory.
template <typename T>
class LinfDist {
 public:
  static constexpr const char* kName = "LinfDist";
  static constexpr size_t kInputs = 3;
  static constexpr ONNXTensorElementDataType kType =
      sizeof(T) == 4 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;

  LinfDist(const OrtApi& api, const OrtKernelInfo* info, int threads);
  void compute(OrtKernelContext* context) const;
  static void infer(const OrtApi& api, OrtShapeInferContext* context);

  const OrtApi& api;

 private:
  // Sizes of this call; throws std::invalid_argument where they do not fit.
  Sizes sizes(const OrtKernelContext* context, Threads* used) const;

  const Kernels& kernels_;
  const int threads_;
  std::optional<LinfDistSizes> constant_;  // where W and B are: looked at once, when the kernel is made
};

}  // namespace linf::ort
