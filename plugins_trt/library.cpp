// SPDX-License-Identifier: Apache-2.0
//
// The entry points that TensorRT looks for in a library of plugins. With LINFDEPLOY_STATIC_REGISTRATION the
// plugins register themselves when the library is opened, for programs that do no more than that; then it
// links libnvinfer.
//
// The library says in one line what it was made for, which linfdeploy reads in the file before it loads it.
#include "linf_dist_conv_plugin.h"
#include "linf_dist_plugin.h"

#define LINFDEPLOY_TEXT_OF(value) #value
#define LINFDEPLOY_TEXT(value) LINFDEPLOY_TEXT_OF(value)
#ifndef LINFDEPLOY_ARCHITECTURES
#define LINFDEPLOY_ARCHITECTURES "none"
#endif
#ifdef LINFDEPLOY_STATIC_REGISTRATION
#define LINFDEPLOY_REGISTRATION "static"
#else
#define LINFDEPLOY_REGISTRATION "none"
#endif

namespace {

// Nobody reads it here, so only the attribute keeps it.
__attribute__((used)) constexpr char kMadeFor[] =
    "linfdeploy-plugins/1 architectures=" LINFDEPLOY_ARCHITECTURES " tensorrt=" LINFDEPLOY_TEXT(
        NV_TENSORRT_MAJOR) "." LINFDEPLOY_TEXT(NV_TENSORRT_MINOR) " registration=" LINFDEPLOY_REGISTRATION;

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
