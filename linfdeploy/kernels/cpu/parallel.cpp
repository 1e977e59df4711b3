// SPDX-License-Identifier: Apache-2.0
#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

#if !defined(_WIN32)
#include <pthread.h>
#endif

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

// What is left of some blocks; whoever works takes the next one.
class Blocks {
 public:
  Blocks(int64_t count, void (*run_block)(void*, int64_t), void* job)
      : count_(count), run_block_(run_block), job_(job) {}
  void work() {
    for (int64_t block = next_++; block < count_; block = next_++) run_block_(job_, block);
  }

 private:
  std::atomic<int64_t> next_{0};
  const int64_t count_;
  void (*const run_block_)(void*, int64_t);
  void* const job_;
};

// Threads that sleep until there is work. To start a thread takes as long as a small layer, and ten times as
// long as to wake one.
class Helpers {
 public:
  // Works on the blocks with up to `wanted` helpers; alone, where they are at work for another thread.
  void work(Blocks& blocks, int64_t wanted) {
    const std::unique_lock<std::mutex> mine(owner_, std::try_to_lock);
    if (mine) invite(&blocks, wanted);
    blocks.work();
    if (mine) dismiss();
  }

 private:
  void invite(Blocks* blocks, int64_t wanted) {
    const std::lock_guard<std::mutex> lock(mutex_);
    grow(wanted);
    blocks_ = blocks;
    wanted_ = wanted;
    ++turn_;
    wake_.notify_all();
  }
  // Who has not come yet need not come any more.
  void dismiss() {
    std::unique_lock<std::mutex> lock(mutex_);
    blocks_ = nullptr;
    done_.wait(lock, [this] { return at_work_ == 0; });
  }
  void grow(int64_t wanted) {
    try {
      for (; count_ < wanted; ++count_)
        std::thread([this, index = count_, turn = turn_] { serve(index, turn); }).detach();
    } catch (const std::system_error&) {
      // The system gives no more threads: those that there are do the work.
    }
  }
  void serve(int64_t index, int64_t seen) {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return turn_ != seen; });
      seen = turn_;
      if (!blocks_ || index >= wanted_) continue;
      Blocks* const blocks = blocks_;
      ++at_work_;
      lock.unlock();
      blocks->work();
      lock.lock();
      if (--at_work_ == 0) done_.notify_one();
    }
  }

  std::mutex owner_;  // held by the thread whose blocks are worked on
  std::mutex mutex_;  // held by whoever reads or writes what follows
  std::condition_variable wake_, done_;
  Blocks* blocks_ = nullptr;
  int64_t turn_ = 0, wanted_ = 0, count_ = 0, at_work_ = 0;
};

// Never destroyed: its threads may sleep in it until the process ends.
std::atomic<Helpers*> helpers{nullptr};

// A forked child has none of its parent's threads, and perhaps locks that nobody will open: it starts anew.
void survive_forks() {
#if !defined(_WIN32)
  static const int registered = pthread_atfork(nullptr, nullptr, [] { helpers = nullptr; });
  static_cast<void>(registered);
#endif
}

Helpers& all_helpers() {
  survive_forks();
  Helpers* found = helpers;
  if (found) return *found;
  auto made = std::make_unique<Helpers>();
  return helpers.compare_exchange_strong(found, made.get()) ? *made.release() : *found;
}

void fork_and_join(void*, int64_t blocks, int threads, void (*run_block)(void*, int64_t), void* job) {
  Blocks all(blocks, run_block, job);
  all_helpers().work(all, std::min<int64_t>(threads, blocks) - 1);
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
