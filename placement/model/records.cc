// SPDX-License-Identifier: Apache-2.0
#include "placement/model/records.h"

#include <algorithm>

#include "common/check.h"
#include "common/codec.h"
#include "common/errors.h"
#include "common/fields.h"
#include "common/record_frame.h"
#include "common/xxh3.h"
#include "placement/model/cluster_map.h"

namespace gemel::model {
namespace {

constexpr uint8_t kVersion = 1;
constexpr RecordFrame kRecordFrame{0x52434d47, kVersion, "commit record"};  // "GMCR"
constexpr RecordFrame kManifestFrame{0x464d4d47, kVersion, "manifest"};     // "GMMF"
constexpr size_t kShardEntryBytes = 16 + 8 + 8;

template <typename Record>
void RecordFields(Record& record, auto&& field) {
  field("cluster", record.cluster);
  field("snapshot", record.snapshot);
  field("manifest_root", record.manifest_root);
  field("layout_hash", record.layout_hash);
  field("map_version", record.map_version);
  field("bytes", record.bytes);
  field("world_size", record.world_size);
  field("copies", record.copies);
  field("min_copies", record.min_copies);
  field("keep_latest", record.keep_latest);
  field("committed_unix_s", record.committed_unix_s);
  field.Last("strategy", record.strategy);
}

absl::Status CheckName(std::string_view name, size_t bytes_max, std::string_view what) {
  const bool printable = std::all_of(
      name.begin(), name.end(), [](char c) { return c > ' ' && c < 0x7f && c != '/' && c != '@'; });
  if (name.empty() || name.size() > bytes_max || !printable) {
    return error::InvalidArgument(
        "{} '{}' must be 1 to {} printable ASCII characters without '/', '@' or spaces", what,
        name.substr(0, bytes_max), bytes_max);
  }
  return absl::OkStatus();
}

// What was opened has names, an epoch and a sequence; keys and file names are made of them.
void CheckSnapshot(const SnapshotId& snapshot, Decoder* decoder) {
  if (!CheckJobName(snapshot.job).ok()) {
    decoder->Fail("job", "is no name of a job");
  }
  if (!CheckSnapshotName(snapshot.name).ok()) {
    decoder->Fail("name", "is no name of a snapshot");
  }
  if (snapshot.epoch.IsNone() || snapshot.sequence == 0 || snapshot.sequence > kCounterMax ||
      !IsEpochInRange(snapshot.epoch)) {
    decoder->Fail("sequence", "or epoch is out of range");
  }
}

}  // namespace

std::string EncodeCommitRecord(const CommitRecord& record) {
  Encoder encoder = kRecordFrame.Begin();
  RecordFields(record, FieldEncoder(&encoder));
  std::string bytes = RecordFrame::End(&encoder);
  GEMEL_CHECK_LE(bytes.size(), kCommitRecordBytesMax) << record.snapshot.ToString();
  return bytes;
}

absl::StatusOr<CommitRecord> DecodeCommitRecord(std::string_view bytes) {
  auto content = kRecordFrame.FieldsOf(bytes);
  if (!content.ok()) {
    return content.status();
  }
  Decoder decoder(*content);
  CommitRecord record;
  RecordFields(record, FieldDecoder(&decoder));
  CheckSnapshot(record.snapshot, &decoder);
  if (record.world_size == 0 || record.world_size > kWorldSizeMax) {
    decoder.Fail("world_size", "is out of range");
  }
  if (record.min_copies == 0 || record.min_copies > record.copies || record.copies > kCopiesMax) {
    decoder.Fail("copies", "or min_copies is out of range");
  }
  if (absl::Status status = decoder.Finish("commit record"); !status.ok()) {
    return status;
  }
  return record;
}

std::string EncodeManifest(const Manifest& manifest) {
  GEMEL_CHECK_LE(manifest.shards.size(), kWorldSizeMax);
  Encoder encoder = kManifestFrame.Begin();
  FieldEncoder field(&encoder);
  field("snapshot", manifest.snapshot);
  encoder.Int(static_cast<uint32_t>(manifest.shards.size()));
  for (const ManifestShard& shard : manifest.shards) {
    field("root", shard.root);
    field("bytes", shard.bytes);
    field("layout_bytes", shard.layout_bytes);
  }
  return RecordFrame::End(&encoder);
}

absl::StatusOr<Manifest> DecodeManifest(std::string_view bytes) {
  auto content = kManifestFrame.FieldsOf(bytes);
  if (!content.ok()) {
    return content.status();
  }
  Decoder decoder(*content);
  FieldDecoder field(&decoder);
  Manifest manifest;
  field("snapshot", manifest.snapshot);
  CheckSnapshot(manifest.snapshot, &decoder);
  const uint32_t count = decoder.Count("shards", kShardEntryBytes);
  if (count > kWorldSizeMax) {
    decoder.Fail("shards", "counts more than a world has");
  }
  for (uint32_t i = 0; i < count && decoder.ok(); ++i) {
    ManifestShard& shard = manifest.shards.emplace_back();
    field("root", shard.root);
    field("bytes", shard.bytes);
    field("layout_bytes", shard.layout_bytes);
    if (shard.bytes > kShardBytesMax) {
      decoder.Fail("bytes", "is more than a shard may have");
    }
    if (shard.layout_bytes > shard.bytes) {
      decoder.Fail("layout_bytes", "is more than the shard has");
    }
  }
  if (absl::Status status = decoder.Finish("manifest"); !status.ok()) {
    return status;
  }
  return manifest;
}

Digest128 ManifestRoot(std::string_view encoded_manifest) {
  return Xxh3_128(AsBytes(encoded_manifest));
}

absl::StatusOr<Manifest> DecodeManifestOf(const CommitRecord& record, std::string_view bytes) {
  if (ManifestRoot(bytes) != record.manifest_root) {
    return error::DataLoss("manifest of {}: its {} bytes do not hash to the record's root {}",
                           record.snapshot.ToString(), bytes.size(), ToHex(record.manifest_root));
  }
  auto manifest = DecodeManifest(bytes);
  if (!manifest.ok()) {
    return manifest.status();
  }
  GEMEL_CHECK_LE(manifest->shards.size(), bytes.size() / kShardEntryBytes);
  if (manifest->snapshot != record.snapshot || manifest->shards.size() != record.world_size) {
    return error::DataLoss("manifest of {} names {} with {} shards", record.snapshot.ToString(),
                           manifest->snapshot.ToString(), manifest->shards.size());
  }
  return manifest;
}

bool IsEpochInRange(const EpochId& epoch) {
  return epoch.generation <= kCounterMax && epoch.counter <= kCounterMax;
}

absl::Status CheckJobName(std::string_view job) { return CheckName(job, kJobNameBytesMax, "job"); }

absl::Status CheckSnapshotName(std::string_view name) {
  return CheckName(name, kSnapshotNameBytesMax, "snapshot name");
}

}  // namespace gemel::model
