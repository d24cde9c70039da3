// SPDX-License-Identifier: Apache-2.0
// XXH3-128 with AVX2; digest.cmake gives this file its flags.
#include "common/xxh3_kernel_impl.h"

#if !defined(__AVX2__) || defined(__AVX512F__)
#error "compile this file for AVX2 and nothing wider"
#endif

namespace gemel::internal {

constinit const Xxh3Kernel kXxh3Avx2 = MakeKernel();

}  // namespace gemel::internal
