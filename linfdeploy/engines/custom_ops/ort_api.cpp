// SPDX-License-Identifier: Apache-2.0
#include "ort_api.h"

#include <algorithm>
#include <cstdlib>
#include <thread>

namespace linf::ort {
namespace {

// Whether a question to ONNX Runtime has an answer; the status of one that has none is thrown away.
bool answered(const OrtApi& api, OrtStatus* status) {
  if (status) api.ReleaseStatus(status);
  return !status;
}

// A list is asked for without a look at the attribute's type, and is empty then; a single value is not.
void refuse_other_types(const OrtApi& api, const OrtKernelInfo* node, const char* name,
                        const char* expected) {
  size_t integers = 0, reals = 0, letters = 0;
  int64_t integer = 0;
  float real = 0;
  const bool list =
      answered(api, api.KernelInfoGetAttributeArray_int64(node, name, nullptr, &integers)) && integers > 0;
  const bool real_list =
      answered(api, api.KernelInfoGetAttributeArray_float(node, name, nullptr, &reals)) && reals > 0;
  if (list || real_list || answered(api, api.KernelInfoGetAttribute_int64(node, name, &integer)) ||
      answered(api, api.KernelInfoGetAttribute_float(node, name, &real)) ||
      answered(api, api.KernelInfoGetAttribute_string(node, name, nullptr, &letters)))
    throw std::invalid_argument(std::string("LinfDistConv: attribute ") + name +
                                " is of another type; expected " + expected);
}

struct Blocks {
  void (*run)(void*, int64_t);
  void* job;
};

void run_one(void* blocks, size_t block) {
  const Blocks& b = *static_cast<const Blocks*>(blocks);
  b.run(b.job, static_cast<int64_t>(block));
}

void run_all(void* threads, int64_t blocks, int count, void (*run)(void*, int64_t), void* job) {
  const Threads& t = *static_cast<const Threads*>(threads);
  Blocks b{run, job};
  // Work worth fewer threads than there are wakes no more of them; otherwise whoever is free takes the next
  // block.
  const size_t shares = count < t.count ? static_cast<size_t>(count) : 0;
  OrtStatus* refused =
      t.api.KernelContext_ParallelFor(t.context, run_one, static_cast<size_t>(blocks), shares, &b);
  if (answered(t.api, refused)) return;
  // A block may be run twice: it writes the same again.
  for (int64_t block = 0; block < blocks; ++block) run(job, block);
}

// Keeps what was allocated for a shape from leaking past an exception.
class TypeAndShape {
 public:
  explicit TypeAndShape(const OrtApi& api) : api_(api) {}
  TypeAndShape(const TypeAndShape&) = delete;
  TypeAndShape& operator=(const TypeAndShape&) = delete;
  ~TypeAndShape() {
    if (info) api_.ReleaseTensorTypeAndShapeInfo(info);
  }
  OrtTensorTypeAndShapeInfo* info = nullptr;

