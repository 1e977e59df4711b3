// SPDX-License-Identifier: Apache-2.0
//
// The l_inf distance as TensorRT starts it by itself: see aot_entries.h and linf/linf_dist.cuh.
#include "linf/linf_dist.cuh"
#include "linf/rows.cuh"

namespace linf {
namespace LINF_ISA {

template <typename Shape, typename Element>
LINF_INLINE void linf_dist_aot(const typename Element::Number* x, const typename Element::Number* w,
                               const typename Element::Number* bias, int32_t batch, int32_t inputs,
                               int32_t outputs, typename Element::Result* y) {
  const int32_t alignment = alignment_of(x, w, inputs);
  const Matrix rows[] = {matrix_of(x, batch, inputs, alignment)};
  reduce_tile<Shape>(LinfDist<Element>{bias, y, outputs}, rows, matrix_of(w, outputs, inputs, alignment));
}

// Blocks that follow each other take the same rows of w.
template <typename Element, int32_t Rows>
LINF_INLINE void linf_dist_aot_rows(const typename Element::Number* x, const typename Element::Number* w,
                                    const typename Element::Number* bias, int32_t batch, int32_t inputs,
                                    int32_t outputs, typename Element::Result* y) {
  const int32_t alignment = alignment_of(x, w, inputs), groups = pieces(batch, Rows);
  const int32_t block = blockIdx.x / groups, first = (blockIdx.x - block * groups) * Rows;
  reduce_rows<Element, Rows>(
      matrix_of(x + static_cast<int64_t>(first) * inputs, smaller(batch - first, Rows), inputs, alignment),
      matrix_of(w, outputs, inputs, alignment), block, bias, y + static_cast<int64_t>(first) * outputs);
}

}  // namespace LINF_ISA
}  // namespace linf

// An empty grid cannot be started: one block comes even where there is nothing to do.
#define LINF_DIST_AOT_ENTRY(name, threads, blocks, Element, kernel)                               \
  LINF_KERNEL(threads, blocks)                                                                    \
  name(const linf::device::Element::Number* x, const linf::device::Element::Number* w,            \
       const linf::device::Element::Number* bias, int32_t batch, int32_t inputs, int32_t outputs, \
       linf::device::Element::Result* y) {                                                        \
    if (batch > 0 && outputs > 0) kernel(x, w, bias, batch, inputs, outputs, y);                  \
  }
#define LINF_DIST_AOT_TILES(name, Shape, blocks, Element)           \
  LINF_DIST_AOT_ENTRY(name, linf::Shape::kThreads, blocks, Element, \
                      (linf::device::linf_dist_aot<linf::Shape, linf::device::Element>))
#define LINF_DIST_AOT_ROWS(name, rows, Element)             \
  LINF_DIST_AOT_ENTRY(name, linf::kRowsThreads, 2, Element, \
                      (linf::device::linf_dist_aot_rows<linf::device::Element, rows>))

LINF_DIST_AOT_ROWS(linf_dist_aot_f32_rows1, 1, Float32)
LINF_DIST_AOT_ROWS(linf_dist_aot_f32_rows4, 4, Float32)
LINF_DIST_AOT_ROWS(linf_dist_aot_f32_rows8, 8, Float32)
LINF_DIST_AOT_TILES(linf_dist_aot_f32_large, LargeTile, 3, Float32)
LINF_DIST_AOT_TILES(linf_dist_aot_f32_medium, MediumTile, 6, Float32)
LINF_DIST_AOT_TILES(linf_dist_aot_f32_small, SmallTile, 8, Float32)
LINF_DIST_AOT_ROWS(linf_dist_aot_f16_rows1, 1, Float16)
LINF_DIST_AOT_ROWS(linf_dist_aot_f16_rows8, 8, Float16)
LINF_DIST_AOT_TILES(linf_dist_aot_f16_large, LargeTile, 3, Float16)
LINF_DIST_AOT_TILES(linf_dist_aot_f16_medium, MediumTile, 6, Float16)
LINF_DIST_AOT_TILES(linf_dist_aot_f16_small, SmallTile, 8, Float16)
