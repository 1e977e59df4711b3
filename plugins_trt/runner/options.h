// SPDX-License-Identifier: Apache-2.0
//
// The command line.
#pragma once

#include <charconv>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text.h"

namespace linf::runner {

constexpr char kUsage[] =
    "usage: verify_golden PLAN GOLDEN_DIR [--plugin LIBRARY] [--batch N] [--repeat R] [--host-code]";

struct Options {
  std::filesystem::path plan, golden;
  std::optional<std::filesystem::path> plugin;
  std::optional<int64_t> batch;  // without: the most that the plan takes
  int64_t repeat = 1;
  bool host_code = false;
  bool help = false;
};

constexpr int64_t kMostBatch = INT32_MAX, kMostRepeats = 1000000;

class CommandLine {
 public:
  CommandLine(int count, char** arguments) : left_(arguments + 1, arguments + count) {}

  Options parse() {
    std::vector<std::string> paths;
    while (!left_.empty()) {
      const std::string argument = next();
      if (argument.rfind("--", 0) == 0)
        option(argument);
      else
        paths.push_back(argument);
    }
    if (options_.help) return options_;
    if (paths.size() != 2) refuse(paths.size(), " paths; expected PLAN and GOLDEN_DIR; ", kUsage);
    options_.plan = paths[0], options_.golden = paths[1];
    return options_;
  }

 private:
  std::string next() {
    const std::string argument = left_.front();
    left_.erase(left_.begin());
    return argument;
  }
  void option(const std::string& name) {
    if (name == "--help")
      options_.help = true;
    else if (name == "--host-code")
      options_.host_code = true;
    else if (name == "--plugin")
      options_.plugin = value_of(name);
    else if (name == "--batch")
      options_.batch = number_of(name, kMostBatch);
    else if (name == "--repeat")
      options_.repeat = number_of(name, kMostRepeats);
    else
      refuse("there is no option ", one_line(name, 40), "; ", kUsage);
  }
  std::string value_of(const std::string& name) {
    if (left_.empty()) refuse(name, " is given without a value; ", kUsage);
    return next();
  }
  int64_t number_of(const std::string& name, int64_t most) {
    const std::string text = value_of(name);
    const char* const end = text.data() + text.size();
    int64_t value = 0;
    const auto [stopped, failed] = std::from_chars(text.data(), end, value);
    if (failed != std::errc() || stopped != end || value < 1 || value > most)
      refuse(name, " is ", one_line(text, 40), "; expected a whole number of 1 to ", most);
    return value;
  }

  std::vector<std::string> left_;
  Options options_;
};

}  // namespace linf::runner
