// SPDX-License-Identifier: Apache-2.0
//
// What a commit leaves behind (docs/formats/records.md): the CommitRecord, at most 512 bytes
// whatever the size of the job, and the Manifest, the snapshot object it names by root: one entry a
// shard.
//
// Both are versioned from the first byte and end in a CRC32C. Decoders are total: any input gives a
// value or InvalidArgument naming the field; another version gives FailedPrecondition.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

#include "common/digest.h"
#include "common/ids.h"
#include "common/strategy.h"

namespace gemel::model {

constexpr size_t kCommitRecordBytesMax = 512;
constexpr size_t kJobNameBytesMax = 128;
constexpr size_t kSnapshotNameBytesMax = 128;
constexpr uint32_t kWorldSizeMax = 65'536;
constexpr uint64_t kShardBytesMax = uint64_t{1} << 44;  // sums over all shards stay below 2^64
constexpr uint64_t kCounterMax = uint64_t{1}
                                 << 62;  // of epochs and sequences: counting on never wraps

struct CommitRecord {
  ClusterId cluster;
  SnapshotId snapshot;      // job, epoch, sequence, name, attempt
  Digest128 manifest_root;  // XXH3-128 of the manifest's bytes
  Digest128 layout_hash;
  uint64_t map_version = 0;  // the snapshot was opened under
  uint64_t bytes = 0;        // of all shards, one copy
  uint32_t world_size = 0;
  uint32_t copies = 0;  // wanted
  uint32_t min_copies = 0;
  uint32_t keep_latest = 0;                          // retention of its writer; 0: all
  int64_t committed_unix_s = 0;                      // a label; decides nothing
  StrategyChoice strategy = StrategyChoice::kGroup;  // its copies are spread by

  friend bool operator==(const CommitRecord&, const CommitRecord&) = default;
};

struct ManifestShard {
  Digest128 root;  // Merkle root over the shard's chunks and its identity
  uint64_t bytes = 0;
  uint64_t layout_bytes = 0;  // leading bytes that hold the layout

  friend bool operator==(const ManifestShard&, const ManifestShard&) = default;
};

struct Manifest {
  SnapshotId snapshot;
  std::vector<ManifestShard> shards;  // by rank

  friend bool operator==(const Manifest&, const Manifest&) = default;
};

// CHECKs that the record fits: names were admitted at Open.
std::string EncodeCommitRecord(const CommitRecord& record);
absl::StatusOr<CommitRecord> DecodeCommitRecord(std::string_view bytes);

std::string EncodeManifest(const Manifest& manifest);
absl::StatusOr<Manifest> DecodeManifest(std::string_view bytes);

// What CommitRecord::manifest_root must be.
Digest128 ManifestRoot(std::string_view encoded_manifest);

// Decodes `bytes` and checks root, identity and world size against `record`: DataLoss when they
// differ.
absl::StatusOr<Manifest> DecodeManifestOf(const CommitRecord& record, std::string_view bytes);

// Within kCounterMax.
bool IsEpochInRange(const EpochId& epoch);

// InvalidArgument unless 1..max bytes of printable ASCII without '/', '@' or spaces.
absl::Status CheckJobName(std::string_view job);
absl::Status CheckSnapshotName(std::string_view name);

}  // namespace gemel::model
