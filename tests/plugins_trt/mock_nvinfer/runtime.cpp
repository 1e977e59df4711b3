// SPDX-License-Identifier: Apache-2.0
//
// In the place of libnvinfer: runtime, engine and execution context, as strict as TensorRT's documentation.
// What a program is not expected to call ends it (stubs.h, made from the headers).
#include <NvInferRuntime.h>

#include <map>
#include <string>

#include "cudart.h"
#include "faults.h"
#include "net.h"
#include "registry.h"

namespace mock {
namespace {

constexpr size_t kAlignment = 256;

struct TensorInfo {
  std::string name;
  nv::TensorIOMode mode;
  nv::DataType type;
  nv::Dims dims;
  int64_t item;
};

nv::Dims dims_of(std::initializer_list<int64_t> sizes) {
  nv::Dims made{};
  for (const int64_t size : sizes) made.d[made.nbDims++] = size;
  return made;
}

std::vector<TensorInfo> tensors_of(const Plan& plan) {
  const Header& h = plan.header;
  const int64_t rows = h.fixed ? h.most : -1, classes = plan.layers.back().outputs;
  std::vector<TensorInfo> all{
      {"image", nv::TensorIOMode::kINPUT, nv::DataType::kUINT8,
       dims_of({rows, h.image[0], h.image[1], h.image[2]}), 1},
      {"logits", nv::TensorIOMode::kOUTPUT, nv::DataType::kFLOAT, dims_of({rows, classes}), 4}};
  if (h.outputs & kLabel)
    all.push_back({"label", nv::TensorIOMode::kOUTPUT, nv::DataType::kINT64, dims_of({rows}), 8});
  if (h.outputs & kRadius)
    all.push_back({"radius", nv::TensorIOMode::kOUTPUT, nv::DataType::kFLOAT, dims_of({rows}), 4});
  if (h.oddity == kOtherName) all[0].name = "pixels";
  if (h.oddity == kFloatImages) all[0].type = nv::DataType::kFLOAT;
  if (h.oddity == kHalfLogits) all[1].type = nv::DataType::kHALF;
  if (h.oddity == kNoLogits) all.erase(all.begin() + 1);
  if (h.oddity == kUnknownSize) all[0].dims.d[3] = -1;
  if (h.oddity == kOtherOutput)
    all.push_back({"extra\x1b[31m", nv::TensorIOMode::kOUTPUT, nv::DataType::kINT32, dims_of({rows, 2}), 4});
  return all;
}

// The calls of a context that fail on purpose.
long enqueues = 0;

class Engine;

class ContextImpl : public nv::apiv::VExecutionContextStub {
 public:
  explicit ContextImpl(const Engine& engine);
  bool setInputShape(const char* name, const nv::Dims& dims) noexcept override;
  nv::Dims getTensorShape(const char* name) const noexcept override;
  bool setTensorAddress(const char* name, void* memory) noexcept override;
  bool enqueueV3(cudaStream_t stream) noexcept override;

 private:
  bool has_addresses() const;
  void write(const float* distances) const;
  void write_certificates(int64_t row, const float* logits) const;
  template <typename T>
  T* at(const char* name) const {
    const auto found = addresses_.find(name);
    return found == addresses_.end() ? nullptr : static_cast<T*>(found->second);
  }

  const Engine& engine_;
  NetContext net_;
  int64_t rows_ = -1;
  std::map<std::string, void*> addresses_;
};

class Context : public nv::IExecutionContext {
 public:
  explicit Context(const Engine& engine) : impl_(engine) { mImpl = &impl_; }
  ~Context() noexcept override;

 private:
  ContextImpl impl_;
  const Engine* engine_ = nullptr;
};

int engines = 0, contexts = 0;

class Engine : public nv::ICudaEngine {
 public:
  explicit Engine(Plan plan)
      : plan_(std::move(plan)), net_(plan_), tensors_(tensors_of(plan_)), impl_(*this) {
    mImpl = &impl_;
    ++engines;
  }
  ~Engine() noexcept override {
    if (contexts) misused("an engine is destroyed before its contexts");
    --engines;
  }
  const Plan& plan() const { return plan_; }
  const Net& net() const { return net_; }
  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  const TensorInfo* find(const std::string& name) const {
    for (const TensorInfo& tensor : tensors_)
      if (tensor.name == name) return &tensor;
    return nullptr;
  }

