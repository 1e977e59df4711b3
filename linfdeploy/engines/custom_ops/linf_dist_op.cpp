// SPDX-License-Identifier: Apache-2.0
#include "linf_dist_op.h"

#include <memory>

namespace linf::ort {
namespace {

LinfDistSizes sizes_of(const Shape& w, const Shape& b) {
  if (w.rank != 2 || w[0] < 1 || w[1] < 1)
    throw std::invalid_argument("LinfDist: W is " + w.text() + "; expected (O, I) with O, I >= 1");
  if (b.rank != 1 || b[0] != w[0])
    throw std::invalid_argument("LinfDist: W is " + w.text() + " and B is " + b.text() +
                                "; expected W (O, I) and B (O,) with the same O");
  return {w[1], w[0]};
}

void run(const Kernels& kernels, Sizes n, const float* x, const float* w, const float* bias, float* y) {
  kernels.linf_dist(n, x, w, bias, y);
}

void run(const Kernels& kernels, Sizes n, const uint16_t* x, const uint16_t* w, const uint16_t* bias,
         uint16_t* y) {
  const std::unique_ptr<float[]> scratch(new float[(n.batch + kHalfRows) * n.inputs]);
  kernels.linf_dist_fp16(n, x, w, bias, y, scratch.get());
}

}  // namespace

template <typename T>
LinfDist<T>::LinfDist(const OrtApi& ort, const OrtKernelInfo* info, int threads)
    : api(ort), kernels_(*kernels_for(nullptr)), threads_(threads) {
  const OrtValue* w = constant_input(api, info, 1);
  const OrtValue* b = constant_input(api, info, 2);
  if (w && b) constant_ = sizes_of(shape_of(api, w), shape_of(api, b));
}

template <typename T>
Sizes LinfDist<T>::sizes(const OrtKernelContext* context, Threads* used) const {
  const auto computed = [&](size_t index) { return shape_of(api, input(api, context, index)); };
  const LinfDistSizes found = constant_ ? *constant_ : sizes_of(computed(1), computed(2));
  const Shape x = computed(0);
  if (x.rank != 2 || x[1] != found.inputs) {
    const std::string inputs = std::to_string(found.inputs);
    throw std::invalid_argument("LinfDist: X is " + x.text() + "; expected (N, " + inputs +
                                "), since W is (" + std::to_string(found.outputs) + ", " + inputs + ")");
  }
  return {x[0], found.inputs, found.outputs, pool(used)};
}

template <typename T>
void LinfDist<T>::compute(OrtKernelContext* context) const {
  Threads used{api, context, threads_};
  const Sizes n = sizes(context, &used);
  const int64_t shape[] = {n.batch, n.outputs};
  OrtValue* y = output(api, context, shape, 2);
  if (n.batch == 0) return;
  const auto data = [&](size_t index) { return data_of<const T>(api, input(api, context, index)); };
  run(kernels_, n, data(0), data(1), data(2), data_of<T>(api, y));
}

template <typename T>
void LinfDist<T>::infer(const OrtApi& api, OrtShapeInferContext* context) {
  const Extents x = extents_of(api, context, 0), w = extents_of(api, context, 1);
  if (x.size() == 2 && w.size() == 2) infer_output(api, context, {x[0], w[0]});
}

template class LinfDist<float>;
template class LinfDist<uint16_t>;

}  // namespace linf::ort
