// SPDX-License-Identifier: Apache-2.0
//
// What all our plugins are: an IPluginV3 with the three capabilities of its first version, which TensorRT has
// had since 10.0, one output, and as tactics the kernels that the launchers choose between. They all give the
// same bits.
//
// A plugin P derives from Plugin<P> and has: kName; output_type, which refuses what it does not take;
// output_shape; fits, for shapes that are known; run; fields, what it consists of.
#pragma once

#include <NvInferRuntime.h>

#include <new>
#include <vector>

#include "log.h"
#include "runtime.h"

namespace linf::trt {

namespace nv = nvinfer1;

constexpr char kNamespace[] = "linfdeploy", kVersion[] = "1";
constexpr int32_t kInputs = 3, kOutputs = 1;
enum Input : int32_t { kX, kW, kB };

template <typename P>
class Plugin : public nv::IPluginV3,
               public nv::IPluginV3OneCore,
               public nv::IPluginV3OneBuild,
               public nv::IPluginV3OneRuntime {
 public:
  nv::IPluginCapability* getCapabilityInterface(nv::PluginCapabilityType type) noexcept override {
    switch (type) {
      case nv::PluginCapabilityType::kCORE:
        return static_cast<nv::IPluginV3OneCore*>(this);
      case nv::PluginCapabilityType::kBUILD:
        return static_cast<nv::IPluginV3OneBuild*>(this);
      case nv::PluginCapabilityType::kRUNTIME:
        return static_cast<nv::IPluginV3OneRuntime*>(this);
    }
    return nullptr;
  }
  nv::IPluginV3* clone() noexcept override { return new (std::nothrow) P(self()); }

  // Core.
  const char* getPluginName() const noexcept override { return P::kName; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }

  // Build.
  int32_t getNbOutputs() const noexcept override { return kOutputs; }
  int32_t configurePlugin(const nv::DynamicPluginTensorDesc*, int32_t inputs,
                          const nv::DynamicPluginTensorDesc*, int32_t outputs) noexcept override {
    return arity_fits(inputs, outputs) ? 0 : 1;
  }
  int32_t getOutputDataTypes(nv::DataType* types, int32_t outputs, const nv::DataType* inputs,
                             int32_t count) const noexcept override {
    if (!arity_fits(count, outputs)) return 1;
    return P::output_type(inputs, types[0]) ? 0 : 1;
  }
  int32_t getOutputShapes(const nv::DimsExprs* inputs, int32_t count, const nv::DimsExprs*, int32_t,
                          nv::DimsExprs* shapes, int32_t outputs,
                          nv::IExprBuilder& builder) noexcept override {
    return arity_fits(count, outputs) && self().output_shape(inputs, shapes[0], builder) ? 0 : 1;
  }
  // All tensors are linear and of types that belong together.
  bool supportsFormatCombination(int32_t position, const nv::DynamicPluginTensorDesc* tensors, int32_t inputs,
                                 int32_t outputs) noexcept override {
    if (!arity_fits(inputs, outputs) || position < 0 || position >= inputs + outputs) return false;
    const nv::PluginTensorDesc& tensor = tensors[position].desc;
    return tensor.format == nv::TensorFormat::kLINEAR &&
           P::type_fits(position, tensor.type, tensors[kX].desc.type);
  }
  int32_t getNbTactics() noexcept override { return static_cast<int32_t>(P::kTactics.size()); }
  int32_t getValidTactics(int32_t* tactics, int32_t count) noexcept override {
    for (int32_t k = 0; k < count; ++k) tactics[k] = P::kTactics[static_cast<size_t>(k)];
    return 0;
  }
  // Timings are kept in the timing cache; a new version of the kernels needs a new one.
  const char* getTimingCacheID() noexcept override { return "linfdeploy 1"; }

  // Run time. Without tactics of ours TensorRT gives 0, which is by size.
  int32_t setTactic(int32_t tactic) noexcept override {
    if (tactic < LINF_BY_SIZE || tactic > LINF_SMALL_TILES) {
      log_refusal(P::kName, "the tactic is %d; expected %d to %d", tactic, LINF_BY_SIZE, LINF_SMALL_TILES);
      return 1;
    }
    tactic_ = static_cast<LinfTactic>(tactic);
    return 0;
  }
  int32_t onShapeChange(const nv::PluginTensorDesc* inputs, int32_t count,
                        const nv::PluginTensorDesc* outputs, int32_t output_count) noexcept override {
    return arity_fits(count, output_count) && self().fits(inputs, outputs[0]) ? 0 : 1;
  }
  int32_t enqueue(const nv::PluginTensorDesc* inputs, const nv::PluginTensorDesc* outputs,
                  const void* const* in, void* const* out, void*, cudaStream_t stream) noexcept override {
    if (!self().fits(inputs, outputs[0])) return 1;
    LinfRuntimeLauncher runtime;
    int failed = linf_runtime_launcher(stream, &runtime);
    runtime.launcher.tactic = tactic_;
    if (!failed) failed = self().run(runtime.launcher, inputs, in, out[0]);
    if (failed) log_refusal(P::kName, "CUDA refuses the kernel with error %d", failed);
    return failed;
  }
  nv::IPluginV3* attachToContext(nv::IPluginResourceContext*) noexcept override { return clone(); }
  const nv::PluginFieldCollection* getFieldsToSerialize() noexcept override {
    serialized_ = self().fields();
    collection_ = {static_cast<int32_t>(serialized_.size()), serialized_.data()};
    return &collection_;
  }

 private:
  P& self() { return static_cast<P&>(*this); }
  const P& self() const { return static_cast<const P&>(*this); }

  static bool arity_fits(int32_t inputs, int32_t outputs) {
    if (inputs == kInputs && outputs == kOutputs) return true;
    log_refusal(P::kName, "%d inputs and %d outputs; expected X, W and B, and Y", inputs, outputs);
    return false;
  }

  LinfTactic tactic_ = LINF_BY_SIZE;
  std::vector<nv::PluginField> serialized_;
  nv::PluginFieldCollection collection_{};
};

}  // namespace linf::trt
