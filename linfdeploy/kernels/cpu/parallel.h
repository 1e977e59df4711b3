// SPDX-License-Identifier: Apache-2.0
//
// Who runs the blocks of a kernel. The kernels own no threads: they are handed a Pool, which is the fork and
// join of this file or a runtime's own thread pool.
#pragma once

#include <cstdint>

namespace linf {

// Calls run(job, block) once for every block in [0, blocks), from up to `threads` threads, and returns when
// all are done.
struct Pool {
  int threads;
  void (*for_each)(void* state, int64_t blocks, int threads, void (*run)(void* job, int64_t block),
                   void* job);
  void* state;
};

// Fork and join, the calling thread included. It keeps no threads waiting: they would spin against those of
// torch's own pool, which on a small machine costs more than it gains, and would not survive a fork.
Pool fork_join(int threads);

// Calls body(context, block) once for every block in [0, blocks), in the default floating-point environment:
// round to nearest, denormals kept. Whatever a caller or a pool's thread has set (flush-to-zero above all)
// changes no bit, and is in force again afterwards.
void parallel_for(const Pool& pool, int64_t blocks, void (*body)(void* context, int64_t block),
                  void* context);

}  // namespace linf
