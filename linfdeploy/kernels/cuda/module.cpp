// SPDX-License-Identifier: Apache-2.0
//
// The launchers for Python: addresses and sizes in, kernels started. Nothing of CUDA is linked or included:
// Python hands over the driver's function that starts a kernel, and the kernels, as addresses. Shapes, dtypes
// and layouts are checked in Python; what arrives here is trusted.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <iterator>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "aot_entries.h"
#include "entries.h"
#include "launchers.h"
#include "linf/geometry.h"

namespace nb = nanobind;

namespace {

using Address = uintptr_t;
using Pair = std::array<int32_t, 2>;
using Triple = std::array<int32_t, 3>;
// The code and the entry at which a launcher stopped.
using Failure = std::optional<std::pair<int, int32_t>>;

struct Entry {
  const char *name, *file;
};
constexpr Entry kEntries[] = {
#define LINF_ENTRY_NAMES(name, file) {#name, #file},
    LINF_ENTRIES(LINF_ENTRY_NAMES)
#undef LINF_ENTRY_NAMES
};

// No code of CUDA is negative.
constexpr int kNotLoaded = -1;

// cuLaunchKernel: function, grid, block, bytes of shared memory, stream, arguments, null.
using Launch = int (*)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*,
                       void**, void**);

// One card. Kernels may be loaded while others are started.
struct Card {
  Launch launch;
  int32_t multiprocessors;
  std::array<std::atomic<Address>, std::size(kEntries)> kernels{};

  Card(Address launch_address, int32_t multiprocessor_count)
      : launch(reinterpret_cast<Launch>(launch_address)), multiprocessors(multiprocessor_count) {}

  void load(size_t entry, Address kernel) { kernels.at(entry).store(kernel); }
};

// What a launcher starts its kernels through.
struct Call : LinfLauncher {
  const Card& card;
  void* stream;
  mutable int32_t entry = 0;

  Call(const Card& on, Address on_stream)
      : LinfLauncher{&start_kernel, on.multiprocessors},
        card(on),
        stream(reinterpret_cast<void*>(on_stream)) {}

  static int start_kernel(const LinfLauncher* self, int32_t entry, LinfGrid grid, void** arguments) {
    const Call& call = *static_cast<const Call*>(self);
    call.entry = entry;
    const Address kernel = call.card.kernels[static_cast<size_t>(entry)].load();
    if (!kernel) return kNotLoaded;
    return call.card.launch(reinterpret_cast<void*>(kernel), grid.blocks, 1, 1, grid.threads, 1, 1,
                            grid.shared_bytes, call.stream, arguments, nullptr);
  }
};

// The driver may wait, with a thousand kernels in its queue.
template <typename Launcher>
Failure run(const Card& card, Address stream, Launcher launcher) {
  nb::gil_scoped_release release;
  const Call call(card, stream);
  const int code = launcher(static_cast<const LinfLauncher*>(&call));
  return code ? Failure({code, call.entry}) : std::nullopt;
}

template <typename T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

const float* floats(Address address) { return at<const float>(address); }

LinfSizes sizes(Triple n) { return {n[0], n[1], n[2]}; }

LinfDtype dtype_of(const std::string& name) {
  static constexpr std::array<const char*, 5> kDtypes{"float32", "float16", "int16", "int8", "uint8"};
  for (size_t i = 0; i < kDtypes.size(); ++i)
    if (name == kDtypes[i]) return static_cast<LinfDtype>(i);
  throw std::invalid_argument("no kernel takes " + name);
}

// images, channels, filters; the places of each of the others, vertically and horizontally.
LinfWindow window(Triple n, Pair image, Pair kernel, Pair stride, Pair dilation, Pair padding, Pair places) {
  LinfWindow found{n[0], n[1], n[2], {}, {}, {}, {}, {}, {}};
  for (size_t i = 0; i < 2; ++i) {
    found.image[i] = image[i];
    found.kernel[i] = kernel[i];
    found.stride[i] = stride[i];
    found.dilation[i] = dilation[i];
    found.padding[i] = padding[i];
    found.places[i] = places[i];
  }
  return found;
}

std::vector<std::pair<std::string, std::string>> entries() {
  std::vector<std::pair<std::string, std::string>> found;
  for (const Entry& entry : kEntries) found.emplace_back(entry.name, entry.file);
  return found;
}

