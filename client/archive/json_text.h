// SPDX-License-Identifier: Apache-2.0
//
// JSON from outside: bounded depth, no name twice, no exceptions.
//
// Thread safety: pure.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

#include "absl/status/statusor.h"

namespace gemel::archive {

// InvalidArgument, naming `what`, for anything that is not one JSON value in UTF-8 with at most
// `depth_max` levels of lists and objects, or that says a name of an object twice (readers differ
// in which of the two they take). Recursion free: memory is bounded by the text.
absl::StatusOr<nlohmann::json> ParseJson(std::string_view text, std::string_view what,
                                         size_t depth_max);

}  // namespace gemel::archive
