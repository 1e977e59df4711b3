// SPDX-License-Identifier: Apache-2.0
//
// In the place of CUDA's runtime, without a GPU: device memory is the host's. Copies wait in their stream
// until something runs it, so that a program which does not wait for them reads too early.
#include "cudart.h"

#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <set>

#include "faults.h"

struct CUstream_st {
  std::deque<std::function<void()>> work;
};

namespace {

constexpr size_t kAlignment = 256;

struct Memories {
  std::map<const char*, size_t> device, host;
  std::set<cudaStream_t> streams;
  size_t device_bytes = 0;
  long synchronizations = 0;

  ~Memories() {
    if (!device.empty() || !host.empty() || !streams.empty()) mock::misused("memory or a stream is left");
  }
};
Memories memories;

bool holds(const std::map<const char*, size_t>& blocks, const void* memory, size_t bytes) {
  const auto* const start = static_cast<const char*>(memory);
  const auto after = blocks.upper_bound(start);
  if (after == blocks.begin()) return false;
  const auto [block, size] = *std::prev(after);
  return start + bytes <= block + size;
}

cudaError_t get(std::map<const char*, size_t>& blocks, void** memory, size_t bytes) {
  if (posix_memalign(memory, kAlignment, bytes)) return cudaErrorMemoryAllocation;
  std::memset(*memory, 0xa5, bytes);
  blocks[static_cast<char*>(*memory)] = bytes;
  return cudaSuccess;
}

cudaError_t give(std::map<const char*, size_t>& blocks, void* memory) {
  if (!blocks.erase(static_cast<char*>(memory))) mock::misused("memory is freed that is none");
  std::free(memory);
  return cudaSuccess;
}

}  // namespace

bool mock::is_device(const void* memory, size_t bytes) { return holds(memories.device, memory, bytes); }

void mock::run_all(cudaStream_t stream) {
  if (!memories.streams.count(stream)) misused("there is no such stream");
  for (; !stream->work.empty(); stream->work.pop_front()) stream->work.front()();
}

extern "C" {

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  const long limit = mock::fault("device_bytes");
  if (limit >= 0 && memories.device_bytes + bytes > static_cast<size_t>(limit))
    return cudaErrorMemoryAllocation;
  memories.device_bytes += bytes;
  return get(memories.device, memory, bytes);
}

cudaError_t cudaFree(void* memory) { return give(memories.device, memory); }

cudaError_t cudaMallocHost(void** memory, size_t bytes) {
  const long limit = mock::fault("host_bytes");
  if (limit >= 0 && bytes > static_cast<size_t>(limit)) return cudaErrorMemoryAllocation;
  return get(memories.host, memory, bytes);
}

cudaError_t cudaFreeHost(void* memory) { return give(memories.host, memory); }

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  if (mock::fault("no_stream") > 0) return cudaErrorMemoryAllocation;
  memories.streams.insert(*stream = new CUstream_st);
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  mock::run_all(stream);
  return mock::is_time_for("synchronize", memories.synchronizations) ? cudaErrorIllegalAddress : cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (!memories.streams.erase(stream)) mock::misused("a stream is destroyed that is none");
  if (!stream->work.empty()) mock::misused("a stream is destroyed before its work is done");
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  const bool up = kind == cudaMemcpyHostToDevice;
  if (!up && kind != cudaMemcpyDeviceToHost) return cudaErrorInvalidMemcpyDirection;
  if (!holds(memories.device, up ? to : from, bytes)) mock::misused("a copy leaves the device's memory");
  if (!holds(memories.host, up ? from : to, bytes)) mock::misused("a copy leaves pinned memory");
  stream->work.push_back([=] { std::memcpy(to, from, bytes); });
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream) {
  if (!holds(memories.device, memory, bytes)) mock::misused("cudaMemset leaves the device's memory");
  stream->work.push_back([=] { std::memset(memory, value, bytes); });
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (mock::fault("no_device") > 0) return cudaErrorNoDevice;
  if (device != 0) return cudaErrorInvalidDevice;
  if (attribute == cudaDevAttrComputeCapabilityMajor)
    *value = 8;
  else if (attribute == cudaDevAttrComputeCapabilityMinor)
    *value = 7;
  else
    return cudaErrorInvalidValue;
  return cudaSuccess;
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorIllegalAddress:
      return "an illegal memory access was encountered";
    default:
      return "another error";
  }
}
}
