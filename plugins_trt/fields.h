// SPDX-License-Identifier: Apache-2.0
//
// What TensorRT hands a creator: a node's attributes when an engine is built, and what a plugin serialized
// when one is loaded. Both come from files, so everything is checked.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <string_view>

#include "log.h"

namespace linf::trt {

namespace nv = nvinfer1;

// Serialized with every plugin; a reader takes no other.
constexpr char kFormatField[] = "linfdeploy_format";
constexpr int32_t kFormat = 1;

class Fields {
 public:
  Fields(const char* plugin, const nv::PluginFieldCollection* collection) : plugin_(plugin) {
    if (collection && collection->nbFields > 0 && collection->fields)
      fields_ = collection->fields, count_ = collection->nbFields;
  }

  // Reads `count` integers of at least `least` and at most `most`, if there are any of that name. False, and
  // a line in the log, where something else is.
  bool integers(const char* name, int32_t least, int32_t most, int32_t count, int32_t* values) const {
    const nv::PluginField* const field = find(name);
    if (!field) return true;
    bool fits = field->type == nv::PluginFieldType::kINT32 && field->length == count && field->data;
    for (int32_t k = 0; fits && k < count; ++k) {
      const int32_t value = static_cast<const int32_t*>(field->data)[k];
      fits = least <= value && value <= most;
    }
    if (!fits) {
      log_refusal(plugin_, "%s is not what it should be; expected %d integers of %d to %d", name, count,
                  least, most);
      return false;
    }
    for (int32_t k = 0; k < count; ++k) values[k] = static_cast<const int32_t*>(field->data)[k];
    return true;
  }

  // Whether a text of that name, if there is one, says `expected`.
  bool says(const char* name, std::string_view expected) const {
    const nv::PluginField* const field = find(name);
    if (!field) return true;
    const bool is_text = field->type == nv::PluginFieldType::kCHAR && field->length >= 0 && field->data;
    if (is_text && text_of(*field) == expected) return true;
    log_refusal(plugin_, "%s is not %.*s, the only value that there is a kernel for", name,
                static_cast<int>(expected.size()), expected.data());
    return false;
  }

  // Whether these are what a plugin of this version serialized, all of it.
  bool are_serialized(int32_t count) const {
    int32_t format = 0;
    if (!integers(kFormatField, 1, INT32_MAX, 1, &format)) return false;
    if (format == kFormat && count_ == count) return true;
    log_refusal(plugin_,
                "an engine's record of format %d with %d fields; expected format %d with %d: build the "
                "engine again with this plugin",
                format, count_, kFormat, count);
    return false;
  }

 private:
  // TensorRT's texts may end with a zero that their length counts.
  static std::string_view text_of(const nv::PluginField& field) {
    std::string_view text(static_cast<const char*>(field.data), static_cast<size_t>(field.length));
    return text.substr(0, text.find('\0'));
  }
  const nv::PluginField* find(std::string_view name) const {
    for (int32_t k = 0; k < count_; ++k)
      if (fields_[k].name && fields_[k].name == name) return &fields_[k];
    return nullptr;
  }

  const char* plugin_;
  const nv::PluginField* fields_ = nullptr;
  int32_t count_ = 0;
};

}  // namespace linf::trt
