// SPDX-License-Identifier: Apache-2.0
//
// The names of all kernels, each the entry of that name in a file of this folder.
// Their numbers are their places.
#pragma once

// Entry(name, file)
// clang-format off
#define LINF_ENTRIES(Entry)                         \
  Entry(linf_dist_f32_large, linf_dist)             \
  Entry(linf_dist_f32_medium, linf_dist)            \
  Entry(linf_dist_f32_small, linf_dist)             \
  Entry(linf_dist_f16_large, linf_dist)             \
  Entry(linf_dist_f16_medium, linf_dist)            \
  Entry(linf_dist_f16_small, linf_dist)             \
  Entry(linf_dist_i16_medium, linf_dist)            \
  Entry(linf_dist_i8_medium, linf_dist)             \
  Entry(linf_dist_u8_medium, linf_dist)             \
  Entry(linf_dist_f32_rows1, linf_dist)             \
  Entry(linf_dist_f32_rows4, linf_dist)             \
  Entry(linf_dist_f32_rows8, linf_dist)             \
  Entry(linf_dist_f16_rows1, linf_dist)             \
  Entry(linf_dist_f16_rows8, linf_dist)             \
  Entry(linf_dist_argmax, linf_dist_argmax)         \
  Entry(linf_dist_scatter, linf_dist_argmax)        \
  Entry(linf_dist_bounds, linf_dist_bounds)         \
  Entry(linf_dist_conv, linf_dist_conv)             \
  Entry(lp_dist_eight, lp_dist)                     \
  Entry(lp_dist_eight_small, lp_dist)               \
  Entry(lp_dist_general, lp_dist)                   \
  Entry(lp_dist_large, lp_dist)                     \
  Entry(lp_dist_root, lp_dist)                      \
  Entry(lp_dist_root_eight, lp_dist)                \
  Entry(lp_dist_pairs, lp_dist_backward)            \
  Entry(lp_dist_backward_eight, lp_dist_backward)   \
  Entry(lp_dist_backward_general, lp_dist_backward) \
  Entry(lp_dist_backward_large, lp_dist_backward)   \
  Entry(lp_dist_add_shares, lp_dist_backward)
// clang-format on

namespace linf {

enum class KernelEntry : int {
#define LINF_ENTRY_NUMBER(name, file) name,
  LINF_ENTRIES(LINF_ENTRY_NUMBER)
#undef LINF_ENTRY_NUMBER
};

}  // namespace linf
