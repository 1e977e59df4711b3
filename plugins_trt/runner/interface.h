// SPDX-License-Identifier: Apache-2.0
//
// The inputs and outputs of an engine, which must be those of an exported graph, and whether golden arrays
// fit them.
#pragma once

#include <NvInferRuntime.h>

#include <string>
#include <string_view>
#include <vector>

#include "engine.h"
#include "golden.h"

namespace linf::runner {

struct Tensor {
  const char* name;
  nv::TensorIOMode mode;
  nv::DataType type;
  int32_t rank;
};
constexpr Tensor kTensors[] = {
    {"image", nv::TensorIOMode::kINPUT, nv::DataType::kUINT8, 4},
    {"logits", nv::TensorIOMode::kOUTPUT, nv::DataType::kFLOAT, 2},
    {"label", nv::TensorIOMode::kOUTPUT, nv::DataType::kINT64, 1},
    {"radius", nv::TensorIOMode::kOUTPUT, nv::DataType::kFLOAT, 1},
};

// What an engine takes and gives.
struct Interface {
  int64_t least_batch, most_batch;
  std::vector<int64_t> image;  // channels, height, width
  int64_t classes;
  bool label, radius;
};

class InterfaceReader {
 public:
  InterfaceReader(const nv::ICudaEngine& engine, const std::filesystem::path& plan)
      : engine_(engine), plan_(plan) {}

  Interface read() const {
    for (int32_t k = 0; k < engine_.getNbIOTensors(); ++k) check(engine_.getIOTensorName(k));
    if (!has("image") || !has("logits")) wrong("no image or no logits");
    const nv::Dims image = engine_.getTensorShape("image");
    Interface found{image.d[0], image.d[0], {image.d + 1, image.d + 4}, 0, has("label"), has("radius")};
    found.classes = engine_.getTensorShape("logits").d[1];
    if (found.most_batch == -1) read_profile(found);
    if (found.least_batch < 1 || found.most_batch < found.least_batch || found.classes < 1)
      wrong(joined("batches of ", found.least_batch, " to ", found.most_batch, " and ", found.classes,
                   " classes"));
    return found;
  }

 private:
  // Contexts start with the first profile.
  void read_profile(Interface& found) const {
    const nv::Dims least = engine_.getProfileShape("image", 0, nv::OptProfileSelector::kMIN),
                   most = engine_.getProfileShape("image", 0, nv::OptProfileSelector::kMAX);
    if (least.nbDims != 4 || most.nbDims != 4) wrong("no profile of image");
    found.least_batch = least.d[0], found.most_batch = most.d[0];
  }
  void check(const char* name) const {
    for (const Tensor& tensor : kTensors)
      if (name && std::string_view(name) == tensor.name && is(tensor)) return;
    const nv::Dims dims = name ? engine_.getTensorShape(name) : nv::Dims{};
    const int32_t rank = dims.nbDims < 0 ? 0 : dims.nbDims;
    wrong(joined("a tensor ", one_line(name ? name : "", 40), " of shape ",
                 shape_text(dims.d, static_cast<size_t>(rank)), " and type ",
                 name ? static_cast<int>(engine_.getTensorDataType(name)) : -1));
  }
  // Sizes other than the batch's must be known.
  bool is(const Tensor& tensor) const {
    const nv::Dims dims = engine_.getTensorShape(tensor.name);
    bool known = dims.nbDims == tensor.rank;
    for (int32_t k = 1; known && k < dims.nbDims; ++k) known = dims.d[k] >= 1;
    return known && engine_.getTensorIOMode(tensor.name) == tensor.mode &&
           engine_.getTensorDataType(tensor.name) == tensor.type &&
           engine_.getTensorFormat(tensor.name) == nv::TensorFormat::kLINEAR &&
           engine_.getTensorLocation(tensor.name) == nv::TensorLocation::kDEVICE;
  }
  bool has(std::string_view name) const {
    for (int32_t k = 0; k < engine_.getNbIOTensors(); ++k)
      if (name == engine_.getIOTensorName(k)) return true;
    return false;
  }
  [[noreturn]] void wrong(const std::string& found) const {
    refuse(plan_.string(), ": an engine with ", found,
           "; expected image uint8 (N, C, H, W) and logits float32 (N, K), perhaps label int64 (N) and "
           "radius float32 (N): build it from a file of linfdeploy export");
  }

  const nv::ICudaEngine& engine_;
  const std::filesystem::path& plan_;
};

// Refuses golden arrays of another net.
inline void check_fit(const Interface& engine, const Golden& golden, const Options& options) {
  const std::string mend = "; expected those of one net: copy the golden folder that belongs to the plan";
  const std::vector<int64_t> image(golden.images.shape.begin() + 1, golden.images.shape.end());
  if (image != engine.image)
    refuse(options.golden.string(), ": images of shape ", shape_text(image), " for a plan of ",
           shape_text(engine.image), mend);
  if (golden.logits.shape[1] != engine.classes)
    refuse(options.golden.string(), ": logits of ", golden.logits.shape[1], " classes for a plan of ",
           engine.classes, mend);
  if ((golden.label && !engine.label) || (golden.radius && !engine.radius))
    refuse(options.golden.string(), ": label.npy or radius.npy for a plan without such an output", mend);
}

// The size of batches, which the plan's profile and the number of images allow.
inline int64_t batch_of(const Interface& engine, int64_t images, const Options& options) {
  if (images < engine.least_batch)
    refuse(options.golden.string(), ": ", images, " images for a plan that takes batches of at least ",
           engine.least_batch, "; expected as many: build the plan with a smaller least batch");
  const int64_t most = std::min(images, engine.most_batch), batch = options.batch.value_or(most);
  if (batch < engine.least_batch || batch > engine.most_batch)
    refuse(
        "--batch is ", batch, "; expected ", engine.least_batch, " to ", engine.most_batch,
        ", the batches of the plan's profile: choose one of these, or build the plan with another profile");
  if (batch > images)
    refuse("--batch is ", batch, ", more than the ", images, " images; expected at most ", images);
  return batch;
}

}  // namespace linf::runner
