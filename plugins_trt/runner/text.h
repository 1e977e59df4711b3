// SPDX-License-Identifier: Apache-2.0
//
// A refusal is one line: what was found, what was expected, how to mend it.
#pragma once

#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace linf::runner {

class Refusal : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <typename... Parts>
std::string joined(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

template <typename... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  throw Refusal(joined(parts...));
}

// Text from a file or a library, without anything that a terminal would act upon.
inline std::string one_line(std::string_view text, size_t most = 300) {
  std::string line(text.substr(0, most));
  for (char& c : line)
    if (c < ' ' || c > '~') c = ' ';
  while (!line.empty() && line.back() == ' ') line.pop_back();
  return text.size() > most ? line + "..." : line;
}

// (3, 4); a size that is not known yet, -1, is N.
template <typename Sizes>
std::string shape_text(const Sizes* sizes, size_t count) {
  std::string text = "(";
  for (size_t k = 0; k < count; ++k)
    text += (k ? ", " : "") + (sizes[k] == -1 ? std::string("N") : std::to_string(sizes[k]));
  return text + ")";
}
inline std::string shape_text(const std::vector<int64_t>& sizes) {
  return shape_text(sizes.data(), sizes.size());
}

// False where the product is more than an int64_t.
inline bool multiply(int64_t& product, int64_t factor) {
  return !__builtin_mul_overflow(product, factor, &product);
}

}  // namespace linf::runner
