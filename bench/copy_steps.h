// SPDX-License-Identifier: Apache-2.0
//
// The client's copy without its digest: the steps of common/xxh3_kernel_impl.h, stores past the
// cache included, and nothing hashed between them. Only to be measured.
//
// Thread safety: touches what it is given.
#pragma once

#include <stddef.h>

namespace gemel {

// REQUIRES: the ranges do not overlap; dst is a multiple of 64; a processor with AVX2 where
// CopyStepsNeedAvx2().
void CopySteps(void* dst, const void* src, size_t size);
bool CopyStepsNeedAvx2();

}  // namespace gemel
