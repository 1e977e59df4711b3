// SPDX-License-Identifier: Apache-2.0
//
// The kernels that others start: TensorRT does, from PTX that an engine holds (plugins_trt/aot.py). Nothing
// of ours runs then, so no launcher chooses between them, looks at alignment or refuses sizes. Each is right
// for every batch.
//
// Arguments are the addresses of the inputs, 32-bit integers, and the address of the output. A block makes
// kRows x kColumns results of the Block's, and a grid, at least one block, has as many as that takes:
// ceil(rows / kRows) ceil(columns / kColumns), in one dimension.
#pragma once

#include <cstdint>

#include "linf/geometry.h"

// Entry(name, file, Block)
// clang-format off
#define LINF_AOT_ENTRIES(Entry)                                  \
  Entry(linf_dist_aot_f32_rows1, linf_dist_aot, FewRows<1>)      \
  Entry(linf_dist_aot_f32_rows4, linf_dist_aot, FewRows<4>)      \
  Entry(linf_dist_aot_f32_rows8, linf_dist_aot, FewRows<8>)      \
  Entry(linf_dist_aot_f32_large, linf_dist_aot, LargeTile)       \
  Entry(linf_dist_aot_f32_medium, linf_dist_aot, MediumTile)     \
  Entry(linf_dist_aot_f32_small, linf_dist_aot, SmallTile)       \
  Entry(linf_dist_aot_f16_rows1, linf_dist_aot, FewRows<1>)      \
  Entry(linf_dist_aot_f16_rows8, linf_dist_aot, FewRows<8>)      \
  Entry(linf_dist_aot_f16_large, linf_dist_aot, LargeTile)       \
  Entry(linf_dist_aot_f16_medium, linf_dist_aot, MediumTile)     \
  Entry(linf_dist_aot_f16_small, linf_dist_aot, SmallTile)       \
  Entry(linf_dist_conv_aot_medium, linf_dist_conv_aot, MediumTile)
// clang-format on

namespace linf {

struct AotKernel {
  const char *name, *file;
  int32_t rows, columns, threads, shared_bytes;
};

constexpr AotKernel kAotKernels[] = {
#define LINF_AOT_KERNEL(name, file, Block) \
  {#name, #file, Block::kRows, Block::kColumns, Block::kThreads, Block::kSharedBytes},
    LINF_AOT_ENTRIES(LINF_AOT_KERNEL)
#undef LINF_AOT_KERNEL
};

}  // namespace linf
