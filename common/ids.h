// SPDX-License-Identifier: Apache-2.0
//
// Names of things (DESIGN section 2). Strong types: a ServerId is never taken for an Incarnation.
// Canonical text is lower-case hexadecimal; canonical bytes are the 16 bytes in order.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

#include "common/random.h"

namespace gemel {

namespace internal {
std::string HexOf(const std::array<uint8_t, 16>& bytes);
absl::StatusOr<std::array<uint8_t, 16>> BytesOfHex(std::string_view text, std::string_view what);
absl::StatusOr<std::array<uint8_t, 16>> BytesOf(std::string_view raw, std::string_view what);
}  // namespace internal

// 128 random bits with a meaning given by Tag (Tag::kName is the word used in messages).
template <typename Tag>
struct Id128 {
  std::array<uint8_t, 16> bytes{};

  friend auto operator<=>(const Id128&, const Id128&) = default;

  bool IsZero() const { return *this == Id128(); }

  std::string ToHex() const { return internal::HexOf(bytes); }

  // First 8 digits: for messages to people.
  std::string ToShort() const { return ToHex().substr(0, 8); }

  std::string ToBytes() const { return std::string(bytes.begin(), bytes.end()); }

  static absl::StatusOr<Id128> FromHex(std::string_view text) {
    auto parsed = internal::BytesOfHex(text, Tag::kName);
    if (!parsed.ok()) return parsed.status();
    return Id128{*parsed};
  }

  static absl::StatusOr<Id128> FromBytes(std::string_view raw) {
    auto parsed = internal::BytesOf(raw, Tag::kName);
    if (!parsed.ok()) return parsed.status();
    return Id128{*parsed};
  }

  static Id128 Draw(Random* random) {
    Id128 id;
    const uint64_t low = random->Next();
    const uint64_t high = random->Next();
    for (size_t i = 0; i < 8; ++i) {
      id.bytes[i] = static_cast<uint8_t>(low >> (8 * i));
      id.bytes[8 + i] = static_cast<uint8_t>(high >> (8 * i));
    }
    return id;
  }
};

// clang-format off
struct ClusterTag { static constexpr std::string_view kName = "cluster id"; };
struct ServerTag { static constexpr std::string_view kName = "server id"; };
struct IncarnationTag { static constexpr std::string_view kName = "incarnation"; };
struct TokenTag { static constexpr std::string_view kName = "epoch token"; };
struct StageTag { static constexpr std::string_view kName = "stage id"; };
struct ReadTag { static constexpr std::string_view kName = "read id"; };

// clang-format on

using ClusterId = Id128<ClusterTag>;
using ServerId = Id128<ServerTag>;          // for ever: one data directory
using Incarnation = Id128<IncarnationTag>;  // one life of a server
using EpochToken = Id128<TokenTag>;         // one incarnation of a job (amendment 1)
using StageId = Id128<StageTag>;            // a shard that was staged before it had a name
using ReadId = Id128<ReadTag>;              // one reader's pin of one snapshot

// (cluster generation, counter): amendment 7. Ordered; {0,0} is "none".
struct EpochId {
  uint64_t generation = 0;
  uint64_t counter = 0;

  friend auto operator<=>(const EpochId&, const EpochId&) = default;

  bool IsNone() const { return generation == 0 && counter == 0; }

  std::string ToString() const;  // "1.7"
};

// One attempt to save one snapshot. `sequence` is job-wide, given when Open is accepted (amendment
// 9).
struct SnapshotId {
  std::string job;
  EpochId epoch;
  uint64_t sequence = 0;
  std::string name;
  uint32_t attempt = 0;

  friend auto operator<=>(const SnapshotId&, const SnapshotId&) = default;

  std::string ToString() const;  // "gpt@7 (epoch 1.7, sequence 12, attempt 0)"
  // "gpt@7 (…) was aborted: WHY". A `why` that says so itself, from a process further on, is it.
  std::string AbortedBecause(std::string_view why) const;
};

// One shard of one snapshot: the object that is stored, sent and verified.
struct ShardId {
  SnapshotId snapshot;
  uint32_t rank = 0;

  friend auto operator<=>(const ShardId&, const ShardId&) = default;

  std::string ToString() const;  // "rank 3 of gpt@7 (…)"
  // What the Merkle root binds: owner = job and epoch, name = name, attempt, sequence and rank.
  std::string RootOwner() const;
  std::string RootName() const;
};

}  // namespace gemel
