// SPDX-License-Identifier: Apache-2.0
//
// conformance LIBRARY: opens a library of plugins as TensorRT does and runs all checks. Exits with 0 when all
// hold.
#include <dlfcn.h>

#include <cstring>

#include "checks.h"

namespace conformance {
namespace {

template <typename Function>
Function* function_of(Tally& tally, void* opened, const char* name) {
  auto* const found = reinterpret_cast<Function*>(dlsym(opened, name));
  tally.expect(found != nullptr, std::string("the entry point ") + name);
  return found;
}

Library library_of(Tally& tally, void* opened) {
  auto* const get_creators =
      function_of<nv::IPluginCreatorInterface* const*(int32_t&)>(tally, opened, "getCreators");
  function_of<void(nv::ILoggerFinder*)>(tally, opened, "setLoggerFinder");
  Library library;
  if (!get_creators) return library;
  int32_t count = 0;
  nv::IPluginCreatorInterface* const* const creators = get_creators(count);
  tally.expect(creators && count == 2, "two creators");
  for (int32_t k = 0; creators && k < count; ++k) {
    auto* const creator = static_cast<nv::IPluginCreatorV3One*>(creators[k]);
    if (!std::strcmp(creator->getPluginName(), "LinfDist")) library.linf_dist = creator;
    if (!std::strcmp(creator->getPluginName(), "LinfDistConv")) library.linf_dist_conv = creator;
  }
  return library;
}

int run(const char* path, bool results) {
  Tally tally;
  void* const opened = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!tally.expect(opened != nullptr, std::string("opens: ") + (opened ? "" : dlerror()))) return 1;
  const Library library = library_of(tally, opened);
  if (tally.expect(library.linf_dist && library.linf_dist_conv, "creators of LinfDist and LinfDistConv"))
    for (auto* check : {check_creators, check_attributes, check_serialization, check_types_and_formats,
                        check_shapes, check_refused_shapes, check_results})
      if (results || check != check_results) check(tally, library);
  std::printf("%d checks, %d failures\n", tally.checks, tally.failures);
  return tally.failures ? 1 : 0;
}

}  // namespace
}  // namespace conformance

int main(int count, char** arguments) {
  const bool without = count == 3 && !std::strcmp(arguments[2], "--no-results");
  if (count == 2 || without) return conformance::run(arguments[1], !without);
  std::fprintf(stderr, "usage: %s LIBRARY [--no-results]\n", arguments[0]);
  return 2;
}
