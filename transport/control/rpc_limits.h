// SPDX-License-Identifier: Apache-2.0
//
// Limits of the control plane, the same for gRPC and for the simulator.
#pragma once

#include <cstddef>
#include <string_view>

#include "common/bytes.h"
#include "common/time.h"

namespace gemel {

// Of one request or reply: a manifest of 16,384 ranks fits. Beyond: ResourceExhausted.
inline constexpr size_t kRpcMessageBytesMax = 16 * kMiB;
// Calls that one server handles at the same time. Beyond: ResourceExhausted, at once.
inline constexpr size_t kRpcCallsInFlightMax = 4096;
// What Stop() of a server gives its handlers to end after it cancelled their calls.
inline constexpr Duration kRpcStopGrace = 2s;

static_assert(kRpcMessageBytesMax > kChunkBytes);

}  // namespace gemel
