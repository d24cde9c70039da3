// SPDX-License-Identifier: Apache-2.0
//
// Opening the persistent tier's database: its options, its index, and what a crash left behind.
#include <rocksdb/convenience.h>
#include <rocksdb/db.h>
#include <rocksdb/env.h>
#include <rocksdb/metadata.h>
#include <rocksdb/table.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <set>

#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"
#include "placement/model/records.h"
#include "server/limits.h"
#include "server/persist/rocksdb_database.h"
#include "server/persist/rocksdb_status.h"

namespace gemel {
namespace {

constexpr const char* kDataFamily = "data";
constexpr const char* kRecordsFamily = "records";

// RocksDB's own log would lie on the same disk, and where its asserts are compiled in, as in
// Debian's package, a line that does not fit there ends the process. Its errors come to us as
// statuses.
class NoLog : public rocksdb::Logger {
 public:
  using rocksdb::Logger::Logv;

  void Logv(const char*, va_list) override {}
};

// Ingested files only: blocks of one chunk each, uncompressed, never compacted, never cached.
rocksdb::Options DataOptions(rocksdb::Env* env) {
  rocksdb::BlockBasedTableOptions table;
  table.block_size = kChunkBytes;
  table.no_block_cache = true;
  table.checksum = rocksdb::kXXH3;
  rocksdb::Options options;
  options.env = env;
  options.info_log = std::make_shared<NoLog>();
  options.compression = rocksdb::kNoCompression;
  options.disable_auto_compactions = true;
  options.write_buffer_size = 64 * kKiB;  // never used; the log is preallocated by it
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  // Below a chunk: a block goes from the builder to the file without a copy.
  options.writable_file_max_buffer_size = 64 * kKiB;
  options.bytes_per_sync = kPersistSyncBytes;
  options.strict_bytes_per_sync = true;
  return options;
}

rocksdb::DBOptions DatabaseOptions(rocksdb::Env* env, bool tolerant) {
  rocksdb::DBOptions options;
  options.env = env;
  options.info_log = std::make_shared<NoLog>();
  options.create_if_missing = true;
  options.create_missing_column_families = true;
  options.paranoid_checks = !tolerant;
  // A torn tail is what a crash leaves; damage before it must not drop records in silence.
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  options.max_bgerror_resume_count = 0;  // a handle that failed is ours to abandon
  options.avoid_flush_during_shutdown = true;
  options.max_open_files = 256;
  options.max_total_wal_size = 4 * kMiB;
  options.manifest_preallocation_size = 64 * kKiB;
  options.skip_stats_update_on_db_open = true;
  options.stats_dump_period_sec = 0;
  options.stats_persist_period_sec = 0;
  return options;
}

std::string_view TextOf(const rocksdb::Slice& slice) { return {slice.data(), slice.size()}; }

}  // namespace

RocksdbDatabase::RocksdbDatabase(Options options)
    : options_(std::move(options)),
      table_(std::make_unique<rocksdb::Options>(DataOptions(options_.env))) {
  GEMEL_CHECK(options_.env != nullptr && !options_.dir.empty());
}

RocksdbDatabase::~RocksdbDatabase() {
  for (rocksdb::ColumnFamilyHandle* handle : {default_, data_, records_}) {
    if (handle != nullptr) {
      db_->DestroyColumnFamilyHandle(handle).PermitUncheckedError();
    }
  }
}

absl::StatusOr<std::unique_ptr<RocksdbDatabase>> RocksdbDatabase::Open(Options options) {
  std::unique_ptr<RocksdbDatabase> database(new RocksdbDatabase(std::move(options)));
  GEMEL_RETURN_IF_ERROR(database->OpenDatabase());
  GEMEL_RETURN_IF_ERROR(database->Load());
  GEMEL_RETURN_IF_ERROR(database->RemoveLeftovers());
  return database;
}

absl::Status RocksdbDatabase::MakeFolders() {
  const bool there = options_.env->FileExists(options_.dir).ok();
  for (const std::string& folder : {options_.dir, IncomingPath(), DatabasePath()}) {
    GEMEL_RETURN_IF_ERROR(FromRocksdb(options_.env->CreateDirIfMissing(folder), options_.dir,
                                      "making the folder " + folder));
  }
  // What jobs keep is their owner's, whatever the umask says.
  if (!there && chmod(options_.dir.c_str(), S_IRWXU) != 0) {
    return error::Unavailable("the folder {} cannot be made private: errno {}", options_.dir,
                              errno);
  }
  const size_t slash = options_.dir.rfind('/');
  const std::string parent = slash == std::string::npos ? "." : options_.dir.substr(0, slash + 1);
  for (const std::string& folder : {options_.dir, parent}) {
    std::unique_ptr<rocksdb::Directory> directory;
    GEMEL_RETURN_IF_ERROR(FromRocksdb(options_.env->NewDirectory(folder, &directory), options_.dir,
                                      "opening the folder " + folder));
    GEMEL_RETURN_IF_ERROR(
        FromRocksdb(directory->Fsync(), options_.dir, "syncing the folder " + folder));
  }
  return absl::OkStatus();
}

absl::Status RocksdbDatabase::OpenDatabase() {
  GEMEL_RETURN_IF_ERROR(MakeFolders());
  absl::Status opened = OpenOnce(false);
  if (opened.code() == absl::StatusCode::kDataLoss) {
    // One file that rotted costs its shard, not all of them.
    opened = OpenOnce(true);
  }
  return opened;
}

absl::Status RocksdbDatabase::OpenOnce(bool tolerant) {
  GEMEL_CHECK(db_ == nullptr);
  rocksdb::ColumnFamilyOptions records;
  records.write_buffer_size = 1 * kMiB;
  const std::vector<rocksdb::ColumnFamilyDescriptor> families = {
      {rocksdb::kDefaultColumnFamilyName, records},
      {kDataFamily, rocksdb::ColumnFamilyOptions(*table_)},
      {kRecordsFamily, records}};
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* raw = nullptr;
  const rocksdb::Status opened = rocksdb::DB::Open(DatabaseOptions(options_.env, tolerant),
                                                   DatabasePath(), families, &handles, &raw);
  GEMEL_RETURN_IF_ERROR(FromRocksdb(opened, options_.dir, "opening the database"));
  db_.reset(raw);
  GEMEL_CHECK_EQ(handles.size(), families.size());
  default_ = handles[0];
  data_ = handles[1];
  records_ = handles[2];
  tolerant_ = tolerant;
  return absl::OkStatus();
}

// Snapshots sort after shards: a shard's snapshot record is looked for once all are read.
absl::Status RocksdbDatabase::Load() {
  std::map<std::string, SnapshotRecord> snapshots;  // by key without its kind
  std::vector<ShardRecord> shards;
  std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(rocksdb::ReadOptions(), records_));
  for (it->SeekToFirst(); it->Valid(); it->Next()) {
    const std::string_view key = TextOf(it->key());
    if (key.front() == kSnapshotKeyKind) {
      GEMEL_ASSIGN_OR_RETURN(snapshots[std::string(key.substr(1))],
                             DecodeSnapshotRecord(TextOf(it->value())));
    } else if (key.front() == kShardKeyKind) {
      GEMEL_ASSIGN_OR_RETURN(ShardRecord shard, DecodeShardRecord(TextOf(it->value())));
      shards.push_back(std::move(shard));
    }
  }
  GEMEL_RETURN_IF_ERROR(FromRocksdb(it->status(), options_.dir, "reading the records"));
  MutexLock lock(&mutex_);
  for (ShardRecord& shard : shards) {
    const SnapshotId& id = shard.shard.shard.snapshot;
    const auto snapshot = snapshots.find(SnapshotKey(kSnapshotKeyKind, id).substr(1));
    if (snapshot == snapshots.end()) {
      return error::DataLoss("below {}: {} has no record of its snapshot", options_.dir,
                             shard.shard.shard.ToString());
    }
    next_range_ = std::max(next_range_, shard.range + 1);
    index_[id].record = snapshot->second;
    const uint32_t rank = shard.shard.shard.rank;
    index_[id].shards[rank] = std::move(shard);
  }
  return absl::OkStatus();
}

