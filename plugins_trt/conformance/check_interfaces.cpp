// SPDX-License-Identifier: Apache-2.0
//
// Creators, attributes, serialization, types and formats.
#include <cstring>

#include "checks.h"

namespace conformance {
namespace {

bool is_version(const nv::InterfaceInfo& info, const char* kind) {
  return std::strcmp(info.kind, kind) == 0 && info.major == 1 && info.minor == 0;
}

void check_sides(Tally& tally, nv::IPluginCreatorV3One& creator, const std::string& name) {
  const PluginPtr plugin = created(creator, {});
  if (!tally.expect(plugin != nullptr, name + ": made without attributes")) return;
  const Sides sides(*plugin);
  tally.expect(sides.core && is_version(sides.core->getInterfaceInfo(), "PLUGIN_V3ONE_CORE"),
               name + ": core 1.0");
  tally.expect(sides.build && is_version(sides.build->getInterfaceInfo(), "PLUGIN_V3ONE_BUILD"),
               name + ": build 1.0");
  tally.expect(sides.runtime && is_version(sides.runtime->getInterfaceInfo(), "PLUGIN_V3ONE_RUNTIME"),
               name + ": runtime 1.0");
  tally.expect(name == sides.core->getPluginName(), name + ": the plugin's name");
  tally.expect(std::strcmp(sides.core->getPluginNamespace(), "linfdeploy") == 0,
               name + ": the plugin's namespace");
  tally.expect(std::strcmp(sides.core->getPluginVersion(), "1") == 0, name + ": the plugin's version");
  tally.expect(sides.build->getNbOutputs() == 1, name + ": one output");
  tally.expect(sides.build->getTimingCacheID() && *sides.build->getTimingCacheID(),
               name + ": timings can be kept");
  const PluginPtr copy(plugin->clone()), attached(sides.runtime->attachToContext(nullptr));
  tally.expect(copy && attached && copy != plugin && attached != plugin && copy != attached,
               name + ": copies");
}

void check_tactics(Tally& tally, nv::IPluginCreatorV3One& creator, const std::string& name) {
  const PluginPtr plugin = created(creator, {});
  const Sides sides(*plugin);
  std::vector<int32_t> tactics(static_cast<size_t>(sides.build->getNbTactics()), -1);
  tally.expect(sides.build->getValidTactics(tactics.data(), static_cast<int32_t>(tactics.size())) == 0,
               name + ": tactics");
  for (const int32_t tactic : tactics)
    tally.expect(tactic > 0 && sides.runtime->setTactic(tactic) == 0,
                 name + ": tactic " + std::to_string(tactic));
  tally.expect(sides.runtime->setTactic(0) == 0, name + ": the default tactic");
  tally.expect(sides.runtime->setTactic(99) != 0, name + ": an unknown tactic is refused");
  tally.expect(sides.runtime->setTactic(-1) != 0, name + ": a negative tactic is refused");
}

// Which combinations supportsFormatCombination takes, over all types and formats.
void check_formats(Tally& tally, nv::IPluginCreatorV3One& creator, const std::string& name, bool halves) {
  constexpr int32_t kTypes = 12, kFormats = 16;
  const PluginPtr plugin = created(creator, {});
  const Sides sides(*plugin);
  for (int32_t position = 0; position < 4; ++position)
    for (int32_t x = 0; x < kTypes; ++x)
      for (int32_t type = 0; type < kTypes; ++type)
        for (int32_t format = 0; format < kFormats; ++format) {
          nv::DynamicPluginTensorDesc tensors[4]{};
          for (auto& each : tensors) each.desc = tensor(static_cast<nv::DataType>(x), {});
          tensors[position].desc.type = static_cast<nv::DataType>(type);
          tensors[position].desc.format = static_cast<nv::TensorFormat>(format);
          const auto of_x = tensors[0].desc.type;
          const bool known = of_x == nv::DataType::kFLOAT || (halves && of_x == nv::DataType::kHALF);
          const bool expected = known && tensors[position].desc.type == of_x && format == 0;
          tally.expect(sides.build->supportsFormatCombination(position, tensors, 3, 1) == expected,
                       name + ": position " + std::to_string(position) + ", types " + std::to_string(x) +
                           " and " + std::to_string(type) + ", format " + std::to_string(format));
        }
  nv::DynamicPluginTensorDesc tensors[8]{};
  tally.expect(!sides.build->supportsFormatCombination(4, tensors, 3, 1), name + ": no fifth tensor");
  tally.expect(!sides.build->supportsFormatCombination(-1, tensors, 3, 1),
               name + ": no tensor before the first");
  tally.expect(!sides.build->supportsFormatCombination(0, tensors, 2, 1), name + ": not two inputs");
}

void check_output_types(Tally& tally, nv::IPluginCreatorV3One& creator, const std::string& name,
                        bool halves) {
  constexpr int32_t kTypes = 12;
  const PluginPtr plugin = created(creator, {});
  const Sides sides(*plugin);
  for (int32_t code = 0; code < kTypes * kTypes * kTypes; ++code) {
    const nv::DataType inputs[] = {static_cast<nv::DataType>(code % kTypes),
                                   static_cast<nv::DataType>(code / kTypes % kTypes),
                                   static_cast<nv::DataType>(code / kTypes / kTypes)};
    const bool known = inputs[0] == nv::DataType::kFLOAT || (halves && inputs[0] == nv::DataType::kHALF);
    const bool expected = known && inputs[1] == inputs[0] && inputs[2] == inputs[0];
    nv::DataType y{};
    const bool taken = sides.build->getOutputDataTypes(&y, 1, inputs, 3) == 0;
    tally.expect(taken == expected && (!taken || y == inputs[0]), name + ": types " + std::to_string(code));
  }
  nv::DataType y{}, inputs[3]{};
  tally.expect(sides.build->getOutputDataTypes(&y, 1, inputs, 2) != 0,
               name + ": types of two inputs are refused");
}

// What a plugin serializes, copied: the plugin may go.
struct Record {
  explicit Record(const nv::PluginFieldCollection& collection) {
    for (int32_t k = 0; k < collection.nbFields; ++k) {
      const nv::PluginField& field = collection.fields[k];
      const auto* const from = static_cast<const int32_t*>(field.data);
      names.emplace_back(field.name);
      data.emplace_back(from, from + field.length);
    }
  }
  std::vector<nv::PluginField> fields() const {
    std::vector<nv::PluginField> made;
    for (size_t k = 0; k < names.size(); ++k) made.push_back(integers(names[k].c_str(), data[k]));
    return made;
  }
  bool operator==(const Record& other) const { return names == other.names && data == other.data; }

