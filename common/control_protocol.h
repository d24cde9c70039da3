// SPDX-License-Identifier: Apache-2.0
//
// Version of the control contract (proto/gemel/v1/placement.proto). Every request carries it in
// Caller.protocol_version; another version is refused with both named.
#pragma once

#include <cstdint>

namespace gemel {

inline constexpr uint32_t kControlProtocolVersion = 1;

}  // namespace gemel
