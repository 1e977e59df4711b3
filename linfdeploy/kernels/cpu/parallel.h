// SPDX-License-Identifier: Apache-2.0
//
// Fork and join over blocks of work. No pool: its waiting threads would spin against those of torch's own,
// which on a small machine costs more than it gains, and would not survive a fork.
#pragma once

#include <cstdint>

namespace linf {

// Calls body(context, block) once for every block in [0, blocks), from up to `threads` threads, this one
// included.
void parallel_for(int64_t blocks, int threads, void (*body)(void*, int64_t), void* context);

}  // namespace linf