// Files that were not ingested, and ranges that were and have no record.
absl::Status RocksdbDatabase::RemoveLeftovers() {
  std::vector<std::string> names;
  GEMEL_RETURN_IF_ERROR(FromRocksdb(options_.env->GetChildren(IncomingPath(), &names), options_.dir,
                                    "listing " + IncomingPath()));
  for (const std::string& name : names) {
    if (name != "." && name != "..") {
      GEMEL_RETURN_IF_ERROR(
          FromRocksdb(options_.env->DeleteFile(fmt::format("{}/{}", IncomingPath(), name)),
                      options_.dir, "removing " + name));
    }
  }
  std::set<uint64_t> recorded;
  {
    MutexLock lock(&mutex_);
    for (const auto& [id, snapshot] : index_) {
      for (const auto& [rank, shard] : snapshot.shards) {
        const bool first = recorded.insert(shard.range).second;
        GEMEL_CHECK(first) << "range " << shard.range << " has two shards";
      }
    }
  }
  rocksdb::ColumnFamilyMetaData meta;
  db_->GetColumnFamilyMetaData(data_, &meta);
  std::set<uint64_t> orphans;
  for (const rocksdb::LevelMetaData& level : meta.levels) {
    for (const rocksdb::SstFileMetaData& file : level.files) {
      const uint64_t range = RangeOfKey(file.smallestkey);
      next_range_ = std::max(next_range_, range + 1);
      if (!recorded.contains(range)) {
        orphans.insert(range);
      }
    }
  }
  if (tolerant_) {
    return absl::OkStatus();  // their records may be what was damaged
  }
  return Retire(std::vector<uint64_t>(orphans.begin(), orphans.end()));
}

}  // namespace gemel
