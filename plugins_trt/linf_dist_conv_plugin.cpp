// SPDX-License-Identifier: Apache-2.0
#include "linf_dist_conv_plugin.h"

#include "dims.h"

namespace linf::trt {
namespace {

// Larger windows are refused, so that no arithmetic on sizes overflows.
constexpr int32_t kMostWindow = 1 << 16;

bool ranks_fit(int32_t x, int32_t w, int32_t b) {
  if (x == 4 && w == 4 && b == 1) return true;
  log_refusal(LinfDistConvPlugin::kName,
              "X, W and B have %d, %d and %d dimensions; expected (N, C, H, W), (O, C, kH, kW) and (O)", x, w,
              b);
  return false;
}

}  // namespace

nv::IPluginV3* LinfDistConvPlugin::create(const Fields& fields) noexcept {
  auto* const plugin = new (std::nothrow) LinfDistConvPlugin;
  int32_t group = 1;
  const bool fits = plugin && fields.integers("kernel_shape", 0, kMostWindow, 2, plugin->kernel_) &&
                    fields.integers("strides", 1, kMostWindow, 2, plugin->strides_) &&
                    fields.integers("pads", 0, kMostWindow, 4, plugin->pads_) &&
                    fields.integers("dilations", 1, kMostWindow, 2, plugin->dilations_) &&
                    fields.integers("group", 1, 1, 1, &group) && fields.says("auto_pad", "NOTSET");
  if (fits) return plugin;
  delete plugin;
  return nullptr;
}

bool LinfDistConvPlugin::type_fits(int32_t, nv::DataType type, nv::DataType x) noexcept {
  return type == x && x == nv::DataType::kFLOAT;
}

bool LinfDistConvPlugin::output_type(const nv::DataType* inputs, nv::DataType& y) noexcept {
  for (int32_t k = 0; k < kInputs; ++k) {
    if (type_fits(k, inputs[k], inputs[kX])) continue;
    log_refusal(kName, "X, W and B are of types %d, %d and %d; expected float32 (%d)",
                static_cast<int>(inputs[kX]), static_cast<int>(inputs[kW]), static_cast<int>(inputs[kB]),
                static_cast<int>(nv::DataType::kFLOAT));
    return false;
  }
  y = inputs[kX];
  return true;
}

int64_t LinfDistConvPlugin::places(int32_t axis, int64_t image, int64_t kernel) const {
  const int64_t room = image + pads_[axis] + pads_[axis + 2] - dilations_[axis] * (kernel - 1) - 1;
  return room < 0 ? 0 : room / strides_[axis] + 1;
}

// The filters' size is known when an engine is built, the images' may not be.
bool LinfDistConvPlugin::output_shape(const nv::DimsExprs* inputs, nv::DimsExprs& y,
                                      nv::IExprBuilder& builder) const noexcept {
  if (!ranks_fit(inputs[kX].nbDims, inputs[kW].nbDims, inputs[kB].nbDims)) return false;
  y.nbDims = 4;
  y.d[0] = inputs[kX].d[0];
  y.d[1] = inputs[kW].d[0];
  for (int32_t axis = 0; axis < 2; ++axis) {
    if (!inputs[kW].d[2 + axis]->isConstant()) {
      log_refusal(kName, "the size of the filters W is not a constant; expected an initializer");
      return false;
    }
    const int64_t kernel = inputs[kW].d[2 + axis]->getConstantValue();
    const int64_t added =
        pads_[axis] + pads_[axis + 2] - dilations_[axis] * (kernel - 1) - 1 + strides_[axis];
    const auto* const room =
        builder.operation(nv::DimensionOperation::kSUM, *inputs[kX].d[2 + axis], *builder.constant(added));
    y.d[2 + axis] =
        builder.operation(nv::DimensionOperation::kFLOOR_DIV, *room, *builder.constant(strides_[axis]));
  }
  return true;
}

bool LinfDistConvPlugin::fits(const nv::PluginTensorDesc* inputs,
                              const nv::PluginTensorDesc& y) const noexcept {
  const nv::Dims &x = inputs[kX].dims, &w = inputs[kW].dims, &b = inputs[kB].dims;
  if (!ranks_fit(x.nbDims, w.nbDims, b.nbDims)) return false;
  bool sizes_fit = w.d[1] >= 1 && x.d[1] == w.d[1] && b.d[0] == w.d[0] && y.dims.nbDims == 4 &&
                   y.dims.d[0] == x.d[0] && y.dims.d[1] == w.d[0];
  for (int32_t axis = 0; axis < 2; ++axis) {
    const int64_t image = x.d[2 + axis], kernel = w.d[2 + axis];
    sizes_fit = sizes_fit && 1 <= kernel && kernel <= kMostWindow && image >= 0 &&
                image <= INT32_MAX - 2 * kMostWindow && (kernel_[axis] == 0 || kernel_[axis] == kernel) &&
                places(axis, image, kernel) >= 1 && y.dims.d[2 + axis] == places(axis, image, kernel);
  }
  if (!sizes_fit) {
    log_refusal(kName,
                "the sizes of X, W, B, Y and the attributes do not belong together; expected a window of "
                "kernel_shape that fits into the padded images, and Y of its places");
    return false;
  }
  const bool rows_fit = w.d[0] == 0 || fits_a_row(elements(w) / w.d[0]);
  if (fits_an_index(x) && fits_an_index(w) && fits_an_index(y.dims) && rows_fit) return true;
  log_refusal(
      kName,
      "X, W or Y has 2^31 elements or more, or filters of 2 GiB; expected fewer: make the batch smaller");
  return false;
}

int32_t LinfDistConvPlugin::run(const LinfLauncher& launcher, const nv::PluginTensorDesc* inputs,
                                const void* const* in, void* y) const {
  const nv::Dims &x = inputs[kX].dims, &w = inputs[kW].dims;
  const auto size = [](const nv::Dims& dims, int32_t axis) { return static_cast<int32_t>(dims.d[axis]); };
  LinfWindow window{};
  window.images = size(x, 0), window.channels = size(x, 1), window.filters = size(w, 0);
  for (int32_t axis = 0; axis < 2; ++axis) {
    window.image[axis] = size(x, 2 + axis);
    window.kernel[axis] = size(w, 2 + axis);
    window.stride[axis] = strides_[axis];
    window.dilation[axis] = dilations_[axis];
    window.padding[axis] = pads_[axis];
    window.places[axis] = static_cast<int32_t>(places(axis, x.d[2 + axis], w.d[2 + axis]));
  }
  return linf_dist_conv_cuda(&launcher, window, static_cast<const float*>(in[kX]),
                             static_cast<const float*>(in[kW]), static_cast<const float*>(in[kB]),
                             static_cast<float*>(y));
}

std::vector<nv::PluginField> LinfDistConvPlugin::fields() const {
  constexpr auto kIntegers = nv::PluginFieldType::kINT32;
  return {{kFormatField, &kFormat, kIntegers, 1},
          {"kernel_shape", kernel_, kIntegers, 2},
          {"strides", strides_, kIntegers, 2},
          {"pads", pads_, kIntegers, 4},
          {"dilations", dilations_, kIntegers, 2}};
}

}  // namespace linf::trt
