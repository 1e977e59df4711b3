// SPDX-License-Identifier: Apache-2.0
//
// run_toy NAME ORDER SEED: two blocks of a toy kernel, on the numbers 0, 1, 2, 0, 1,
// 2... Prints what it makes.
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "launch.h"

int main(int, char** given) {
  constexpr int kBlocks = 2, kThreads = 64, kSize = kBlocks * kThreads;
  const std::unique_ptr<float[]> x(new float[kSize]), y(new float[kSize]());
  for (int i = 0; i < kSize; ++i) x[i] = static_cast<float>(i % 3);
  float* to = y.get();
  const float* from = x.get();
  void* arguments[] = {&to, &from};
  emulated_schedule(std::atoi(given[2]), static_cast<uint32_t>(std::atoi(given[3])), 2);
  void* const toy = emulated_function(given[1]);
  const int shared_bytes = 2 * kThreads * 4;
  // One float less than would do, for the one that takes one too many.
  const int asked = given[1][0] == 'o' ? kThreads * 4 : shared_bytes;
  if (emulated_cuLaunchKernel(toy, kBlocks, 1, 1, kThreads, 1, 1, asked, nullptr, arguments, nullptr))
    return 3;
  for (int i = 0; i < kSize; ++i) std::printf("%.9g\n", y[i]);
}
