// SPDX-License-Identifier: Apache-2.0
#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>
#include <vector>

namespace linf {

void parallel_for(int64_t blocks, int threads, void (*body)(void*, int64_t), void* context) {
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    for (int64_t block = next++; block < blocks; block = next++) body(context, block);
  };
  std::vector<std::thread> helpers;
  const int64_t wanted = std::min<int64_t>(threads, blocks) - 1;
  try {
    for (int64_t i = 0; i < wanted; ++i) helpers.emplace_back(work);
  } catch (const std::system_error&) {
    // The system gives no more threads: those that there are do the work.
  }
  work();
  for (std::thread& helper : helpers) helper.join();
}

}  // namespace linf
