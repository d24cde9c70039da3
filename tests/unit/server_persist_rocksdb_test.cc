// SPDX-License-Identifier: Apache-2.0
//
// What only the RocksDB tier does: its files, its disk, its handle.
#include <gmock/gmock.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cstdio>

#include "tests/unit/server_persist_backends.h"

namespace gemel::testing {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kBytes = 3 * kMiB + 5;
constexpr uint64_t kSmall = 512 * kKiB;

// write_bytes of /proc/self/io: what this process had written to disks.
uint64_t WrittenToDisks() {
  const std::string text = ReadWholeFile("/proc/self/io");
  const size_t at = text.find("\nwrite_bytes: ");
  GEMEL_CHECK(at != std::string::npos) << text;
  return std::stoull(text.substr(at + 14));
}

std::vector<ShardId> ShardsOf(RocksdbPersistBackend* backend) {
  std::vector<ShardId> shards;
  for (const PersistedSnapshot& snapshot : backend->List()) {
    for (const PersistedShard& shard : snapshot.shards) {
      shards.push_back(shard.shard);
    }
  }
  return shards;
}

TEST(RocksdbPersist, WritesEachByteOnce) {
  constexpr uint64_t kShard = 24 * kMiB + 77;
  RocksdbPersistBackend backend;
  const uint64_t appended = backend.disk->appended_bytes();
  const uint64_t disks = WrittenToDisks();
  for (uint64_t sequence = 1; sequence <= 3; ++sequence) {
    const TestSnapshot one(sequence, 2, kShard);
    ASSERT_EQ(backend.Write(one[0]), absl::OkStatus());
    ASSERT_EQ(backend.Write(one[1]), absl::OkStatus());
    ASSERT_EQ(backend.Await(backend.store()->MarkComplete(one.id)), absl::OkStatus());
    if (sequence > 1) {
      ASSERT_EQ(backend.Await(backend.store()->Drop(SnapshotOf(sequence - 1))), absl::OkStatus());
    }
  }
  const double bytes = 6.0 * kShard;
  const double files = static_cast<double>(backend.disk->appended_bytes() - appended) / bytes;
  const double device = static_cast<double>(WrittenToDisks() - disks) / bytes;
  std::printf(
      "write amplification: %.5f in files, %.5f by /proc/self/io (0: the folder is in memory)\n",
      files, device);
  EXPECT_GE(files, 1.0);
  EXPECT_LE(files, 1.1);
  EXPECT_LE(device, 1.1);
}

TEST(RocksdbPersist, ItsFolderIsPrivate) {
  RocksdbPersistBackend backend;
  EXPECT_EQ(std::filesystem::status(backend.dir).permissions(), std::filesystem::perms::owner_all);
}

TEST(RocksdbPersist, AShardOfManyFilesIsRetiredWhole) {
  RocksdbPersistBackend backend(2 * kMiB);
  const TestSnapshot one(1, 1, 9 * kMiB + 5);
  const TestSnapshot two(2, 1, kBytes);
  ASSERT_EQ(backend.Write(one[0]), absl::OkStatus());
  ASSERT_EQ(backend.Write(two[0]), absl::OkStatus());
  EXPECT_TRUE(backend.Holds(one[0]));
  backend.Reopen();
  EXPECT_TRUE(backend.Holds(one[0]) && backend.Holds(two[0]));
  ASSERT_EQ(backend.Await(backend.store()->Drop(one.id)), absl::OkStatus());
  EXPECT_LT(backend.OccupiedBytes(), kBytes + kSmall);
  EXPECT_TRUE(backend.Holds(two[0]));
}

// Each sync of a write fails once: whatever it was for, the shard is whole or it is not there.
TEST(RocksdbPersist, WhicheverSyncFailsNothingIsHalf) {
  RocksdbPersistBackend backend;
  const TestSnapshot kept(1, 1, kMiB);
  const TestSnapshot next(2, 1, kMiB + 5);
  ASSERT_EQ(backend.Write(kept[0]), absl::OkStatus());
  const uint64_t before = backend.disk->syncs();
  ASSERT_EQ(backend.Write(next[0]), absl::OkStatus());
  const uint64_t syncs = backend.disk->syncs() - before;
  EXPECT_GE(syncs, 5U) << "file, folder, folder, ingestion, record";
  for (uint64_t n = 1; n <= syncs; ++n) {
    SCOPED_TRACE(n);
    ASSERT_EQ(backend.Await(backend.store()->Drop(next.id)), absl::OkStatus());
    backend.disk->FailSync(n);
    const absl::Status failed = backend.Write(next[0]);
    backend.disk->FailSync(0);
    EXPECT_EQ(failed.code(), absl::StatusCode::kUnavailable) << failed;
    EXPECT_THAT(ToText(failed), HasSubstr("input/output error"));
    EXPECT_THAT(backend.store()->state().trouble, HasSubstr("--persist-dir"));
    backend.Reopen();
    EXPECT_TRUE(backend.Holds(kept[0]));
    const size_t shards = ShardsOf(&backend).size();
    EXPECT_TRUE(shards == 1 || backend.Holds(next[0]));
    EXPECT_LT(backend.OccupiedBytes(), shards * kBytes + kSmall);
  }
}

TEST(RocksdbPersist, EachStepThatSaysSyncedComesAfterASync) {
  RocksdbPersistBackend backend;
  const TestSnapshot one(1, 1, kMiB);
  ASSERT_EQ(backend.Write(one[0]), absl::OkStatus());
  EXPECT_GT(backend.syncs_at[PersistStep::kFileSynced], 0U);
  EXPECT_GT(backend.syncs_at[PersistStep::kDirectorySynced],
            backend.syncs_at[PersistStep::kFileSynced]);
  EXPECT_GT(backend.syncs_at[PersistStep::kRenameSynced], backend.syncs_at[PersistStep::kRenamed]);
  EXPECT_GT(backend.syncs_at[PersistStep::kRecorded], backend.syncs_at[PersistStep::kIngested]);
}

// A power cut also takes what was written and not synced: names and bytes.
TEST(RocksdbPersist, OnlyWhatWasSyncedIsBelievedAfterAPowerCut) {
  RocksdbPersistBackend backend(kMiB);
  const TestSnapshot one(1, 2, kBytes);
  ASSERT_EQ(backend.Write(one[0]), absl::OkStatus());
  backend.CrashAt(PersistStep::kRecorded);
  backend.CrashDuring(backend.store()->Write(one[1]));
  EXPECT_TRUE(backend.Holds(one[0]) && backend.Holds(one[1]));
}

TEST(RocksdbPersist, ASecondServerIsRefusedAndToldWhichFlag) {
  RocksdbPersistBackend backend;
  RocksdbPersist::Options options;
  options.dir = backend.dir;
  options.env = backend.env();
  const auto second = RocksdbPersist::Start(backend.epoll(), std::move(options));
  ASSERT_TRUE(backend.RunUntil(
      [&] { return second->state().trouble.find("in use") != std::string::npos; }, 20s));
  EXPECT_THAT(second->state().trouble, HasSubstr("--persist-dir"));
  EXPECT_THAT(second->state().trouble, HasSubstr(backend.dir));
  EXPECT_EQ(backend.Await(second->List()).status().code(), absl::StatusCode::kUnavailable);
}

TEST(RocksdbPersist, AFolderThatCannotBeMadeIsToldAndTriedAgain) {
  const std::unique_ptr<EpollLoop> loop = *EpollLoop::Create();
  const TemporaryDirectory folder;
  WriteWholeFile(folder.path() + "/file", "no folder");
  RocksdbPersist::Options options;
  options.dir = folder.path() + "/file/persist";
  auto store = RocksdbPersist::Start(loop.get(), std::move(options));
  const auto told = [&] {
    return store->state().trouble.find("cannot be opened") != std::string::npos;
  };
  EXPECT_TRUE(loop->RunUntil(told, Add(loop->Now(), 10s)));
  std::filesystem::remove(folder.path() + "/file");
  std::filesystem::create_directory(folder.path() + "/file");
  EXPECT_TRUE(
      loop->RunUntil([&] { return store->state().trouble.empty(); }, Add(loop->Now(), 10s)));
  loop->Shutdown();
}

// The footer is what RocksDB looks at when it opens a file.
TEST(RocksdbPersist, AFileThatRotsCostsItsShardAndNotTheOthers) {
  RocksdbPersistBackend backend;
  const TestSnapshot one(1, 1, kBytes);
  const TestSnapshot two(2, 1, kBytes);
  ASSERT_EQ(backend.Write(one[0]), absl::OkStatus());
  ASSERT_EQ(backend.Write(two[0]), absl::OkStatus());
  backend.Change([&one](const std::string&, std::string* content) {
    const bool its = content->find(AsText(one[0].chunks[0]).substr(0, 64)) != std::string::npos;
    for (size_t i = its ? 1 : 60; i < 60; ++i) {
      (*content)[content->size() - i] ^= 0x55;
    }
    return its;
  });
  EXPECT_EQ(backend.store()->state().trouble, "");
  EXPECT_EQ(ShardsOf(&backend).size(), 2U);
  EXPECT_TRUE(backend.Holds(two[0]));
  EXPECT_EQ(backend.ReadChunk(one[0], 0).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(backend.Await(backend.store()->ReadDigests(one[0].shard.shard)).status().code(),
            absl::StatusCode::kDataLoss);
  const TestSnapshot three(3, 1, kBytes);
  EXPECT_EQ(backend.Write(three[0]), absl::OkStatus());
  EXPECT_TRUE(backend.Holds(three[0]));
}

TEST(RocksdbPersist, AFileThatIsGoneIsDataLoss) {
  RocksdbPersistBackend backend;
  const TestSnapshot one(1, 1, kBytes);
  const TestSnapshot two(2, 1, kBytes);
  ASSERT_EQ(backend.Write(one[0]), absl::OkStatus());
  ASSERT_EQ(backend.Write(two[0]), absl::OkStatus());
  std::string victim;
  backend.Change([&](const std::string& path, std::string* content) {
    const bool its = content->find(AsText(one[0].chunks[0]).substr(0, 64)) != std::string::npos;
    victim = its ? path : victim;
    return its;
  });
  backend.Close();
  std::filesystem::remove(victim);
  backend.Open();
  EXPECT_TRUE(backend.Holds(two[0]));
  EXPECT_EQ(backend.ReadChunk(one[0], 0).status().code(), absl::StatusCode::kDataLoss);
}

TEST(RocksdbPersist, ReadsDoNotWaitForAShardThatIsBeingWritten) {
  RocksdbPersistBackend backend;
  const TestSnapshot one(1, 1, kBytes);
  const TestSnapshot two(2, 1, kBytes);
  ASSERT_EQ(backend.Write(one[0]), absl::OkStatus());
  backend.disk->set_hung(true, false);
  const auto written = backend.Start(backend.store()->Write(two[0]));
  EXPECT_TRUE(backend.Holds(one[0]));
  EXPECT_FALSE(written->has_value());
  backend.disk->set_hung(false);
  EXPECT_TRUE(backend.RunUntil([&] { return written->has_value(); }, 20s));
  EXPECT_EQ(**written, absl::OkStatus());
}

TEST(RocksdbPersist, ADiskThatFillsUpInTheMiddleTakesNothing) {
  RocksdbPersistBackend backend;
  const TestSnapshot one(1, 1, kBytes);
  backend.disk->set_free_is_told(false);
  backend.disk->set_full(true);
  const absl::Status refused = backend.Write(one[0]);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
  EXPECT_THAT(refused.ToString(), HasSubstr("full"));
  EXPECT_LT(backend.OccupiedBytes(), kSmall) << "temporary files are removed";
  backend.disk->set_full(false);
  EXPECT_TRUE(backend.RunUntil([&] { return backend.store()->state().trouble.empty(); }, 20s));
  EXPECT_EQ(backend.Write(one[0]), absl::OkStatus());
  EXPECT_TRUE(backend.Holds(one[0]));
}

TEST(RocksdbPersist, AFullFileSystemOfTheKernel) {
  const TemporaryDirectory folder;
  if (mount("tmpfs", folder.path().c_str(), "tmpfs", 0, "size=40m") != 0) {
    GTEST_SKIP() << "a small file system of its own cannot be mounted here: run as root";
  }
  {
    const std::unique_ptr<EpollLoop> loop = *EpollLoop::Create();
    RocksdbPersist::Options options;
    options.dir = folder.path() + "/persist";
    auto store = RocksdbPersist::Start(loop.get(), std::move(options));
    const auto write = [&](const PersistSource& source) {
      std::optional<absl::Status> result;
      const auto run = [](Task<absl::Status> task, std::optional<absl::Status>* out) -> Task<void> {
        *out = co_await std::move(task);
      };
      loop->Spawn(run(store->Write(source), &result));
      EXPECT_TRUE(loop->RunUntil([&] { return result.has_value(); }, Add(loop->Now(), 20s)));
      return result.value_or(absl::UnknownError("no answer"));
    };
    EXPECT_TRUE(loop->RunUntil([&] { return store->state().openings > 0; }, Add(loop->Now(), 20s)));
    const TestSnapshot one(1, 2, 12 * kMiB);
    EXPECT_EQ(write(one[0]), absl::OkStatus());
    EXPECT_EQ(write(one[1]).code(), absl::StatusCode::kResourceExhausted) << "16 MiB stay free";
    const std::string ballast = folder.path() + "/ballast";
    WriteWholeFile(ballast, std::string(20 * kMiB, 'b'));
    EXPECT_EQ(write(one[1]).code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(store->state().trouble, HasSubstr(folder.path()));
    std::filesystem::remove(ballast);
    EXPECT_EQ(store->state().used_bytes, 12 * kMiB);
    loop->Shutdown();
  }
  EXPECT_EQ(umount(folder.path().c_str()), 0);
}

TEST(RocksdbPersist, ItsEndWaitsForAHangingDiskWithABound) {
  RocksdbPersistBackend backend;
  const auto one = std::make_shared<TestSnapshot>(1, 1, kBytes);
  backend.disk->set_hung(true);
  backend.Start(backend.store()->Write((*one)[0]));
  backend.RunUntil([] { return false; }, 50ms);
  const std::unique_ptr<EpollLoop> clock = *EpollLoop::Create();
  const TimePoint before = clock->Now();
  backend.Close();
  EXPECT_LT(clock->Now() - before, 2 * kPersistStopPatience + 1s);
  // The threads that were left behind end, and with them the lock of the folder.
  backend.disk->set_hung(false);
  backend.Open();
  EXPECT_TRUE(ShardsOf(&backend).empty());
}

}  // namespace
}  // namespace gemel::testing
