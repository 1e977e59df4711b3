// SPDX-License-Identifier: Apache-2.0
//
// Images, and what an engine must answer to them, bit for bit.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "npy.h"

namespace linf::runner {

struct Golden {
  Array images, logits;
  std::optional<Array> label, radius;

  int64_t count() const { return images.shape[0]; }
};

class GoldenFolder {
 public:
  explicit GoldenFolder(std::filesystem::path folder) : folder_(std::move(folder)) {}

  Golden read() const {
    std::error_code failed;
    if (!std::filesystem::is_directory(folder_, failed))
      refuse(folder_.string(), ": no folder; expected one with images.npy and logits.npy");
    Golden golden;
    golden.images = array("images.npy", {kUint8, 4, "uint8 (N, C, H, W)"});
    golden.logits = array("logits.npy", {kFloat32, 2, "float32 (N, K)"});
    golden.label = array_if_there("label.npy", {kInt64, 1, "int64 (N)"});
    golden.radius = array_if_there("radius.npy", {kFloat32, 1, "float32 (N)"});
    check(golden);
    return golden;
  }

 private:
  Array array(const char* name, const Expectation& expected) const {
    return NpyFile(folder_ / name, expected).read();
  }
  std::optional<Array> array_if_there(const char* name, const Expectation& expected) const {
    std::error_code failed;
    if (std::filesystem::symlink_status(folder_ / name, failed).type() ==
        std::filesystem::file_type::not_found)
      return std::nullopt;
    return array(name, expected);
  }
  void check(const Golden& golden) const {
    for (const int64_t size : golden.images.shape)
      if (size < 1) wrong("images.npy", golden.images, "at least one image of at least one pixel");
    if (golden.logits.shape[1] < 1) wrong("logits.npy", golden.logits, "at least one class");
    const std::string rows = joined("one row for each of ", golden.count(), " images");
    if (golden.logits.shape[0] != golden.count()) wrong("logits.npy", golden.logits, rows);
    if (golden.label && golden.label->shape[0] != golden.count()) wrong("label.npy", *golden.label, rows);
    if (golden.radius && golden.radius->shape[0] != golden.count()) wrong("radius.npy", *golden.radius, rows);
  }
  [[noreturn]] void wrong(const char* name, const Array& found, const std::string& expected) const {
    refuse((folder_ / name).string(), ": shape ", shape_text(found.shape), "; expected ", expected,
           ": copy the golden folder again");
  }

  const std::filesystem::path folder_;
};

}  // namespace linf::runner
