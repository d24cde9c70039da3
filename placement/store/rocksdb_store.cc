// SPDX-License-Identifier: Apache-2.0
#include "placement/store/rocksdb_store.h"

#include <rocksdb/db.h>
#include <rocksdb/env.h>
#include <rocksdb/write_batch.h>

#include <condition_variable>
#include <cstdarg>
#include <deque>
#include <thread>

#include "common/check.h"
#include "common/codec.h"
#include "common/errors.h"
#include "common/mutex.h"
#include "common/status_macros.h"
#include "common/sync.h"

namespace gemel {
namespace {

constexpr const char* kVersionKey = "v";
constexpr char kValuePrefix = 'k';
constexpr const char* kMarkerFile = "/GEMEL_STORE";
constexpr const char* kMarkerText = "A Gemel placement store lives here, in db/.\n";

// RocksDB's own log would lie on the same disk, and where its asserts are compiled in, as in
// Debian's package, a line that does not fit there ends the process. Its errors come to us as
// statuses.
class NoLog : public rocksdb::Logger {
 public:
  using rocksdb::Logger::Logv;

  void Logv(const char*, va_list) override {}
};

std::string Stored(const std::string& key) { return kValuePrefix + key; }

std::string EncodeVersion(uint64_t version) {
  Encoder encoder;
  encoder.Int(version);
  return encoder.Take();
}

absl::StatusOr<Versioned> DecodeStored(const std::string& key, std::string_view raw) {
  Decoder decoder(raw);
  const auto version = decoder.Int<uint64_t>("version");
  if (!decoder.ok()) {
    return error::DataLoss("key '{}' of the placement store has {} bytes", key, raw.size());
  }
  return Versioned{std::string(raw.substr(sizeof(uint64_t))), version};
}

bool HasPrefix(const rocksdb::Slice& key, const std::string& prefix) {
  return key.starts_with(rocksdb::Slice(prefix));
}

}  // namespace

// The database and its thread. Everything but Submit() and Stop() runs on the thread.
class RocksdbStore::Worker {
 public:
  Worker(EpollLoop* loop, Options options) : loop_(loop), options_(std::move(options)) {
    env_ = options_.env != nullptr ? options_.env : rocksdb::Env::Default();
  }

  ~Worker() { GEMEL_CHECK(!thread_.joinable()) << "Stop() first"; }

  absl::Status Begin();
  void Stop();

  absl::StatusOr<std::optional<Versioned>> Get(const std::string& key);
  absl::StatusOr<std::vector<KeyValue>> List(const std::string& prefix);
  absl::StatusOr<CommitResult> Commit(const Txn& txn);

  std::string name() const { return fmt::format("the placement store in {}", options_.dir); }

  // Runs `work` on the thread and yields its result on the loop. T is a StatusOr.
  template <typename T, typename Work>
  static Task<T> Do(std::shared_ptr<Worker> self, Work work) {
    GEMEL_CHECK(self->loop_->OnLoopThread());
    // Shared: the loop may drop this frame while the operation goes on.
    auto result = std::make_shared<OneShot<T>>(self->loop_);
    const absl::Status queued = self->Submit([self, result, work = std::move(work)] {
      auto value = std::make_shared<T>(work(*self));
      self->loop_->PostFromAnyThread([result, value] { result->Set(std::move(*value)); });
    });
    GEMEL_CO_RETURN_IF_ERROR(queued);
    const bool set = co_await result->WaitUntil(kTimeNever);
    GEMEL_CHECK(set);
    co_return std::move(result->value());
  }

 private:
  absl::Status Submit(std::function<void()> job);
  void RunThread();
  absl::Status OpenDatabase();
  absl::Status OpenedOrAgain();
  absl::Status Convert(const rocksdb::Status& status, std::string_view what) const;
  absl::StatusOr<bool> Holds(const Txn& txn);
  absl::StatusOr<CommitResult> AfterFailure(const absl::Status& why, uint64_t version);
  absl::StatusOr<std::optional<std::string>> Raw(const std::string& key);

  EpollLoop* loop_;
  Options options_;
  rocksdb::Env* env_;
  std::unique_ptr<rocksdb::DB> db_;  // null after a failed write, until it is opened again
  uint64_t version_ = 0;