 private:
  const OrtApi& api_;
};

}  // namespace

std::string Shape::text() const {
  if (rank > kMost) return "of rank " + std::to_string(rank);
  std::string text = "(";
  for (size_t axis = 0; axis < rank; ++axis) text += (axis ? ", " : "") + std::to_string(sizes[axis]);
  return text + (rank == 1 ? ",)" : ")");
}

Shape shape_of(const OrtApi& api, const OrtValue* value) {
  TypeAndShape tensor(api);
  Shape shape;
  check(api.GetTensorTypeAndShape(value, &tensor.info));
  check(api.GetDimensionsCount(tensor.info, &shape.rank));
  if (shape.rank <= Shape::kMost) check(api.GetDimensions(tensor.info, shape.sizes.data(), shape.rank));
  return shape;
}

const OrtValue* input(const OrtApi& api, const OrtKernelContext* context, size_t index) {
  const OrtValue* value = nullptr;
  check(api.KernelContext_GetInput(context, index, &value));
  return value;
}

OrtValue* output(const OrtApi& api, OrtKernelContext* context, const int64_t* sizes, size_t rank) {
  OrtValue* value = nullptr;
  check(api.KernelContext_GetOutput(context, 0, sizes, rank, &value));
  return value;
}

const OrtValue* constant_input(const OrtApi& api, const OrtKernelInfo* info, size_t index) {
  const OrtValue* value = nullptr;
  int is_constant = 0;
  check(api.KernelInfoGetConstantInput_tensor(info, index, &is_constant, &value));
  return is_constant ? value : nullptr;
}

int session_threads(const OrtApi* entries_api, const OrtKernelInfo* info) {
  constexpr int kMost = 1024;
  int told = 0;
#if ORT_API_VERSION >= 24
  OrtKeyValuePairs* entries = nullptr;
  if (entries_api && answered(*entries_api, entries_api->KernelInfo_GetConfigEntries(info, &entries))) {
    const char* value = entries_api->GetKeyValue(entries, "linfdeploy.threads");
    if (value) told = static_cast<int>(std::clamp(std::strtol(value, nullptr, 10), 0L, long{kMost}));
    entries_api->ReleaseKeyValuePairs(entries);
  }
#else
  (void)entries_api, (void)info;
#endif
  if (told < 1) told = static_cast<int>(std::thread::hardware_concurrency());
  return std::clamp(told, 1, kMost);
}

Pool pool(Threads* threads) { return {threads->count, run_all, threads}; }

std::vector<int64_t> integers(const OrtApi& api, const OrtKernelInfo* node, const char* name) {
  size_t size = 0;
  if (!answered(api, api.KernelInfoGetAttributeArray_int64(node, name, nullptr, &size)) || size == 0) {
    refuse_other_types(api, node, name, "a list of integers");
    return {};
  }
  std::vector<int64_t> values(size);
  check(api.KernelInfoGetAttributeArray_int64(node, name, values.data(), &size));
  return values;
}

std::vector<int64_t> integers(const OrtApi& api, const OrtShapeInferContext* node, const char* name) {
  const OrtOpAttr* attribute = nullptr;
  if (!answered(api, api.ShapeInferContext_GetAttribute(node, name, &attribute)) || !attribute) return {};
  // More than any operator here has; a longer one is not read, and refused when the kernel is made.
  int64_t values[8];
  size_t bytes = 0;
  if (!answered(api, api.ReadOpAttr(attribute, ORT_OP_ATTR_INTS, values, sizeof values, &bytes))) return {};
  return {values, values + bytes / sizeof *values};
}

int64_t integer(const OrtApi& api, const OrtKernelInfo* node, const char* name, int64_t otherwise) {
  int64_t value = 0;
  if (answered(api, api.KernelInfoGetAttribute_int64(node, name, &value))) return value;
  refuse_other_types(api, node, name, "an integer");
  return otherwise;
}

std::string text(const OrtApi& api, const OrtKernelInfo* node, const char* name) {
  size_t size = 0;
  if (!answered(api, api.KernelInfoGetAttribute_string(node, name, nullptr, &size))) {
    refuse_other_types(api, node, name, "a string");
    return {};
  }
  std::string value(size, '\0');
  check(api.KernelInfoGetAttribute_string(node, name, value.data(), &size));
  return value.c_str();
}

Extents extents_of(const OrtApi& api, const OrtShapeInferContext* context, size_t index) {
  OrtTensorTypeAndShapeInfo* info = nullptr;  // the context's
  size_t rank = 0;
  if (!answered(api, api.ShapeInferContext_GetInputTypeShape(context, index, &info)) || !info) return {};
  check(api.GetDimensionsCount(info, &rank));
  std::vector<int64_t> sizes(rank);
  std::vector<const char*> names(rank, nullptr);
  check(api.GetDimensions(info, sizes.data(), rank));
  check(api.GetSymbolicDimensions(info, names.data(), rank));
  Extents extents(rank);
  for (size_t axis = 0; axis < rank; ++axis) extents[axis] = {sizes[axis], names[axis] ? names[axis] : ""};
  return extents;
}

void infer_output(const OrtApi& api, OrtShapeInferContext* context, const Extents& extents) {
  std::vector<int64_t> sizes;
  std::vector<const char*> names;
  for (const Extent& extent : extents) {
    const bool known = extent.size >= 0;
    if (!known && extent.name.empty()) return;
    sizes.push_back(known ? extent.size : 0);
    names.push_back(known ? "" : extent.name.c_str());
  }
  OrtTensorTypeAndShapeInfo* first = nullptr;  // the context's
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  check(api.ShapeInferContext_GetInputTypeShape(context, 0, &first));
  check(api.GetTensorElementType(first, &type));
  TypeAndShape tensor(api);
  check(api.CreateTensorTypeAndShapeInfo(&tensor.info));
  check(api.SetTensorElementType(tensor.info, type));
  check(api.SetDimensions(tensor.info, sizes.data(), sizes.size()));
  check(api.SetSymbolicDimensions(tensor.info, names.data(), names.size()));
  check(api.ShapeInferContext_SetOutputTypeShape(context, 0, tensor.info));
}

}  // namespace linf::ort
