// SPDX-License-Identifier: Apache-2.0
//
// Reads arrays that numpy.save wrote, versions 1.0 and 2.0 of the format. The file may say anything: nothing
// is believed before the header, the sizes and the file's length agree.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "text.h"

namespace linf::runner {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "arrays are read as they lie in the file");

struct Dtype {
  const char* written;  // as the header says it
  size_t size;
};
constexpr Dtype kUint8{"|u1", 1}, kFloat32{"<f4", 4}, kInt64{"<i8", 8};

// What a file is to hold. `layout` is for people, such as "float32 (N, K)".
struct Expectation {
  Dtype dtype;
  size_t rank;
  const char* layout;
};

struct Array {
  std::vector<int64_t> shape;
  std::vector<char> bytes;
};

constexpr size_t kMostHeader = 10000, kMostRank = 32;

// The dictionary that a header is, such as {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }.
class NpyHeader {
 public:
  explicit NpyHeader(std::string_view text) : rest_(text) {}

  std::string dtype;
  bool fortran_order = false;
  std::vector<int64_t> shape;

  // Whether it is all there, each entry once, and nothing else.
  bool parse() {
    if (!take("{")) return false;
    while (!take("}")) {
      if (!entry()) return false;
      if (take(",")) continue;
      if (!take("}")) return false;
      break;
    }
    skip();
    return seen_ == (kDescr | kOrder | kShape) && rest_.empty();
  }

 private:
  enum Key : unsigned { kDescr = 1, kOrder = 2, kShape = 4 };

  bool entry() {
    std::string key;
    if (!quoted(key) || !take(":")) return false;
    if (key == "descr") return once(kDescr) && quoted(dtype);
    if (key == "fortran_order") return once(kOrder) && truth();
    return key == "shape" && once(kShape) && sizes();
  }
  bool once(Key key) {
    const bool first = !(seen_ & key);
    seen_ |= key;
    return first;
  }
  bool truth() {
    fortran_order = take("True");
    return fortran_order || take("False");
  }
  // A tuple; one of a single size ends with a comma.
  bool sizes() {
    if (!take("(")) return false;
    while (!take(")")) {
      int64_t size = 0;
      if (shape.size() == kMostRank || !number(size)) return false;
      shape.push_back(size);
      if (take(",")) continue;
      return shape.size() > 1 && take(")");
    }
    return true;
  }
  bool number(int64_t& value) {
    skip();
    size_t digits = 0;
    for (; digits < rest_.size() && '0' <= rest_[digits] && rest_[digits] <= '9'; ++digits)
      if (!multiply(value, 10) || __builtin_add_overflow(value, rest_[digits] - '0', &value)) return false;
    const bool sound = digits > 0 && (digits == 1 || rest_[0] != '0');
    rest_.remove_prefix(digits);
    return sound;
  }
  bool quoted(std::string& text) {
    if (!take("'")) return false;
    const size_t end = rest_.find('\'');
    if (end == std::string_view::npos) return false;
    text = rest_.substr(0, end);
    rest_.remove_prefix(end + 1);
    return true;
  }
  bool take(std::string_view token) {
    skip();
    if (rest_.substr(0, token.size()) != token) return false;
    rest_.remove_prefix(token.size());
    return true;
  }
  void skip() {
    while (!rest_.empty() && (rest_.front() == ' ' || rest_.front() == '\n')) rest_.remove_prefix(1);
  }

  std::string_view rest_;
  unsigned seen_ = 0;
};

class NpyFile {
 public:
  NpyFile(const std::filesystem::path& path, const Expectation& expected)
      : path_(path), expected_(expected) {}

  Array read() {
    open();
    const std::string text = header();
    NpyHeader found(text);
    if (!found.parse()) wrong("a header that is damaged, or of another kind of array");
    check(found);
    return {found.shape, data(found.shape)};
  }

 private:
  [[noreturn]] void wrong(const std::string& found) const {
    refuse(path_.string(), ": ", found, "; expected a .npy file of ", expected_.layout,
           ", little-endian and in C order: copy the golden folder again");
  }
  void open() {
    std::error_code failed;
    if (!std::filesystem::exists(path_, failed)) wrong("there is no such file");
    if (!std::filesystem::is_regular_file(path_, failed)) wrong("no regular file");
    size_ = std::filesystem::file_size(path_, failed);
    file_.open(path_, std::ios::binary);
    if (failed || !file_) wrong("cannot be opened");
  }
  std::string bytes(size_t count) {
    std::string read(count, '\0');
    if (!file_.read(read.data(), static_cast<std::streamsize>(count))) wrong("ends within its header");
    return read;
  }
  // Eight bytes of magic and version, the header's length in two or four, the header.
  std::string header() {
    const std::string start = bytes(8);
    if (start.substr(0, 6) != "\x93NUMPY") wrong("no .npy file");
    const int major = static_cast<unsigned char>(start[6]), minor = static_cast<unsigned char>(start[7]);
    if (major < 1 || major > 2 || minor) wrong(joined("version ", major, ".", minor, " of .npy"));
    const std::string digits = bytes(major == 1 ? 2 : 4);
    size_t length = 0;
    for (size_t k = digits.size(); k-- > 0;) length = length << 8 | static_cast<unsigned char>(digits[k]);
    if (length > kMostHeader) wrong(joined("a header of ", length, " bytes"));
    return bytes(length);
  }
  void check(const NpyHeader& found) const {
    if (found.dtype != expected_.dtype.written) wrong("numbers of type '" + one_line(found.dtype, 20) + "'");
    if (found.fortran_order) wrong("Fortran order");
    if (found.shape.size() != expected_.rank) wrong("shape " + shape_text(found.shape));
  }
  std::vector<char> data(const std::vector<int64_t>& shape) {
    int64_t expected = static_cast<int64_t>(expected_.dtype.size);
    bool fits = true;
    for (const int64_t size : shape) fits = fits && multiply(expected, size);
    const auto found = static_cast<int64_t>(size_) - static_cast<int64_t>(file_.tellg());
    if (!fits || found != expected)
      wrong(joined("shape ", shape_text(shape), " and ", found, " bytes of numbers"));
    std::vector<char> read(static_cast<size_t>(expected));
    if (!file_.read(read.data(), expected)) wrong("cannot be read");
    return read;
  }

  const std::filesystem::path path_;
  const Expectation expected_;
  std::ifstream file_;
  uintmax_t size_ = 0;
};

}  // namespace linf::runner
