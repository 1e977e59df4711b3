// SPDX-License-Identifier: Apache-2.0
//
// TensorRT's functions return nothing but null or false; why is in what they log.
#pragma once

#include <NvInferRuntime.h>

#include <algorithm>
#include <cctype>
#include <mutex>
#include <string>
#include <vector>

#include "text.h"

namespace linf::runner {

namespace nv = nvinfer1;

// Keeps errors until they are asked for. The first names the cause, later ones what failed because of it.
class Logger : public nv::ILogger {
 public:
  void log(Severity severity, const char* text) noexcept override try {
    if (severity > Severity::kERROR || !text) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    if (errors_.size() < kMostErrors) errors_.push_back(one_line(text));
  } catch (...) {
    // Without memory for it, an error is lost; that something failed is known elsewhere.
  }

  // All errors since the last call, in one line.
  std::string taken() {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::string text;
    for (const std::string& error : errors_) text += (text.empty() ? "" : " | ") + error;
    errors_.clear();
    return text.empty() ? "nothing" : text;
  }

 private:
  static constexpr size_t kMostErrors = 3;
  std::mutex mutex_;
  std::vector<std::string> errors_;
};

// Whether a text has one of these words, in capitals or not.
inline bool mentions(std::string text, std::initializer_list<const char*> words) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return std::any_of(words.begin(), words.end(),
                     [&](const char* word) { return text.find(word) != std::string::npos; });
}

}  // namespace linf::runner
