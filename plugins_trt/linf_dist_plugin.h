// SPDX-License-Identifier: Apache-2.0
//
// linfdeploy::LinfDist, version 1, for TensorRT: X (N, I), W (O, I), B (O) -> Y (N, O), all float32 or all
// float16. See docs/operators.md.
#pragma once

#include <array>

#include "creator.h"

namespace linf::trt {

class LinfDistPlugin : public Plugin<LinfDistPlugin> {
 public:
  static constexpr char kName[] = "LinfDist";
  static constexpr std::array<const char*, 0> kAttributes{};
  static constexpr int32_t kSerialized = 1;
  static constexpr std::array<int32_t, 4> kTactics{LINF_FEW_ROWS, LINF_LARGE_TILES, LINF_MEDIUM_TILES,
                                                   LINF_SMALL_TILES};

  static nv::IPluginV3* create(const Fields& fields) noexcept;
  static bool type_fits(int32_t position, nv::DataType type, nv::DataType x) noexcept;
  static bool output_type(const nv::DataType* inputs, nv::DataType& y) noexcept;

  bool output_shape(const nv::DimsExprs* inputs, nv::DimsExprs& y, nv::IExprBuilder& builder) const noexcept;
  bool fits(const nv::PluginTensorDesc* inputs, const nv::PluginTensorDesc& y) const noexcept;
  int32_t run(const LinfLauncher& launcher, const nv::PluginTensorDesc* inputs, const void* const* in,
              void* y) const;
  std::vector<nv::PluginField> fields() const;
};

}  // namespace linf::trt
