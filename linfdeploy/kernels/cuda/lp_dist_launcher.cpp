// SPDX-License-Identifier: Apache-2.0
//
// The launchers of the l_p distance: which kernels, on which grids. See launchers.h.
#include "linf/lp_geometry.h"
#include "start.h"

namespace linf {

namespace {

using Entry = KernelEntry;

LinfGrid grid_of(int64_t blocks, int threads, int shared_bytes = 0) {
  return {static_cast<uint32_t>(blocks), static_cast<uint32_t>(threads), static_cast<uint32_t>(shared_bytes)};
}

// Runs steps in order until one fails.
template <typename... Steps>
int in_order(Steps... steps) {
  int code = 0;
  ((code = code ? code : steps()), ...);
  return code;
}

// A small tile's reads cost more instructions a term.
constexpr double kSmallEighth = 0.96;

struct Forward {
  const LinfLauncher* launcher;
  LinfSizes n;
  const float *x, *w;
  float p;
  const float* p_now;
  float *y, *scale, *sum;

  int32_t size() const { return n.batch * n.outputs; }
  int32_t alignment() const { return alignment_of(int64_t{n.inputs} * 4, {x, w}); }
  LinfGrid root_grid() const { return grid_of(pieces_of(size(), kRootThreads), kRootThreads); }

  int start_eight() const {
    const auto tile = fastest({choice<EighthTile>(Entry::lp_dist_eight),
                               choice<SmallEighthTile>(Entry::lp_dist_eight_small, kSmallEighth)},
                              n.batch, n.outputs, launcher->multiprocessors);
    return in_order(
        [&] {
          return start(launcher, tile.entry, tile.grid(n.batch, n.outputs), n.batch, n.inputs, n.outputs,
                       alignment(), x, w, sum);
        },
        [&] {
          return start(launcher, Entry::lp_dist_root_eight, root_grid(), n.batch, n.inputs, n.outputs, x, w,
                       scale, sum, y);
        });
  }
  // `scale` becomes the largest term first.
  int start_scaled(Entry entry, LinfGrid grid) const {
    const float* const largest = scale;
    return in_order(
        [&] { return start_linf_dist_f32(launcher, n, x, w, nullptr, scale); },
        [&] {
          return start(launcher, entry, grid, n.batch, n.inputs, n.outputs, alignment(), x, w, p, p_now,
                       largest, sum);
        },
        [&] { return start(launcher, Entry::lp_dist_root, root_grid(), size(), p, p_now, largest, sum, y); });
  }
  int start_kind() const {
    switch (lp_kind_of(p)) {
      case kEight:
        return start_eight();
      case kGeneral:
        return start_scaled(Entry::lp_dist_general,
                            choice<RatioTile>(Entry::lp_dist_general).grid(n.batch, n.outputs));
      default:
        LinfGrid grid = choice<SearchTile>(Entry::lp_dist_large).grid(n.batch, n.outputs);
        grid.shared_bytes = kSearchShared;
        return start_scaled(Entry::lp_dist_large, grid);
    }
  }
};

// Scratch holds what belongs to pairs of rows, in planes, and after it every share's grad_x.
struct Backward {
  const LinfLauncher* launcher;
  LinfSizes n;
  const float *x, *w;
  float p;
  const float* p_now;
  const float *scale, *sum, *grad_y;
  float *grad_x, *grad_w;

  int64_t plane() const { return int64_t{padded_batch(n.batch)} * n.outputs; }
  int64_t columns() const { return pieces_of(n.inputs, DenseSlopes::kInputs); }
  int32_t share() const { return share_size(n.outputs, output_shares(n.inputs, n.outputs)); }
  int32_t shares() const { return static_cast<int32_t>(pieces_of(n.outputs, share())); }
  size_t scratch_bytes() const {
    const int64_t parts = shares() > 1 ? int64_t{shares()} * n.batch * n.inputs : 0;
    return static_cast<size_t>(kSparsePlanes * plane() + parts) * sizeof(float);
  }

  int start_pairs(float* planes) const {
    const int64_t blocks = padded_batch(n.batch) / kPairRows * pieces_of(n.outputs, kPairOutputs);
    return start(launcher, Entry::lp_dist_pairs, grid_of(blocks, kPairRows * kPairOutputs),
                 static_cast<int32_t>(lp_kind_of(p)), n.batch, n.outputs, padded_batch(n.batch), p, p_now,
                 scale, sum, grad_y, planes);
  }
  int start_slopes(Entry entry, int threads, int shared_bytes, const float* planes, float* parts) const {
    return start(launcher, entry, grid_of(columns() * shares(), threads, shared_bytes), n.batch, n.inputs,
                 n.outputs, padded_batch(n.batch), share(), x, w, planes, parts, grad_w, p, p_now);
  }
  int start_kind(const float* planes, float* parts) const {
    switch (lp_kind_of(p)) {
      case kEight:
        return start_slopes(Entry::lp_dist_backward_eight, DenseSlopes::kThreads, kDenseShared, planes,
                            parts);
      case kGeneral:
        return start_slopes(Entry::lp_dist_backward_general, DenseSlopes::kThreads, kDenseShared, planes,
                            parts);
      default:
        return start_slopes(Entry::lp_dist_backward_large, SparseSlopes::kThreads, kSparseShared, planes,
                            parts);
    }
  }
  int start_shares(const float* parts) const {
    const int32_t size = n.batch * n.inputs;
    if (!grad_x || parts == grad_x) return 0;
    return start(launcher, Entry::lp_dist_add_shares, grid_of(pieces_of(size, kRootThreads), kRootThreads),
                 size, shares(), parts, grad_x);
  }
  // A gradient of no terms: the sum of no shares.
  int start_zeros(int32_t size, float* grad) const {
    const float* const none = nullptr;
    if (!grad) return 0;
    return start(launcher, Entry::lp_dist_add_shares, grid_of(pieces_of(size, kRootThreads), kRootThreads),
                 size, 0, none, grad);
  }
  int start_all(float* planes) const {
    if (n.batch == 0 || n.outputs == 0)
      return in_order([&] { return start_zeros(n.batch * n.inputs, grad_x); },
                      [&] { return start_zeros(n.outputs * n.inputs, grad_w); });
    float* const parts = !grad_x ? nullptr : shares() > 1 ? planes + kSparsePlanes * plane() : grad_x;
    return in_order([&] { return start_pairs(planes); }, [&] { return start_kind(planes, parts); },
                    [&] { return start_shares(parts); });
  }
};

}  // namespace

}  // namespace linf

int lp_dist_cuda(const LinfLauncher* launcher, LinfSizes n, const float* x, const float* w, float p,
                 const float* p_now, float* y, float* scale, float* sum) {
  if (n.batch == 0 || n.outputs == 0) return 0;
  return linf::Forward{launcher, n, x, w, p, p_now, y, scale, sum}.start_kind();
}

int32_t lp_dist_kind(float p) { return linf::lp_kind_of(p); }

size_t lp_dist_backward_scratch_cuda(LinfSizes n) {
  if (n.batch == 0 || n.outputs == 0) return 0;
  return linf::Backward{nullptr, n, nullptr, nullptr, 0, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr}
      .scratch_bytes();
}

int lp_dist_backward_cuda(const LinfLauncher* launcher, LinfSizes n, const float* x, const float* w, float p,
                          const float* p_now, const float* scale, const float* sum, const float* grad_y,
                          float* grad_x, float* grad_w, void* scratch) {
  return linf::Backward{launcher, n, x, w, p, p_now, scale, sum, grad_y, grad_x, grad_w}.start_all(
      static_cast<float*>(scratch));
}
