// SPDX-License-Identifier: Apache-2.0
//
// A refusal, in one line on the standard error stream. TensorRT hands plugins a logger by an interface whose
// layout differs between 10.x and 11.x, so a plugin for both does not call it.
#pragma once

#include <cstdio>

namespace linf::trt {

template <typename... Arguments>
void log_refusal(const char* plugin, const char* format, Arguments... arguments) {
  std::fprintf(stderr, "[linfdeploy] %s: ", plugin);
  std::fprintf(stderr, format, arguments...);
  std::fputc('\n', stderr);
}

inline void log_refusal(const char* plugin, const char* text) { log_refusal(plugin, "%s", text); }

}  // namespace linf::trt
