// SPDX-License-Identifier: Apache-2.0
//
// See runtime.h. The kernels of inference in one object; those of training are compiled at run time instead.
#include "runtime.h"

#include <cuda_runtime.h>

#include "entries.h"
#include "linf_dist.cu"
#include "linf_dist_bounds.cu"
#include "linf_dist_conv.cu"

namespace {

// By number; null for kernels of other files.
#define LINF_ADDRESS_linf_dist(name) reinterpret_cast<const void*>(name)
#define LINF_ADDRESS_linf_dist_bounds(name) reinterpret_cast<const void*>(name)
#define LINF_ADDRESS_linf_dist_conv(name) reinterpret_cast<const void*>(name)
#define LINF_ADDRESS_linf_dist_argmax(name) nullptr
#define LINF_ADDRESS_lp_dist(name) nullptr
#define LINF_ADDRESS_lp_dist_backward(name) nullptr
const void* const kKernels[] = {
#define LINF_ENTRY_ADDRESS(name, file) LINF_ADDRESS_##file(name),
    LINF_ENTRIES(LINF_ENTRY_ADDRESS)
#undef LINF_ENTRY_ADDRESS
};

int start_by_runtime(const LinfLauncher* self, int32_t entry, LinfGrid grid, void** arguments) {
  const auto* runtime = reinterpret_cast<const LinfRuntimeLauncher*>(self);
  if (!kKernels[entry]) return cudaErrorInvalidDeviceFunction;
  return cudaLaunchKernel(kKernels[entry], dim3(grid.blocks), dim3(grid.threads), arguments,
                          grid.shared_bytes, static_cast<cudaStream_t>(runtime->stream));
}

}  // namespace

int linf_runtime_launcher(void* stream, LinfRuntimeLauncher* launcher) {
  int device = 0, multiprocessors = 0;
  cudaError_t failed = cudaGetDevice(&device);
  if (!failed) failed = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  *launcher = {{start_by_runtime, multiprocessors}, stream};
  return failed;
}
