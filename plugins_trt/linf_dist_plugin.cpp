// SPDX-License-Identifier: Apache-2.0
#include "linf_dist_plugin.h"

#include "dims.h"

namespace linf::trt {

nv::IPluginV3* LinfDistPlugin::create(const Fields&) noexcept { return new (std::nothrow) LinfDistPlugin; }

bool LinfDistPlugin::type_fits(int32_t, nv::DataType type, nv::DataType x) noexcept {
  return type == x && (x == nv::DataType::kFLOAT || x == nv::DataType::kHALF);
}

bool LinfDistPlugin::output_type(const nv::DataType* inputs, nv::DataType& y) noexcept {
  for (int32_t k = 0; k < kInputs; ++k) {
    if (type_fits(k, inputs[k], inputs[kX])) continue;
    log_refusal(kName, "X, W and B are of types %d, %d and %d; expected all float32 (%d) or all float16 (%d)",
                static_cast<int>(inputs[kX]), static_cast<int>(inputs[kW]), static_cast<int>(inputs[kB]),
                static_cast<int>(nv::DataType::kFLOAT), static_cast<int>(nv::DataType::kHALF));
    return false;
  }
  y = inputs[kX];
  return true;
}

bool LinfDistPlugin::output_shape(const nv::DimsExprs* inputs, nv::DimsExprs& y,
                                  nv::IExprBuilder&) const noexcept {
  if (inputs[kX].nbDims != 2 || inputs[kW].nbDims != 2 || inputs[kB].nbDims != 1) {
    log_refusal(kName, "X, W and B have %d, %d and %d dimensions; expected (N, I), (O, I) and (O)",
                inputs[kX].nbDims, inputs[kW].nbDims, inputs[kB].nbDims);
    return false;
  }
  y.nbDims = 2;
  y.d[0] = inputs[kX].d[0];
  y.d[1] = inputs[kW].d[0];
  return true;
}

bool LinfDistPlugin::fits(const nv::PluginTensorDesc* inputs, const nv::PluginTensorDesc& y) const noexcept {
  const nv::Dims &x = inputs[kX].dims, &w = inputs[kW].dims, &b = inputs[kB].dims;
  if (x.nbDims != 2 || w.nbDims != 2 || b.nbDims != 1 || y.dims.nbDims != 2 || x.d[1] != w.d[1] ||
      w.d[1] < 1 || b.d[0] != w.d[0] || y.dims.d[0] != x.d[0] || y.dims.d[1] != w.d[0]) {
    log_refusal(kName, "X, W, B or Y has another shape than (N, I), (O, I), (O) and (N, O) with I >= 1");
    return false;
  }
  if (fits_an_index(x) && fits_an_index(w) && fits_an_index(y.dims) && fits_a_row(w.d[1])) return true;
  log_refusal(
      kName, "X, W or Y has 2^31 elements or more, or rows of 2 GiB; expected fewer: make the batch smaller");
  return false;
}

int32_t LinfDistPlugin::run(const LinfLauncher& launcher, const nv::PluginTensorDesc* inputs,
                            const void* const* in, void* y) const {
  const nv::Dims &x = inputs[kX].dims, &w = inputs[kW].dims;
  const LinfSizes n = {static_cast<int32_t>(x.d[0]), static_cast<int32_t>(x.d[1]),
                       static_cast<int32_t>(w.d[0])};
  const LinfDtype dtype = inputs[kX].type == nv::DataType::kHALF ? LINF_FLOAT16 : LINF_FLOAT32;
  return linf_dist_cuda(&launcher, dtype, n, in[kX], in[kW], in[kB], y);
}

std::vector<nv::PluginField> LinfDistPlugin::fields() const {
  return {{kFormatField, &kFormat, nv::PluginFieldType::kINT32, 1}};
}

}  // namespace linf::trt