 private:
  struct Impl : nv::apiv::VCudaEngineStub {
    explicit Impl(const Engine& owner) : engine(owner) {}
    nv::IExecutionContext* createExecutionContext(nv::ExecutionContextAllocationStrategy) noexcept override
        try {
      return new Context(engine);
    } catch (const std::exception& failed) {
      log_error(std::string("ICudaEngine::createExecutionContext: ") + failed.what());
      return nullptr;
    }
    int32_t getNbOptimizationProfiles() const noexcept override { return 1; }
    nv::Dims getTensorShape(const char* name) const noexcept override {
      const TensorInfo* const found = engine.find(name);
      return found ? found->dims : nv::Dims{-1, {}};
    }
    nv::DataType getTensorDataType(const char* name) const noexcept override {
      return engine.find(name)->type;
    }
    nv::TensorLocation getTensorLocation(const char*) const noexcept override {
      return nv::TensorLocation::kDEVICE;
    }
    nv::TensorIOMode getTensorIOMode(const char* name) const noexcept override {
      return engine.find(name)->mode;
    }
    nv::TensorFormat getTensorFormat(const char*) const noexcept override {
      return engine.plan().header.oddity == kVectorized ? nv::TensorFormat::kCHW4 : nv::TensorFormat::kLINEAR;
    }
    nv::Dims getProfileShape(const char* name, int32_t profile,
                             nv::OptProfileSelector which) const noexcept override {
      const TensorInfo* const found = engine.find(name);
      if (!found || profile != 0 || found->mode != nv::TensorIOMode::kINPUT) return {-1, {}};
      nv::Dims dims = found->dims;
      const Header& header = engine.plan().header;
      dims.d[0] = which == nv::OptProfileSelector::kMIN ? header.least : header.most;
      return dims;
    }
    int32_t getNbIOTensors() const noexcept override { return static_cast<int32_t>(engine.tensors().size()); }
    const char* getIOTensorName(int32_t index) const noexcept override {
      return engine.tensors()[static_cast<size_t>(index)].name.c_str();
    }
    const Engine& engine;
  };

