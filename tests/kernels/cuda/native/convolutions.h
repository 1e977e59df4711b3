// SPDX-License-Identifier: Apache-2.0
//
// Random convolutions for the kernels' test program.
#pragma once

#include "linf_dist_conv.h"
#include "shapes.h"

// A random window that fits its image, and the padding behind that the launcher leaves to its caller.
linf::Convolution fitting_convolution(Shape& shape);
// The same for the launcher.
LinfWindow window_of(const linf::Convolution& c);
