// SPDX-License-Identifier: Apache-2.0
//
// libFuzzer target: tests/fuzz/archive_target.h.
#include <cstddef>
#include <cstdint>

#include "tests/fuzz/archive_target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  gemel::ArchiveTarget::Run({reinterpret_cast<const std::byte*>(data), size});
  return 0;
}
