// SPDX-License-Identifier: Apache-2.0
#include "sort_dist_op.h"

#include <algorithm>

namespace linf::ort {
namespace {

constexpr int64_t kMaxGrid = 23;

float steps_of(const OrtApi& api, const OrtKernelInfo* info) {
  const int64_t grid = integer(api, info, "grid", -1);
  if (grid < 0 || grid > kMaxGrid)
    throw std::invalid_argument("SortDist: grid is " +
                                (grid == -1 ? std::string("absent") : std::to_string(grid)) +
                                "; expected 0 to " + std::to_string(kMaxGrid));
  return static_cast<float>(int64_t{1} << grid);
}

void check_shapes(const Shape& x, const Shape& w, const Shape& c, const Shape& b) {
  if (x.rank != 2 || w.rank != 2 || x[1] != w[1] || w[0] < 1 || w[1] < 1)
    throw std::invalid_argument("SortDist: X is " + x.text() + " and W is " + w.text() +
                                "; expected X (N, I) and W (O, I) with O, I >= 1");
  const int64_t most = std::min(w[1], kMostTerms);
  if (c.rank != 1 || c[0] < 1 || c[0] > most)
    throw std::invalid_argument("SortDist: W is " + w.text() + " and C is " + c.text() +
                                "; expected C (K,) with K of 1 to " + std::to_string(most));
  if (b.rank != 1 || b[0] != w[0])
    throw std::invalid_argument("SortDist: W is " + w.text() + " and B is " + b.text() +
                                "; expected W (O, I) and B (O,) with the same O");
}

}  // namespace

SortDist::SortDist(const OrtApi& ort, const OrtKernelInfo* info, int threads)
    : api(ort), kernels_(*kernels_for(nullptr)), threads_(threads), steps_(steps_of(ort, info)) {}

void SortDist::compute(OrtKernelContext* context) const {
  const auto shape = [&](size_t index) { return shape_of(api, input(api, context, index)); };
  const Shape x = shape(0), w = shape(1), c = shape(2);
  check_shapes(x, w, c, shape(3));
  Threads used{api, context, threads_};
  const int64_t sizes[] = {x[0], w[0]};
  OrtValue* y = output(api, context, sizes, 2);
  if (x[0] == 0) return;
  const auto data = [&](size_t index) { return data_of<const float>(api, input(api, context, index)); };
  kernels_.sort_dist({x[0], x[1], w[0], pool(&used)}, data(0), data(1), {data(2), c[0], steps_}, data(3),
                     data_of<float>(api, y));
}

void SortDist::infer(const OrtApi& api, OrtShapeInferContext* context) {
  const Extents x = extents_of(api, context, 0), w = extents_of(api, context, 1);
  if (x.size() == 2 && w.size() == 2) infer_output(api, context, {x[0], w[0]});
}

}  // namespace linf::ort
