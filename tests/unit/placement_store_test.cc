// SPDX-License-Identifier: Apache-2.0
//
// The simulated store and RocksDB: the conformance suite's backends, then what only one does.
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
#include "placement_store_backends.h"

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

class SimBackend final : public Backend {
 public:
  SimBackend() : loop_(&scheduler_) { Reopen(); }

  ~SimBackend() override { loop_.Kill(); }

  MetaStore* store() override { return store_.get(); }

  MetaStore* second() override { return second_.get(); }

  void Reopen() override {
    store_ = std::make_unique<SimStore>(&loop_, &state);
    second_ = std::make_unique<SimStore>(&loop_, &state);
  }

  void Close() override {}

  TimePoint now() { return loop_.Now(); }

  Loop* loop() override { return &loop_; }

  void RunUntil(const std::function<bool()>& done) override {
    scheduler_.RunUntil(done, Add(scheduler_.now(), 60s));
  }

  void Pass(Duration time) {
    const TimePoint until = Add(now(), time);
    RunUntil([&] { return now() >= until; });
  }

  SimStoreState state;

 private:
  SimScheduler scheduler_;
  SimLoop loop_;
  std::unique_ptr<SimStore> store_;
  std::unique_ptr<SimStore> second_;
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

  MetaStore* second() override { return store_.get(); }  // one process has it open

  void Reopen() override {
    store_.reset();
    Open();
  }

