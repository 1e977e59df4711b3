// SPDX-License-Identifier: Apache-2.0
//
// A builder of dimension expressions, as TensorRT hands one to getOutputShapes, that evaluates at once.
#pragma once

#include <NvInferRuntime.h>

#include <deque>

namespace conformance {

namespace nv = nvinfer1;

// A dimension with a value, which the plugin sees only if it is constant: others are known when an engine
// runs.
class Expression : public nv::IDimensionExpr {
 public:
  Expression(int64_t value, bool constant) : impl_(value, constant) { mImpl = &impl_; }
  ~Expression() noexcept override = default;
  int64_t value() const { return impl_.value; }

 private:
  struct Impl : nv::apiv::VDimensionExpr {
    Impl(int64_t v, bool c) : value(v), constant(c) {}
    bool isConstant() const override { return constant; }
    int64_t getConstantValue() const override { return constant ? value : INT64_MIN; }
    bool isSizeTensor() const override { return false; }
    int64_t value;
    bool constant;
  } impl_;
};

inline int64_t value_of(const nv::IDimensionExpr& expression) {
  return static_cast<const Expression&>(expression).value();
}

class Builder : public nv::IExprBuilder {
 public:
  Builder() : impl_(expressions_) { mImpl = &impl_; }
  ~Builder() noexcept override = default;

  const Expression* dimension(int64_t value, bool constant) {
    return &expressions_.emplace_back(value, constant);
  }
  nv::DimsExprs dimensions(std::initializer_list<int64_t> sizes, bool constant) {
    nv::DimsExprs made{};
    for (const int64_t size : sizes) made.d[made.nbDims++] = dimension(size, constant);
    return made;
  }

 private:
  struct Impl : nv::apiv::VExprBuilder {
    explicit Impl(std::deque<Expression>& all) : expressions(all) {}
    const nv::IDimensionExpr* constant(int64_t value) override {
      return &expressions.emplace_back(value, true);
    }
    const nv::IDimensionExpr* operation(nv::DimensionOperation op, const nv::IDimensionExpr& first,
                                        const nv::IDimensionExpr& second) override {
      const int64_t a = value_of(first), b = value_of(second);
      return &expressions.emplace_back(result(op, a, b), first.isConstant() && second.isConstant());
    }
    const nv::IDimensionExpr* declareSizeTensor(int32_t, const nv::IDimensionExpr&,
                                                const nv::IDimensionExpr&) override {
      return nullptr;
    }
    static int64_t result(nv::DimensionOperation op, int64_t a, int64_t b) {
      switch (op) {
        case nv::DimensionOperation::kSUM:
          return a + b;
        case nv::DimensionOperation::kFLOOR_DIV:
          return a / b - (a % b != 0 && (a < 0) != (b < 0));
        default:
          return INT64_MIN;  // no plugin of ours asks for others
      }
    }
    std::deque<Expression>& expressions;
  };
  // Their addresses stay.
  std::deque<Expression> expressions_;
  Impl impl_;
};

}  // namespace conformance
