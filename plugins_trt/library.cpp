// SPDX-License-Identifier: Apache-2.0
//
// The entry points that TensorRT looks for in a library of plugins. With LINFDEPLOY_STATIC_REGISTRATION the
// plugins register themselves when the library is opened, for programs that do no more than that; then it
// links libnvinfer.
#include "linf_dist_conv_plugin.h"
#include "linf_dist_plugin.h"

namespace {

linf::trt::Creator<linf::trt::LinfDistPlugin> linf_dist;
linf::trt::Creator<linf::trt::LinfDistConvPlugin> linf_dist_conv;

}  // namespace

extern "C" {

__attribute__((visibility("default"))) nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&linf_dist, &linf_dist_conv};
  count = 2;
  return creators;
}

// Never called back: see log.h.
__attribute__((visibility("default"))) void setLoggerFinder(nvinfer1::ILoggerFinder*) {}
}

#ifdef LINFDEPLOY_STATIC_REGISTRATION
namespace {

[[maybe_unused]] const bool registered =
    getPluginRegistry()->registerCreator(linf_dist, linf::trt::kNamespace) &&
    getPluginRegistry()->registerCreator(linf_dist_conv, linf::trt::kNamespace);

}  // namespace
#endif
