// SPDX-License-Identifier: Apache-2.0
// XXH3-128 for every processor of the architecture (SSE2 on x86-64).
#include "common/xxh3_kernel_impl.h"

namespace gemel::internal {

constinit const Xxh3Kernel kXxh3Baseline = MakeKernel();

}  // namespace gemel::internal
