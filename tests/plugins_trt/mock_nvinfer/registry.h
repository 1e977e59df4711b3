// SPDX-License-Identifier: Apache-2.0
//
// A registry that opens libraries of plugins, and the logger that everything of the mock writes to.
#pragma once

#include <NvInferRuntime.h>

#include <set>
#include <string>
#include <vector>

#include "stubs.h"

namespace mock {

namespace nv = nvinfer1;

class Registry : public nv::PluginRegistryStub {
 public:
  PluginLibraryHandle loadLibrary(const char* path) noexcept override;
  nv::IPluginCreatorInterface* getCreator(const char* name, const char* version,
                                          const char* space) noexcept override;

 private:
  std::set<std::string> loaded_;
  std::vector<nv::IPluginCreatorV3One*> creators_;
};

Registry& registry();
void set_logger(nv::ILogger* logger);
void log_error(const std::string& text);

}  // namespace mock
