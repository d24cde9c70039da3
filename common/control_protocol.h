// SPDX-License-Identifier: Apache-2.0
//
// Versions of the control contract (proto/gemel/v1/placement.proto). Every request carries the one
// it is written in (Caller.protocol_version). Placement takes all from the oldest to its own;
// UNIMPLEMENTED names both for a newer one, and the caller goes down by one and asks again: so
// placement and servers are upgraded one process at a time, in any order.
//
//   1  as first released
//   2  joins are numbered (JoinRequest.join): one that was delayed past its successor is not taken
#pragma once

#include <cstdint>

namespace gemel {

inline constexpr uint32_t kControlProtocolOldest = 1;
inline constexpr uint32_t kControlProtocolVersion = 2;
inline constexpr uint32_t kControlProtocolNumbersJoins = 2;

}  // namespace gemel
