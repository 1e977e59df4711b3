// SPDX-License-Identifier: Apache-2.0
#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <xmmintrin.h>
#else
#include <cfenv>
#endif

namespace linf {
namespace {

// The default environment for as long as this lives. Kernels run behind a function pointer, so the compiler
// cannot move their arithmetic out of its reach.
class DefaultFloatEnvironment {
 public:
#if defined(__x86_64__)
  DefaultFloatEnvironment() : saved_(_mm_getcsr()) { _mm_setcsr(kDefault); }
  ~DefaultFloatEnvironment() { _mm_setcsr(saved_); }

 private:
  static constexpr unsigned kDefault = 0x1f80;  // exceptions masked, to nearest, neither FTZ nor DAZ
  const unsigned saved_;
#else
  DefaultFloatEnvironment() {
    std::fegetenv(&saved_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~DefaultFloatEnvironment() { std::fesetenv(&saved_); }

 private:
  std::fenv_t saved_;
#endif
};

struct Job {
  void (*body)(void*, int64_t);
  void* context;
};

void run(void* job, int64_t block) {
  const DefaultFloatEnvironment environment;
  static_cast<const Job*>(job)->body(static_cast<const Job*>(job)->context, block);
}

void fork_and_join(void*, int64_t blocks, int threads, void (*run_block)(void*, int64_t), void* job) {
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    for (int64_t block = next++; block < blocks; block = next++) run_block(job, block);
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

}  // namespace

Pool fork_join(int threads) { return {threads, fork_and_join, nullptr}; }

void parallel_for(const Pool& pool, int64_t blocks, void (*body)(void*, int64_t), void* context) {
  Job job{body, context};
  if (pool.threads <= 1 || blocks <= 1) {
    for (int64_t block = 0; block < blocks; ++block) run(&job, block);
  } else {
    pool.for_each(pool.state, blocks, pool.threads, run, &job);
  }
}

}  // namespace linf
