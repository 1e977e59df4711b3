// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "kernels.h"

namespace linf {

#if defined(__x86_64__)
namespace avx512 {
extern const Kernels kernels;
}
namespace avx2 {
extern const Kernels kernels;
}
#endif
namespace baseline {
extern const Kernels kernels;
}

namespace {

// Fastest first; a null entry is a variant this processor cannot run.
const Kernels* variant(int rank) {
#if defined(__x86_64__)
  if (rank == 0) return __builtin_cpu_supports("x86-64-v4") ? &avx512::kernels : nullptr;
  if (rank == 1) return __builtin_cpu_supports("x86-64-v3") ? &avx2::kernels : nullptr;
#endif
  return rank == 2 ? &baseline::kernels : nullptr;
}

}  // namespace

const Kernels* kernels_for(const char* isa) {
  for (int rank = 0; rank < 3; ++rank) {
    const Kernels* candidate = variant(rank);
    if (candidate && (!isa || std::strcmp(isa, candidate->isa) == 0)) return candidate;
  }
  return nullptr;
}

}  // namespace linf
