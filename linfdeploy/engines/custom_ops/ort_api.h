// SPDX-License-Identifier: Apache-2.0
//
// ONNX Runtime's C functions for the two operators: statuses become exceptions inside, exceptions become
// statuses at the border, and an operator is a class with a constructor, `compute` and `infer`.
#pragma once

#include <onnxruntime_c_api.h>

#include <array>
#include <cstdint>
#include <exception>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "kernels.h"

namespace linf::ort {

// The oldest API with all that is used here; every later ONNX Runtime still provides it.
constexpr uint32_t kApiVersion = 18;

// A status of ONNX Runtime's own, on its way back to it.
struct Failure {
  OrtStatus* status;
};

inline void check(OrtStatus* status) {
  if (status) throw Failure{status};
}

// No exception leaves the library.
template <typename Work>
OrtStatus* guarded(const OrtApi& api, Work work) noexcept {
  try {
    work();
    return nullptr;
  } catch (const Failure& failure) {
    return failure.status;
  } catch (const std::invalid_argument& error) {
    return api.CreateStatus(ORT_INVALID_ARGUMENT, error.what());
  } catch (const std::exception& error) {
    return api.CreateStatus(ORT_FAIL, error.what());
  }
}

// The sizes of a tensor. Nothing here has more than four; of a longer shape only the rank is kept.
struct Shape {
  static constexpr size_t kMost = 4;
  size_t rank = 0;
  std::array<int64_t, kMost> sizes{};

  int64_t operator[](size_t axis) const { return sizes[axis]; }
  std::string text() const;
};

Shape shape_of(const OrtApi& api, const OrtValue* value);

template <typename T>
T* data_of(const OrtApi& api, const OrtValue* value) {
  void* data = nullptr;
  // One function serves both; what is const stays so by the types.
  check(api.GetTensorMutableData(const_cast<OrtValue*>(value), &data));
  return static_cast<T*>(data);
}

const OrtValue* input(const OrtApi& api, const OrtKernelContext* context, size_t index);
OrtValue* output(const OrtApi& api, OrtKernelContext* context, const int64_t* sizes, size_t rank);

// Null where the input is computed.
const OrtValue* constant_input(const OrtApi& api, const OrtKernelInfo* info, size_t index);

// How many threads a session has. It cannot be asked; since API 24 it can be told, in the session's entry
// "linfdeploy.threads". Without one it is the machine's count: a session with fewer threads runs the same
// blocks, cut smaller than need be.
constexpr uint32_t kEntriesApiVersion = 24;
int session_threads(const OrtApi* entries_api, const OrtKernelInfo* info);

// ONNX Runtime's own threads, for as long as one call of an operator lasts.
struct Threads {
  const OrtApi& api;
  const OrtKernelContext* context;
  int count;
};

Pool pool(Threads* threads);

// The attributes of a node, which is one thing while its kernel is made and another while shapes are
// inferred. Absent ones give an empty list, `otherwise`, or an empty string; one of another type is refused,
// since an attribute that is overlooked computes something else.
std::vector<int64_t> integers(const OrtApi& api, const OrtKernelInfo* node, const char* name);
std::vector<int64_t> integers(const OrtApi& api, const OrtShapeInferContext* node, const char* name);
int64_t integer(const OrtApi& api, const OrtKernelInfo* node, const char* name, int64_t otherwise);
std::string text(const OrtApi& api, const OrtKernelInfo* node, const char* name);

// The sizes of an input as far as they are known before anything runs: a name stands for a size that is not.
struct Extent {
  int64_t size = -1;
  std::string name;
};

using Extents = std::vector<Extent>;

// Empty where not even the rank is known.
Extents extents_of(const OrtApi& api, const OrtShapeInferContext* context, size_t index);
// Says nothing unless every size has a number or a name. The type is that of the first input: of several
// operators of one name ONNX Runtime asks the first, whatever the types of the node.
void infer_output(const OrtApi& api, OrtShapeInferContext* context, const Extents& extents);

// What ONNX Runtime asks of an operator `Op`, which provides
//   kName, kInputs, kType                     its name, and the number and type of its inputs; of one output
//   Op(api, info, threads)                    one for each node; throws std::invalid_argument
//   compute(context)                          may be called from several threads at once
//   static infer(api, context)                the output's shape, where it is known before anything runs
struct Table : OrtCustomOp {
  const OrtApi* api;
  const OrtApi* entries_api;  // null where ONNX Runtime is older
};

template <typename Op>
Table table(const OrtApi& api, const OrtApi* entries_api) {
  Table t{};
  t.api = &api;
  t.entries_api = entries_api;
  t.version = kApiVersion;
  t.GetName = [](const OrtCustomOp*) { return Op::kName; };
  t.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };
  t.GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return Op::kInputs; };
  t.GetInputType = [](const OrtCustomOp*, size_t) { return Op::kType; };
  t.GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
  t.GetOutputType = [](const OrtCustomOp*, size_t) { return Op::kType; };
  t.GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
  t.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
  t.GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
  t.CreateKernelV2 = [](const OrtCustomOp* op, const OrtApi*, const OrtKernelInfo* info, void** kernel) {
    const Table& own = *static_cast<const Table*>(op);
    return guarded(*own.api,
                   [&] { *kernel = new Op(*own.api, info, session_threads(own.entries_api, info)); });
  };
  t.KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
    const Op& op = *static_cast<const Op*>(kernel);
    return guarded(op.api, [&] { op.compute(context); });
  };
  t.KernelDestroy = [](void* kernel) { delete static_cast<Op*>(kernel); };
  t.InferOutputShapeFn = [](const OrtCustomOp* op, OrtShapeInferContext* context) {
    const OrtApi& ort = *static_cast<const Table*>(op)->api;
    return guarded(ort, [&] { Op::infer(ort, context); });
  };
  return t;
}

}  // namespace linf::ort
