// SPDX-License-Identifier: Apache-2.0
//
// Makes plugins P, from a node's attributes or from what one serialized. P has: kAttributes, the names that
// TensorRT's parser is to pass on; create, which returns null where something does not fit.
#pragma once

#include <array>
#include <vector>

#include "fields.h"
#include "plugin.h"

namespace linf::trt {

template <typename P>
class Creator : public nv::IPluginCreatorV3One {
 public:
  Creator() {
    for (const char* name : P::kAttributes) names_.emplace_back(name);
    collection_ = {static_cast<int32_t>(names_.size()), names_.data()};
  }
  nv::IPluginV3* createPlugin(const char*, const nv::PluginFieldCollection* fields,
                              nv::TensorRTPhase phase) noexcept override {
    const Fields found(P::kName, fields);
    if (phase == nv::TensorRTPhase::kRUNTIME && !found.are_serialized(P::kSerialized)) return nullptr;
    return P::create(found);
  }
  const nv::PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }
  const char* getPluginName() const noexcept override { return P::kName; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }

 private:
  std::vector<nv::PluginField> names_;
  nv::PluginFieldCollection collection_{};
};

}  // namespace linf::trt
