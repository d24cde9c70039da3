// SPDX-License-Identifier: Apache-2.0
//
// ClusterMap: the members that placement works on, and their failure domains.
//
// A member is named by its index. The caller sorts the members by server id and maps indices to
// ids, so equal maps give equal results on every machine. A domain is a path such as
// "pod0/rack3/host7". At *level* L two members share a domain when their paths agree in the first L
// components; a path shorter than L is compared whole. Level DeepestLevel() compares whole paths.
//
// Thread safety: values and pure functions; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace gemel::model {

inline constexpr uint32_t kMembersMax = 16384;
inline constexpr uint32_t kCopiesMax = 16;
inline constexpr uint32_t kLossesMax = 8;
inline constexpr uint32_t kDomainDepthMax = 8;
inline constexpr size_t kDomainBytesMax = 255;

struct Member {
  std::string domain;     // For instance "pod0/rack3/host7"; see ValidateDomain.
  bool placeable = true;  // False for a spare or a draining server: takes no slot and no new copy.
};

struct ClusterMap {
  uint64_t version = 0;         // Grows with every change of the members; 0 is no map.
  std::vector<Member> members;  // In ascending order of server id.
};

// InvalidArgument, naming the path, when it is empty, longer than kDomainBytesMax, deeper than
// kDomainDepthMax or has an empty component (a leading, trailing or doubled '/').
absl::Status ValidateDomain(const std::string& domain);

// InvalidArgument, naming version and member, for version 0, too many members or a bad domain.
absl::Status Validate(const ClusterMap& map);

// Number of components of the longest path of a placeable member; 0 without placeable members.
uint32_t DeepestLevel(std::span<const Member> members);

// For each member a small integer, equal exactly when two members share a domain at `level`.
// Members that are not placeable have one too (a draining server's receipts still count).
// REQUIRES: level >= 1; valid domains.
std::vector<uint32_t> DomainIds(std::span<const Member> members, uint32_t level);

// Number of distinct domains at `level` among the placeable members.
uint32_t CountDomains(std::span<const Member> members, uint32_t level);

// The placeable members in the depth-first order of the tree of domains, members of one domain in
// ascending index. Every domain, at every level, is one contiguous run of this order.
std::vector<uint32_t> DomainOrder(std::span<const Member> members);

}  // namespace gemel::model
