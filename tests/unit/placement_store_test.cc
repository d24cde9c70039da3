// SPDX-License-Identifier: Apache-2.0
//
// One conformance suite over every MetaStore, then what only one of them does.
#include <gmock/gmock.h>
#include <rocksdb/env.h>
#include <rocksdb/file_system.h>

#include <functional>
#include <memory>
#include <optional>

#include "common/epoll_loop.h"
#include "common/errors.h"
#include "common/sim_loop.h"
#include "placement/store/rocksdb_store.h"
#include "placement/store/sim_store.h"

namespace gemel {
namespace {

using ::testing::HasSubstr;

std::string FreshDir() {
  static int count = 0;
  const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
  std::string dir = fmt::format("{}gemel-store-{}-{}", ::testing::TempDir(), info->line(), count++);
  rocksdb::Env* env = rocksdb::Env::Default();
  std::vector<std::string> names;
  for (const std::string& sub : {dir + "/db", dir}) {
    if (env->GetChildren(sub, &names).ok()) {
      for (const std::string& name : names) {
        env->DeleteFile(sub + "/" + name);
      }
      env->DeleteDir(sub);
    }
  }
  return dir;
}

// A store with the loop that runs it; Reopen() is a kill and a start.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual MetaStore* store() = 0;
  virtual void Reopen() = 0;
  virtual Loop* loop() = 0;
  virtual void RunUntil(const std::function<bool()>& done) = 0;

  template <typename T>
  T Await(Task<T> task) {
    std::optional<T> result;
    loop()->Spawn(Into(std::move(task), &result));
    RunUntil([&] { return result.has_value(); });
    GEMEL_CHECK(result.has_value());
    return std::move(*result);
  }

 private:
  template <typename T>
  static Task<void> Into(Task<T> task, std::optional<T>* out) {
    T value = co_await std::move(task);
    out->emplace(std::move(value));
  }
};

class SimBackend final : public Backend {
 public:
  SimBackend() : loop_(&scheduler_), store_(&loop_, &state) {}

  ~SimBackend() override { loop_.Kill(); }

  MetaStore* store() override { return &store_; }

  void Reopen() override {}

  Loop* loop() override { return &loop_; }

  void RunUntil(const std::function<bool()>& done) override {
    scheduler_.RunUntil(done, Add(scheduler_.now(), 10s));
  }

  SimStoreState state;

 private:
  SimScheduler scheduler_;
  SimLoop loop_;
  SimStore store_;
};

class RocksdbBackend final : public Backend {
 public:
  explicit RocksdbBackend(rocksdb::Env* env = nullptr) : env_(env), dir(FreshDir()) {
    loop_ = *EpollLoop::Create();
    Open();
  }

  ~RocksdbBackend() override {
    store_.reset();
    loop_->Shutdown();
  }

  void Open() {
    auto opened = RocksdbStore::Open(loop_.get(), {.dir = dir, .env = env_});
    GEMEL_CHECK(opened.ok()) << ToText(opened.status());
    store_ = *std::move(opened);
  }

  MetaStore* store() override { return store_.get(); }

  void Reopen() override {
    store_.reset();
    Open();
  }

  void Close() { store_.reset(); }

  Loop* loop() override { return loop_.get(); }

  void RunUntil(const std::function<bool()>& done) override {
    loop_->RunUntil(done, Add(loop_->Now(), 30s));
  }

  EpollLoop* epoll() { return loop_.get(); }

 private:
  rocksdb::Env* env_;

 public:
  const std::string dir;

 private:
  std::unique_ptr<EpollLoop> loop_;
  std::unique_ptr<RocksdbStore> store_;
};

Txn Put(const std::string& key, const std::string& value, std::optional<uint64_t> version) {
  Txn txn;
  txn.compares.push_back({.key = key, .version = version});
  txn.puts.emplace_back(key, value);
  return txn;
}

class MetaStoreConformance : public ::testing::TestWithParam<const char*> {
 protected:
  MetaStoreConformance() {
    if (std::string(GetParam()) == "sim") {
      backend_ = std::make_unique<SimBackend>();
    } else {
      backend_ = std::make_unique<RocksdbBackend>();
    }
  }

