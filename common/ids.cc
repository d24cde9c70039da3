// SPDX-License-Identifier: Apache-2.0
#include "common/ids.h"

#include <algorithm>

#include "absl/strings/escaping.h"

#include "common/errors.h"

namespace gemel {

namespace internal {

std::string HexOf(const std::array<uint8_t, 16>& bytes) {
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

absl::StatusOr<std::array<uint8_t, 16>> BytesOf(std::string_view raw, std::string_view what) {
  std::array<uint8_t, 16> bytes{};
  if (raw.size() != bytes.size()) {
    return error::InvalidArgument("{} has {} bytes; it must have 16", what, raw.size());
  }
  std::copy(raw.begin(), raw.end(), bytes.begin());
  return bytes;
}

absl::StatusOr<std::array<uint8_t, 16>> BytesOfHex(std::string_view text, std::string_view what) {
  const bool hex = text.size() == 32 && text.find_first_not_of("0123456789abcdef") == text.npos;
  if (!hex) {
    return error::InvalidArgument("{} '{}' is not 32 lower-case hexadecimal digits", what,
                                  text.substr(0, 64));
  }
  return BytesOf(absl::HexStringToBytes(absl::string_view(text.data(), text.size())), what);
}

}  // namespace internal

std::string EpochId::ToString() const { return fmt::format("{}.{}", generation, counter); }

std::string SnapshotId::ToString() const {
  return fmt::format("{}@{} (epoch {}, sequence {}, attempt {})", job, name, epoch.ToString(),
                     sequence, attempt);
}

std::string SnapshotId::AbortedBecause(std::string_view why) const {
  const std::string id = ToString();
  for (const std::string& said : {id + " was aborted: ", id + ": "}) {
    if (why.starts_with(said)) {
      why.remove_prefix(said.size());
      break;
    }
  }
  return fmt::format("{} was aborted: {}", id, why);
}

std::string ShardId::ToString() const {
  return fmt::format("rank {} of {}", rank, snapshot.ToString());
}

std::string ShardId::RootOwner() const {
  return fmt::format("{}/{}", snapshot.job, snapshot.epoch.ToString());
}

std::string ShardId::RootName() const {
  return fmt::format("{}/{}/{}/{}", snapshot.name, snapshot.attempt, snapshot.sequence, rank);
}

}  // namespace gemel
