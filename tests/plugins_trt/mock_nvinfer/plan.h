// SPDX-License-Identifier: Apache-2.0
//
// The mock's plans: a header, then W (O, I) and B (O) of each layer. Weights carry no checksum: a flipped bit
// in them makes another net, as it would in a real plan.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace mock {

enum Output : int32_t { kLabel = 1, kRadius = 2 };

// Engines that are not of our graphs.
enum Oddity : int32_t {
  kNone,
  kOtherName,
  kFloatImages,
  kHalfLogits,
  kNoLogits,
  kVectorized,
  kOtherOutput,
  kUnknownSize
};

struct Header {
  char magic[8];
  int32_t version, compute, host_code, least, most, fixed, image[3], layers, outputs, oddity;
  float slack;
};

struct Layer {
  int32_t outputs = 0, inputs = 0;
  std::vector<float> w, b;
};

struct Plan {
  Header header;
  std::vector<Layer> layers;
};

// Reads a plan; throws what TensorRT would log.
class PlanReader {
 public:
  PlanReader(const void* bytes, size_t size) : next_(static_cast<const char*>(bytes)), left_(size) {}

  Plan read() {
    Plan plan{};
    take(&plan.header, sizeof plan.header);
    check(plan.header);
    for (int32_t k = 0; k < plan.header.layers; ++k) plan.layers.push_back(layer());
    if (left_) throw std::runtime_error("Error Code 1: Serialization (bytes after the last layer)");
    return plan;
  }

 private:
  void check(const Header& header) const {
    const auto refuse = [](const std::string& why) { throw std::runtime_error(why); };
    if (std::memcmp(header.magic, "MOCKPLAN", 8))
      refuse("Error Code 1: Serialization (magicTagRead == kMAGIC_TAG failed.Magic tag does not match)");
    if (header.version != NV_TENSORRT_VERSION)
      refuse(
          "Error Code 6: API Usage Error (The engine plan file is not compatible with this version of "
          "TensorRT, expecting library version " +
          std::to_string(NV_TENSORRT_VERSION) + " got " + std::to_string(header.version) +
          ", please rebuild.)");
    if (header.compute != 87)
      refuse(
          "Error Code 6: API Usage Error (The engine plan file is generated on an incompatible device, "
          "expecting compute 8.7 got compute " +
          std::to_string(header.compute / 10) + "." + std::to_string(header.compute % 10) +
          ", please rebuild.)");
  }
  Layer layer() {
    Layer made;
    take(&made.outputs, 4);
    take(&made.inputs, 4);
    const bool sane = 0 < made.outputs && made.outputs < 1 << 12 && 0 < made.inputs && made.inputs < 1 << 12;
    if (!sane) throw std::runtime_error("Error Code 1: Serialization (a layer's size)");
    made.w = floats(static_cast<size_t>(made.outputs) * static_cast<size_t>(made.inputs));
    made.b = floats(static_cast<size_t>(made.outputs));
    return made;
  }
  std::vector<float> floats(size_t count) {
    if (count * 4 > left_) throw std::runtime_error("Error Code 1: Serialization (the plan ends too early)");
    std::vector<float> made(count);
    take(made.data(), count * 4);
    return made;
  }
  void take(void* to, size_t bytes) {
    if (bytes > left_) throw std::runtime_error("Error Code 1: Serialization (the plan ends too early)");
    std::memcpy(to, next_, bytes);
    next_ += bytes, left_ -= bytes;
  }

  const char* next_;
  size_t left_;
};

}  // namespace mock
