// SPDX-License-Identifier: Apache-2.0
//
// libFuzzer target: tests/fuzz/messages_target.h.
#include <cstddef>
#include <cstdint>

#include "tests/fuzz/messages_target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  gemel::MessagesTarget::Run({reinterpret_cast<const std::byte*>(data), size});
  return 0;
}
