// SPDX-License-Identifier: Apache-2.0
//
// verify_golden: runs a TensorRT plan on golden images and compares what it answers, bit for bit, where there
// is TensorRT but no Python. Exits with 0 when all is identical, 1 when anything differs, 2 when something
// cannot be used.
#include <cstdio>
#include <exception>
#include <new>

#include "session.h"

namespace linf::runner {
namespace {

void print_plan(const Options& options, const Interface& engine, int64_t batch,
                const std::string& capability) {
  std::printf("%s: TensorRT %s, compute capability %s, batches of %lld to %lld, run with %lld\n",
              options.plan.c_str(), version_text(getInferLibVersion()).c_str(), capability.c_str(),
              static_cast<long long>(engine.least_batch), static_cast<long long>(engine.most_batch),
              static_cast<long long>(batch));
}

// Outputs of the plan without a golden file are not compared, which must not stay unsaid.
void ignore_rest(Session& session, const Interface& engine, const Golden& golden, int64_t batch) {
  const auto ignore = [&](const char* name, int64_t bytes) {
    session.ignore(name, batch * bytes);
    std::printf("%s: not compared, there is no %s.npy\n", name, name);
  };
  if (engine.label && !golden.label) ignore("label", 8);
  if (engine.radius && !golden.radius) ignore("radius", 4);
}

bool verify(const Options& options) {
  check_library();
  const Golden golden = GoldenFolder(options.golden).read();
  const std::string capability = compute_capability();
  // Never destroyed: TensorRT may log while the process ends.
  static Logger& logger = *new Logger;
  const Engine engine(options, logger);
  const Interface found = InterfaceReader(engine.get(), options.plan).read();
  check_fit(found, golden, options);
  const int64_t batch = batch_of(found, golden.count(), options);
  print_plan(options, found, batch, capability);
  Session session(engine, golden, batch, logger);
  ignore_rest(session, found, golden, batch);
  for (int64_t run = 1; run <= options.repeat; ++run)
    for (Batch next : batches_of(golden.count(), batch, found.least_batch)) {
      next.run = run;
      session.run(next);
    }
  return session.report();
}

int run(int count, char** arguments) {
  const Options options = CommandLine(count, arguments).parse();
  if (!options.help) return verify(options) ? 0 : 1;
  std::puts(kUsage);
  return 0;
}

}  // namespace
}  // namespace linf::runner

int main(int count, char** arguments) {
  try {
    return linf::runner::run(count, arguments);
  } catch (const std::bad_alloc&) {
    std::fputs("verify_golden: memory is short; expected room for the plan and the golden arrays\n", stderr);
  } catch (const std::exception& failed) {
    std::fflush(stdout);
    std::fprintf(stderr, "verify_golden: %s\n", failed.what());
  }
  return 2;
}