  void Close() override { store_.reset(); }

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

INSTANTIATE_TEST_SUITE_P(Stores, MetaStoreConformance, ::testing::Values("sim", "rocksdb"),
                         [](const auto& info) { return std::string(info.param); });

TEST(SimStore, UnknownOutcomesAreAppliedOrNotAsTold) {
  SimBackend backend;
  backend.state.unknown_next = 2;
  backend.state.unknown_applied_permille = 1000;
  EXPECT_EQ(backend.Await(backend.store()->Commit(PutIf("a", "1", std::nullopt))).status().code(),
            absl::StatusCode::kUnknown);
  EXPECT_TRUE(backend.state.values.contains("a"));
  backend.state.unknown_applied_permille = 0;
  EXPECT_EQ(backend.Await(backend.store()->Commit(PutIf("b", "1", std::nullopt))).status().code(),
            absl::StatusCode::kUnknown);
  EXPECT_FALSE(backend.state.values.contains("b"));
}

TEST(SimStore, ALateTransactionIsAppliedAfterItsAnswerWhoeverLooks) {
  SimBackend backend;
  backend.state.unknown_next = 1;
  backend.state.unknown_applied_permille = 0;
  backend.state.unknown_late_permille = 1000;
  backend.state.late_max = 5s;
  EXPECT_TRUE(absl::IsUnknown(backend.Commit(PutIf("a", "1", std::nullopt)).status()));
  EXPECT_TRUE(backend.state.late.size() == 1 && backend.state.values.empty());
  backend.Reopen();  // who asked is gone
  backend.Pass(6s);
  ASSERT_TRUE(backend.Get("a").has_value());
  EXPECT_EQ(backend.Get("a")->value, "1");
}

TEST(SimStore, ALateTransactionWhoseCompareNoLongerHoldsChangesNothing) {
  SimBackend backend;
  backend.state.unknown_next = 1;
  backend.state.unknown_applied_permille = 0;
  backend.state.unknown_late_permille = 1000;
  EXPECT_TRUE(absl::IsUnknown(backend.Commit(PutIf("a", "old leader", std::nullopt)).status()));
  EXPECT_TRUE(backend.Commit(PutIf("a", "new leader", std::nullopt))->applied);
  backend.Pass(10s);
  EXPECT_EQ(backend.Get("a")->value, "new leader");
}

TEST(SimStore, AStaleReadIsNeverOlderThanOneBefore) {
  SimBackend backend;
  backend.state.stale_permille = 1000;
  uint64_t highest = 0;
  bool behind = false;
  for (int i = 0; i < 200; ++i) {
    ASSERT_TRUE(backend.Await(backend.second()->Commit(Put("a", std::to_string(i))))->applied);
    const uint64_t version = backend.Get("a").value_or(Versioned{}).version;
    EXPECT_GE(version, highest);
    behind = behind || version < backend.state.version;
    highest = version;
  }
  EXPECT_TRUE(behind);
}

TEST(SimStore, WhatOneHasAppliedItselfItReads) {
  SimBackend backend;
  backend.state.stale_permille = 1000;
  for (int i = 0; i < 50; ++i) {
    const auto done = backend.Commit(Put("a", std::to_string(i)));
    EXPECT_EQ(backend.Get("a")->version, done->version);
  }
}

TEST(SimStore, GoneForSomeCallsItWorksAgain) {
  SimBackend backend;
  backend.state.unavailable_next = 2;
  EXPECT_TRUE(absl::IsUnavailable(backend.Commit(Put("a", "1")).status()));
  EXPECT_TRUE(absl::IsUnavailable(backend.Await(backend.store()->Get("a")).status()));
  EXPECT_FALSE(backend.Get("a").has_value());
  EXPECT_TRUE(backend.Commit(Put("a", "1"))->applied);
}

TEST(SimStore, GoneByChanceItAppliesNothing) {
  SimBackend backend;
  backend.state.unavailable_permille = 500;
  int applied = 0;
  for (int i = 0; i < 100; ++i) {
    applied += backend.Commit(Put(std::to_string(i), "1")).ok() ? 1 : 0;
  }
  EXPECT_GT(applied, 0);
  EXPECT_LT(applied, 100);
  EXPECT_EQ(backend.state.values.size(), static_cast<size_t>(applied));
}

TEST(SimStore, FullItAppliesNothing) {
  SimBackend backend;
  backend.state.full = true;
  EXPECT_TRUE(absl::IsResourceExhausted(backend.Commit(Put("a", "1")).status()));
  EXPECT_TRUE(backend.state.values.empty());
}

TEST(SimStore, ARestoredBackupIsNoticedByWhoHasSeenMore) {
  SimBackend backend;
  ASSERT_TRUE(backend.Commit(Put("a", "1"))->applied);
  ASSERT_TRUE(backend.Commit(Put("a", "2"))->applied);
  backend.state.RestoreBackup(1);
  EXPECT_EQ(backend.state.values.at("a").value, "1");
  EXPECT_TRUE(absl::IsDataLoss(backend.Commit(Put("a", "3")).status()));
  EXPECT_TRUE(absl::IsDataLoss(backend.Await(backend.store()->Get("a")).status()));
  EXPECT_TRUE(absl::IsDataLoss(backend.Await(backend.store()->List("")).status()));
  EXPECT_EQ(backend.state.values.at("a").value, "1");
  backend.Reopen();  // one that has seen nothing cannot know
  EXPECT_EQ(backend.Get("a")->value, "1");
}

// A client that repeats only what it has compared, on a store that does everything wrong.
Task<int> CountUp(MetaStore* store, Loop* loop, std::string who, int times) {
  int done = 0;
  for (int tries = 0; done < times && tries < 10'000; ++tries) {
    const absl::StatusOr<std::optional<Versioned>> found = co_await store->Get("count");
    if (!found.ok()) {
      co_await loop->Sleep(10ms);
      continue;
    }
    const std::string mark = fmt::format("{}/{}", who, done);
    const std::string before = found->has_value() ? (*found)->value : "";
    if (before.find(mark + ";") != std::string::npos) {
      done += 1;  // an unknown outcome, read
      continue;
    }
    std::optional<uint64_t> version;
    if (found->has_value()) {
      version = (*found)->version;
    }
    Txn txn = PutIf("count", before + mark + ";", version);
    const absl::StatusOr<CommitResult> result = co_await store->Commit(std::move(txn));
    done += result.ok() && result->applied ? 1 : 0;
  }
  co_return done;
}

TEST(SimStore, WhoComparesWhatItReadSurvivesEveryMisbehaviour) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SimBackend backend;
    backend.state.random = Random(seed);
    backend.state.stale_permille = 300;
    backend.state.unknown_permille = 300;
    backend.state.unknown_applied_permille = 300;
    backend.state.unknown_late_permille = 500;
    backend.state.late_max = 50ms;
    backend.state.unavailable_permille = 100;
    constexpr int kTimes = 30;
    std::optional<int> first;
    std::optional<int> second;
    backend.Start(CountUp(backend.store(), backend.loop(), "a", kTimes), &first);
    backend.Start(CountUp(backend.second(), backend.loop(), "b", kTimes), &second);
    backend.RunUntil([&] { return first.has_value() && second.has_value(); });
    ASSERT_EQ(first, kTimes) << "seed " << seed;
    ASSERT_EQ(second, kTimes) << "seed " << seed;
    backend.Pass(1s);
    const std::string value = backend.state.values.at("count").value;
    for (int i = 0; i < kTimes; ++i) {
      for (const char* who : {"a", "b"}) {
        const std::string mark = fmt::format("{}/{};", who, i);
        const size_t at = value.find(mark);
        ASSERT_NE(at, std::string::npos) << "seed " << seed << " lost " << mark;
        ASSERT_EQ(value.find(mark, at + 1), std::string::npos) << "seed " << seed << " twice";
      }
    }
  }
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
  auto first = backend.Await(backend.store()->Commit(PutIf("a", "1", std::nullopt)));
  ASSERT_TRUE(first.ok()) << first.status();
  disk->full = true;
  auto refused = backend.Await(backend.store()->Commit(PutIf("a", "2", first->version)));
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.status().ToString(), HasSubstr("full"));
  auto again = backend.Await(backend.store()->Commit(PutIf("a", "2", first->version)));
  EXPECT_EQ(again.status().code(), absl::StatusCode::kResourceExhausted) << again.status();
  disk->full = false;
  auto found = backend.Await(backend.store()->Get("a"));
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ((*found)->value, "1");
  EXPECT_TRUE(backend.Await(backend.store()->Commit(PutIf("a", "2", first->version)))->applied);
}

}  // namespace

std::unique_ptr<Backend> MakeBackend(const std::string& name) {
  if (name == "sim") {
    return std::make_unique<SimBackend>();
  }
  return std::make_unique<RocksdbBackend>();
}

}  // namespace gemel
