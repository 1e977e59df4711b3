// SPDX-License-Identifier: Apache-2.0
//
// What TensorRT's builder does with an ahead-of-time plugin, through the interfaces of its own header: makes
// the plugin from the registry's creator, asks for types, shapes, formats and tactics, and keeps name, code
// and expressions of a kernel. `host_evaluate` is what an engine does with these before a run. One plugin at
// a time; functions return a negative number where the plugin fails.
#include <impl/NvInferPythonPlugin.h>

#include <cstring>
#include <memory>
#include <string>

#include "expressions.h"

namespace host {

constexpr int32_t kInputs = 3, kMostRank = 4;

// A tensor of the network, its sizes bounded by a profile.
struct Tensor {
  int32_t type, rank;
  int64_t least[kMostRank], best[kMostRank], most[kMostRank];
};

struct Params : nv::IKernelLaunchParamsImpl {
  enum { kGridX, kGridY, kGridZ, kBlockX, kBlockY, kBlockZ, kShared, kCount };
  const Expression* found[kCount] = {};

#define HOST_PARAMETER(Name, place)                               \
  nv::ISymExpr* get##Name() noexcept override { return nullptr; } \
  bool set##Name(nv::ISymExpr* e) noexcept override {             \
    found[place] = expression_of(e);                              \
    return true;                                                  \
  }
  static const Expression* expression_of(nv::ISymExpr* e) {
    return static_cast<const Expression*>(static_cast<nv::IDimensionExpr*>(e->getExpr()));
  }
  HOST_PARAMETER(GridX, kGridX)
  HOST_PARAMETER(GridY, kGridY)
  HOST_PARAMETER(GridZ, kGridZ)
  HOST_PARAMETER(BlockX, kBlockX)
  HOST_PARAMETER(BlockY, kBlockY)
  HOST_PARAMETER(BlockZ, kBlockZ)
  HOST_PARAMETER(SharedMem, kShared)
#undef HOST_PARAMETER
};
struct LaunchParams : nv::IKernelLaunchParams {
  explicit LaunchParams(Params& params) { mImpl = &params; }
  ~LaunchParams() noexcept override = default;
};

// Kernels take 32-bit numbers alone.
struct Numbers : nv::ISymExprsImpl {
  std::vector<const Expression*> found;
  bool all_fit = true;
  nv::ISymExpr* getSymExpr(int32_t) const noexcept override { return nullptr; }
  bool setSymExpr(int32_t index, nv::ISymExpr* e) noexcept override {
    all_fit = all_fit && e->getType() == nv::PluginArgType::kINT &&
              e->getDataType() == nv::PluginArgDataType::kINT32;
    found.at(static_cast<size_t>(index)) = Params::expression_of(e);
    return true;
  }
  int32_t getNbSymExprs() const noexcept override { return static_cast<int32_t>(found.size()); }
  bool setNbSymExprs(int32_t count) noexcept override {
    found.assign(static_cast<size_t>(count), nullptr);
    return true;
  }
};
struct SymExprs : nv::ISymExprs {
  explicit SymExprs(Numbers& numbers) { mImpl = &numbers; }
  ~SymExprs() noexcept override = default;
};

struct Plugin {
  std::unique_ptr<nv::IPluginV3> plugin;
  nv::IPluginV3QuickAOTBuild* build = nullptr;
  Builder builder;
  std::vector<nv::DimsExprs> shapes;
  std::vector<nv::DynamicPluginTensorDesc> tensors;
  nv::DimsExprs output{};
  Params params;
  Numbers numbers;
};
// The last one stays: Python, which its end needs, ends before this library does.
Plugin* now = nullptr;

nv::DimsExprs expressions(const Tensor& tensor, int32_t input) {
  nv::DimsExprs made{};
  for (int32_t axis = 0; axis < tensor.rank; ++axis) {
    const bool fixed = tensor.least[axis] == tensor.most[axis];
    made.d[made.nbDims++] = fixed ? now->builder.make(tensor.least[axis]) : now->builder.make(input, axis);
  }
  return made;
}

nv::DynamicPluginTensorDesc description(const Tensor& tensor) {
  nv::DynamicPluginTensorDesc made{};
  made.desc.type = static_cast<nv::DataType>(tensor.type);
  made.desc.format = nv::TensorFormat::kLINEAR;
  made.desc.dims.nbDims = made.min.nbDims = made.max.nbDims = made.opt.nbDims = tensor.rank;
  for (int32_t axis = 0; axis < tensor.rank; ++axis) {
    made.desc.dims.d[axis] = tensor.least[axis] == tensor.most[axis] ? tensor.least[axis] : -1;
    made.min.d[axis] = tensor.least[axis];
    made.opt.d[axis] = tensor.best[axis];
    made.max.d[axis] = tensor.most[axis];
  }
  return made;
}

