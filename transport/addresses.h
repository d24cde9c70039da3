// SPDX-License-Identifier: Apache-2.0
//
// The addresses of one server, one a path to it, as one text: separated by commas, the first one is
// asked first. Thread safety: values; ProbeAny() one loop, which outlives it, as `net` does.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/loop.h"
#include "transport/net.h"

namespace gemel {

inline constexpr size_t kAddressesMax = 16;

// "tcp://127.0.0.1:7611,tcp://127.0.0.2:7611" → its two parts.
std::vector<std::string> SplitAddresses(std::string_view addresses);

// How many lanes to that one address are worth while. A queue pair reads one payload at a time, and
// the network chooses its path by its source port: several fill a link, and spread. A TCP
// connection alone fills what one loop can.
size_t LanesTo(std::string_view address);

// Net::Probe() of all at once: OK when somebody listens at one of them; Unavailable only when
// nobody does at any.
Task<absl::Status> ProbeAny(Loop* loop, Net* net, std::string addresses, TimePoint deadline);

}  // namespace gemel
