// SPDX-License-Identifier: Apache-2.0
#include "net.h"

#include <cuda_runtime_api.h>

#include <string>
#include <utility>

#include "registry.h"

namespace mock {
namespace {

nv::PluginTensorDesc tensor(std::initializer_list<int64_t> sizes) {
  nv::PluginTensorDesc made{};
  for (const int64_t size : sizes) made.dims.d[made.dims.nbDims++] = size;
  made.type = nv::DataType::kFLOAT;
  made.format = nv::TensorFormat::kLINEAR;
  made.scale = -1.0f;
  return made;
}

// As an engine makes a plugin from what the plugin serialized.
std::unique_ptr<nv::IPluginV3> deserialized(int32_t number) {
  nv::IPluginCreatorInterface* const found = registry().getCreator("LinfDist", "1", "linfdeploy");
  if (!found) throw std::runtime_error("Error Code 4: Internal Error (a plugin layer has no creator)");
  const int32_t format = 1;
  const nv::PluginField field("linfdeploy_format", &format, nv::PluginFieldType::kINT32, 1);
  const nv::PluginFieldCollection fields{1, &field};
  auto* const made = static_cast<nv::IPluginCreatorV3One*>(found)->createPlugin(
      ("layer" + std::to_string(number)).c_str(), &fields, nv::TensorRTPhase::kRUNTIME);
  if (!made) throw std::runtime_error("Error Code 4: Internal Error (a plugin refuses its record)");
  return std::unique_ptr<nv::IPluginV3>(made);
}

nv::IPluginV3OneRuntime& runtime_of(nv::IPluginV3& plugin) {
  return *static_cast<nv::IPluginV3OneRuntime*>(
      plugin.getCapabilityInterface(nv::PluginCapabilityType::kRUNTIME));
}

}  // namespace

Block::Block(size_t floats) {
  void* memory = nullptr;
  if (cudaMalloc(&memory, floats * sizeof(float)))
    throw std::runtime_error("Error Code 2: OutOfMemory (Requested size was " +
                             std::to_string(floats * sizeof(float)) + " bytes.)");
  memory_ = static_cast<float*>(memory);
}
Block::Block(const std::vector<float>& values) : Block(values.size()) {
  std::memcpy(memory_, values.data(), values.size() * sizeof(float));
}
Block::Block(Block&& other) noexcept : memory_(std::exchange(other.memory_, nullptr)) {}
Block::~Block() {
  if (memory_) cudaFree(memory_);
}

PluginLayer::PluginLayer(const Layer& layer, int32_t number)
    : inputs(layer.inputs), outputs(layer.outputs), plugin(deserialized(number)), w_(layer.w), b_(layer.b) {}

bool PluginLayer::run(nv::IPluginV3& attached, int64_t rows, const float* x, float* y, bool changed,
                      cudaStream_t stream) const {
  const nv::PluginTensorDesc given[] = {tensor({rows, inputs}), tensor({outputs, inputs}), tensor({outputs})},
                             made = tensor({rows, outputs});
  nv::IPluginV3OneRuntime& runtime = runtime_of(attached);
  if (changed && runtime.onShapeChange(given, 3, &made, 1)) return false;
  const void* const in[] = {x, w_.get(), b_.get()};
  void* const out[] = {y};
  return runtime.enqueue(given, &made, in, out, nullptr, stream) == 0;
}

Net::Net(const Plan& plan) {
  for (const Layer& layer : plan.layers) layers_.emplace_back(layer, static_cast<int32_t>(layers_.size()));
  if (layers_.empty()) throw std::runtime_error("Error Code 1: Serialization (no layer)");
}

NetContext::NetContext(const Net& net, int64_t most_rows) : net_(net) {
  values_.emplace_back(static_cast<size_t>(most_rows * net.layers().front().inputs));
  for (const PluginLayer& layer : net.layers()) {
    plugins_.emplace_back(runtime_of(*layer.plugin).attachToContext(nullptr));
    values_.emplace_back(static_cast<size_t>(most_rows * layer.outputs));
  }
}

const float* NetContext::run(const uint8_t* images, int64_t rows, cudaStream_t stream) {
  const bool changed = std::exchange(rows_, rows) != rows;
  for (int64_t k = 0; k < rows * net_.layers().front().inputs; ++k) values_[0].get()[k] = images[k];
  for (size_t k = 0; k < plugins_.size(); ++k)
    if (!net_.layers()[k].run(*plugins_[k], rows, values_[k].get(), values_[k + 1].get(), changed, stream))
      return nullptr;
  return values_.back().get();
}

}  // namespace mock
