// SPDX-License-Identifier: Apache-2.0
//
// libFuzzer target: any bytes to a FrameReader (tests/fuzz/frame_target.h).
#include <cstddef>
#include <cstdint>

#include "tests/fuzz/frame_target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  gemel::FrameTarget target;
  target.Run({reinterpret_cast<const std::byte*>(data), size});
  return 0;
}
