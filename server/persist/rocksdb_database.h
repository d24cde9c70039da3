// SPDX-License-Identifier: Apache-2.0
//
// RocksdbDatabase: one opening of the persistent tier's database, blocking (docs/formats/persist.md
// for its layout).
//
//   DIR/incoming   files of a shard that is being written (ShardFiles)
//   DIR/db         RocksDB: column family "data" takes ingested files only, "records" makes them
//                  exist
//
// Thread safety: one thread writes (Write, MarkComplete, Drop); reads and state from any thread.
// Ownership: owns the database and its lock on DIR. Its destructor may wait for the disk.
// Invariants:
//   (1) index_ is what the records say, and every range in "data" belongs to an entry of it or is
//       being written;
//   (2) a range number is used once;
//   (3) broken() never goes back: after an error of the disk the handle is given up by its owner.
// Errors: as PersistStore.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "common/mutex.h"
#include "server/persist/persist_record.h"
#include "server/persist/persist_store.h"

namespace rocksdb {
class ColumnFamilyHandle;
class DB;
class Env;
class PinnableSlice;
struct Options;
}  // namespace rocksdb

namespace gemel {

class RocksdbDatabase {
 public:
  struct Options {
    std::string dir;              // made when absent; its parent must exist
    rocksdb::Env* env = nullptr;  // outlives the database
    uint64_t file_bytes = 0;
    PersistStepHook at_step;  // on the thread that writes
  };

  // Removes what no record speaks of. FailedPrecondition when another process has it open;
  // DataLoss when the records cannot be read.
  static absl::StatusOr<std::unique_ptr<RocksdbDatabase>> Open(Options options);
  ~RocksdbDatabase();
  RocksdbDatabase(const RocksdbDatabase&) = delete;
  RocksdbDatabase& operator=(const RocksdbDatabase&) = delete;

  std::vector<PersistedSnapshot> List() const;
  absl::Status Write(const PersistSource& source, const std::atomic<bool>& given_up);
  absl::Status MarkComplete(const SnapshotId& snapshot);
  absl::Status Drop(const SnapshotId& snapshot);
  absl::StatusOr<std::vector<Digest128>> ReadDigests(const ShardId& shard) const;
  absl::StatusOr<std::string> ReadManifest(const SnapshotId& snapshot) const;
  absl::Status ReadChunk(const ShardId& shard, uint32_t chunk, const PersistTarget& target) const;

  bool broken() const { return broken_.load(std::memory_order_relaxed); }

  uint64_t used_bytes() const;
  // Asks the file system.
  absl::StatusOr<uint64_t> AskFreeBytes() const;

 private:
  struct Snapshot {
    SnapshotRecord record;
    std::map<uint32_t, ShardRecord> shards;  // by rank
  };

  explicit RocksdbDatabase(Options options);

  absl::Status MakeFolders();
  absl::Status OpenDatabase();
  absl::Status OpenOnce(bool tolerant);
  absl::Status Load();
  absl::Status RemoveLeftovers();
  absl::Status CheckSpace(const PersistSource& source) const;
  absl::Status Ingest(const std::vector<std::string>& paths);
  absl::Status Record(const ShardRecord& record, const PersistSource& source);
  absl::Status Retire(const std::vector<uint64_t>& ranges);
  absl::Status Get(bool data, const std::string& key, rocksdb::PinnableSlice* value) const;
  absl::StatusOr<ShardRecord> Find(const ShardId& shard) const;
  absl::Status Breaks(absl::Status status);

  std::string DatabasePath() const { return options_.dir + "/db"; }

  std::string IncomingPath() const { return options_.dir + "/incoming"; }

  const Options options_;
  const std::unique_ptr<rocksdb::Options> table_;  // of the data
  std::unique_ptr<rocksdb::DB> db_;
  rocksdb::ColumnFamilyHandle* default_ = nullptr;  // RocksDB wants it; empty
  rocksdb::ColumnFamilyHandle* data_ = nullptr;
  rocksdb::ColumnFamilyHandle* records_ = nullptr;
  bool tolerant_ = false;  // opened over damage: nothing is removed
  uint64_t next_range_ = 1;
  std::atomic<bool> broken_ = false;
  mutable Mutex mutex_;
  std::map<SnapshotId, Snapshot> index_ GEMEL_GUARDED_BY(mutex_);
};

}  // namespace gemel
