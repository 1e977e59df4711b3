// SPDX-License-Identifier: Apache-2.0
//
// The operator linfdeploy::LinfDistConv for float; docs/operators.md defines it.
#pragma once

#include "linf_dist_conv.h"
#include "ort_api.h"

namespace linf::ort {

class LinfDistConv {
 public:
  static constexpr const char* kName = "LinfDistConv";
  static constexpr size_t kInputs = 3;
  static constexpr ONNXTensorElementDataType kType = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;

  LinfDistConv(const OrtApi& api, const OrtKernelInfo* info, int threads);
  void compute(OrtKernelContext* context) const;
  static void infer(const OrtApi& api, OrtShapeInferContext* context);

  const OrtApi& api;

 private:
  Convolution fitted(const OrtKernelContext* context, Threads* used) const;

  const Kernels& kernels_;
  const int threads_;
  const Convolution window_;  // the attributes; sizes come with the inputs
};

}  // namespace linf::ort
