// SPDX-License-Identifier: Apache-2.0
#include "server/persist/rocksdb_persist.h"

#include <rocksdb/env.h>

#include <algorithm>
#include <atomic>
#include <set>
#include <type_traits>

#include "common/check.h"
#include "common/errors.h"
#include "common/mutex.h"
#include "common/points.h"
#include "common/status_macros.h"
#include "server/persist/io_threads.h"
#include "server/persist/persist_points.h"
#include "server/persist/rocksdb_database.h"

namespace gemel {

// What loop and threads share.
class RocksdbPersist::Core : public std::enable_shared_from_this<RocksdbPersist::Core> {
 public:
  Core(EpollLoop* loop, Options options);

  template <typename T>
  using Work = std::function<T(RocksdbDatabase&)>;

  void Begin();
  void Stop();
  // On the loop.
  template <typename T>
  Task<T> OnWriter(Work<T> work);
  template <typename T>
  Task<T> OnReader(Work<T> work);
  Task<absl::Status> Write(PersistSource source);
  Task<absl::Status> Drop(SnapshotId snapshot);
  PersistState state() const;

  const std::string& dir() const { return options_.dir; }

 private:
  // A write that was begun and has no result.
  struct Writing {
    SnapshotId snapshot;
    std::atomic<bool> given_up = false;
  };

  static Task<void> TendForever(std::shared_ptr<Core> self);
  // On the threads.
  template <typename T>
  T WithDatabase(const Work<T>& work, bool writes);
  absl::StatusOr<std::shared_ptr<RocksdbDatabase>> Database();
  absl::Status Tend();
  absl::Status OpenAgain();
  void AfterWrite(const std::shared_ptr<RocksdbDatabase>& database, const absl::Status& status);
  void NoteFull(const absl::Status& status, uint64_t bytes);
  void LookAtDisk(const RocksdbDatabase& database);
  RocksdbDatabase::Options DatabaseOptions();

  EpollLoop* const loop_;
  const Options options_;
  std::shared_ptr<IoThreads> writer_;
  std::shared_ptr<IoThreads> readers_;
  std::set<std::shared_ptr<Writing>> writing_;  // on the loop
  bool stopped_ = false;                        // on the loop
  std::atomic<uint64_t> progress_ = 0;

