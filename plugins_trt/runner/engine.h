// SPDX-License-Identifier: Apache-2.0
//
// A plan as an engine that can run, or a line that says why it cannot.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "logger.h"
#include "options.h"

namespace linf::runner {

constexpr char kPluginName[] = "LinfDist", kPluginVersion[] = "1", kPluginNamespace[] = "linfdeploy";

// 10.3.0 is 100300; before 10.0, 8.6.1 was 8601.
inline int32_t major_of(int32_t version) { return version >= 100000 ? version / 10000 : version / 1000; }
inline std::string version_text(int32_t version) {
  const int32_t unit = version >= 100000 ? 100 : 10;
  return joined(major_of(version), ".", version / 100 % unit, ".", version % 100);
}

// Interfaces are laid out by the headers: to call those of another major version is to jump anywhere.
inline void check_library() {
  const int32_t found = getInferLibVersion();
  if (major_of(found) != NV_TENSORRT_MAJOR)
    refuse("libnvinfer is of TensorRT ", version_text(found), ", this program of ",
           version_text(NV_TENSORRT_VERSION),
           "; expected the same major version: build verify_golden with the headers of this TensorRT");
}

inline nv::IPluginRegistry& registry() {
  nv::IPluginRegistry* const found = getPluginRegistry();
  if (!found) refuse("TensorRT has no plugin registry; expected one: install TensorRT again");
  return *found;
}

inline void load_plugins(const std::filesystem::path& library, Logger& logger) {
  // Absolute, so that it is this file and none that the loader finds elsewhere.
  const std::string path = std::filesystem::absolute(library).string();
  if (!registry().loadLibrary(path.c_str()))
    refuse(library.string(), ": TensorRT does not load this library of plugins: ", logger.taken(),
           "; expected liblinfdeploy_tensorrt.so, built for this machine");
  if (!registry().getCreator(kPluginName, kPluginVersion, kPluginNamespace))
    refuse(library.string(), ": a library without the plugin ", kPluginNamespace, "::", kPluginName,
           ", version ", kPluginVersion, "; expected liblinfdeploy_tensorrt.so");
}

inline std::vector<char> plan_bytes(const std::filesystem::path& path) {
  const auto wrong = [&](const char* found) {
    refuse(path.string(), ": ", found, "; expected a plan of TensorRT: build it on this device");
  };
  std::error_code failed;
  if (!std::filesystem::exists(path, failed)) wrong("there is no such file");
  if (!std::filesystem::is_regular_file(path, failed)) wrong("no regular file");
  const uintmax_t size = std::filesystem::file_size(path, failed);
  std::ifstream file(path, std::ios::binary);
  if (failed || !file) wrong("cannot be opened");
  if (!size) wrong("an empty file");
  std::vector<char> bytes(size);
  if (!file.read(bytes.data(), static_cast<std::streamsize>(size))) wrong("cannot be read");
  return bytes;
}

// How to mend a plan that TensorRT refuses with these errors. Its texts differ between releases; where none
// is known, what is left is a damaged file.
inline std::string remedy(const std::string& errors, const Options& options) {
  if (mentions(errors, {"host code", "hostcode"}))
    return "expected --host-code, if you trust the plan: it holds a library that would run";
  if (mentions(errors, {"plugin"}))
    return options.plugin ? "expected a plan for these plugins: build it again with this library"
                          : "expected the library of its plugins: give it with --plugin";
  if (mentions(errors, {"memory"}))
    return "expected room for the engine: end other programs that use the GPU";
  if (mentions(errors, {"device", "compute"})) return "expected a plan for this GPU: build it on this device";
  if (mentions(errors, {"version"}))
    return joined("expected a plan for TensorRT ", version_text(getInferLibVersion()),
                  ": build it on this device");
  return "expected an undamaged plan: copy it again, or build it on this device";
}

// A runtime. Without a working driver, TensorRT 10.16 and 11.4 give an address in the first page, a null
// that was converted to another base class, in the place of null.
inline nv::IRuntime* created(Logger& logger) {
  constexpr uintptr_t kFirstPage = 4096;
  nv::IRuntime* const made = nv::createInferRuntime(logger);
  if (reinterpret_cast<uintptr_t>(made) < kFirstPage)
    refuse("TensorRT does not start: ", logger.taken(), "; expected a GPU with a driver for this TensorRT");
  return made;
}

// A runtime and the engine that it made, which must go first.
class Engine {
 public:
  Engine(const Options& options, Logger& logger) : logger_(logger) {
    check_library();
    runtime_.reset(created(logger));
    if (options.plugin) load_plugins(*options.plugin, logger);
    runtime_->setEngineHostCodeAllowed(options.host_code);
    const std::vector<char> plan = plan_bytes(options.plan);
    engine_.reset(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
    if (engine_) return;
    const std::string errors = logger.taken();
    refuse(options.plan.string(), ": TensorRT refuses this plan: ", errors, "; ", remedy(errors, options));
  }
  const nv::ICudaEngine& get() const { return *engine_; }

  std::unique_ptr<nv::IExecutionContext> context() const {
    std::unique_ptr<nv::IExecutionContext> made(engine_->createExecutionContext());
    if (!made)
      refuse("TensorRT makes no execution context: ", logger_.taken(),
             "; expected room for the engine's memory: end other programs that use the GPU");
    return made;
  }

 private:
  Logger& logger_;
  std::unique_ptr<nv::IRuntime> runtime_;
  std::unique_ptr<nv::ICudaEngine> engine_;
};

}  // namespace linf::runner
