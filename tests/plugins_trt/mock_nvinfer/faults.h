// SPDX-License-Identifier: Apache-2.0
//
// Faults that a test asks for: MOCK_NVINFER=enqueue=2,no_device=1 has the second enqueue fail and hides the
// GPU.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>

namespace mock {

// The value of a fault; -1 where nobody asked for it.
inline long fault(const std::string& name) {
  const char* const given = std::getenv("MOCK_NVINFER");
  const std::string all = "," + std::string(given ? given : "");
  const size_t found = all.find("," + name + "=");
  return found == std::string::npos ? -1 : std::atol(all.c_str() + found + name.size() + 2);
}

// Whether the call that counts up `calls` is the one that a fault is for.
inline bool is_time_for(const std::string& name, long& calls) { return ++calls == fault(name); }

// Ends the program: it did what TensorRT or CUDA would not survive, or not notice.
[[noreturn]] inline void misused(const std::string& how) {
  std::fprintf(stderr, "MOCK: %s\n", how.c_str());
  std::fflush(stderr);
  std::_Exit(99);
}

}  // namespace mock