  mutable Mutex mutex_;
  // Shared: reads under way keep the handle that they began with.
  std::shared_ptr<RocksdbDatabase> database_ GEMEL_GUARDED_BY(mutex_);
  std::weak_ptr<RocksdbDatabase> abandoned_ GEMEL_GUARDED_BY(mutex_);  // holds the folder's lock
  std::string fault_ GEMEL_GUARDED_BY(mutex_);                         // why there is no database
  std::string full_ GEMEL_GUARDED_BY(mutex_);                          // what did not fit
  uint64_t full_for_bytes_ GEMEL_GUARDED_BY(mutex_) = 0;
  uint64_t used_bytes_ GEMEL_GUARDED_BY(mutex_) = 0;
  uint64_t free_bytes_ GEMEL_GUARDED_BY(mutex_) = 0;
  uint64_t openings_ GEMEL_GUARDED_BY(mutex_) = 0;
};

RocksdbPersist::Core::Core(EpollLoop* loop, Options options)
    : loop_(loop), options_(std::move(options)) {
  GEMEL_CHECK(loop != nullptr && !options_.dir.empty());
  fault_ = fmt::format("{} is being opened", options_.dir);
}

void RocksdbPersist::Core::Begin() {
  const std::string disk = "the disk below " + options_.dir;
  const auto close = [self = shared_from_this()] {
    std::shared_ptr<RocksdbDatabase> closing;
    MutexLock lock(&self->mutex_);
    closing.swap(self->database_);
  };
  writer_ = IoThreads::Start(loop_, {disk, 1, kPersistWritesMax, close});
  readers_ = IoThreads::Start(loop_, {disk, kPersistReadThreads, kPersistReadsMax, [] {}});
  loop_->Spawn(TendForever(shared_from_this()));
}

void RocksdbPersist::Core::Stop() {
  stopped_ = true;
  for (const std::shared_ptr<Writing>& writing : writing_) {
    writing->given_up = true;
  }
  readers_->Stop();
  writer_->Stop();
}

template <typename T>
T RocksdbPersist::Core::WithDatabase(const Work<T>& work, bool writes) {
  absl::StatusOr<std::shared_ptr<RocksdbDatabase>> database = Database();
  if (!database.ok()) {
    return database.status();
  }
  T result = work(**database);
  progress_ += 1;
  if (writes) {
    if constexpr (std::is_same_v<T, absl::Status>) {
      AfterWrite(*database, result);
    } else {
      AfterWrite(*database, result.status());
    }
  }
  return result;
}

template <typename T>
Task<T> RocksdbPersist::Core::OnWriter(Work<T> work) {
  return IoThreads::Do<T>(writer_, [self = shared_from_this(), work = std::move(work)] {
    return self->template WithDatabase<T>(work, true);
  });
}

template <typename T>
Task<T> RocksdbPersist::Core::OnReader(Work<T> work) {
  return IoThreads::Do<T>(readers_, [self = shared_from_this(), work = std::move(work)] {
    return self->template WithDatabase<T>(work, false);
  });
}

absl::StatusOr<std::shared_ptr<RocksdbDatabase>> RocksdbPersist::Core::Database() {
  MutexLock lock(&mutex_);
  if (database_ == nullptr) {
    return error::Unavailable("the persistent tier is not open: {}", fault_);
  }
  return database_;
}

// An error of the disk ends the handle.
void RocksdbPersist::Core::AfterWrite(const std::shared_ptr<RocksdbDatabase>& database,
                                      const absl::Status& status) {
  if (!database->broken()) {
    LookAtDisk(*database);
    return;
  }
  MutexLock lock(&mutex_);
  if (database_ == database) {
    fault_ = fmt::format(
        "{}. Nothing is persisted until it answers again; saves in memory go on. Look at the "
        "machine's log, replace the disk, or give the server another --persist-dir",
        MessageOf(status));
    abandoned_ = database_;
    database_ = nullptr;
  }
}

void RocksdbPersist::Core::LookAtDisk(const RocksdbDatabase& database) {
  const absl::StatusOr<uint64_t> free_bytes = database.AskFreeBytes();
  const uint64_t used_bytes = database.used_bytes();
  MutexLock lock(&mutex_);
  used_bytes_ = used_bytes;
  free_bytes_ = free_bytes.ok() ? *free_bytes : 0;
  if (full_for_bytes_ > 0 && free_bytes_ >= full_for_bytes_ + kPersistReserveBytes) {
    full_for_bytes_ = 0;
    full_.clear();
  }
}

void RocksdbPersist::Core::NoteFull(const absl::Status& status, uint64_t bytes) {
  MutexLock lock(&mutex_);
  full_for_bytes_ = bytes;
  full_ = fmt::format(
      "{}. Nothing is persisted until {} bytes are free; saves in memory go on. Free space there, "
      "keep fewer persisted snapshots, or give the server another --persist-dir",
      MessageOf(status), bytes + kPersistReserveBytes);
}

RocksdbDatabase::Options RocksdbPersist::Core::DatabaseOptions() {
  RocksdbDatabase::Options options;
  options.dir = options_.dir;
  options.env = options_.env != nullptr ? options_.env : rocksdb::Env::Default();
  options.file_bytes = options_.file_bytes;
  options.at_step = [this](PersistStep step) {
    progress_ += 1;
    Reach(PointOf(step));
    if (options_.at_step) {
      options_.at_step(step);
    }
  };
  return options;
}

// The old handle holds the lock of the folder until the last read lets go of it.
absl::Status RocksdbPersist::Core::OpenAgain() {
  {
    MutexLock lock(&mutex_);
    if (!abandoned_.expired()) {
      return error::Unavailable("{}", fault_);
    }
  }
  absl::StatusOr<std::unique_ptr<RocksdbDatabase>> opened =
      RocksdbDatabase::Open(DatabaseOptions());
  progress_ += 1;
  MutexLock lock(&mutex_);
  if (!opened.ok()) {
    const bool lost = opened.status().code() == absl::StatusCode::kDataLoss;
    fault_ = fmt::format("{} cannot be opened: {}{}", options_.dir, MessageOf(opened.status()),
                         lost ? "; move the folder away, and the server begins an empty one" : "");
    return opened.status();
  }
  database_ = *std::move(opened);
  fault_.clear();
  openings_ += 1;
  return absl::OkStatus();
}

absl::Status RocksdbPersist::Core::Tend() {
  absl::StatusOr<std::shared_ptr<RocksdbDatabase>> database = Database();
  if (!database.ok()) {
    GEMEL_RETURN_IF_ERROR(OpenAgain());
    database = Database();
    GEMEL_CHECK(database.ok());
  }
  LookAtDisk(**database);
  return absl::OkStatus();
}

Task<void> RocksdbPersist::Core::TendForever(std::shared_ptr<Core> self) {
  Duration pause = kPersistTendEvery;
  while (!self->stopped_) {
    std::function<absl::Status()> work = [self] { return self->Tend(); };
    const absl::Status tended =
        co_await IoThreads::Do<absl::Status>(self->writer_, std::move(work));
    pause = tended.ok() ? kPersistTendEvery : std::min(2 * pause, kPersistReopenMax);
    co_await self->loop_->Sleep(pause);
  }
}

Task<absl::Status> RocksdbPersist::Core::Write(PersistSource source) {
  const auto self = shared_from_this();
  const auto writing = std::make_shared<Writing>();
  writing->snapshot = source.shard.shard.snapshot;
  writing_.insert(writing);
  const uint64_t bytes = source.shard.bytes;
  const auto shared = std::make_shared<PersistSource>(std::move(source));
  Work<absl::Status> work = [self, writing, shared, bytes](RocksdbDatabase& database) {
    const absl::Status written = database.Write(*shared, writing->given_up);
    if (written.code() == absl::StatusCode::kResourceExhausted) {
      self->NoteFull(written, bytes);
    }
    return written;
  };
  const absl::Status written = co_await OnWriter<absl::Status>(std::move(work));
  writing_.erase(writing);
  co_return written;
}

Task<absl::Status> RocksdbPersist::Core::Drop(SnapshotId snapshot) {
  for (const std::shared_ptr<Writing>& writing : writing_) {
    if (writing->snapshot == snapshot) {
      writing->given_up = true;
    }
  }
  return OnWriter<absl::Status>(
      [snapshot](RocksdbDatabase& database) { return database.Drop(snapshot); });
}

PersistState RocksdbPersist::Core::state() const {
  PersistState state;
  state.progress = progress_;
  MutexLock lock(&mutex_);
  state.trouble = fault_.empty() ? full_ : fault_;
  state.used_bytes = used_bytes_;
  state.free_bytes = free_bytes_;
  state.openings = openings_;
  return state;
}

std::unique_ptr<RocksdbPersist> RocksdbPersist::Start(EpollLoop* loop, Options options) {
  auto core = std::make_shared<Core>(loop, std::move(options));
  core->Begin();
  return std::unique_ptr<RocksdbPersist>(new RocksdbPersist(std::move(core)));
}

RocksdbPersist::~RocksdbPersist() { core_->Stop(); }

Task<absl::StatusOr<std::vector<PersistedSnapshot>>> RocksdbPersist::List() {
  using Result = absl::StatusOr<std::vector<PersistedSnapshot>>;
  return core_->OnWriter<Result>(
      [](RocksdbDatabase& database) -> Result { return database.List(); });
}

Task<absl::Status> RocksdbPersist::Write(PersistSource source) {
  return core_->Write(std::move(source));
}

Task<absl::Status> RocksdbPersist::MarkComplete(SnapshotId snapshot) {
  return core_->OnWriter<absl::Status>(
      [snapshot](RocksdbDatabase& database) { return database.MarkComplete(snapshot); });
}

Task<absl::Status> RocksdbPersist::Drop(SnapshotId snapshot) {
  return core_->Drop(std::move(snapshot));
}

Task<absl::StatusOr<std::vector<Digest128>>> RocksdbPersist::ReadDigests(ShardId shard) {
  return core_->OnReader<absl::StatusOr<std::vector<Digest128>>>(
      [shard](const RocksdbDatabase& database) { return database.ReadDigests(shard); });
}

Task<absl::StatusOr<std::string>> RocksdbPersist::ReadManifest(SnapshotId snapshot) {
  return core_->OnReader<absl::StatusOr<std::string>>(
      [snapshot](const RocksdbDatabase& database) { return database.ReadManifest(snapshot); });
}

Task<absl::Status> RocksdbPersist::ReadChunk(ShardId shard, uint32_t chunk, PersistTarget target) {
  return core_->OnReader<absl::Status>(
      [shard, chunk, target = std::move(target)](const RocksdbDatabase& database) {
        return database.ReadChunk(shard, chunk, target);
      });
}

PersistState RocksdbPersist::state() const { return core_->state(); }

std::string RocksdbPersist::place() const { return core_->dir(); }

}  // namespace gemel
