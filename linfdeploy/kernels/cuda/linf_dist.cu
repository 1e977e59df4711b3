// SPDX-License-Identifier: Apache-2.0
//
// The l_inf distance, for every number and batch: see linf/linf_dist.cuh. `alignment` is that of the rows.
#include "linf/linf_dist.cuh"
#include "linf/rows.cuh"

namespace linf {
namespace LINF_ISA {

template <typename Shape, typename Element>
LINF_INLINE void linf_dist(int32_t batch, int32_t inputs, int32_t outputs, int32_t alignment,
                           const typename Element::Number* x, const typename Element::Number* w,
                           const typename Element::Number* bias, typename Element::Result* y) {
  const Matrix rows[] = {matrix_of(x, batch, inputs, alignment)};
  reduce_tile<Shape>(LinfDist<Element>{bias, y, outputs}, rows, matrix_of(w, outputs, inputs, alignment));
}

template <typename Element, int32_t Batch>
LINF_INLINE void linf_dist_rows(int32_t batch, int32_t inputs, int32_t outputs, int32_t alignment,
                                const typename Element::Number* x, const typename Element::Number* w,
                                const typename Element::Number* bias, typename Element::Result* y) {
  reduce_rows<Element, Batch>(matrix_of(x, batch, inputs, alignment),
                              matrix_of(w, outputs, inputs, alignment), blockIdx.x, bias, y);
}

}  // namespace LINF_ISA
}  // namespace linf

#define LINF_DIST_ENTRY(name, threads, blocks, Element, kernel)                        \
  LINF_KERNEL(threads, blocks)                                                         \
  name(int32_t batch, int32_t inputs, int32_t outputs, int32_t alignment,              \
       const linf::device::Element::Number* x, const linf::device::Element::Number* w, \
       const linf::device::Element::Number* bias, linf::device::Element::Result* y) {  \
    kernel(batch, inputs, outputs, alignment, x, w, bias, y);                          \
  }
// By tiles; at least `blocks` of them are to fit a multiprocessor.
#define LINF_DIST_TILES(name, Shape, blocks, Element)           \
  LINF_DIST_ENTRY(name, linf::Shape::kThreads, blocks, Element, \
                  (linf::device::linf_dist<linf::Shape, linf::device::Element>))
// Up to `rows` rows of x.
#define LINF_DIST_ROWS(name, rows, Element)             \
  LINF_DIST_ENTRY(name, linf::kRowsThreads, 2, Element, \
                  (linf::device::linf_dist_rows<linf::device::Element, rows>))

LINF_DIST_TILES(linf_dist_f32_large, LargeTile, 3, Float32)
LINF_DIST_TILES(linf_dist_f32_medium, MediumTile, 6, Float32)
LINF_DIST_TILES(linf_dist_f32_small, SmallTile, 8, Float32)
LINF_DIST_TILES(linf_dist_f16_large, LargeTile, 3, Float16)
LINF_DIST_TILES(linf_dist_f16_medium, MediumTile, 6, Float16)
LINF_DIST_TILES(linf_dist_f16_small, SmallTile, 8, Float16)
LINF_DIST_TILES(linf_dist_i16_medium, MediumTile, 6, Int16)
LINF_DIST_TILES(linf_dist_i8_medium, MediumTile, 6, Int8)
LINF_DIST_TILES(linf_dist_u8_medium, MediumTile, 6, Uint8)
LINF_DIST_ROWS(linf_dist_f32_rows1, 1, Float32)
LINF_DIST_ROWS(linf_dist_f32_rows4, 4, Float32)
LINF_DIST_ROWS(linf_dist_f32_rows8, 8, Float32)
LINF_DIST_ROWS(linf_dist_f16_rows1, 1, Float16)
LINF_DIST_ROWS(linf_dist_f16_rows8, 8, Float16)
