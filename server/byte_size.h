// SPDX-License-Identifier: Apache-2.0
//
// Sizes as people write them: "67108864", "64MiB", "4 GiB", "512k". Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace gemel {

// Units K, M, G, T with or without "iB" or "B", in any case, all powers of 1024. InvalidArgument
// naming `what` for anything else and for more than 2^63 bytes.
absl::StatusOr<uint64_t> ParseByteSize(std::string_view text, std::string_view what);

}  // namespace gemel
