// SPDX-License-Identifier: Apache-2.0
// digest.cmake gives this file the flags of common/xxh3_avx2.cc.
#include "bench/copy_steps.h"

#include "common/xxh3_kernel_impl.h"

namespace gemel {

void CopySteps(void* dst, const void* src, size_t size) {
  using internal::kCopyStepBytes;
  auto* to = static_cast<unsigned char*>(dst);
  const auto* from = static_cast<const unsigned char*>(src);
  const bool stream = size >= internal::kStreamingCopyBytesMin;
  for (size_t done = 0; done < size;) {
    const size_t left = size - done;
    const size_t step = left < kCopyStepBytes ? left : kCopyStepBytes;
    internal::CopyStep(to + done, from + done, step, left - step, stream);
    done += step;
  }
  if (stream) {
    internal::StreamFence();
  }
}

bool CopyStepsNeedAvx2() {
#if defined(__AVX2__)
  return true;
#else
  return false;
#endif
}

}  // namespace gemel
