/* SPDX-License-Identifier: Apache-2.0
 *
 * The kernels of inference (distances, bounds, convolution) linked into a program and started by CUDA's
 * runtime: for the TensorRT plugin and other native callers. */
#pragma once

#include "launchers.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct LinfRuntimeLauncher {
  LinfLauncher launcher; /* what the launchers take */
  void* stream;          /* a cudaStream_t */
} LinfRuntimeLauncher;

/* Fills in a launcher for a stream of the current device. Returns a cudaError_t, as do launchers that get it.
 */
int linf_runtime_launcher(void* stream, LinfRuntimeLauncher* launcher);

#ifdef __cplusplus
}
#endif