// Whether the plugin takes the types of the network, linear, and nothing else.
bool formats_fit() {
  const auto count = now->build->getNbSupportedFormatCombinations(now->tensors.data(), kInputs, 1);
  if (count != 1) return false;
  std::vector<nv::PluginTensorDesc> found(kInputs + 1);
  if (now->build->getSupportedFormatCombinations(now->tensors.data(), kInputs, 1, found.data(), count))
    return false;
  for (size_t k = 0; k < found.size(); ++k)
    if (found[k].type != now->tensors[k].desc.type || found[k].format != nv::TensorFormat::kLINEAR)
      return false;
  return true;
}

}  // namespace host

using namespace host;

extern "C" {

// 0, or -1 where there is no plugin of that name with an ahead-of-time kernel.
int32_t host_create(const char* name, int32_t request, int32_t count, const char** names,
                    const int32_t* types, const void** data, const int32_t* lengths) {
  delete now;
  now = new Plugin;
  auto* const creator =
      static_cast<nv::IPluginCreatorV3Quick*>(getPluginRegistry()->getCreator(name, "1", "linfdeploy"));
  if (!creator || std::strcmp(creator->getInterfaceInfo().kind, "PLUGIN CREATOR_V3QUICK")) return -1;
  std::vector<nv::PluginField> fields;
  for (int32_t k = 0; k < count; ++k)
    fields.push_back({names[k], data[k], static_cast<nv::PluginFieldType>(types[k]), lengths[k]});
  const nv::PluginFieldCollection collection{count, fields.data()};
  now->plugin.reset(creator->createPlugin(name, "linfdeploy", &collection, nv::TensorRTPhase::kBUILD,
                                          static_cast<nv::QuickPluginCreationRequest>(request)));
  if (!now->plugin) return -1;
  auto* const found = now->plugin->getCapabilityInterface(nv::PluginCapabilityType::kBUILD);
  if (!found || std::strcmp(found->getInterfaceInfo().kind, "PLUGIN_V3QUICKAOT_BUILD")) return -1;
  now->build = static_cast<nv::IPluginV3QuickAOTBuild*>(found);
  return now->build->getNbOutputs() == 1 ? 0 : -1;
}

// The output's type.
int32_t host_type(const Tensor* inputs) {
  nv::DataType given[kInputs], found{};
  int32_t ranks[kInputs];
  for (int32_t k = 0; k < kInputs; ++k)
    given[k] = static_cast<nv::DataType>(inputs[k].type), ranks[k] = inputs[k].rank;
  return now->build->getOutputDataTypes(&found, 1, given, ranks, kInputs) ? -1 : static_cast<int32_t>(found);
}

// The number of tactics, which go to `tactics`. `output` is the last of the tensors.
int32_t host_tactics(const Tensor* tensors, int32_t* tactics, int32_t most) {
  for (int32_t k = 0; k < kInputs; ++k) now->shapes.push_back(expressions(tensors[k], k));
  for (int32_t k = 0; k <= kInputs; ++k) now->tensors.push_back(description(tensors[k]));
  if (now->build->getOutputShapes(now->shapes.data(), kInputs, nullptr, 0, &now->output, 1, now->builder))
    return -1;
  if (!formats_fit()) return -2;
  if (now->build->configurePlugin(now->tensors.data(), kInputs, now->tensors.data() + kInputs, 1)) return -3;
  const int32_t count = now->build->getNbTactics();
  return count <= most && !now->build->getValidTactics(tactics, count) ? count : -4;
}

// The number of numbers that the kernel takes.
int32_t host_kernel(int32_t tactic, const char** name, char** code, int32_t* size) {
  LaunchParams params(now->params);
  SymExprs numbers(now->numbers);
  if (now->build->setTactic(tactic)) return -1;
  if (now->build->getLaunchParams(now->shapes.data(), now->tensors.data(), kInputs, 1, &params, &numbers,
                                  now->builder))
    return -2;
  nv::PluginTensorDesc descriptions[kInputs + 1];
  for (size_t k = 0; k < now->tensors.size(); ++k) descriptions[k] = now->tensors[k].desc;
  if (now->build->getKernel(descriptions, kInputs, descriptions + kInputs, 1, name, code, size)) return -3;
  return now->numbers.all_fit ? now->numbers.getNbSymExprs() : -4;
}

// For inputs of these sizes: the output's, the grid, the block, the shared memory, and the kernel's numbers.
void host_evaluate(const int64_t* sizes, int64_t* output, int64_t* launch, int64_t* numbers) {
  Sizes of_inputs;
  for (int32_t k = 0; k < kInputs; ++k)
    of_inputs.emplace_back(sizes + k * kMostRank, sizes + (k + 1) * kMostRank);
  for (int32_t axis = 0; axis < now->output.nbDims; ++axis)
    output[axis] = static_cast<const Expression*>(now->output.d[axis])->value(of_inputs);
  for (const Expression* e : now->params.found) *launch++ = e ? e->value(of_inputs) : -1;
  for (const Expression* e : now->numbers.found) *numbers++ = e ? e->value(of_inputs) : -1;
}
}
