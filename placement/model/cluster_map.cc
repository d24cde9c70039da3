// SPDX-License-Identifier: Apache-2.0
#include "placement/model/cluster_map.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string_view>

#include "common/check.h"

namespace gemel::model {
namespace {

using Path = std::vector<std::string_view>;

Path Split(std::string_view domain) {
  Path components;
  size_t begin = 0;
  while (begin <= domain.size()) {
    const size_t end = std::min(domain.find('/', begin), domain.size());
    components.push_back(domain.substr(begin, end - begin));
    begin = end + 1;
  }
  GEMEL_CHECK_GE(components.size(), size_t{1});
  return components;
}

}  // namespace

absl::Status ValidateDomain(const std::string& domain) {
  if (domain.empty() || domain.size() > kDomainBytesMax) {
    return absl::InvalidArgumentError(
        fmt::format("failure domain '{:.64}' has {} bytes; give a path of 1 to {} bytes such as "
                    "rack3/host7",
                    domain, domain.size(), kDomainBytesMax));
  }
  const Path components = Split(domain);
  if (components.size() > kDomainDepthMax) {
    return absl::InvalidArgumentError(fmt::format("failure domain '{}' has {} levels, at most {}",
                                                  domain, components.size(), kDomainDepthMax));
  }
  for (const std::string_view component : components) {
    if (component.empty()) {
      return absl::InvalidArgumentError(fmt::format(
          "failure domain '{}' has an empty component; write it without extra '/'", domain));
    }
  }
  return absl::OkStatus();
}

absl::Status Validate(const ClusterMap& map) {
  if (map.version == 0) {
    return absl::InvalidArgumentError("cluster map has version 0; versions start at 1");
  }
  if (map.members.size() > kMembersMax) {
    return absl::InvalidArgumentError(fmt::format("cluster map {} has {} members, at most {}",
                                                  map.version, map.members.size(), kMembersMax));
  }
  for (size_t i = 0; i < map.members.size(); ++i) {
    const absl::Status status = ValidateDomain(map.members[i].domain);
    if (!status.ok()) {
      return absl::InvalidArgumentError(
          fmt::format("cluster map {} member {}: {}", map.version, i,
                      std::string_view(status.message().data(), status.message().size())));
    }
  }
  return absl::OkStatus();
}

uint32_t DeepestLevel(std::span<const Member> members) {
  uint32_t deepest = 0;
  for (const Member& member : members) {
    if (member.placeable) {
      deepest = std::max(deepest, static_cast<uint32_t>(Split(member.domain).size()));
    }
  }
  return deepest;
}

std::vector<uint32_t> DomainIds(std::span<const Member> members, uint32_t level) {
  GEMEL_CHECK_GE(level, 1u) << "level 0 would put all members in one domain";
  GEMEL_CHECK_LE(members.size(), size_t{kMembersMax});
  std::map<Path, uint32_t> ids;
  std::vector<uint32_t> result;
  result.reserve(members.size());
  for (const Member& member : members) {
    Path prefix = Split(member.domain);
    prefix.resize(std::min<size_t>(prefix.size(), level));
    const auto next = static_cast<uint32_t>(ids.size());
    result.push_back(ids.try_emplace(std::move(prefix), next).first->second);
  }
  return result;
}

uint32_t CountDomains(std::span<const Member> members, uint32_t level) {
  const std::vector<uint32_t> ids = DomainIds(members, level);
  std::vector<uint32_t> present;
  for (size_t i = 0; i < members.size(); ++i) {
    if (members[i].placeable) {
      present.push_back(ids[i]);
    }
  }
  std::sort(present.begin(), present.end());
  return static_cast<uint32_t>(std::unique(present.begin(), present.end()) - present.begin());
}

std::vector<uint32_t> DomainOrder(std::span<const Member> members) {
  std::vector<std::pair<Path, uint32_t>> keyed;
  for (size_t i = 0; i < members.size(); ++i) {
    if (members[i].placeable) {
      keyed.emplace_back(Split(members[i].domain), static_cast<uint32_t>(i));
    }
  }
  // Component by component: comparing whole strings would tear "a/x" and "a/y" apart by "a-b".
  std::sort(keyed.begin(), keyed.end());
  std::vector<uint32_t> order;
  order.reserve(keyed.size());
  for (const auto& entry : keyed) {
    order.push_back(entry.second);
  }
  GEMEL_CHECK_LE(order.size(), members.size());
  return order;
}

}  // namespace gemel::model
