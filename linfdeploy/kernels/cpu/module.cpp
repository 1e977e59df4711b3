// SPDX-License-Identifier: Apache-2.0
//
// The Python face of the CPU kernels: arrays in, arrays out, no copy. Shapes, dtypes and layouts are checked
// in Python, where the message can be good; what arrives here is trusted.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.h"
#include "linf_dist_conv.h"

namespace nb = nanobind;

namespace {

using In = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Out = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using InImages = nb::ndarray<const float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using OutImages = nb::ndarray<float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using InRow = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using InTop = nb::ndarray<const int64_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using OutTop = nb::ndarray<int64_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using InIndex = nb::ndarray<const int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using OutIndex = nb::ndarray<int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

template <typename T>
using InOf = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <typename T>
using OutOf = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

const linf::Kernels* active = linf::kernels_for(nullptr);

template <typename Array>
linf::Sizes sizes(const Array& x, const Array& w, int threads) {
  return {static_cast<int64_t>(x.shape(0)), static_cast<int64_t>(x.shape(1)),
          static_cast<int64_t>(w.shape(0)), linf::fork_join(threads)};
}

linf::SortWeights weights(const InRow& c, float steps) {
  return {c.data(), static_cast<int64_t>(c.shape(0)), steps};
}

using Pair = std::array<int64_t, 2>;

linf::Convolution convolution(const InImages& x, const InImages& w, Pair stride, Pair padding, Pair dilation,
                              int threads) {
  const auto size = [](const InImages& array, int axis) { return static_cast<int64_t>(array.shape(axis)); };
  return {size(x, 0),
          size(x, 1),
          size(w, 0),
          {size(x, 2), size(x, 3)},
          {size(w, 2), size(w, 3)},
          {stride[0], stride[1]},
          {dilation[0], dilation[1]},
          {padding[0], padding[1], padding[0], padding[1]},
          linf::fork_join(threads)};
}

std::vector<std::string> available() {
  std::vector<std::string> found;
  for (const char* isa : {"avx512", "avx2", "baseline"})
    if (linf::kernels_for(isa)) found.emplace_back(isa);
  return found;
}

void use(const char* isa) {
  const linf::Kernels* chosen = linf::kernels_for(isa);
  if (!chosen) throw std::invalid_argument(std::string("this processor or build has no variant ") + isa);
  active = chosen;
}

}  // namespace

