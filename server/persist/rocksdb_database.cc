// SPDX-License-Identifier: Apache-2.0
#include "server/persist/rocksdb_database.h"

#include <rocksdb/convenience.h>
#include <rocksdb/db.h>
#include <rocksdb/env.h>
#include <rocksdb/write_batch.h>

#include "common/check.h"
#include "common/copies.h"
#include "common/errors.h"
#include "common/status_macros.h"
#include "common/xxh3.h"
#include "server/limits.h"
#include "server/persist/rocksdb_shard_files.h"
#include "server/persist/rocksdb_status.h"

namespace gemel {
namespace {

rocksdb::WriteOptions Synced() {
  rocksdb::WriteOptions options;
  options.sync = true;
  return options;
}

std::string_view TextOf(const rocksdb::PinnableSlice& value) {
  return {value.data(), value.size()};
}

}  // namespace

absl::Status RocksdbDatabase::Breaks(absl::Status status) {
  broken_.store(broken() || !status.ok(), std::memory_order_relaxed);
  return status;
}

std::vector<PersistedSnapshot> RocksdbDatabase::List() const {
  std::vector<PersistedSnapshot> list;
  MutexLock lock(&mutex_);
  for (const auto& [id, snapshot] : index_) {
    PersistedSnapshot listed{id, snapshot.record.complete, snapshot.record.commit_record, {}};
    for (const auto& [rank, shard] : snapshot.shards) {
      listed.shards.push_back(shard.shard);
    }
    GEMEL_CHECK(!listed.shards.empty()) << id.ToString();
    list.push_back(std::move(listed));
  }
  return list;
}

uint64_t RocksdbDatabase::used_bytes() const {
  uint64_t bytes = 0;
  MutexLock lock(&mutex_);
  for (const auto& [id, snapshot] : index_) {
    for (const auto& [rank, shard] : snapshot.shards) {
      bytes += shard.shard.bytes;
    }
  }
  return bytes;
}

absl::StatusOr<uint64_t> RocksdbDatabase::AskFreeBytes() const {
  uint64_t bytes = 0;
  GEMEL_RETURN_IF_ERROR(FromRocksdb(options_.env->GetFreeSpace(options_.dir, &bytes), options_.dir,
                                    "asking for its free space"));
  return bytes;
}

// Before hundreds of gigabytes are written in vain.
absl::Status RocksdbDatabase::CheckSpace(const PersistSource& source) const {
  GEMEL_ASSIGN_OR_RETURN(const uint64_t free_bytes, AskFreeBytes());
  if (free_bytes >= kPersistReserveBytes &&
      source.shard.bytes <= free_bytes - kPersistReserveBytes) {
    return absl::OkStatus();
  }
  return error::ResourceExhausted(
      "the disk below {} is full: {} needs {} bytes, {} are free and {} of them stay so",
      options_.dir, source.shard.shard.ToString(), source.shard.bytes, free_bytes,
      kPersistReserveBytes);
}

absl::Status RocksdbDatabase::Write(const PersistSource& source,
                                    const std::atomic<bool>& given_up) {
  GEMEL_CHECK(!broken());
  GEMEL_RETURN_IF_ERROR(CheckSpace(source));
  const absl::StatusOr<ShardRecord> before = Find(source.shard.shard);
  const ShardRecord record{next_range_++, source.shard};
  ShardFiles files(
      {options_.env, table_.get(), IncomingPath(), options_.file_bytes, options_.at_step},
      record.range);
  const absl::Status written = files.Write(source, given_up);
  if (!written.ok()) {
    files.Remove();
    // A full disk took nothing that was promised; after anything else nothing is believed.
    return written.code() == absl::StatusCode::kUnavailable ? Breaks(written) : written;
  }
  const absl::Status ingested = Ingest(files.paths());
  if (!ingested.ok()) {
    files.Remove();
    return Breaks(ingested);
  }
  if (given_up.load(std::memory_order_relaxed)) {
    GEMEL_RETURN_IF_ERROR(Retire({record.range}));
    return error::Aborted("persisting {} was given up: its snapshot was dropped",
                          source.shard.shard.ToString());
  }
  GEMEL_RETURN_IF_ERROR(Record(record, source));
  return before.ok() ? Retire({before->range}) : absl::OkStatus();
}

absl::Status RocksdbDatabase::Ingest(const std::vector<std::string>& paths) {
  rocksdb::IngestExternalFileOptions options;
  options.move_files = true;
  options.failed_move_fall_back_to_copy = false;
  options.write_global_seqno = false;  // the bytes stay as they were synced
  options.allow_blocking_flush = false;
  GEMEL_RETURN_IF_ERROR(FromRocksdb(db_->IngestExternalFile(data_, paths, options), options_.dir,
                                    "ingesting " + paths.front()));
  options_.at_step(PersistStep::kIngested);
  return absl::OkStatus();
}

absl::Status RocksdbDatabase::Record(const ShardRecord& record, const PersistSource& source) {
  const ShardId& shard = record.shard.shard;
  SnapshotRecord snapshot{false, source.record};
  {
    MutexLock lock(&mutex_);
    const auto known = index_.find(shard.snapshot);
    snapshot.complete = known != index_.end() && known->second.record.complete;
  }
  rocksdb::WriteBatch batch;
  batch.Put(records_, SnapshotKey(kSnapshotKeyKind, shard.snapshot),
            EncodeSnapshotRecord(snapshot));
  batch.Put(records_, SnapshotKey(kManifestKeyKind, shard.snapshot), source.manifest);
  batch.Put(records_, ShardKey(shard), EncodeShardRecord(record));
  GEMEL_RETURN_IF_ERROR(Breaks(
      FromRocksdb(db_->Write(Synced(), &batch), options_.dir, "recording " + shard.ToString())));
  {
    MutexLock lock(&mutex_);
    index_[shard.snapshot].record = std::move(snapshot);
    index_[shard.snapshot].shards[shard.rank] = record;
  }
  options_.at_step(PersistStep::kRecorded);
  return absl::OkStatus();
}

absl::Status RocksdbDatabase::MarkComplete(const SnapshotId& snapshot) {
  SnapshotRecord record;
  {
    MutexLock lock(&mutex_);
    const auto known = index_.find(snapshot);
    if (known == index_.end()) {
      return error::NotFound("nothing of {} is on disk below {}", snapshot.ToString(),
                             options_.dir);
    }
    record = known->second.record;
  }
  if (record.complete) {
    return absl::OkStatus();
  }
  record.complete = true;
  GEMEL_RETURN_IF_ERROR(
      Breaks(FromRocksdb(db_->Put(Synced(), records_, SnapshotKey(kSnapshotKeyKind, snapshot),
                                  EncodeSnapshotRecord(record)),
                         options_.dir, "marking " + snapshot.ToString())));
  MutexLock lock(&mutex_);
  index_.at(snapshot).record.complete = true;
  return absl::OkStatus();
}

// The records first: from then on nobody reads the ranges, and a crash leaves them to the next
// opening.
absl::Status RocksdbDatabase::Drop(const SnapshotId& snapshot) {
  std::vector<uint64_t> ranges;
  rocksdb::WriteBatch batch;
  {
    MutexLock lock(&mutex_);
    const auto known = index_.find(snapshot);
    if (known == index_.end()) {
      return absl::OkStatus();
    }
    for (const auto& [rank, shard] : known->second.shards) {
      ranges.push_back(shard.range);
      batch.Delete(records_, ShardKey(shard.shard.shard));
    }
  }
  batch.Delete(records_, SnapshotKey(kManifestKeyKind, snapshot));
  batch.Delete(records_, SnapshotKey(kSnapshotKeyKind, snapshot));
  GEMEL_RETURN_IF_ERROR(Breaks(
      FromRocksdb(db_->Write(Synced(), &batch), options_.dir, "dropping " + snapshot.ToString())));
  {
    MutexLock lock(&mutex_);
    index_.erase(snapshot);
  }
  options_.at_step(PersistStep::kUnrecorded);
  GEMEL_RETURN_IF_ERROR(Retire(ranges));
  options_.at_step(PersistStep::kRetired);
  return absl::OkStatus();
}

// Deletes whole files: each holds keys of one range only.
absl::Status RocksdbDatabase::Retire(const std::vector<uint64_t>& ranges) {
  for (const uint64_t range : ranges) {
    const std::string begin = DataKey(range, 0);
    const std::string end = DataKey(range + 1, 0);
    const rocksdb::Slice first(begin);
    const rocksdb::Slice last(end);
    GEMEL_RETURN_IF_ERROR(
        Breaks(FromRocksdb(rocksdb::DeleteFilesInRange(db_.get(), data_, &first, &last, false),
                           options_.dir, "deleting retired files")));
  }
  return absl::OkStatus();
}

absl::StatusOr<ShardRecord> RocksdbDatabase::Find(const ShardId& shard) const {
  MutexLock lock(&mutex_);
  const auto snapshot = index_.find(shard.snapshot);
  if (snapshot != index_.end() && snapshot->second.shards.contains(shard.rank)) {
    return snapshot->second.shards.at(shard.rank);
  }
  return error::NotFound("{} is not on disk below {}", shard.ToString(), options_.dir);
}

absl::Status RocksdbDatabase::Get(bool data, const std::string& key,
                                  rocksdb::PinnableSlice* value) const {
  rocksdb::ReadOptions options;
  options.fill_cache = false;
  return FromRocksdb(db_->Get(options, data ? data_ : records_, key, value), options_.dir,
                     "reading");
}

absl::StatusOr<std::vector<Digest128>> RocksdbDatabase::ReadDigests(const ShardId& shard) const {
  GEMEL_ASSIGN_OR_RETURN(const ShardRecord record, Find(shard));
  rocksdb::PinnableSlice value;
  if (absl::Status read = Get(true, DataKey(record.range, 0), &value); !read.ok()) {
    return Annotate(read, "digests of " + shard.ToString());
  }
  absl::StatusOr<std::vector<Digest128>> digests = DecodeDigests(TextOf(value));
  if (!digests.ok() || digests->size() != ChunkCount(record.shard.bytes)) {
    return error::DataLoss("the digests of {} below {} have {} bytes where {} chunks belong",
                           shard.ToString(), options_.dir, value.size(),
                           ChunkCount(record.shard.bytes));
  }
  const Digest128 found = PersistedRoot(record.shard, *digests);
  if (found != record.shard.root) {
    return error::DataLoss("the digests of {} below {} give root {} where {} belongs",
                           shard.ToString(), options_.dir, ToHex(found), ToHex(record.shard.root));
  }
  return digests;
}

absl::StatusOr<std::string> RocksdbDatabase::ReadManifest(const SnapshotId& snapshot) const {
  {
    MutexLock lock(&mutex_);
    if (!index_.contains(snapshot)) {
      return error::NotFound("nothing of {} is on disk below {}", snapshot.ToString(),
                             options_.dir);
    }
  }
  rocksdb::PinnableSlice value;
  if (absl::Status read = Get(false, SnapshotKey(kManifestKeyKind, snapshot), &value); !read.ok()) {
    return Annotate(read, "manifest of " + snapshot.ToString());
  }
  return std::string(TextOf(value));
}

absl::Status RocksdbDatabase::ReadChunk(const ShardId& shard, uint32_t chunk,
                                        const PersistTarget& target) const {
  GEMEL_ASSIGN_OR_RETURN(const ShardRecord record, Find(shard));
  GEMEL_CHECK_EQ(target.bytes.size(), PersistedChunkBytes(record.shard, chunk));
  rocksdb::PinnableSlice value;
  const absl::Status read = Get(true, DataKey(record.range, chunk + 1), &value);
  if (!read.ok()) {
    return Annotate(read, fmt::format("chunk {} of {}, whose digest is {}", chunk, shard.ToString(),
                                      ToHex(target.digest)));
  }
  const Digest128 found = Xxh3_128(AsBytes(TextOf(value)));
  if (value.size() != target.bytes.size() || found != target.digest) {
    return error::DataLoss(
        "chunk {} of {} below {} has {} bytes with digest {} where {} with {} belong", chunk,
        shard.ToString(), options_.dir, value.size(), ToHex(found), target.bytes.size(),
        ToHex(target.digest));
  }
  CopyState(target.bytes.data(), value.data(), value.size());
  return absl::OkStatus();
}

}  // namespace gemel
