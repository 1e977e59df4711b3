// SPDX-License-Identifier: Apache-2.0
//
// A stack of its own for each thread of a block, and the switch between stacks: a few instructions, where
// ucontext would ask the operating system each time. The sanitizers are told of every switch.
#pragma once

#include <cstddef>

#if !defined(__x86_64__) || defined(EMULATOR_UCONTEXT)
#define EMULATOR_WITHOUT_ASSEMBLY 1
#include <ucontext.h>
#endif

namespace emulator {

class Fiber {
 public:
  // The stack that calls, as something to come back to.
  Fiber() = default;
  // A new stack, on which `body` will run; it must never return.
  explicit Fiber(void (*body)());
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Leaves `from`, which is running, for `to`; returns when something switches back. To ThreadSanitizer this
  // orders nothing: only barriers do.
  static void change(Fiber& from, Fiber& to);
  // The thread of the operating system whose stack this is has changed since it was last left.
  void adopt();

 private:
  static void start();
  void arrive();

  void (*body_)() = nullptr;
  char* stack_ = nullptr;  // of kStackBytes and a page below that catches overflow; null for a caller's own
  const void* bottom_ = nullptr;
  size_t bytes_ = 0;
  void* fake_stack_ = nullptr;  // AddressSanitizer's
  void* race_state_ = nullptr;  // ThreadSanitizer's
#if EMULATOR_WITHOUT_ASSEMBLY
  ucontext_t context_;
#else
  void* stack_pointer_ = nullptr;
#endif
};

// What happens before what, for ThreadSanitizer: everything before release(at) is before what
// follows a later acquire(at).
void release(void* at);
void acquire(void* at);

}  // namespace emulator
