// SPDX-License-Identifier: Apache-2.0
//
// What the mock of TensorRT asks the mock of CUDA's runtime.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

namespace mock {

// Whether these bytes lie in memory from cudaMalloc.
bool is_device(const void* memory, size_t bytes);
// Runs what waits in a stream.
void run_all(cudaStream_t stream);

}  // namespace mock
