// SPDX-License-Identifier: Apache-2.0
//
// Shapes of outputs, as expressions and as numbers.
#include "checks.h"
#include "expressions.h"

namespace conformance {
namespace {

// The shape of Y; empty where the plugin refuses.
std::vector<const nv::IDimensionExpr*> shape_of(nv::IPluginV3& plugin, Builder& builder,
                                                std::vector<nv::DimsExprs> inputs) {
  nv::DimsExprs y{};
  const int refused = Sides(plugin).build->getOutputShapes(inputs.data(), static_cast<int32_t>(inputs.size()),
                                                           nullptr, 0, &y, 1, builder);
  return refused ? std::vector<const nv::IDimensionExpr*>{}
                 : std::vector<const nv::IDimensionExpr*>(y.d, y.d + y.nbDims);
}

// How many places a window has, counted one by one.
int64_t counted_places(int64_t image, int64_t kernel, int64_t stride, int64_t before, int64_t after,
                       int64_t dilation) {
  int64_t places = 0;
  for (int64_t begin = -before; begin + dilation * (kernel - 1) < image + after; begin += stride) ++places;
  return places;
}

void check_conv_shapes(Tally& tally, nv::IPluginCreatorV3One& creator) {
  const std::vector<std::vector<int32_t>> strides{{1, 1}, {2, 3}}, pads{{0, 0, 0, 0}, {1, 0, 2, 1}},
      dilations{{1, 1}, {2, 1}};
  for (const auto& stride : strides)
    for (const auto& pad : pads)
      for (const auto& dilation : dilations)
        for (const int64_t image : {7, 8, 28}) {
          const PluginPtr plugin = created(
              creator, {integers("strides", stride), integers("pads", pad), integers("dilations", dilation)});
          Builder builder;
          const auto y = shape_of(*plugin, builder,
                                  {builder.dimensions({5, 2, image, image + 1}, false),
                                   builder.dimensions({4, 2, 3, 2}, true), builder.dimensions({4}, true)});
          if (!tally.expect(y.size() == 4, "LinfDistConv: a shape of four")) continue;
          tally.expect(value_of(*y[0]) == 5 && value_of(*y[1]) == 4, "LinfDistConv: images and filters");
          tally.expect(
              value_of(*y[2]) == counted_places(image, 3, stride[0], pad[0], pad[2], dilation[0]) &&
                  value_of(*y[3]) == counted_places(image + 1, 2, stride[1], pad[1], pad[3], dilation[1]),
              "LinfDistConv: the places of a window over " + std::to_string(image));
        }
}

using Tensors = std::vector<nv::PluginTensorDesc>;

bool taken(nv::IPluginV3& plugin, const Tensors& tensors) {
  return Sides(plugin).runtime->onShapeChange(tensors.data(), 3, &tensors[3], 1) == 0;
}

}  // namespace

void check_shapes(Tally& tally, const Library& library) {
  Builder builder;
  const PluginPtr plugin = created(*library.linf_dist, {});
  const auto x = builder.dimensions({7, 5}, false), w = builder.dimensions({3, 5}, true),
             b = builder.dimensions({3}, true);
  const auto y = shape_of(*plugin, builder, {x, w, b});
  tally.expect(y.size() == 2 && y[0] == x.d[0] && y[1] == w.d[0],
               "LinfDist: Y is (N, O), the very expressions");
  tally.expect(shape_of(*plugin, builder, {builder.dimensions({7, 5, 1}, false), w, b}).empty(),
               "LinfDist: X of three dimensions is refused");
  tally.expect(shape_of(*plugin, builder, {x, b, b}).empty(), "LinfDist: W of one dimension is refused");
  tally.expect(shape_of(*plugin, builder, {x, w}).empty(), "LinfDist: two inputs are refused");
  check_conv_shapes(tally, *library.linf_dist_conv);
  const PluginPtr conv = created(*library.linf_dist_conv, {});
  tally.expect(shape_of(*conv, builder, {x, w, b}).empty(), "LinfDistConv: matrices are refused");
  tally.expect(shape_of(*conv, builder,
                        {builder.dimensions({1, 1, 5, 5}, false), builder.dimensions({1, 1, 2, 2}, false), b})
                   .empty(),
               "LinfDistConv: filters of unknown size are refused");
}

void check_refused_shapes(Tally& tally, const Library& library) {
  constexpr auto kFloat = nv::DataType::kFLOAT;
  const auto of = [](std::initializer_list<int64_t> sizes) { return tensor(kFloat, sizes); };
  const int64_t many = int64_t{1} << 20;
  const PluginPtr dense = created(*library.linf_dist, {});
  tally.expect(taken(*dense, {of({2, 5}), of({3, 5}), of({3}), of({2, 3})}), "LinfDist: a shape that fits");
  tally.expect(taken(*dense, {of({0, 5}), of({3, 5}), of({3}), of({0, 3})}), "LinfDist: an empty batch");
  tally.expect(!taken(*dense, {of({2, 6}), of({3, 5}), of({3}), of({2, 3})}),
               "LinfDist: other inputs are refused");
  tally.expect(!taken(*dense, {of({2, 5}), of({3, 5}), of({4}), of({2, 3})}),
               "LinfDist: other biases are refused");
  tally.expect(!taken(*dense, {of({2, 5}), of({3, 5}), of({3}), of({2, 4})}),
               "LinfDist: another Y is refused");
  tally.expect(!taken(*dense, {of({2, 0}), of({3, 0}), of({3}), of({2, 3})}),
               "LinfDist: no inputs at all are refused");
  tally.expect(!taken(*dense, {of({-1, 5}), of({3, 5}), of({3}), of({-1, 3})}),
               "LinfDist: an unknown batch is refused");
  tally.expect(!taken(*dense, {of({many, many}), of({1, many}), of({1}), of({many, 1})}),
               "LinfDist: too many elements are refused");
  const int64_t wide = int64_t{1} << 29;
  tally.expect(!taken(*dense, {of({1, wide}), of({1, wide}), of({1}), of({1, 1})}),
               "LinfDist: rows of 2 GiB are refused");
  const PluginPtr conv = created(*library.linf_dist_conv, {});
  tally.expect(!taken(*conv, {of({1, wide, 1, 1}), of({1, wide, 1, 1}), of({1}), of({1, 1, 1, 1})}),
               "LinfDistConv: filters of 2 GiB are refused");
  tally.expect(taken(*conv, {of({2, 3, 5, 5}), of({4, 3, 2, 2}), of({4}), of({2, 4, 4, 4})}),
               "LinfDistConv: a shape that fits");
  tally.expect(!taken(*conv, {of({2, 2, 5, 5}), of({4, 3, 2, 2}), of({4}), of({2, 4, 4, 4})}),
               "LinfDistConv: other channels are refused");
  tally.expect(!taken(*conv, {of({2, 3, 5, 5}), of({4, 3, 6, 2}), of({4}), of({2, 4, 0, 4})}),
               "LinfDistConv: a window that is too large is refused");
  tally.expect(!taken(*conv, {of({2, 3, 5, 5}), of({4, 3, 2, 2}), of({4}), of({2, 4, 4, 5})}),
               "LinfDistConv: another Y is refused");
}

}  // namespace conformance