  Mutex mutex_;
  std::condition_variable_any wake_;
  std::deque<std::function<void()>> jobs_ GEMEL_GUARDED_BY(mutex_);
  bool stopping_ GEMEL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

absl::Status RocksdbStore::Worker::Convert(const rocksdb::Status& status,
                                           std::string_view what) const {
  if (status.ok()) {
    return absl::OkStatus();
  }
  const std::string text = status.ToString();
  if (status.IsNoSpace()) {
    return error::ResourceExhausted("{}: {}: its disk is full; free space there ({})", name(), what,
                                    text);
  }
  if (status.IsCorruption()) {
    return error::DataLoss(
        "{}: {}: {}; rebuild it from the servers: move the directory away and run `gemel placement "
        "recover --from-servers`",
        name(), what, text);
  }
  return error::Unavailable("{}: {}: {}", name(), what, text);
}

absl::Status RocksdbStore::Worker::OpenDatabase() {
  GEMEL_CHECK(db_ == nullptr);
  const std::string marker = options_.dir + kMarkerFile;
  const bool existed = env_->FileExists(marker).ok();
  rocksdb::Options options;
  options.env = env_;
  options.create_if_missing = !existed;
  options.paranoid_checks = true;
  options.info_log = std::make_shared<NoLog>();
  options.max_open_files = 64;
  options.write_buffer_size = 8u << 20;
  rocksdb::DB* raw = nullptr;
  const std::string path = options_.dir + "/db";
  const rocksdb::Status opened = rocksdb::DB::Open(options, path, &raw);
  if (existed && opened.IsInvalidArgument()) {
    return error::FailedPrecondition(
        "{} held a database that is gone ({}); restore the directory, or empty it and run `gemel "
        "placement recover --from-servers`",
        options_.dir, opened.ToString());
  }
  if (opened.IsIOError() && opened.ToString().find("lock") != std::string::npos) {
    return error::FailedPrecondition(
        "{} is in use by another gemel-placement ({}); stop that one or give another --dir",
        options_.dir, opened.ToString());
  }
  GEMEL_RETURN_IF_ERROR(Convert(opened, "open"));
  db_.reset(raw);
  auto version = Raw(kVersionKey);
  GEMEL_RETURN_IF_ERROR(version.status());
  version_ = version->has_value() ? Decoder(**version).Int<uint64_t>("version") : 0;
  if (!existed) {
    // After the database: a crash between the two opens it again.
    GEMEL_RETURN_IF_ERROR(
        Convert(rocksdb::WriteStringToFile(env_, kMarkerText, marker, true), "write its marker"));
    std::unique_ptr<rocksdb::Directory> directory;
    GEMEL_RETURN_IF_ERROR(
        Convert(env_->NewDirectory(options_.dir, &directory), "open the directory"));
    GEMEL_RETURN_IF_ERROR(Convert(directory->Fsync(), "sync the directory"));
  }
  return absl::OkStatus();
}

absl::Status RocksdbStore::Worker::Begin() {
  GEMEL_RETURN_IF_ERROR(Convert(env_->CreateDirIfMissing(options_.dir), "make the directory"));
  GEMEL_RETURN_IF_ERROR(OpenDatabase());
  thread_ = std::thread([this] { RunThread(); });
  return absl::OkStatus();
}

void RocksdbStore::Worker::Stop() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
    wake_.notify_all();
  }
  if (thread_.joinable()) {
    thread_.join();
  }
  db_.reset();
}

absl::Status RocksdbStore::Worker::Submit(std::function<void()> job) {
  MutexLock lock(&mutex_);
  if (stopping_) {
    return error::Cancelled("{} is closing", name());
  }
  if (jobs_.size() >= kStoreOperationsMax) {
    return error::ResourceExhausted("{} has {} operations under way", name(), jobs_.size());
  }
  jobs_.push_back(std::move(job));
  wake_.notify_one();
  return absl::OkStatus();
}

void RocksdbStore::Worker::RunThread() {
  while (true) {
    std::function<void()> job;
    {
      MutexLock lock(&mutex_);
      while (jobs_.empty() && !stopping_) {
        wake_.wait(mutex_);
      }
      if (jobs_.empty()) {
        return;
      }
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    job();
  }
}

absl::Status RocksdbStore::Worker::OpenedOrAgain() {
  return db_ != nullptr ? absl::OkStatus() : OpenDatabase();
}

absl::StatusOr<std::optional<std::string>> RocksdbStore::Worker::Raw(const std::string& key) {
  GEMEL_CHECK(db_ != nullptr);
  std::string value;
  const rocksdb::Status status = db_->Get(rocksdb::ReadOptions(), key, &value);
  if (status.IsNotFound()) {
    return std::optional<std::string>();
  }
  GEMEL_RETURN_IF_ERROR(Convert(status, "read"));
  return std::optional<std::string>(std::move(value));
}

absl::StatusOr<std::optional<Versioned>> RocksdbStore::Worker::Get(const std::string& key) {
  GEMEL_RETURN_IF_ERROR(OpenedOrAgain());
  GEMEL_ASSIGN_OR_RETURN(std::optional<std::string> raw, Raw(Stored(key)));
  if (!raw.has_value()) {
    return std::optional<Versioned>();
  }
  GEMEL_ASSIGN_OR_RETURN(Versioned value, DecodeStored(key, *raw));
  GEMEL_CHECK_LE(value.version, version_) << key;
  return std::optional<Versioned>(std::move(value));
}

absl::StatusOr<std::vector<KeyValue>> RocksdbStore::Worker::List(const std::string& prefix) {
  GEMEL_RETURN_IF_ERROR(OpenedOrAgain());
  std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(rocksdb::ReadOptions()));
  std::vector<KeyValue> result;
  const std::string from = Stored(prefix);
  for (it->Seek(from); it->Valid() && HasPrefix(it->key(), from); it->Next()) {
    std::string key = it->key().ToString().substr(1);
    GEMEL_ASSIGN_OR_RETURN(
        Versioned value,
        DecodeStored(key, std::string_view(it->value().data(), it->value().size())));
    result.emplace_back(std::move(key), std::move(value));
  }
  GEMEL_RETURN_IF_ERROR(Convert(it->status(), "list"));
  return result;
}