  std::vector<std::string> names;
  std::vector<std::vector<int32_t>> data;
};

Record record_of(nv::IPluginV3& plugin) { return Record(*Sides(plugin).runtime->getFieldsToSerialize()); }

void check_record(Tally& tally, nv::IPluginCreatorV3One& creator, nv::IPluginV3& plugin,
                  const std::string& name) {
  constexpr auto kLoad = nv::TensorRTPhase::kRUNTIME;
  const Record record = record_of(plugin);
  const PluginPtr loaded = created(creator, record.fields(), kLoad);
  if (tally.expect(loaded != nullptr, name + ": loaded from its record"))
    tally.expect(record_of(*loaded) == record, name + ": the same record again");
  tally.expect(!created(creator, {}, kLoad), name + ": an empty record is refused");
  for (size_t k = 0; k < record.names.size(); ++k) {
    const std::string field = name + ": a record with " + record.names[k];
    const auto damaged = [&](auto damage) {
      auto fields = record.fields();
      damage(fields);
      return created(creator, fields, kLoad) == nullptr;
    };
    const std::vector<int32_t> wild(record.data[k].size(), -7);
    tally.expect(damaged([&](auto& fields) { fields.erase(fields.begin() + static_cast<long>(k)); }),
                 field + " missing is refused");
    tally.expect(damaged([&](auto& fields) { fields[k].length += 1; }), field + " too long is refused");
    tally.expect(damaged([&](auto& fields) { fields[k].type = nv::PluginFieldType::kFLOAT32; }),
                 field + " of floats is refused");
    tally.expect(damaged([&](auto& fields) { fields[k].data = nullptr; }),
                 field + " without data is refused");
    tally.expect(damaged([&](auto& fields) { fields[k].data = wild.data(); }),
                 field + " out of range is refused");
    tally.expect(damaged([&](auto& fields) { fields.push_back(fields[k]); }), field + " twice is refused");
  }
}

}  // namespace

void check_creators(Tally& tally, const Library& library) {
  for (auto* creator : {library.linf_dist, library.linf_dist_conv}) {
    const std::string name = creator == library.linf_dist ? "LinfDist" : "LinfDistConv";
    tally.expect(is_version(creator->getInterfaceInfo(), "PLUGIN CREATOR_V3ONE"), name + ": creator 1.0");
    tally.expect(std::strcmp(creator->getPluginNamespace(), "linfdeploy") == 0,
                 name + ": namespace linfdeploy");
    tally.expect(std::strcmp(creator->getPluginVersion(), "1") == 0, name + ": version 1");
    check_sides(tally, *creator, name);
    check_tactics(tally, *creator, name);
  }
  tally.expect(library.linf_dist->getFieldNames()->nbFields == 0, "LinfDist: no attributes");
  tally.expect(library.linf_dist_conv->getFieldNames()->nbFields == 6, "LinfDistConv: six attributes");
}

void check_attributes(Tally& tally, const Library& library) {
  auto& creator = *library.linf_dist_conv;
  const std::vector<int32_t> two{2, 3}, four{1, 0, 2, 1}, one{1}, negative{-1, 0, 0, 0}, zero{0, 1},
      huge{1 << 17, 1};
  tally.expect(created(creator, {integers("kernel_shape", two),
                                 integers("strides", two),
                                 integers("pads", four),
                                 integers("dilations", two),
                                 integers("group", one),
                                 {"auto_pad", "NOTSET", nv::PluginFieldType::kCHAR, 6}}) != nullptr,
               "LinfDistConv: all attributes");
  const auto refused = [&](nv::PluginField field, const char* what) {
    tally.expect(!created(creator, {field}), std::string("LinfDistConv: ") + what + " is refused");
  };
  refused(integers("strides", one), "a single stride");
  refused(integers("strides", zero), "a stride of 0");
  refused(integers("strides", huge), "a huge stride");
  refused(integers("dilations", zero), "a dilation of 0");
  refused(integers("pads", two), "two pads");
  refused(integers("pads", negative), "a negative pad");
  refused(integers("group", std::vector<int32_t>{2}), "a group of 2");
  refused({"strides", two.data(), nv::PluginFieldType::kFLOAT32, 2}, "a stride of floats");
  refused({"auto_pad", "SAME_UPPER", nv::PluginFieldType::kCHAR, 10}, "another auto_pad");
}

void check_serialization(Tally& tally, const Library& library) {
  const std::vector<int32_t> strides{2, 3}, pads{1, 0, 2, 1};
  check_record(tally, *library.linf_dist, *created(*library.linf_dist, {}), "LinfDist");
  const PluginPtr conv =
      created(*library.linf_dist_conv, {integers("strides", strides), integers("pads", pads)});
  check_record(tally, *library.linf_dist_conv, *conv, "LinfDistConv");
}

void check_types_and_formats(Tally& tally, const Library& library) {
  check_formats(tally, *library.linf_dist, "LinfDist", true);
  check_formats(tally, *library.linf_dist_conv, "LinfDistConv", false);
  check_output_types(tally, *library.linf_dist, "LinfDist", true);
  check_output_types(tally, *library.linf_dist_conv, "LinfDistConv", false);
}

}  // namespace conformance
