// SPDX-License-Identifier: Apache-2.0
#include "registry.h"

#include <dlfcn.h>

#include <string_view>

#include "faults.h"

namespace mock {
namespace {

nv::ILogger* used = nullptr;

}  // namespace

Registry& registry() {
  static Registry only;
  return only;
}

void set_logger(nv::ILogger* logger) { used = logger; }

void log_error(const std::string& text) {
  if (used) used->log(nv::ILogger::Severity::kERROR, text.c_str());
}

// Null where a library cannot be opened, is none of plugins, or is there already.
Registry::PluginLibraryHandle Registry::loadLibrary(const char* path) noexcept {
  void* const opened = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!opened) return log_error("Error Code 3: API Usage Error (Unable to open library)"), nullptr;
  using Entry = nv::IPluginCreatorInterface* const*(int32_t&);
  auto* const entry = reinterpret_cast<Entry*>(dlsym(opened, "getCreators"));
  if (!entry)
    return log_error("Error Code 3: API Usage Error (SymbolAddress for getCreators could not be loaded)"),
           nullptr;
  if (!loaded_.insert(path).second) return nullptr;
  int32_t count = 0;
  nv::IPluginCreatorInterface* const* const found = entry(count);
  for (int32_t k = 0; k < count; ++k) creators_.push_back(static_cast<nv::IPluginCreatorV3One*>(found[k]));
  return opened;
}

nv::IPluginCreatorInterface* Registry::getCreator(const char* name, const char* version,
                                                  const char* space) noexcept {
  using namespace std::string_literals;
  for (nv::IPluginCreatorV3One* creator : creators_)
    if (creator->getPluginName() == std::string_view(name) &&
        creator->getPluginVersion() == std::string_view(version) &&
        creator->getPluginNamespace() == std::string_view(space))
      return creator;
  log_error("IPluginRegistry::getCreator: Error Code 4: API Usage Error (Cannot find plugin: "s + name +
            ", version: " + version + ", namespace:" + space + ".)");
  return nullptr;
}

}  // namespace mock

nvinfer1::IPluginRegistry* getPluginRegistry() noexcept {
  return mock::fault("no_registry") > 0 ? nullptr : &mock::registry();
}
