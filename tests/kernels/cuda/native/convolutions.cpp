// SPDX-License-Identifier: Apache-2.0
#include "convolutions.h"

#include <algorithm>

namespace {

linf::Convolution random_convolution(Shape& s) {
  linf::Convolution c{1 + s.below(3), 1 + s.below(7), s.n.outputs, {}, {}, {}, {}, {}, linf::fork_join(1)};
  for (int axis = 0; axis < 2; ++axis) {
    c.kernel[axis] = 1 + s.below(4);
    c.stride[axis] = 1 + s.below(3);
    c.dilation[axis] = 1 + s.below(3);
    c.pads[axis] = s.below(5);
    c.pads[axis + 2] = s.below(5);
    c.size[axis] = 1 + s.below(std::min(24, 1 + (axis ? s.n.inputs : s.n.batch)));
  }
  return c;
}

}  // namespace

linf::Convolution fitting_convolution(Shape& s) {
  linf::Convolution c = random_convolution(s);
  while (!linf::places(c, 0) || !linf::places(c, 1)) c = random_convolution(s);
  return c;
}

LinfWindow window_of(const linf::Convolution& c) {
  LinfWindow window{};
  window.images = static_cast<int32_t>(c.batch);
  window.channels = static_cast<int32_t>(c.channels);
  window.filters = static_cast<int32_t>(c.outputs);
  for (int axis = 0; axis < 2; ++axis) {
    window.image[axis] = static_cast<int32_t>(c.size[axis]);
    window.kernel[axis] = static_cast<int32_t>(c.kernel[axis]);
    window.stride[axis] = static_cast<int32_t>(c.stride[axis]);
    window.dilation[axis] = static_cast<int32_t>(c.dilation[axis]);
    window.padding[axis] = static_cast<int32_t>(c.pads[axis]);
    window.places[axis] = static_cast<int32_t>(linf::places(c, axis));
  }
  return window;
}
