// SPDX-License-Identifier: Apache-2.0
//
// EtcdAddress: "etcd://127.0.0.1:2379,127.0.0.1:2381/NAME": the members of one etcd cluster and the
// name under which this Gemel cluster keeps its keys there, "default" when it is left out.
//
// Thread safety: values and pure functions.
// Errors: InvalidArgument, saying what an address looks like.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace gemel {

inline constexpr std::string_view kEtcdScheme = "etcd://";
inline constexpr size_t kEtcdMembersMax = 16;
inline constexpr size_t kEtcdNameBytesMax = 64;

struct EtcdAddress {
  std::vector<std::string> members;  // "host:port", 1 to kEtcdMembersMax
  std::string name;

  // "/gemel/NAME/": all keys of this cluster begin with it.
  std::string Prefix() const { return "/gemel/" + name + "/"; }
};

absl::StatusOr<EtcdAddress> ParseEtcdAddress(std::string_view text);

}  // namespace gemel
