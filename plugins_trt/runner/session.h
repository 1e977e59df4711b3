// SPDX-License-Identifier: Apache-2.0
//
// Runs golden images in batches, on one stream, and compares every answer.
#pragma once

#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "compare.h"
#include "device.h"
#include "interface.h"

namespace linf::runner {

constexpr int64_t kMostSingles = 8;

// All images in batches of `size`; a remainder that the plan is too large for starts earlier. Then the first
// images one by one, which other kernels may compute, if the plan takes that.
inline std::vector<Batch> batches_of(int64_t images, int64_t size, int64_t least) {
  std::vector<Batch> batches;
  for (int64_t first = 0; first < images; first += size) {
    const int64_t count = std::max(std::min(size, images - first), least);
    batches.push_back({std::min(first, images - count), count, 1});
  }
  for (int64_t image = 0; least == 1 && size > 1 && image < std::min(images, kMostSingles); ++image)
    batches.push_back({image, 1, 1});
  return batches;
}

struct Output {
  const char* name;
  Buffer buffer;
  Comparison comparison;
};

class Session {
 public:
  Session(const Engine& engine, const Golden& golden, int64_t batch, Logger& logger)
      : golden_(golden),
        image_bytes_(static_cast<int64_t>(golden.images.bytes.size()) / golden.count()),
        logger_(logger),
        context_(engine.context()),
        images_(batch * image_bytes_) {
    add("logits", Comparison(golden.logits, true, "logit", "logits"), batch);
    if (golden.label) add("label", Comparison(*golden.label, false, "label", "labels"), batch);
    if (golden.radius) add("radius", Comparison(*golden.radius, true, "radius", "radii"), batch);
  }

  // Gives outputs that nothing is compared with a place to go to.
  void ignore(const char* name, int64_t bytes) { ignored_.emplace_back(name, Buffer(bytes)); }

  void run(const Batch& batch) {
    std::memcpy(images_.host(), golden_.images.bytes.data() + batch.first * image_bytes_,
                static_cast<size_t>(batch.count * image_bytes_));
    bind(batch);
    cudaError_t failed = images_.to_device(batch.count * image_bytes_, stream_);
    for (const Output& output : outputs_)
      if (!failed) failed = output.buffer.spoil(bytes_of(output, batch), stream_);
    if (!failed && !context_->enqueueV3(stream_.get()))
      refuse_run(batch, "TensorRT", logger_.taken() + " (a plugin's reason is in the lines above)");
    for (const Output& output : outputs_)
      if (!failed) failed = output.buffer.to_host(bytes_of(output, batch), stream_);
    if (!failed) failed = cudaStreamSynchronize(stream_.get());
    if (failed) refuse_run(batch, "CUDA", cuda_text(failed));
    for (Output& output : outputs_) output.comparison.check(batch, output.buffer.host());
  }

  // Prints all results. False where anything differs.
  bool report() const {
    bool same = true;
    for (const Output& output : outputs_) same = output.comparison.report() && same;
    return same;
  }

 private:
  void add(const char* name, Comparison comparison, int64_t batch) {
    const int64_t bytes = batch * comparison.row_bytes();
    outputs_.push_back({name, Buffer(bytes), std::move(comparison)});
  }
  static int64_t bytes_of(const Output& output, const Batch& batch) {
    return batch.count * output.comparison.row_bytes();
  }
  void bind(const Batch& batch) {
    const auto& shape = golden_.images.shape;
    const nv::Dims4 dims(batch.count, shape[1], shape[2], shape[3]);
    bool bound = context_->setInputShape("image", dims);
    bound = bound && context_->setTensorAddress("image", images_.device());
    for (const Output& output : outputs_)
      bound = bound && rows_of(output) == batch.count &&
              context_->setTensorAddress(output.name, output.buffer.device());
    for (const auto& [name, buffer] : ignored_)
      bound = bound && context_->setTensorAddress(name, buffer.device());
    if (!bound) refuse_run(batch, "TensorRT", logger_.taken());
  }
  // The rows that the engine is about to write.
  int64_t rows_of(const Output& output) const {
    const nv::Dims dims = context_->getTensorShape(output.name);
    return dims.nbDims < 1 ? -1 : dims.d[0];
  }
  [[noreturn]] static void refuse_run(const Batch& batch, const char* who, const std::string& why) {
    refuse(who, " does not run images ", batch.first, " to ", batch.first + batch.count - 1, ": ", why,
           "; expected results: build the plan and the plugins on this device");
  }

  const Golden& golden_;
  const int64_t image_bytes_;
  Logger& logger_;
  // In this order: the stream ends first, then memory goes, then what used it.
  std::unique_ptr<nv::IExecutionContext> context_;
  Buffer images_;
  std::vector<Output> outputs_;
  std::vector<std::pair<const char*, Buffer>> ignored_;
  Stream stream_;
};

}  // namespace linf::runner
