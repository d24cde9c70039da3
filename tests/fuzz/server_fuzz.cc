// SPDX-License-Identifier: Apache-2.0
//
// libFuzzer target: tests/fuzz/server_target.h.
#include <google/protobuf/stubs/logging.h>

#include <cstddef>
#include <cstdint>

#include "tests/fuzz/server_target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const google::protobuf::LogSilencer kSilence;
  gemel::ServerTarget target;
  target.Run({reinterpret_cast<const std::byte*>(data), size});
  return 0;
}
