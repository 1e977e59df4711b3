// SPDX-License-Identifier: Apache-2.0
//
// Stands in for libnvinfer, libnvinfer_plugin and libnvonnxparser, so that TensorRT's Python package can be
// imported where there is only its lean runtime: the registry of plugins is the lean runtime's, the rest is
// missing.
#include <dlfcn.h>

#include <cstdint>

namespace {

void* registry() {
  static void* const lean = dlopen("libnvinfer_lean.so.11", RTLD_NOW | RTLD_GLOBAL);
  return reinterpret_cast<void* (*)()>(dlsym(lean, "getPluginRegistry"))();
}

}  // namespace

extern "C" {
void* getPluginRegistry() { return registry(); }
void* getBuilderPluginRegistry(int32_t) { return registry(); }
void* createInferBuilder_INTERNAL(void*, int32_t) { return nullptr; }
void* createInferRefitter_INTERNAL(void*, void*, int32_t) { return nullptr; }
void* createInferRuntime_INTERNAL(void*, int32_t) { return nullptr; }
void* createNvOnnxParser_INTERNAL(void*, void*, int32_t) { return nullptr; }
void* createNvOnnxParserRefitter_INTERNAL(void*, void*, int32_t) { return nullptr; }
int32_t getNvOnnxParserVersion() { return 0; }
bool initLibNvInferPlugins(void*, const char*) { return true; }
}
