// SPDX-License-Identifier: Apache-2.0
//
// What a library of our TensorRT plugins must do, checked through the interfaces that TensorRT itself uses:
// no TensorRT library is needed. Each check counts; a failed one is printed.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <cstdio>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

namespace conformance {

namespace nv = nvinfer1;

struct Tally {
  int checks = 0, failures = 0;

  bool expect(bool holds, const std::string& what) {
    ++checks;
    if (holds) return true;
    ++failures;
    std::printf("FAILED: %s\n", what.c_str());
    return false;
  }
};

using PluginPtr = std::unique_ptr<nv::IPluginV3>;

// A plugin's three sides.
struct Sides {
  explicit Sides(nv::IPluginV3& plugin)
      : core(side<nv::IPluginV3OneCore>(plugin, nv::PluginCapabilityType::kCORE)),
        build(side<nv::IPluginV3OneBuild>(plugin, nv::PluginCapabilityType::kBUILD)),
        runtime(side<nv::IPluginV3OneRuntime>(plugin, nv::PluginCapabilityType::kRUNTIME)) {}

  template <typename Side>
  static Side* side(nv::IPluginV3& plugin, nv::PluginCapabilityType type) {
    return static_cast<Side*>(plugin.getCapabilityInterface(type));
  }

  nv::IPluginV3OneCore* core;
  nv::IPluginV3OneBuild* build;
  nv::IPluginV3OneRuntime* runtime;
};

// The creators of a library, by name.
struct Library {
  nv::IPluginCreatorV3One* linf_dist = nullptr;
  nv::IPluginCreatorV3One* linf_dist_conv = nullptr;
};

inline PluginPtr created(nv::IPluginCreatorV3One& creator, std::vector<nv::PluginField> fields,
                         nv::TensorRTPhase phase = nv::TensorRTPhase::kBUILD) {
  const nv::PluginFieldCollection collection{static_cast<int32_t>(fields.size()), fields.data()};
  return PluginPtr(creator.createPlugin("layer", &collection, phase));
}

inline nv::PluginField integers(const char* name, const std::vector<int32_t>& values) {
  return {name, values.data(), nv::PluginFieldType::kINT32, static_cast<int32_t>(values.size())};
}

inline nv::Dims dims(std::initializer_list<int64_t> sizes) {
  nv::Dims made{};
  for (const int64_t size : sizes) made.d[made.nbDims++] = size;
  return made;
}

inline nv::PluginTensorDesc tensor(nv::DataType type, std::initializer_list<int64_t> sizes) {
  nv::PluginTensorDesc made{};
  made.dims = dims(sizes);
  made.type = type;
  made.format = nv::TensorFormat::kLINEAR;
  made.scale = -1.0f;
  return made;
}

// The parts of the suite.
void check_creators(Tally& tally, const Library& library);
void check_attributes(Tally& tally, const Library& library);
void check_serialization(Tally& tally, const Library& library);
void check_types_and_formats(Tally& tally, const Library& library);
void check_shapes(Tally& tally, const Library& library);
void check_refused_shapes(Tally& tally, const Library& library);
void check_results(Tally& tally, const Library& library);

}  // namespace conformance
