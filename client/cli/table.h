// SPDX-License-Identifier: Apache-2.0
//
// Values as tables for people.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace gemel::cli {

// Rows of the objects in `list`, one column for each of `keys`; a key that ends in _bytes is shown
// in MiB.
std::string TableOf(const nlohmann::ordered_json& list, const std::vector<std::string>& keys);

// "64MiB", "1GiB", "4096": bytes. InvalidArgument naming the text and the forms.
absl::StatusOr<uint64_t> ParseBytes(const std::string& text);

}  // namespace gemel::cli
