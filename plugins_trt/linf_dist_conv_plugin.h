// SPDX-License-Identifier: Apache-2.0
//
// linfdeploy::LinfDistConv, version 1, for TensorRT: X (N, C, H, W), W (O, C, kH, kW), B (O) -> Y (N, O, H',
// W'), all float32. Attributes are those of ONNX's Conv. See docs/operators.md.
#pragma once

#include <array>

#include "creator.h"

namespace linf::trt {

class LinfDistConvPlugin : public Plugin<LinfDistConvPlugin> {
 public:
  static constexpr char kName[] = "LinfDistConv";
  static constexpr std::array<const char*, 6> kAttributes{"kernel_shape", "strides", "pads",
                                                          "dilations",    "group",   "auto_pad"};
  static constexpr int32_t kSerialized = 5;
  static constexpr std::array<int32_t, 0> kTactics{};

  static nv::IPluginV3* create(const Fields& fields) noexcept;
  static bool type_fits(int32_t position, nv::DataType type, nv::DataType x) noexcept;
  static bool output_type(const nv::DataType* inputs, nv::DataType& y) noexcept;

  bool output_shape(const nv::DimsExprs* inputs, nv::DimsExprs& y, nv::IExprBuilder& builder) const noexcept;
  bool fits(const nv::PluginTensorDesc* inputs, const nv::PluginTensorDesc& y) const noexcept;
  int32_t run(const LinfLauncher& launcher, const nv::PluginTensorDesc* inputs, const void* const* in,
              void* y) const;
  std::vector<nv::PluginField> fields() const;

 private:
  // The places that a window has along an axis, less than 1 where it does not fit.
  int64_t places(int32_t axis, int64_t image, int64_t kernel) const;

  // Zeros stand for W's own kernel.
  int32_t kernel_[2] = {0, 0}, strides_[2] = {1, 1}, dilations_[2] = {1, 1};
  // Above, left, below, right.
  int32_t pads_[4] = {0, 0, 0, 0};
};

}  // namespace linf::trt
