// SPDX-License-Identifier: Apache-2.0
//
// The names of all kernels, each the entry of that name in a file of this folder. Their numbers are their places.
#pragma once

// Entry(name, file)
#define LINF_ENTRIES(Entry)                 \
  Entry(linf_dist_f32_large, linf_dist)     \
  Entry(linf_dist_f32_small, linf_dist)

namespace linf {

enum class KernelEntry : int {
#define LINF_ENTRY_NUMBER(name, file) name,
  LINF_ENTRIES(LINF_ENTRY_NUMBER)
#undef LINF_ENTRY_NUMBER
};

}  // namespace linf
