// SPDX-License-Identifier: Apache-2.0
//
// Expressions of sizes as a builder keeps them in an engine: made once, evaluated for the sizes of every run.
#pragma once

#include <NvInferRuntime.h>

#include <deque>
#include <vector>

namespace host {

namespace nv = nvinfer1;

// The sizes of all inputs.
using Sizes = std::vector<std::vector<int64_t>>;

class Expression : public nv::IDimensionExpr {
 public:
  explicit Expression(int64_t value) : constant_(value), impl_(this, true) { mImpl = &impl_; }
  Expression(int32_t input, int32_t axis) : input_(input), axis_(axis), impl_(this, false) { mImpl = &impl_; }
  Expression(nv::DimensionOperation op, const Expression& a, const Expression& b)
      : op_(op), a_(&a), b_(&b), impl_(this, a.impl_.known && b.impl_.known) {
    mImpl = &impl_;
  }
  Expression(const Expression&) = delete;
  ~Expression() noexcept override = default;

  int64_t value(const Sizes& sizes) const {
    if (a_) return result(a_->value(sizes), b_->value(sizes));
    return input_ < 0 ? constant_ : sizes[static_cast<size_t>(input_)][static_cast<size_t>(axis_)];
  }

 private:
  struct Impl : nv::apiv::VDimensionExpr {
    Impl(const Expression* of, bool is_known) : self(of), known(is_known) {}
    bool isConstant() const override { return known; }
    int64_t getConstantValue() const override { return known ? self->value({}) : INT64_MIN; }
    bool isSizeTensor() const override { return false; }
    const Expression* self;
    bool known;
  };

  int64_t result(int64_t a, int64_t b) const {
    switch (op_) {
      case nv::DimensionOperation::kSUM:
        return a + b;
      case nv::DimensionOperation::kPROD:
        return a * b;
      case nv::DimensionOperation::kMAX:
        return a > b ? a : b;
      case nv::DimensionOperation::kSUB:
        return a - b;
      case nv::DimensionOperation::kFLOOR_DIV:
        return a / b - (a % b != 0 && (a < 0) != (b < 0));
      case nv::DimensionOperation::kCEIL_DIV:
        return a / b + (a % b != 0 && (a < 0) == (b < 0));
      default:
        return INT64_MIN;  // no plugin of ours asks for others
    }
  }

  int64_t constant_ = 0;
  int32_t input_ = -1, axis_ = -1;
  nv::DimensionOperation op_{};
  const Expression *a_ = nullptr, *b_ = nullptr;
  Impl impl_;
};

class Builder : public nv::IExprBuilder {
 public:
  Builder() : impl_(all_) { mImpl = &impl_; }
  ~Builder() noexcept override = default;
  template <typename... Arguments>
  const Expression* make(Arguments&&... arguments) {
    return &all_.emplace_back(std::forward<Arguments>(arguments)...);
  }

 private:
  struct Impl : nv::apiv::VExprBuilder {
    explicit Impl(std::deque<Expression>& expressions) : all(expressions) {}
    const nv::IDimensionExpr* constant(int64_t value) override { return &all.emplace_back(value); }
    const nv::IDimensionExpr* operation(nv::DimensionOperation op, const nv::IDimensionExpr& a,
                                        const nv::IDimensionExpr& b) override {
      return &all.emplace_back(op, static_cast<const Expression&>(a), static_cast<const Expression&>(b));
    }
    const nv::IDimensionExpr* declareSizeTensor(int32_t, const nv::IDimensionExpr&,
                                                const nv::IDimensionExpr&) override {
      return nullptr;
    }
    std::deque<Expression>& all;
  };
  // Their addresses stay.
  std::deque<Expression> all_;
  Impl impl_;
};

}  // namespace host
