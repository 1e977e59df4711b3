// SPDX-License-Identifier: Apache-2.0
//
// Launches that CUDA's driver refuses, and kernels that are not there. Exits with 0 when all are refused.
#include <cstdio>

#include "launch.h"

namespace {

int failed = 0;

void expect(bool holds, const char* what) {
  if (holds) return;
  ++failed;
  std::printf("%s\n", what);
}

int launch(unsigned blocks, unsigned threads, unsigned bytes) {
  float x[64] = {}, y[64];
  float* to = y;
  const float* from = x;
  void* arguments[] = {&to, &from};
  return emulated_cuLaunchKernel(emulated_function("reverse"), blocks, 1, 1, threads, 1, 1, bytes, nullptr,
                                 arguments, nullptr);
}

}  // namespace

int main() {
  expect(launch(1, 64, 256) == 0, "a right launch");
  expect(launch(1, 96, 256) == 1, "threads beyond the bound");
  expect(launch(1, 33, 256) == 1, "half a warp");
  expect(launch(1, 64, 48 * 1024 + 1) == 1, "too much shared memory");
  expect(launch(0, 64, 256) == 1, "no blocks");
  expect(launch(1, 0, 256) == 1, "no threads");
  expect(!emulated_function("none"), "a kernel that is not there");
  return failed;
}