NB_MODULE(_cpu, m) {
  m.def("available", &available);
  m.def("use", &use);
  m.def("active", [] { return active->isa; });

  m.def("linf_dist", [](In x, In w, Out y, int threads) {
    nb::gil_scoped_release release;
    active->linf_dist(sizes(x, w, threads), x.data(), w.data(), nullptr, y.data());
  });
  m.def("linf_dist_uint8", [](InOf<uint8_t> x, InOf<uint8_t> w, OutOf<uint8_t> y, int threads) {
    nb::gil_scoped_release release;
    active->linf_dist_uint8(sizes(x, w, threads), x.data(), w.data(), y.data());
  });
  m.def("linf_dist_int8", [](InOf<int8_t> x, InOf<int8_t> w, OutOf<uint8_t> y, int threads) {
    nb::gil_scoped_release release;
    active->linf_dist_int8(sizes(x, w, threads), x.data(), w.data(), y.data());
  });
  m.def("linf_dist_int16", [](InOf<int16_t> x, InOf<int16_t> w, OutOf<uint16_t> y, int threads) {
    nb::gil_scoped_release release;
    active->linf_dist_int16(sizes(x, w, threads), x.data(), w.data(), y.data());
  });
  // float16 arrays come as their bits, viewed as uint16.
  m.def("linf_dist_fp16", [](InOf<uint16_t> x, InOf<uint16_t> w, OutOf<uint16_t> y, int threads) {
    nb::gil_scoped_release release;
    std::vector<float> scratch((linf::kHalfRows + x.shape(0)) * x.shape(1));
    active->linf_dist_fp16(sizes(x, w, threads), x.data(), w.data(), nullptr, y.data(), scratch.data());
  });
  m.def("linf_dist_conv",
        [](InImages x, InImages w, OutImages y, Pair stride, Pair padding, Pair dilation, int threads) {
          nb::gil_scoped_release release;
          linf::linf_dist_conv(*active, convolution(x, w, stride, padding, dilation, threads), x.data(),
                               w.data(), nullptr, y.data());
        });
  m.def("linf_dist_argmax", [](In x, In w, Out y, OutIndex index, int threads) {
    nb::gil_scoped_release release;
    active->linf_dist_argmax(sizes(x, w, threads), x.data(), w.data(), y.data(), index.data());
  });
  m.def("linf_dist_backward", [](In x, In w, InIndex index, In grad_y, Out grad_x, Out grad_w, int threads) {
    nb::gil_scoped_release release;
    active->linf_dist_backward(sizes(x, w, threads), x.data(), w.data(), index.data(), grad_y.data(),
                               grad_x.data(), grad_w.data());
  });
  m.def("linf_dist_bounds", [](In lower, In upper, In w, Out y_lower, Out y_upper, int threads) {
    nb::gil_scoped_release release;
    active->linf_dist_bounds(sizes(lower, w, threads), lower.data(), upper.data(), w.data(), y_lower.data(),
                             y_upper.data());
  });
  m.def(
      "lp_dist",
      [](In x, In w, float p, Out y, Out largest, Out sum, int threads, float kept_bits) {
        nb::gil_scoped_release release;
        active->lp_dist(sizes(x, w, threads), x.data(), w.data(), p, kept_bits, y.data(), largest.data(),
                        sum.data());
      },
      nb::arg("x"), nb::arg("w"), nb::arg("p"), nb::arg("y"), nb::arg("largest"), nb::arg("sum"),
      nb::arg("threads"), nb::arg("kept_bits"));
  m.def(
      "lp_dist_backward",
      [](In x, In w, float p, In largest, In sum, In grad_y, std::optional<Out> grad_x,
         std::optional<Out> grad_w, int threads, float kept_bits) {
        nb::gil_scoped_release release;
        const linf::Sizes n = sizes(x, w, threads);
        const std::unique_ptr<float[]> scratch(new float[linf::lp_dist_backward_scratch(n)]);
        active->lp_dist_backward(n, x.data(), w.data(), p, kept_bits, largest.data(), sum.data(),
                                 grad_y.data(), grad_x ? grad_x->data() : nullptr,
                                 grad_w ? grad_w->data() : nullptr, scratch.get());
      },
      nb::arg("x"), nb::arg("w"), nb::arg("p"), nb::arg("largest"), nb::arg("sum"), nb::arg("grad_y"),
      nb::arg("grad_x").none(), nb::arg("grad_w").none(), nb::arg("threads"), nb::arg("kept_bits"));
  m.attr("MOST_TERMS") = linf::kMostTerms;
  m.def("sort_dist", [](In x, In w, InRow c, float steps, Out y, int threads) {
    nb::gil_scoped_release release;
    active->sort_dist(sizes(x, w, threads), x.data(), w.data(), weights(c, steps), nullptr, y.data());
  });
  m.def("sort_dist_argtop", [](In x, In w, OutTop index, int threads) {
    nb::gil_scoped_release release;
    active->sort_dist_argtop(sizes(x, w, threads), x.data(), w.data(), static_cast<int64_t>(index.shape(2)),
                             index.data());
  });
  m.def("sort_dist_bounds",
        [](In lower, In upper, In w, InRow c, float steps, Out y_lower, Out y_upper, int threads) {
          nb::gil_scoped_release release;
          active->sort_dist_bounds(sizes(lower, w, threads), lower.data(), upper.data(), w.data(),
                                   weights(c, steps), y_lower.data(), y_upper.data());
        });
  m.def("sort_dist_backward",
        [](In x, In w, InTop index, InRow c, In grad_y, Out grad_x, Out grad_w, int threads) {
          nb::gil_scoped_release release;
          active->sort_dist_backward(sizes(x, w, threads), x.data(), w.data(), index.data(), weights(c, 0),
                                     grad_y.data(), grad_x.data(), grad_w.data());
        });
}
