// SPDX-License-Identifier: Apache-2.0
//
// Memory that kernels reach: a card's with LINFDEPLOY_CUDA, the host's for kernels that are emulated there.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#ifdef LINFDEPLOY_CUDA
#include <cuda_runtime.h>
#endif

namespace conformance {

#ifdef LINFDEPLOY_CUDA

constexpr const char* kWhere = "a card";
inline void* allocated(size_t bytes) {
  void* memory = nullptr;
  return cudaMalloc(&memory, bytes ? bytes : 1) == cudaSuccess ? memory : nullptr;
}
inline void freed(void* memory) { cudaFree(memory); }
inline void to_device(void* to, const void* from, size_t bytes) {
  cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice);
}
inline void to_host(void* to, const void* from, size_t bytes) {
  cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost);
}

#else

constexpr const char* kWhere = "the host, emulated";
inline void* allocated(size_t bytes) { return ::operator new(bytes ? bytes : 1); }
inline void freed(void* memory) { ::operator delete(memory); }
inline void to_device(void* to, const void* from, size_t bytes) {
  if (bytes) std::memcpy(to, from, bytes);
}
inline void to_host(void* to, const void* from, size_t bytes) {
  if (bytes) std::memcpy(to, from, bytes);
}

#endif

// Bytes on the device, of exactly that size.
class Buffer {
 public:
  template <typename T>
  explicit Buffer(const std::vector<T>& values)
      : bytes_(values.size() * sizeof(T)), memory_(allocated(bytes_)) {
    to_device(memory_, values.data(), bytes_);
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { freed(memory_); }
  void* get() const { return memory_; }
  template <typename T>
  std::vector<T> values() const {
    std::vector<T> found(bytes_ / sizeof(T));
    to_host(found.data(), memory_, bytes_);
    return found;
  }

 private:
  size_t bytes_;
  void* memory_;
};

}  // namespace conformance
