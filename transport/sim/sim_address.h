// SPDX-License-Identifier: Apache-2.0
//
// Addresses of the simulator: "sim://node/port" anywhere, "unix://path" within one node.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace gemel {

struct SimAddress {
  std::string node;
  uint16_t port = 0;   // 0 for unix, and for "choose one" when listening
  bool local = false;  // unix: carries handles
  std::string path;    // unix

  // What a person reads and what a peer connects to.
  std::string ToString() const;
  // Unique over all nodes.
  std::string Key() const;
};

// `own_node` is the node of the process that uses the address. InvalidArgument for any other form.
absl::StatusOr<SimAddress> ParseSimAddress(std::string_view own_node, std::string_view text);

}  // namespace gemel
