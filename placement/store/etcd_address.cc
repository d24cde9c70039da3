// SPDX-License-Identifier: Apache-2.0
#include "placement/store/etcd_address.h"

#include <algorithm>

#include "absl/strings/str_split.h"

#include "common/errors.h"

namespace gemel {
namespace {

constexpr std::string_view kDefaultName = "default";
constexpr std::string_view kNameBytes =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";

absl::Status Refuse(std::string_view text, std::string_view why) {
  return error::InvalidArgument(
      "store address '{}' {}; it is etcd://HOST:PORT[,HOST:PORT…][/NAME], with 1 to {} members and "
      "a name of 1 to {} letters, digits, '.', '_' or '-'",
      text, why, kEtcdMembersMax, kEtcdNameBytesMax);
}

}  // namespace

absl::StatusOr<EtcdAddress> ParseEtcdAddress(std::string_view text) {
  if (!text.starts_with(kEtcdScheme)) {
    return Refuse(text, "does not begin with etcd://");
  }
  const std::string_view rest = text.substr(kEtcdScheme.size());
  const size_t slash = rest.find('/');
  EtcdAddress address;
  address.name = slash == std::string_view::npos ? kDefaultName : rest.substr(slash + 1);
  if (address.name.empty() || address.name.size() > kEtcdNameBytesMax ||
      address.name.find_first_not_of(kNameBytes) != std::string::npos) {
    return Refuse(text, "has a wrong name");
  }
  const std::string members(rest.substr(0, slash));
  address.members = absl::StrSplit(members, ',');
  if (address.members.size() > kEtcdMembersMax) {
    return Refuse(text, "has too many members");
  }
  std::vector<std::string> sorted = address.members;
  std::sort(sorted.begin(), sorted.end());
  if (sorted.front().empty()) {
    return Refuse(text, "has an empty member");
  }
  if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end()) {
    return Refuse(text, "names a member twice");
  }
  return address;
}

}  // namespace gemel
