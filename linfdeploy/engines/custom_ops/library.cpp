// SPDX-License-Identifier: Apache-2.0
//
// What ONNX Runtime calls when it has loaded the library. It hands over its functions, so the library links
// nothing of it and runs in every version from 1.18 on.
#include <cstdio>
#include <string>

#include "linf_dist_conv_op.h"
#include "linf_dist_op.h"
#include "sort_dist_op.h"

namespace linf::ort {
namespace {

// The operators, for as long as the library is loaded: sessions keep pointers to them.
class Library {
 public:
  Library(const OrtApi& api, const OrtApi* entries_api)
      : api_(api),
        tables_{table<LinfDist<float>>(api, entries_api), table<LinfDist<uint16_t>>(api, entries_api),
                table<LinfDistConv>(api, entries_api), table<SortDist>(api, entries_api)} {
    check(api_.CreateCustomOpDomain("linfdeploy", &domain_));
    for (const Table& one : tables_) check(api_.CustomOpDomain_Add(domain_, &one));
  }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;
  ~Library() { api_.ReleaseCustomOpDomain(domain_); }

  void add_to(OrtSessionOptions* options) const { check(api_.AddCustomOpDomain(options, domain_)); }

 private:
  const OrtApi& api_;
  const Table tables_[4];
  OrtCustomOpDomain* domain_ = nullptr;
};

// Null where ONNX Runtime is older; asked for what it lacks, it would write to the console.
const OrtApi* entries_api(const OrtApiBase& base) {
  unsigned major = 0, minor = 0;
  const bool read = std::sscanf(base.GetVersionString(), "%u.%u", &major, &minor) == 2;
  return read && (major > 1 || minor >= kEntriesApiVersion) ? base.GetApi(kEntriesApiVersion) : nullptr;
}

// An ONNX Runtime too old for our API still has an older one, which can at least say so.
OrtStatus* too_old(const OrtApiBase& base) {
  const std::string text = std::string("this is ONNX Runtime ") + base.GetVersionString() +
                           "; linfdeploy's custom operators expect 1." + std::to_string(kApiVersion) +
                           " or later";
  for (uint32_t version = kApiVersion - 1; version > 0; --version)
    if (const OrtApi* api = base.GetApi(version)) return api->CreateStatus(ORT_NOT_IMPLEMENTED, text.c_str());
  return nullptr;
}

}  // namespace
}  // namespace linf::ort

extern "C" __attribute__((visibility("default"))) OrtStatus* ORT_API_CALL
RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  using namespace linf::ort;
  const OrtApi* api = base->GetApi(kApiVersion);
  if (!api) return too_old(*base);
  return guarded(*api, [&] {
    static const Library library(*api, entries_api(*base));
    library.add_to(options);
  });
}