  const Plan plan_;
  const Net net_;
  const std::vector<TensorInfo> tensors_;
  Impl impl_;
};

ContextImpl::ContextImpl(const Engine& engine)
    : engine_(engine), net_(engine.net(), engine.plan().header.most) {
  ++contexts;
}
Context::~Context() noexcept { --contexts; }

bool ContextImpl::setInputShape(const char* name, const nv::Dims& dims) noexcept {
  const TensorInfo* const found = engine_.find(name);
  const Header& header = engine_.plan().header;
  bool fits = found && found->mode == nv::TensorIOMode::kINPUT && dims.nbDims == found->dims.nbDims;
  for (int32_t k = 1; fits && k < dims.nbDims; ++k) fits = dims.d[k] == found->dims.d[k];
  fits = fits && header.least <= dims.d[0] && dims.d[0] <= header.most;
  if (!fits)
    return log_error(
               "IExecutionContext::setInputShape: Error Code 3: API Usage Error (Parameter check failed, "
               "Static dimension mismatch or outside of the profile.)"),
           false;
  rows_ = dims.d[0];
  return true;
}

nv::Dims ContextImpl::getTensorShape(const char* name) const noexcept {
  const TensorInfo* const found = engine_.find(name);
  if (!found) return {-1, {}};
  nv::Dims dims = found->dims;
  dims.d[0] = rows_;
  return dims;
}

bool ContextImpl::setTensorAddress(const char* name, void* memory) noexcept {
  if (!engine_.find(name) || reinterpret_cast<uintptr_t>(memory) % kAlignment) return false;
  addresses_[name] = memory;
  return true;
}

bool ContextImpl::has_addresses() const {
  for (const TensorInfo& tensor : engine_.tensors()) {
    int64_t bytes = tensor.item * rows_;
    for (int32_t k = 1; k < tensor.dims.nbDims; ++k) bytes *= tensor.dims.d[k];
    const void* const memory = at<void>(tensor.name.c_str());
    if (!memory) return false;
    if (!is_device(memory, static_cast<size_t>(bytes))) misused(tensor.name + " is not the device's memory");
  }
  return true;
}

// The host's side fails or not at once; what the stream held before is done by then.
bool ContextImpl::enqueueV3(cudaStream_t stream) noexcept {
  const auto fails = [](const char* why) {
    return log_error(std::string("IExecutionContext::enqueueV3: Error Code ") + why), false;
  };
  if (rows_ < 0 || !has_addresses()) return fails("3: API Usage Error (Neither address or allocator is set)");
  if (is_time_for("enqueue", enqueues)) return fails("1: Cuda Runtime (invalid device function)");
  run_all(stream);
  if (fault("writes_nothing_from") > 0 && enqueues >= fault("writes_nothing_from")) return true;
  const float* const distances = net_.run(at<const uint8_t>("image"), rows_, stream);
  if (!distances) return fails("2: Internal Error (a plugin failed)");
  write(distances);
  return true;
}

void ContextImpl::write(const float* distances) const {
  const int64_t classes = engine_.net().classes();
  auto* const logits = at<float>("logits");
  for (int64_t k = 0; k < rows_ * classes; ++k) logits[k] = -distances[k];
  for (int64_t row = 0; row < rows_; ++row) write_certificates(row, logits + row * classes);
  if (fault("flips") == enqueues || fault("flips_batch") == rows_)
    reinterpret_cast<uint32_t*>(logits)[rows_ * classes - 1] ^= 1;
}

void ContextImpl::write_certificates(int64_t row, const float* logits) const {
  int64_t label = 0;
  const int64_t classes = engine_.net().classes();
  for (int64_t k = 1; k < classes; ++k)
    if (logits[k] > logits[label]) label = k;
  float second = -3e38f;
  for (int64_t k = 0; k < classes; ++k)
    if (k != label && logits[k] > second) second = logits[k];
  const float radius = ((logits[label] - second) - engine_.plan().header.slack) / 2;
  if (auto* const labels = at<int64_t>("label")) labels[row] = label;
  if (auto* const radii = at<float>("radius")) radii[row] = radius > 0 ? radius : 0;
}

class Runtime : public nv::IRuntime {
 public:
  Runtime() { mImpl = &impl_; }
  ~Runtime() noexcept override {
    if (engines) misused("the runtime is destroyed before its engines");
    set_logger(nullptr);
  }

 private:
  struct Impl : nv::apiv::VRuntimeStub {
    void setEngineHostCodeAllowed(bool allowed) noexcept override { host_code = allowed; }
    nv::ICudaEngine* deserializeCudaEngine(const void* bytes, size_t size) noexcept override try {
      Plan plan = PlanReader(bytes, size).read();
      if (plan.header.host_code && !host_code)
        throw std::runtime_error("Error Code 3: API Usage Error (engine host code is not allowed)");
      return new Engine(std::move(plan));
    } catch (const std::exception& failed) {
      log_error(std::string("IRuntime::deserializeCudaEngine: ") + failed.what());
      log_error(
          "[runtime.cpp::deserializeCudaEngine::65] Error Code 4: Internal Error (Engine "
          "deserialization failed.)");
      return nullptr;
    }
    bool host_code = false;
  } impl_;
};

}  // namespace
}  // namespace mock

int32_t getInferLibVersion() noexcept {
  const long other = mock::fault("version");
  return other > 0 ? static_cast<int32_t>(other) : static_cast<int32_t>(NV_TENSORRT_VERSION);
}

void* createInferRuntime_INTERNAL(void* logger, int32_t version) noexcept {
  if (version != NV_TENSORRT_VERSION) mock::misused("the headers are of another version");
  mock::set_logger(static_cast<nvinfer1::ILogger*>(logger));
  // Null, or what some releases have for null.
  if (mock::fault("no_runtime") >= 0) {
    mock::log_error("CUDA initialization failure with error: 35. Please check your CUDA installation");
    return reinterpret_cast<void*>(mock::fault("no_runtime"));
  }
  return static_cast<nvinfer1::IRuntime*>(new mock::Runtime);
}
