// SPDX-License-Identifier: Apache-2.0
//
// Who runs the blocks of a kernel: a Pool that it is handed, which is the fork and join of this file or a
// runtime's own thread pool.
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

// Fork and join, the calling thread included, with helpers that sleep in between: they would spin against the
// threads of torch's own pool, which on a small machine costs more than it gains. A process that forks starts
// new ones; a thread that finds them at work for another one works alone.
Pool fork_join(int threads);

// Calls body(context, block) once for every block in [0, blocks), in the default floating-point environment:
// round to nearest, denormals kept. Whatever a caller or a pool's thread has set (flush-to-zero above all)
// changes no bit, and is in force again afterwards.
void parallel_for(const Pool& pool, int64_t blocks, void (*body)(void* context, int64_t block),
                  void* context);

}  // namespace linf