absl::StatusOr<bool> RocksdbStore::Worker::Holds(const Txn& txn) {
  for (const Txn::Compare& compare : txn.compares) {
    GEMEL_ASSIGN_OR_RETURN(std::optional<Versioned> found, Get(compare.key));
    if (found.has_value() != compare.version.has_value() ||
        (found.has_value() && found->version != *compare.version)) {
      return false;
    }
  }
  return true;
}

absl::StatusOr<CommitResult> RocksdbStore::Worker::Commit(const Txn& txn) {
  GEMEL_RETURN_IF_ERROR(OpenedOrAgain());
  GEMEL_ASSIGN_OR_RETURN(const bool holds, Holds(txn));
  if (!holds) {
    return CommitResult{};
  }
  const uint64_t version = version_ + 1;
  rocksdb::WriteBatch batch;
  const std::string encoded = EncodeVersion(version);
  batch.Put(kVersionKey, encoded);
  for (const auto& [key, value] : txn.puts) {
    batch.Put(Stored(key), encoded + value);
  }
  for (const std::string& key : txn.deletes) {
    batch.Delete(Stored(key));
  }
  rocksdb::WriteOptions options;
  options.sync = true;
  const rocksdb::Status written = db_->Write(options, &batch);
  if (!written.ok()) {
    return AfterFailure(Convert(written, "write"), version);
  }
  version_ = version;
  return CommitResult{.applied = true, .version = version};
}

absl::StatusOr<CommitResult> RocksdbStore::Worker::AfterFailure(const absl::Status& why,
                                                                uint64_t version) {
  GEMEL_CHECK(!why.ok());
  db_.reset();
  const absl::Status opened = OpenDatabase();
  if (!opened.ok()) {
    return error::Unknown("{}; and it does not open again to be read: {}", MessageOf(why),
                          MessageOf(opened));
  }
  if (version_ >= version) {
    return CommitResult{.applied = true, .version = version};
  }
  return why;
}

absl::StatusOr<std::unique_ptr<RocksdbStore>> RocksdbStore::Open(EpollLoop* loop, Options options) {
  GEMEL_CHECK(!options.dir.empty());
  auto worker = std::make_shared<Worker>(loop, std::move(options));
  if (absl::Status status = worker->Begin(); !status.ok()) {
    worker->Stop();
    return status;
  }
  return std::unique_ptr<RocksdbStore>(new RocksdbStore(std::move(worker)));
}

RocksdbStore::~RocksdbStore() { worker_->Stop(); }

Task<absl::StatusOr<std::optional<Versioned>>> RocksdbStore::Get(std::string key) {
  return Worker::Do<absl::StatusOr<std::optional<Versioned>>>(
      worker_, [key = std::move(key)](Worker& worker) { return worker.Get(key); });
}

Task<absl::StatusOr<std::vector<KeyValue>>> RocksdbStore::List(std::string prefix) {
  return Worker::Do<absl::StatusOr<std::vector<KeyValue>>>(
      worker_, [prefix = std::move(prefix)](Worker& worker) { return worker.List(prefix); });
}

Task<absl::StatusOr<CommitResult>> RocksdbStore::Commit(Txn txn) {
  GEMEL_CO_RETURN_IF_ERROR(CheckTxn(txn));
  auto work = [txn = std::move(txn)](Worker& worker) { return worker.Commit(txn); };
  co_return co_await Worker::Do<absl::StatusOr<CommitResult>>(worker_, std::move(work));
}

std::string RocksdbStore::name() const { return worker_->name(); }

}  // namespace gemel