  absl::StatusOr<CommitResult> Commit(Txn txn) {
    return backend_->Await(backend_->store()->Commit(std::move(txn)));
  }

  std::optional<Versioned> Get(const std::string& key) {
    auto found = backend_->Await(backend_->store()->Get(key));
    GEMEL_CHECK(found.ok()) << ToText(found.status());
    return *found;
  }

  std::unique_ptr<Backend> backend_;
};

TEST_P(MetaStoreConformance, PutsWhenTheKeyIsAsCompared) {
  auto first = Commit(Put("a", "1", std::nullopt));
  ASSERT_TRUE(first.ok() && first->applied);
  EXPECT_EQ(*Get("a"), (Versioned{"1", first->version}));
  auto absent = Commit(Put("a", "2", std::nullopt));
  ASSERT_TRUE(absent.ok());
  EXPECT_FALSE(absent->applied);
  auto second = Commit(Put("a", "2", first->version));
  ASSERT_TRUE(second.ok() && second->applied);
  EXPECT_GT(second->version, first->version);
  EXPECT_FALSE(Commit(Put("a", "3", first->version))->applied);
  EXPECT_EQ(Get("a")->value, "2");
}

TEST_P(MetaStoreConformance, ATransactionIsAppliedWholeOrNotAtAll) {
  ASSERT_TRUE(Commit(Put("a", "1", std::nullopt)).ok());
  Txn txn = Put("b", "1", std::nullopt);
  txn.compares.push_back({.key = "a", .version = std::nullopt});
  txn.deletes.push_back("a");
  EXPECT_FALSE(Commit(txn)->applied);
  EXPECT_TRUE(Get("a").has_value());
  EXPECT_FALSE(Get("b").has_value());
}

TEST_P(MetaStoreConformance, ListsByPrefixInOrderAndForgetsWhatIsDeleted) {
  Txn txn;
  for (const char* key : {"job/b", "job/a", "joc", "jo"}) {
    txn.puts.emplace_back(key, key);
  }
  ASSERT_TRUE(Commit(txn).ok());
  Txn gone;
  gone.deletes.push_back("job/b");
  gone.deletes.push_back("never");
  ASSERT_TRUE(Commit(gone)->applied);
  auto listed = backend_->Await(backend_->store()->List("job/"));
  ASSERT_TRUE(listed.ok());
  ASSERT_EQ(listed->size(), 1U);
  EXPECT_EQ(listed->front().first, "job/a");
}

TEST_P(MetaStoreConformance, WhatWasAppliedIsThereAfterAReopenAndVersionsGoOn) {
  auto first = Commit(Put("a", "1", std::nullopt));
  ASSERT_TRUE(first.ok());
  backend_->Reopen();
  EXPECT_EQ(*Get("a"), (Versioned{"1", first->version}));
  EXPECT_GT(Commit(Put("a", "2", first->version))->version, first->version);
}

TEST_P(MetaStoreConformance, RefusesEmptyKeysAndKeysPutTwice) {
  EXPECT_EQ(Commit(Put("", "1", std::nullopt)).status().code(), absl::StatusCode::kInvalidArgument);
  Txn twice = Put("a", "1", std::nullopt);
  twice.deletes.push_back("a");
  EXPECT_EQ(Commit(twice).status().code(), absl::StatusCode::kInvalidArgument);
}

INSTANTIATE_TEST_SUITE_P(Stores, MetaStoreConformance, ::testing::Values("sim", "rocksdb"),
                         [](const auto& info) { return std::string(info.param); });

TEST(SimStore, UnknownOutcomesAreAppliedOrNotAsTold) {
  SimBackend backend;
  backend.state.unknown_next = 2;
  backend.state.unknown_applied_permille = 1000;
  EXPECT_EQ(backend.Await(backend.store()->Commit(Put("a", "1", std::nullopt))).status().code(),
            absl::StatusCode::kUnknown);
  EXPECT_TRUE(backend.state.values.contains("a"));
  backend.state.unknown_applied_permille = 0;
  EXPECT_EQ(backend.Await(backend.store()->Commit(Put("b", "1", std::nullopt))).status().code(),
            absl::StatusCode::kUnknown);
  EXPECT_FALSE(backend.state.values.contains("b"));
}

TEST(RocksdbStore, ASecondOpenIsRefusedAndNamesTheDirectory) {
  RocksdbBackend backend;
  auto second = RocksdbStore::Open(backend.epoll(), {.dir = backend.dir});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(second.status().ToString(), HasSubstr(backend.dir));
}

TEST(RocksdbStore, ADatabaseThatIsGoneIsNotReplacedByAnEmptyOne) {
  RocksdbBackend backend;
  backend.Close();
  rocksdb::Env* env = rocksdb::Env::Default();
  std::vector<std::string> names;
  ASSERT_TRUE(env->GetChildren(backend.dir + "/db", &names).ok());
  for (const std::string& name : names) {
    env->DeleteFile(backend.dir + "/db/" + name);
  }
  auto opened = RocksdbStore::Open(backend.epoll(), {.dir = backend.dir});
  EXPECT_EQ(opened.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(opened.status().ToString(), HasSubstr("recover --from-servers"));
}

// A file system whose disk can be full.
class FullableFile final : public rocksdb::FSWritableFileOwnerWrapper {
 public:
  FullableFile(std::unique_ptr<rocksdb::FSWritableFile> file, const bool* full)
      : FSWritableFileOwnerWrapper(std::move(file)), full_(full) {}

  rocksdb::IOStatus Append(const rocksdb::Slice& data, const rocksdb::IOOptions& options,
                           rocksdb::IODebugContext* context) override {
    return *full_ ? rocksdb::IOStatus::NoSpace("test")
                  : FSWritableFileOwnerWrapper::Append(data, options, context);
  }

 private:
  const bool* full_;
};

class FullableDisk final : public rocksdb::FileSystemWrapper {
 public:
  FullableDisk() : FileSystemWrapper(rocksdb::FileSystem::Default()) {}

  const char* Name() const override { return "FullableDisk"; }

  rocksdb::IOStatus NewWritableFile(const std::string& name, const rocksdb::FileOptions& options,
                                    std::unique_ptr<rocksdb::FSWritableFile>* file,
                                    rocksdb::IODebugContext* context) override {
    std::unique_ptr<rocksdb::FSWritableFile> inner;
    rocksdb::IOStatus status = target()->NewWritableFile(name, options, &inner, context);
    if (status.ok()) {
      *file = std::make_unique<FullableFile>(std::move(inner), &full);
    }
    return status;
  }

  bool full = false;
};

TEST(RocksdbStore, AFullDiskLosesNothingAndSpaceBringsItBack) {
  auto disk = std::make_shared<FullableDisk>();
  const std::unique_ptr<rocksdb::Env> env = rocksdb::NewCompositeEnv(disk);
  RocksdbBackend backend(env.get());
  auto first = backend.Await(backend.store()->Commit(Put("a", "1", std::nullopt)));
  ASSERT_TRUE(first.ok()) << first.status();
  disk->full = true;
  auto refused = backend.Await(backend.store()->Commit(Put("a", "2", first->version)));
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.status().ToString(), HasSubstr("full"));
  auto again = backend.Await(backend.store()->Commit(Put("a", "2", first->version)));
  EXPECT_EQ(again.status().code(), absl::StatusCode::kResourceExhausted) << again.status();
  disk->full = false;
  auto found = backend.Await(backend.store()->Get("a"));
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ((*found)->value, "1");
  EXPECT_TRUE(backend.Await(backend.store()->Commit(Put("a", "2", first->version)))->applied);
}

}  // namespace
}  // namespace gemel
