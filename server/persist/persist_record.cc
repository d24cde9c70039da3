// SPDX-License-Identifier: Apache-2.0
#include "server/persist/persist_record.h"

#include <algorithm>

#include "common/check.h"
#include "common/codec.h"
#include "common/errors.h"
#include "common/fields.h"
#include "common/merkle.h"
#include "common/record_frame.h"
#include "common/status_macros.h"
#include "placement/model/records.h"

namespace gemel {
namespace {

constexpr RecordFrame kShardFrame{0x53504d47, kPersistVersion, "shard record"};        // "GMPS"
constexpr RecordFrame kSnapshotFrame{0x4e504d47, kPersistVersion, "snapshot record"};  // "GMPN"

template <typename Record>
void ShardFields(Record& record, auto&& field) {
  field("range", record.range);
  field("shard", record.shard.shard);
  field("token", record.shard.token);
  field("root", record.shard.root);
  field("bytes", record.shard.bytes);
  field("layout_bytes", record.shard.layout_bytes);
}

template <typename T>
void AppendBigEndian(T value, std::string* out) {
  for (int shift = 8 * (static_cast<int>(sizeof(T)) - 1); shift >= 0; shift -= 8) {
    out->push_back(static_cast<char>(value >> shift));
  }
}

void CheckShard(const ShardRecord& record, Decoder* decoder) {
  const PersistedShard& shard = record.shard;
  const SnapshotId& snapshot = shard.shard.snapshot;
  if (record.range == 0) {
    decoder->Fail("range", "is 0");
  }
  if (!model::CheckJobName(snapshot.job).ok() || !model::CheckSnapshotName(snapshot.name).ok()) {
    decoder->Fail("shard", "has a name that no save has");
  }
  if (snapshot.sequence == 0 || snapshot.epoch.IsNone() || !model::IsEpochInRange(snapshot.epoch) ||
      snapshot.sequence > model::kCounterMax || shard.shard.rank >= model::kWorldSizeMax) {
    decoder->Fail("shard", "has a number out of range");
  }
  if (shard.bytes == 0 || shard.bytes > model::kShardBytesMax || shard.layout_bytes > shard.bytes) {
    decoder->Fail("bytes", "or layout_bytes is out of range");
  }
}

}  // namespace

std::string EncodeShardRecord(const ShardRecord& record) {
  GEMEL_CHECK_GT(record.range, 0U);
  Encoder encoder = kShardFrame.Begin();
  ShardFields(record, FieldEncoder(&encoder));
  return RecordFrame::End(&encoder);
}

absl::StatusOr<ShardRecord> DecodeShardRecord(std::string_view raw) {
  GEMEL_ASSIGN_OR_RETURN(const std::string_view fields, kShardFrame.FieldsOf(raw));
  Decoder decoder(fields);
  ShardRecord record;
  ShardFields(record, FieldDecoder(&decoder));
  CheckShard(record, &decoder);
  GEMEL_RETURN_IF_ERROR(decoder.Finish("shard record"));
  return record;
}

std::string EncodeSnapshotRecord(const SnapshotRecord& record) {
  Encoder encoder = kSnapshotFrame.Begin();
  encoder.Int<uint8_t>(record.complete ? 1 : 0).String(record.commit_record);
  return RecordFrame::End(&encoder);
}

absl::StatusOr<SnapshotRecord> DecodeSnapshotRecord(std::string_view raw) {
  GEMEL_ASSIGN_OR_RETURN(const std::string_view fields, kSnapshotFrame.FieldsOf(raw));
  Decoder decoder(fields);
  SnapshotRecord record;
  record.complete = decoder.Int<bool>("complete");
  record.commit_record = decoder.String("commit_record", model::kCommitRecordBytesMax);
  GEMEL_RETURN_IF_ERROR(decoder.Finish("snapshot record"));
  return record;
}

std::string EncodeDigests(const std::vector<Digest128>& digests) {
  std::string raw(digests.size() * kDigestBytes, '\0');
  for (size_t i = 0; i < digests.size(); ++i) {
    EncodeDigest(digests[i], raw.data() + i * kDigestBytes);
  }
  return raw;
}

absl::StatusOr<std::vector<Digest128>> DecodeDigests(std::string_view raw) {
  if (raw.size() % kDigestBytes != 0) {
    return error::InvalidArgument("digests of {} bytes, not a multiple of {}", raw.size(),
                                  kDigestBytes);
  }
  std::vector<Digest128> digests;
  digests.reserve(raw.size() / kDigestBytes);
  for (size_t at = 0; at < raw.size(); at += kDigestBytes) {
    digests.push_back(DecodeDigest(raw.data() + at));
  }
  return digests;
}

std::string SnapshotKey(char kind, const SnapshotId& snapshot) {
  GEMEL_CHECK(snapshot.job.find('\0') == std::string::npos) << snapshot.ToString();
  std::string key(1, kind);
  key += snapshot.job;
  key.push_back('\0');
  AppendBigEndian(snapshot.epoch.generation, &key);
  AppendBigEndian(snapshot.epoch.counter, &key);
  AppendBigEndian(snapshot.sequence, &key);
  return key;
}

std::string ShardKey(const ShardId& shard) {
  std::string key = SnapshotKey(kShardKeyKind, shard.snapshot);
  AppendBigEndian(shard.rank, &key);
  return key;
}

std::string DataKey(uint64_t range, uint32_t index) {
  std::string key;
  AppendBigEndian(range, &key);
  AppendBigEndian(index, &key);
  GEMEL_CHECK_EQ(key.size(), kDataKeyBytes);
  return key;
}

uint64_t RangeOfKey(std::string_view key) {
  uint64_t range = 0;
  for (size_t i = 0; key.size() == kDataKeyBytes && i < sizeof(range); ++i) {
    range = range << 8 | static_cast<unsigned char>(key[i]);
  }
  return range;
}

Digest128 PersistedRoot(const PersistedShard& shard, const std::vector<Digest128>& digests) {
  GEMEL_CHECK_EQ(digests.size(), ChunkCount(shard.bytes));
  return MerkleRoot(shard.shard.RootOwner(), shard.shard.RootName(), digests, shard.bytes,
                    static_cast<uint32_t>(kChunkBytes));
}

uint64_t PersistedChunkBytes(const PersistedShard& shard, uint32_t chunk) {
  GEMEL_CHECK_LT(chunk, ChunkCount(shard.bytes));
  return std::min(kChunkBytes, shard.bytes - chunk * kChunkBytes);
}

}  // namespace gemel