// Name, file; a block's rows and columns of results, threads and bytes of shared memory.
using AotKernel = std::tuple<std::string, std::string, int32_t, int32_t, int32_t, int32_t>;

std::vector<AotKernel> aot_kernels() {
  std::vector<AotKernel> found;
  for (const linf::AotKernel& k : linf::kAotKernels)
    found.emplace_back(k.name, k.file, k.rows, k.columns, k.threads, k.shared_bytes);
  return found;
}

}  // namespace

NB_MODULE(_cuda, m) {
  // Cards live as long as the process, as the kernels that were loaded onto them do.
  nb::set_leak_warnings(false);
  m.attr("NOT_LOADED") = kNotLoaded;
  m.attr("MAX_ROW_BYTES") = linf::kMostRowBytes;
  m.def("entries", &entries);
  m.def("aot_kernels", &aot_kernels);
  m.def("lp_dist_kind", &lp_dist_kind);
  m.def("lp_dist_backward_scratch", [](Triple n) { return lp_dist_backward_scratch_cuda(sizes(n)); });

  nb::class_<Card>(m, "Card")
      .def(nb::init<Address, int32_t>())
      .def("load", &Card::load)
      .def("linf_dist",
           [](const Card& card, Address stream, Triple n, const std::string& dtype, Address x, Address w,
              Address bias, Address y) {
             return run(card, stream, [&](const LinfLauncher* launcher) {
               return linf_dist_cuda(launcher, dtype_of(dtype), sizes(n), at<void>(x), at<void>(w),
                                     at<void>(bias), at<void>(y));
             });
           })
      .def("linf_dist_argmax",
           [](const Card& card, Address stream, Triple n, Address x, Address w, Address y, Address index) {
             return run(card, stream, [&](const LinfLauncher* launcher) {
               return linf_dist_argmax_cuda(launcher, sizes(n), floats(x), floats(w), at<float>(y),
                                            at<int64_t>(index));
             });
           })
      .def("linf_dist_backward",
           [](const Card& card, Address stream, Triple n, Address x, Address w, Address index, Address grad_y,
              Address grad_x, Address grad_w) {
             return run(card, stream, [&](const LinfLauncher* launcher) {
               return linf_dist_backward_cuda(launcher, sizes(n), floats(x), floats(w),
                                              at<const int64_t>(index), floats(grad_y), at<float>(grad_x),
                                              at<float>(grad_w));
             });
           })
      .def("linf_dist_bounds",
           [](const Card& card, Address stream, Triple n, Address lower, Address upper, Address w,
              Address y_lower, Address y_upper) {
             return run(card, stream, [&](const LinfLauncher* launcher) {
               return linf_dist_bounds_cuda(launcher, sizes(n), floats(lower), floats(upper), floats(w),
                                            at<float>(y_lower), at<float>(y_upper));
             });
           })
      .def("linf_dist_conv",
           [](const Card& card, Address stream, Triple n, Pair image, Pair kernel, Pair stride, Pair dilation,
              Pair padding, Pair places, Address x, Address w, Address bias, Address y) {
             return run(card, stream, [&](const LinfLauncher* launcher) {
               return linf_dist_conv_cuda(launcher,
                                          window(n, image, kernel, stride, dilation, padding, places),
                                          floats(x), floats(w), floats(bias), at<float>(y));
             });
           })
      .def("lp_dist",
           [](const Card& card, Address stream, Triple n, Address x, Address w, float p, Address p_now,
              Address y, Address scale, Address sum) {
             return run(card, stream, [&](const LinfLauncher* launcher) {
               return lp_dist_cuda(launcher, sizes(n), floats(x), floats(w), p, floats(p_now), at<float>(y),
                                   at<float>(scale), at<float>(sum));
             });
           })
      .def("lp_dist_backward",
           [](const Card& card, Address stream, Triple n, Address x, Address w, float p, Address p_now,
              Address scale, Address sum, Address grad_y, Address grad_x, Address grad_w, Address scratch) {
             return run(card, stream, [&](const LinfLauncher* launcher) {
               return lp_dist_backward_cuda(launcher, sizes(n), floats(x), floats(w), p, floats(p_now),
                                            floats(scale), floats(sum), floats(grad_y), at<float>(grad_x),
                                            at<float>(grad_w), at<void>(scratch));
             });
           });
}
