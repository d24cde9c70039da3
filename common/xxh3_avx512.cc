// SPDX-License-Identifier: Apache-2.0
// XXH3-128 with AVX-512; digest.cmake gives this file its flags.
#include "common/xxh3_kernel_impl.h"

#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__AVX512VL__)
#error "compile this file for AVX-512 F, BW and VL"
#endif

namespace gemel::internal {

constinit const Xxh3Kernel kXxh3Avx512 = MakeKernel();

}  // namespace gemel::internal
