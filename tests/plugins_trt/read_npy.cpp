// SPDX-License-Identifier: Apache-2.0
//
// read_npy FILE...: reads each as float32 (N, K) and prints what it holds, or why it is refused.
#include "runner/npy.h"

#include <cstdio>

int main(int count, char** paths) {
  for (int k = 1; k < count; ++k) try {
      const linf::runner::Array array =
          linf::runner::NpyFile(paths[k], {linf::runner::kFloat32, 2, "float32 (N, K)"}).read();
      std::printf("%s ", linf::runner::shape_text(array.shape).c_str());
      for (const char byte : array.bytes) std::printf("%02x", static_cast<unsigned char>(byte));
      std::printf("\n");
    } catch (const linf::runner::Refusal& refusal) {
      std::printf("refused: %s\n", refusal.what());
    }
}
