// SPDX-License-Identifier: Apache-2.0
//
// A stream, and memory of the GPU and of the host that it reaches.
#pragma once

#include <cuda_runtime_api.h>

#include <utility>

#include "text.h"

namespace linf::runner {

inline std::string cuda_text(cudaError_t failed) {
  return joined(cudaGetErrorString(failed), " (error ", static_cast<int>(failed), ")");
}

// The current GPU's compute capability, such as 8.7.
inline std::string compute_capability() {
  int major = 0, minor = 0;
  cudaError_t failed = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
  if (!failed) failed = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0);
  if (failed)
    refuse("CUDA finds no GPU: ", cuda_text(failed),
           "; expected one with its driver: run this where the plan is to run");
  return joined(major, ".", minor);
}

class Stream {
 public:
  Stream() {
    const cudaError_t failed = cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking);
    if (failed) refuse("CUDA makes no stream: ", cuda_text(failed), "; expected one: restart the device");
  }
  Stream(const Stream&) = delete;
  ~Stream() {
    cudaStreamSynchronize(stream_);
    cudaStreamDestroy(stream_);
  }
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

// Bytes of one kind of memory.
template <cudaError_t (*kGet)(void**, size_t), cudaError_t (*kFree)(void*)>
class Memory {
 public:
  Memory(size_t bytes, const char* kind) {
    const cudaError_t failed = kGet(&memory_, bytes);
    if (failed)
      refuse("CUDA gives no ", bytes, " bytes of ", kind, " memory: ", cuda_text(failed),
             "; expected room for a batch: choose a smaller --batch, or end other programs");
  }
  Memory(Memory&& other) noexcept : memory_(std::exchange(other.memory_, nullptr)) {}
  ~Memory() {
    if (memory_) kFree(memory_);
  }
  char* get() const { return static_cast<char*>(memory_); }

 private:
  void* memory_ = nullptr;
};

inline cudaError_t device_malloc(void** memory, size_t bytes) { return cudaMalloc(memory, bytes); }
inline cudaError_t host_malloc(void** memory, size_t bytes) { return cudaMallocHost(memory, bytes); }
using DeviceMemory = Memory<device_malloc, cudaFree>;
using PinnedMemory = Memory<host_malloc, cudaFreeHost>;

// The same bytes in both; copies wait for their turn in the stream.
class Buffer {
 public:
  explicit Buffer(int64_t bytes)
      : device_(static_cast<size_t>(bytes), "device"), host_(static_cast<size_t>(bytes), "pinned host") {}
  char* device() const { return device_.get(); }
  char* host() const { return host_.get(); }

  cudaError_t to_device(int64_t bytes, const Stream& stream) const {
    return cudaMemcpyAsync(device(), host(), static_cast<size_t>(bytes), cudaMemcpyHostToDevice,
                           stream.get());
  }
  cudaError_t to_host(int64_t bytes, const Stream& stream) const {
    return cudaMemcpyAsync(host(), device(), static_cast<size_t>(bytes), cudaMemcpyDeviceToHost,
                           stream.get());
  }
  // So that what nothing writes is not what an earlier batch left.
  cudaError_t spoil(int64_t bytes, const Stream& stream) const {
    return cudaMemsetAsync(device(), 0xff, static_cast<size_t>(bytes), stream.get());
  }

 private:
  DeviceMemory device_;
  PinnedMemory host_;
};

}  // namespace linf::runner
