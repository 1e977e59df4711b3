// SPDX-License-Identifier: Apache-2.0
#include "fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#define EMULATOR_ADDRESS 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMULATOR_ADDRESS 1
#endif
#endif

#if EMULATOR_ADDRESS
#include <sanitizer/common_interface_defs.h>
#endif

// This file itself is compiled without ThreadSanitizer, which would take its bookkeeping for a race.
#if EMULATOR_RACES
extern "C" {
void* __tsan_get_current_fiber(void);
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* at);
void __tsan_release(void* at);
}
#endif

#if !EMULATOR_WITHOUT_ASSEMBLY
// Keeps what a function must keep on the stack that is left, and takes it from the stack that is entered.
extern "C" void emulator_change_stacks(void** left, void* entered);
asm(R"(
  .text
  .globl emulator_change_stacks
  .hidden emulator_change_stacks
  .type emulator_change_stacks, @function
emulator_change_stacks:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size emulator_change_stacks, .-emulator_change_stacks
)");
#endif

namespace emulator {
namespace {

constexpr size_t kStackBytes = 256 * 1024;

// The fiber that a switch leaves and the one that it enters, for the code on the other side.
__thread Fiber* leaving;
__thread Fiber* entering;

size_t page() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

char* new_stack() {
  void* made = mmap(nullptr, page() + kStackBytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (made == MAP_FAILED || mprotect(made, page(), PROT_NONE)) {
    std::fprintf(stderr, "emulator: no memory for the stack of a thread\n");
    std::abort();
  }
  return static_cast<char*>(made);
}

}  // namespace

Fiber::Fiber(void (*body)())
    : body_(body), stack_(new_stack()), bottom_(stack_ + page()), bytes_(kStackBytes) {
#if EMULATOR_RACES
  race_state_ = __tsan_create_fiber(0);
#endif
#if EMULATOR_WITHOUT_ASSEMBLY
  getcontext(&context_);
  context_.uc_stack.ss_sp = const_cast<void*>(bottom_);
  context_.uc_stack.ss_size = kStackBytes;
  context_.uc_link = nullptr;
  makecontext(&context_, start, 0);
#else
  // Six registers, the address that `ret` takes, and one place below 16 bytes' alignment, as after a call.
  void** top = reinterpret_cast<void**>(stack_ + page() + kStackBytes) - 8;
  for (int i = 0; i < 6; ++i) top[i] = nullptr;
  top[6] = reinterpret_cast<void*>(start);
  top[7] = nullptr;
  stack_pointer_ = top;
#endif
}

Fiber::~Fiber() {
  if (!stack_) return;
#if EMULATOR_RACES
  __tsan_destroy_fiber(race_state_);
#endif
  munmap(stack_, page() + kStackBytes);
}

void Fiber::adopt() {
#if EMULATOR_RACES
  race_state_ = __tsan_get_current_fiber();
#endif
}

// After a switch, on the new stack. The stack that was left is known from here on, if it was not before.
__attribute__((noinline)) void Fiber::arrive() {
#if EMULATOR_ADDRESS
  __sanitizer_finish_switch_fiber(fake_stack_, &leaving->bottom_, &leaving->bytes_);
#endif
}

void Fiber::start() {
  entering->arrive();
  entering->body_();
  std::abort();
}

void Fiber::change(Fiber& from, Fiber& to) {
  leaving = &from;
  entering = &to;
#if EMULATOR_ADDRESS
  __sanitizer_start_switch_fiber(&from.fake_stack_, to.bottom_, to.bytes_);
#endif
#if EMULATOR_RACES
  constexpr unsigned kNothingOrdered = 1;
  __tsan_switch_to_fiber(to.race_state_, kNothingOrdered);
#endif
#if EMULATOR_WITHOUT_ASSEMBLY
  swapcontext(&from.context_, &to.context_);
#else
  emulator_change_stacks(&from.stack_pointer_, to.stack_pointer_);
#endif
  from.arrive();
}

void release([[maybe_unused]] void* at) {
#if EMULATOR_RACES
  __tsan_release(at);
#endif
}

void acquire([[maybe_unused]] void* at) {
#if EMULATOR_RACES
  __tsan_acquire(at);
#endif
}

}  // namespace emulator
