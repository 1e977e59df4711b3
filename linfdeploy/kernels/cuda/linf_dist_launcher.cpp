// SPDX-License-Identifier: Apache-2.0
//
// The launchers of the l_inf distance: which kernel, on which grid. See launchers.h.
#include "linf/window.h"
#include "start.h"

namespace linf {

using Entry = KernelEntry;

namespace {

// The kernels of one kind of number: by tiles, and for up to 1, 4 and 8 rows where there are such.
struct Kernels {
  int32_t number_bytes;
  std::initializer_list<TileChoice> tiles;
  struct Rows {
    int32_t most;
    Entry entry;
  };
  std::initializer_list<Rows> rows;
};

constexpr double kMedium = 0.98, kSmall = 0.85;

const Kernels& kernels_of(LinfDtype dtype) {
  static const Kernels kernels[] = {
      {4,
       {choice<LargeTile>(Entry::linf_dist_f32_large),
        choice<MediumTile>(Entry::linf_dist_f32_medium, kMedium),
        choice<SmallTile>(Entry::linf_dist_f32_small, kSmall)},
       {{1, Entry::linf_dist_f32_rows1}, {4, Entry::linf_dist_f32_rows4}, {8, Entry::linf_dist_f32_rows8}}},
      {2,
       {choice<LargeTile>(Entry::linf_dist_f16_large),
        choice<MediumTile>(Entry::linf_dist_f16_medium, kMedium),
        choice<SmallTile>(Entry::linf_dist_f16_small, kSmall)},
       {{1, Entry::linf_dist_f16_rows1}, {8, Entry::linf_dist_f16_rows8}}},
      {2, {choice<MediumTile>(Entry::linf_dist_i16_medium)}, {}},
      {1, {choice<MediumTile>(Entry::linf_dist_i8_medium)}, {}},
      {1, {choice<MediumTile>(Entry::linf_dist_u8_medium)}, {}},
  };
  return kernels[dtype];
}

int start_distances(const LinfLauncher* launcher, const Kernels& kernels, LinfSizes n, const void* x,
                    const void* w, const void* bias, void* y) {
  const int32_t alignment = alignment_of(int64_t{n.inputs} * kernels.number_bytes, {x, w});
  const auto go = [&](Entry entry, LinfGrid grid) {
    return start(launcher, entry, grid, n.batch, n.inputs, n.outputs, alignment, x, w, bias, y);
  };
  if (n.batch == 0 || n.outputs == 0) return 0;
  for (const auto& rows : kernels.rows)
    if (n.batch <= rows.most)
      return go(rows.entry, {static_cast<uint32_t>(pieces_of(n.outputs, kRowsOutputs)), kRowsThreads,
                             static_cast<uint32_t>(rows_shared_bytes(rows.most))});
  const TileChoice tile = fastest(kernels.tiles, n.batch, n.outputs, launcher->multiprocessors);
  return go(tile.entry, tile.grid(n.batch, n.outputs));
}

// One gradient of `rows` rows.
int start_scatter(const LinfLauncher* launcher, LinfSizes n, int32_t of_weights, const float* x,
                  const float* w, const int64_t* index, const float* grad_y, float* grad) {
  if (!grad) return 0;
  const int64_t rows = of_weights ? n.outputs : n.batch, parts = pieces_of(n.inputs, kScatterColumns);
  const int64_t columns = n.inputs < kScatterColumns ? n.inputs : kScatterColumns;
  const LinfGrid grid = {static_cast<uint32_t>(rows * parts), kScatterThreads,
                         static_cast<uint32_t>(columns * 4)};
  return start(launcher, Entry::linf_dist_scatter, grid, n.batch, n.inputs, n.outputs, of_weights, x, w,
               index, grad_y, grad);
}

Window window_of(const LinfWindow& w) {
  return {w.channels,
          {w.image[0], w.image[1]},
          {w.stride[0], w.stride[1]},
          {w.dilation[0], w.dilation[1]},
          {w.padding[0], w.padding[1]},
          {divisor_of(w.kernel[0]), divisor_of(w.kernel[1])},
          {divisor_of(w.places[0]), divisor_of(w.places[1])}};
}

}  // namespace

int start_linf_dist_f32(const LinfLauncher* launcher, LinfSizes n, const float* x, const float* w,
                        const float* bias, float* y) {
  return start_distances(launcher, kernels_of(LINF_FLOAT32), n, x, w, bias, y);
}

}  // namespace linf

using linf::Entry;

int linf_dist_cuda(const LinfLauncher* launcher, LinfDtype dtype, LinfSizes n, const void* x, const void* w,
                   const void* bias, void* y) {
  return linf::start_distances(launcher, linf::kernels_of(dtype), n, x, w, bias, y);
}

int linf_dist_argmax_cuda(const LinfLauncher* launcher, LinfSizes n, const float* x, const float* w, float* y,
                          int64_t* index) {
  const auto tile = linf::choice<linf::ArgmaxTile>(Entry::linf_dist_argmax);
  return linf::start(launcher, tile.entry, tile.grid(n.batch, n.outputs), n.batch, n.inputs, n.outputs,
                     linf::alignment_of(int64_t{n.inputs} * 4, {x, w}), x, w, y, index);
}

int linf_dist_backward_cuda(const LinfLauncher* launcher, LinfSizes n, const float* x, const float* w,
                            const int64_t* index, const float* grad_y, float* grad_x, float* grad_w) {
  const int failed = linf::start_scatter(launcher, n, 0, x, w, index, grad_y, grad_x);
  return failed ? failed : linf::start_scatter(launcher, n, 1, x, w, index, grad_y, grad_w);
}

int linf_dist_bounds_cuda(const LinfLauncher* launcher, LinfSizes n, const float* lower, const float* upper,
                          const float* w, float* y_lower, float* y_upper) {
  const auto tile = linf::choice<linf::BoundsTile>(Entry::linf_dist_bounds);
  return linf::start(launcher, tile.entry, tile.grid(n.batch, n.outputs), n.batch, n.inputs, n.outputs,
                     linf::alignment_of(int64_t{n.inputs} * 4, {lower, upper, w}), lower, upper, w, y_lower,
                     y_upper);
}

int linf_dist_conv_cuda(const LinfLauncher* launcher, LinfWindow window, const float* x, const float* w,
                        const float* bias, float* y) {
  const auto tile = linf::choice<linf::MediumTile>(Entry::linf_dist_conv);
  const int32_t rows = window.images * window.places[0] * window.places[1];
  const int32_t inputs = window.channels * window.kernel[0] * window.kernel[1];
  return linf::start(launcher, tile.entry, tile.grid(rows, window.filters), rows, inputs, window.filters,
                     linf::window_of(window), x, w, bias, y);
}
