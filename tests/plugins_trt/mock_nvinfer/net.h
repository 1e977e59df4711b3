// SPDX-License-Identifier: Apache-2.0
//
// The layers of a plan, computed by the plugins that the registry has.
#pragma once

#include <NvInferRuntime.h>

#include <memory>
#include <vector>

#include "plan.h"

namespace mock {

namespace nv = nvinfer1;

// Memory from cudaMalloc, which throws what TensorRT logs where there is none.
class Block {
 public:
  explicit Block(size_t floats);
  explicit Block(const std::vector<float>& values);
  Block(Block&& other) noexcept;
  ~Block();
  float* get() const { return memory_; }

 private:
  float* memory_ = nullptr;
};

class PluginLayer {
 public:
  PluginLayer(const Layer& layer, int32_t number);
  // Y = plugin(X), of `rows` rows; false where the plugin refuses.
  bool run(nv::IPluginV3& plugin, int64_t rows, const float* x, float* y, bool changed,
           cudaStream_t stream) const;
  int64_t inputs, outputs;
  std::unique_ptr<nv::IPluginV3> plugin;

 private:
  Block w_, b_;
};

class Net {
 public:
  explicit Net(const Plan& plan);
  const std::vector<PluginLayer>& layers() const { return layers_; }
  int64_t classes() const { return layers_.back().outputs; }

 private:
  std::vector<PluginLayer> layers_;
};

// What a context has of a net: plugins that are attached to it, and room for values between layers.
class NetContext {
 public:
  NetContext(const Net& net, int64_t most_rows);
  // Where the distances are, (N, K); null where a plugin refuses.
  const float* run(const uint8_t* images, int64_t rows, cudaStream_t stream);

 private:
  const Net& net_;
  std::vector<std::unique_ptr<nv::IPluginV3>> plugins_;
  std::vector<Block> values_;
  int64_t rows_ = -1;
};

}  // namespace mock
