// SPDX-License-Identifier: Apache-2.0
//
// Runs every launcher on the emulator, on random shapes, against the CPU kernels and definitions in double
// precision. Built with sanitizers by test_emulated.py.
//
//     test_kernels [--shapes N] [--largest M] [--only NAME] [--seed S]
//
// Exits with 0 when all agree.
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "shapes.h"

namespace {

struct Check {
  const char* name;
  void (*run)(Shape&);
};

const Check kChecks[] = {
    {"linf_dist_float32", check_linf_dist_float32},
    {"linf_dist_float16", check_linf_dist_float16},
    {"linf_dist_integers", check_linf_dist_integers},
    {"linf_dist_argmax", check_argmax},
    {"linf_dist_bounds", check_bounds},
    {"linf_dist_backward", check_backward},
    {"linf_dist_conv", check_conv},
    {"linf_dist_aot_float32", check_linf_dist_aot_float32},
    {"linf_dist_aot_float16", check_linf_dist_aot_float16},
    {"linf_dist_conv_aot", check_conv_aot},
    {"lp_dist", check_lp_dist},
};

bool parse(int count, char** given, Options& options) {
  for (int i = 1; i < count; i += 2) {
    const char *name = given[i], *value = i + 1 < count ? given[i + 1] : "";
    if (!std::strcmp(name, "--shapes"))
      options.shapes = std::atoi(value);
    else if (!std::strcmp(name, "--largest"))
      options.largest = std::atoi(value);
    else if (!std::strcmp(name, "--only"))
      options.only = value;
    else if (!std::strcmp(name, "--seed"))
      options.seed = static_cast<uint32_t>(std::atoi(value));
    else
      return false;
  }
  return options.shapes > 0 && options.largest > 0;
}

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void run(const Check& check, const Options& options) {
  const double before = seconds();
  const int failed = failures();
  for (int i = 0; i < options.shapes && failures() - failed < 5; ++i) {
    Shape shape(options, static_cast<uint32_t>(i));
    check.run(shape);
  }
  std::printf("%s: %d shapes up to %d, %d failures, %.1f s\n", check.name, options.shapes, options.largest,
              failures() - failed, seconds() - before);
  std::fflush(stdout);
}

}  // namespace

int main(int count, char** given) {
  Options options;
  if (!parse(count, given, options)) {
    std::fprintf(stderr, "test_kernels [--shapes N] [--largest M] [--only NAME] [--seed S]\n");
    return 2;
  }
  int checks = 0;
  for (const Check& check : kChecks) {
    if (std::strncmp(check.name, options.only, std::strlen(options.only))) continue;
    run(check, options);
    ++checks;
  }
  return failures() || !checks ? 1 : 0;
}
