// SPDX-License-Identifier: Apache-2.0
//
// Stands for the driver's library where there is none: it says what it was asked for and starts
// nothing. Only what loads and starts kernels is here; NVRTC, which speaks to a driver in ways of
// its own, must not meet it.
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstring>

namespace {

thread_local void* context = nullptr;
thread_local int capture_mode = 0;
uintptr_t kernels = 0x1000;

int not_here() { return 801; }

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default"))) int

EXPORT cuInit(unsigned) { return 0; }
EXPORT cuDriverGetVersion(int* version) {
  *version = 99000;
  return 0;
}
EXPORT cuDeviceGet(int* device, int number) {
  *device = number;
  return 0;
}
EXPORT cuDevicePrimaryCtxRetain(void** found, int device) {
  std::printf("context of card %d\n", device);
  *found = reinterpret_cast<void*>(uintptr_t{0x77});
  return 0;
}
EXPORT cuCtxGetCurrent(void** found) {
  *found = context;
  return 0;
}
EXPORT cuCtxSetCurrent(void* chosen) {
  std::printf("current: %p\n", chosen);
  context = chosen;
  return 0;
}
EXPORT cuThreadExchangeStreamCaptureMode(int* mode) {
  std::printf("capture mode: %d\n", *mode);
  const int before = capture_mode;
  capture_mode = *mode;
  *mode = before;
  return 0;
}
EXPORT cuLibraryLoadData(void** library, const void* code, void*, void*, unsigned, void*, void*, unsigned) {
  std::printf("load: %.3s\n", static_cast<const char*>(code) + 1);
  *library = reinterpret_cast<void*>(uintptr_t{0x100});
  return 0;
}
EXPORT cuLibraryUnload(void*) {
  std::printf("unload\n");
  return 0;
}
EXPORT cuLibraryGetKernel(void** kernel, void*, const char* name) {
  *kernel = reinterpret_cast<void*>(kernels += 0x10);
  std::printf("kernel: %s %p\n", name, *kernel);
  return 0;
}
EXPORT cuLaunchKernel(void* kernel, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                      void* stream, void**, void**) {
  std::printf("launch: %p on %p\n", kernel, stream);
  std::fflush(stdout);
  return context ? 0 : 201;
}
EXPORT cuGetProcAddress_v2(const char* name, void** found, int, uint64_t, int* status) {
  // By its path, lest a function of some other library is taken for the driver's.
  Dl_info here;
  dladdr(reinterpret_cast<void*>(&not_here), &here);
  const bool itself = !std::strcmp(name, "cuGetProcAddress");
  void* const address = dlsym(dlopen(here.dli_fname, RTLD_LAZY), itself ? "cuGetProcAddress_v2" : name);
  Dl_info owner;
  const bool ours = address && dladdr(address, &owner) && owner.dli_fbase == here.dli_fbase;
  *found = ours ? address : reinterpret_cast<void*>(&not_here);
  if (status) *status = 0;
  return 0;
}
