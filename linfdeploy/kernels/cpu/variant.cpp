// SPDX-License-Identifier: Apache-2.0
//
// All kernels for one instruction set. Compiled once per set, with LINF_ISA naming it.
// The kernels are written in terms of vector.h, so it comes before them.
// clang-format off
#include "kernels.h"
#include "vector.h"

#include "linf_dist.h"
#include "linf_dist_bounds.h"
#include "linf_dist_fp16.h"
#include "linf_dist_int.h"
#include "lp_dist.h"
#include "lp_dist_backward.h"
#include "sort_dist.h"
// clang-format on

#define LINF_STRING_(name) #name
#define LINF_STRING(name) LINF_STRING_(name)

namespace linf {
namespace LINF_ISA {

extern const Kernels kernels;
const Kernels kernels = {
    LINF_STRING(LINF_ISA), linf_dist,      linf_dist_argmax, linf_dist_backward, linf_dist_bounds,
    linf_dist_uint8,       linf_dist_int8, linf_dist_int16,  linf_dist_fp16,     lp_dist,
    lp_dist_backward,      sort_dist,      sort_dist_argtop, sort_dist_bounds,   sort_dist_backward,
};

}  // namespace LINF_ISA
}  // namespace linf
