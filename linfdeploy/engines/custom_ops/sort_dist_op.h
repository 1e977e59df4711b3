// SPDX-License-Identifier: Apache-2.0
//
// The operator linfdeploy::SortDist for float; docs/operators.md defines it.
#pragma once

#include "ort_api.h"

namespace linf::ort {

class SortDist {
 public:
  static constexpr const char* kName = "SortDist";
  static constexpr size_t kInputs = 4;
  static constexpr ONNXTensorElementDataType kType = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;

  SortDist(const OrtApi& api, const OrtKernelInfo* info, int threads);
  void compute(OrtKernelContext* context) const;
  static void infer(const OrtApi& api, OrtShapeInferContext* context);

  const OrtApi& api;

 private:
  const Kernels& kernels_;
  const int threads_;
  const float steps_;  // 2^grid
};

}  // namespace linf::ort
