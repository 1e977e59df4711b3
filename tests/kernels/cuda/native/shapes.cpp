// SPDX-License-Identifier: Apache-2.0
#include "shapes.h"

#include <algorithm>

#include "halves.h"
#include "launch.h"

namespace {

int failed = 0;

uint32_t seed_of(const Options& options, uint32_t number) { return options.seed * 1000003u + number; }

}  // namespace

Shape::Shape(const Options& options, uint32_t number) : number(number), random(seed_of(options, number)) {
  n = {size(options.largest), size(options.largest), size(options.largest)};
  displaced_ = number % 3 == 1;
  const Style styles[] = {Style::kNormal, Style::kTies, Style::kNormal, Style::kDenormal};
  style = styles[below(4)];
  launcher = emulated_launcher(1 + below(150));
  emulated_schedule(below(3), number, 2);
}

// Odd, a multiple of 16, small or anything.
int Shape::size(int largest) {
  const int any = 1 + below(largest);
  switch (below(8)) {
    case 0:
      return any;
    case 1:
      return std::min(any, 1 + below(20));
    case 2:
    case 3:
      return std::max(any & ~15, std::min(16, largest));
    default:
      return (any - 1) | 1;
  }
}

float Shape::value() {
  std::normal_distribution<float> normal;
  const uint32_t kind = random() % 8;
  if (kind == 0) return random() % 2 ? 0.0f : -0.0f;
  if (style == Style::kTies) return static_cast<float>(below(7) - 3) / 4;
  const float v = normal(random);
  return style == Style::kDenormal && kind < 6 ? v * 0x1p-130f : v;
}

Operand<float> floats(Shape& shape, int64_t size) {
  Operand<float> values(shape, size);
  for (int64_t i = 0; i < size; ++i) values[i] = shape.value();
  return values;
}

Operand<uint16_t> halves(Shape& shape, int64_t size) {
  Operand<uint16_t> values(shape, size);
  for (int64_t i = 0; i < size; ++i) {
    values[i] = emulator::half_of_float(shape.value() * 100);
    if (shape.style == Style::kDenormal) values[i] &= 0x83ff;
  }
  return values;
}

bool expect(bool holds, const char* what, const Shape& shape, const char* more) {
  if (!holds && ++failed <= 20)
    std::printf("FAILED %s%s, shape %u: batch %d, inputs %d, outputs %d, %d multiprocessors\n", what, more,
                shape.number, shape.n.batch, shape.n.inputs, shape.n.outputs,
                shape.launcher->multiprocessors);
  return holds;
}

int failures() { return failed; }
