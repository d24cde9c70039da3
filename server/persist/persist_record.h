// SPDX-License-Identifier: Apache-2.0
//
// What the persistent tier keeps beside the chunks, and the keys of all of it
// (docs/formats/persist.md).
//
// Thread safety: pure functions.
// Errors: decoders are total: InvalidArgument naming the field; FailedPrecondition for another
// version.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

#include "server/persist/persist_store.h"

namespace gemel {

inline constexpr uint8_t kPersistVersion = 1;

// Makes a shard exist; written last, synced.
struct ShardRecord {
  uint64_t range = 0;  // of its chunks' keys; > 0, never used twice
  PersistedShard shard;

  friend bool operator==(const ShardRecord&, const ShardRecord&) = default;
};

struct SnapshotRecord {
  bool complete = false;  // PERSISTED was told: the shards on other servers are on disk too
  std::string commit_record;

  friend bool operator==(const SnapshotRecord&, const SnapshotRecord&) = default;
};

std::string EncodeShardRecord(const ShardRecord& record);
absl::StatusOr<ShardRecord> DecodeShardRecord(std::string_view raw);

std::string EncodeSnapshotRecord(const SnapshotRecord& record);
absl::StatusOr<SnapshotRecord> DecodeSnapshotRecord(std::string_view raw);

// 16 bytes a chunk.
std::string EncodeDigests(const std::vector<Digest128>& digests);
absl::StatusOr<std::vector<Digest128>> DecodeDigests(std::string_view raw);

// Keys of the records: all of a kind lie together, in the order of snapshots and ranks.
inline constexpr char kShardKeyKind = 'r';
inline constexpr char kSnapshotKeyKind = 's';
inline constexpr char kManifestKeyKind = 'm';
std::string SnapshotKey(char kind, const SnapshotId& snapshot);
std::string ShardKey(const ShardId& shard);

// Keys of the data: a range has its digests at index 0 and chunk i at index i + 1.
inline constexpr size_t kDataKeyBytes = 12;
std::string DataKey(uint64_t range, uint32_t index);
// 0 when `key` is none of ours.
uint64_t RangeOfKey(std::string_view key);

// The root that the digests of a shard must give.
Digest128 PersistedRoot(const PersistedShard& shard, const std::vector<Digest128>& digests);
uint64_t PersistedChunkBytes(const PersistedShard& shard, uint32_t chunk);

}  // namespace gemel
