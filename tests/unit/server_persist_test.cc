// SPDX-License-Identifier: Apache-2.0
//
// One conformance suite over every PersistStore.
#include <gmock/gmock.h>

#include "tests/unit/server_persist_backends.h"

namespace gemel::testing {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kBytes = 3 * kMiB + 5;
constexpr uint64_t kSmall = 512 * kKiB;  // what a database without shards may occupy

class PersistConformance : public ::testing::TestWithParam<const char*> {
 protected:
  PersistConformance() {
    if (std::string(GetParam()) == "sim") {
      backend_ = std::make_unique<SimPersistBackend>();
    } else {
      backend_ = std::make_unique<RocksdbPersistBackend>();
    }
  }

  PersistStore* store() { return backend_->store(); }

  std::vector<ShardId> Shards() {
    std::vector<ShardId> shards;
    for (const PersistedSnapshot& snapshot : backend_->List()) {
      for (const PersistedShard& shard : snapshot.shards) {
        shards.push_back(shard.shard);
      }
    }
    return shards;
  }

  std::unique_ptr<PersistBackend> backend_;
};

TEST_P(PersistConformance, WhatWasWrittenIsThereAfterAKill) {
  const TestSnapshot one(1, 2, kBytes);
  const TestSnapshot two(2, 1, 100);
  EXPECT_TRUE(backend_->List().empty());
  ASSERT_EQ(backend_->Write(two[0]), absl::OkStatus());
  ASSERT_EQ(backend_->Write(one[1]), absl::OkStatus());
  ASSERT_EQ(backend_->Write(one[0]), absl::OkStatus());
  for (int life = 0; life < 2; ++life) {
    const std::vector<PersistedSnapshot> listed = backend_->List();
    ASSERT_EQ(listed.size(), 2U);
    EXPECT_EQ(listed[0].snapshot, one.id);
    EXPECT_EQ(listed[0].record, one[0].record);
    EXPECT_FALSE(listed[0].complete);
    ASSERT_EQ(listed[0].shards.size(), 2U);
    EXPECT_EQ(listed[0].shards[0], one[0].shard);
    EXPECT_EQ(listed[0].shards[1], one[1].shard);
    EXPECT_EQ(listed[1].shards.front(), two[0].shard);
    EXPECT_TRUE(backend_->Holds(one[0]) && backend_->Holds(one[1]) && backend_->Holds(two[0]));
    EXPECT_EQ(store()->state().trouble, "");
    backend_->Reopen();
  }
}

TEST_P(PersistConformance, UsedAndFreeBytesAreTold) {
  const TestSnapshot one(1, 1, kBytes);
  const uint64_t free_before = store()->state().free_bytes;
  ASSERT_EQ(backend_->Write(one[0]), absl::OkStatus());
  EXPECT_EQ(store()->state().used_bytes, kBytes);
  EXPECT_GT(free_before, kBytes);
}

TEST_P(PersistConformance, AMarkIsThereAfterAKill) {
  const TestSnapshot one(1, 2, kBytes);
  EXPECT_EQ(backend_->Await(store()->MarkComplete(one.id)).code(), absl::StatusCode::kNotFound);
  ASSERT_EQ(backend_->Write(one[0]), absl::OkStatus());
  ASSERT_EQ(backend_->Await(store()->MarkComplete(one.id)), absl::OkStatus());
  ASSERT_EQ(backend_->Await(store()->MarkComplete(one.id)), absl::OkStatus());
  EXPECT_TRUE(backend_->List().front().complete);
  backend_->Reopen();
  EXPECT_TRUE(backend_->List().front().complete);
  ASSERT_EQ(backend_->Write(one[1]), absl::OkStatus());
  EXPECT_TRUE(backend_->List().front().complete) << "another shard of it changes no mark";
}

TEST_P(PersistConformance, ADropForgetsAllOfTheSnapshotAndItsSpace) {
  const TestSnapshot one(1, 2, kBytes);
  const TestSnapshot two(2, 1, kBytes);
  for (const PersistSource* source : {&one[0], &one[1], &two[0]}) {
    ASSERT_EQ(backend_->Write(*source), absl::OkStatus());
  }
  ASSERT_EQ(backend_->Await(store()->Drop(one.id)), absl::OkStatus());
  EXPECT_EQ(backend_->Await(store()->Drop(one.id)), absl::OkStatus()) << "it is not there";
  EXPECT_EQ(Shards(), std::vector<ShardId>{two[0].shard.shard});
  EXPECT_LT(backend_->OccupiedBytes(), kBytes + kSmall);
  EXPECT_EQ(backend_->ReadChunk(one[0], 0).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(backend_->Await(store()->ReadManifest(one.id)).status().code(),
            absl::StatusCode::kNotFound);
  backend_->Reopen();
  EXPECT_EQ(Shards(), std::vector<ShardId>{two[0].shard.shard});
  EXPECT_TRUE(backend_->Holds(two[0]));
  EXPECT_EQ(store()->state().used_bytes, kBytes);
}

TEST_P(PersistConformance, AShardThatIsWrittenAgainIsReplaced) {
  const TestSnapshot one(1, 1, kBytes);
  ASSERT_EQ(backend_->Write(one[0]), absl::OkStatus());
  ASSERT_EQ(backend_->Write(one[0]), absl::OkStatus());
  EXPECT_EQ(Shards().size(), 1U);
  EXPECT_TRUE(backend_->Holds(one[0]));
  EXPECT_LT(backend_->OccupiedBytes(), kBytes + kSmall);
}

TEST_P(PersistConformance, RotInMemoryNeverReachesTheDisk) {
  TestSnapshot one(1, 1, kBytes);
  *one.At(0, kMiB + 9) ^= 4;
  const absl::Status refused = backend_->Write(one[0]);
  EXPECT_EQ(refused.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(ToText(refused), HasSubstr("chunk 1 of rank 0 of gpt@step-1"));
  EXPECT_THAT(ToText(refused), HasSubstr(ToHex(one[0].digests[1])));
  EXPECT_TRUE(Shards().empty());
  EXPECT_LT(backend_->OccupiedBytes(), kSmall);
  EXPECT_EQ(store()->state().trouble, "") << "the disk is sound";
}

TEST_P(PersistConformance, AChunkThatRotsOnDiskIsDataLossAndTheOthersAreRead) {
  const TestSnapshot one(1, 1, kBytes);
  ASSERT_EQ(backend_->Write(one[0]), absl::OkStatus());
  backend_->Rot(one, 0, 2);
  const absl::Status lost = backend_->ReadChunk(one[0], 2).status();
  EXPECT_EQ(lost.code(), absl::StatusCode::kDataLoss) << lost;
  EXPECT_THAT(ToText(lost), HasSubstr("chunk 2 of rank 0 of gpt@step-1"));
  EXPECT_THAT(ToText(lost), HasSubstr(ToHex(one[0].digests[2])));
  EXPECT_EQ(*backend_->ReadChunk(one[0], 1), AsText(one[0].chunks[1]));
  ASSERT_EQ(backend_->Write(one[0]), absl::OkStatus()) << "written anew";
  EXPECT_TRUE(backend_->Holds(one[0]));
}

TEST_P(PersistConformance, AReadWithAnotherDigestGivesNothing) {
  const TestSnapshot one(1, 1, kBytes);
  ASSERT_EQ(backend_->Write(one[0]), absl::OkStatus());
  PersistSource other = one[0];
  other.digests[0] = other.digests[1];
  const absl::Status refused = backend_->ReadChunk(other, 0).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(ToText(refused), HasSubstr(ToHex(one[0].digests[0])));
  EXPECT_THAT(ToText(refused), HasSubstr(ToHex(one[0].digests[1])));
}

TEST_P(PersistConformance, ACrashBetweenAnyTwoStepsLeavesTheShardWholeOrNotAtAll) {
  const TestSnapshot kept(1, 1, kBytes);
  const TestSnapshot next(2, 1, kBytes);
  ASSERT_EQ(backend_->Write(kept[0]), absl::OkStatus());
  for (const PersistStep step : kPersistStepsOfWrite) {
    SCOPED_TRACE(static_cast<int>(step));
    backend_->CrashAt(step);
    backend_->CrashDuring(store()->Write(next[0]));
    const std::vector<ShardId> shards = Shards();
    const bool there = shards.size() == 2;
    EXPECT_TRUE(backend_->Holds(kept[0]));
    EXPECT_EQ(there, step == PersistStep::kRecorded);
    if (there) {
      EXPECT_TRUE(backend_->Holds(next[0]));
    }
    EXPECT_LT(backend_->OccupiedBytes(), shards.size() * kBytes + kSmall) << "space is reclaimed";
    ASSERT_EQ(backend_->Write(next[0]), absl::OkStatus());
    EXPECT_TRUE(backend_->Holds(next[0]));
    ASSERT_EQ(backend_->Await(store()->Drop(next.id)), absl::OkStatus());
  }
}

TEST_P(PersistConformance, ACrashInADropLeavesNothingHalf) {
  for (const PersistStep step : {PersistStep::kUnrecorded, PersistStep::kRetired}) {
    const TestSnapshot one(1, 2, kBytes);
    ASSERT_EQ(backend_->Write(one[0]), absl::OkStatus());
    ASSERT_EQ(backend_->Write(one[1]), absl::OkStatus());
    backend_->CrashAt(step);
    backend_->CrashDuring(store()->Drop(one.id));
    EXPECT_TRUE(Shards().empty());
    EXPECT_LT(backend_->OccupiedBytes(), kSmall);
  }
}

TEST_P(PersistConformance, ADropGivesUpTheWritesOfItsSnapshot) {
  const TestSnapshot one(1, 2, kBytes);
  backend_->List();
  backend_->SetHung(true);
  const auto first = backend_->Start(store()->Write(one[0]));
  const auto second = backend_->Start(store()->Write(one[1]));
  backend_->RunUntil([] { return false; }, 20ms);
  const auto dropped = backend_->Start(store()->Drop(one.id));
  backend_->RunUntil([] { return false; }, 20ms);
  EXPECT_FALSE(first->has_value() || dropped->has_value());
  backend_->SetHung(false);
  ASSERT_TRUE(backend_->RunUntil([&] { return dropped->has_value(); }));
  ASSERT_TRUE(first->has_value() && second->has_value()) << "in the order of the calls";
  EXPECT_EQ((*first)->code(), absl::StatusCode::kAborted) << **first;
  EXPECT_EQ((*second)->code(), absl::StatusCode::kAborted) << **second;
  EXPECT_EQ(**dropped, absl::OkStatus());
  EXPECT_TRUE(Shards().empty());
  EXPECT_LT(backend_->OccupiedBytes(), kSmall);
}

TEST_P(PersistConformance, AFullDiskIsToldTakesNothingAndRecoversByItself) {
  const TestSnapshot one(1, 1, kBytes);
  const TestSnapshot two(2, 1, kBytes);
  ASSERT_EQ(backend_->Write(one[0]), absl::OkStatus());
  backend_->SetFull(true);
  const absl::Status refused = backend_->Write(two[0]);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
  EXPECT_THAT(ToText(refused), HasSubstr(std::to_string(kBytes)));
  EXPECT_THAT(store()->state().trouble, HasSubstr("--persist-dir"));
  EXPECT_THAT(store()->state().trouble, HasSubstr("full"));
  EXPECT_EQ(Shards(), std::vector<ShardId>{one[0].shard.shard});
  EXPECT_TRUE(backend_->Holds(one[0])) << "reading goes on";
  EXPECT_LT(backend_->OccupiedBytes(), kBytes + kSmall);
  backend_->SetFull(false);
  EXPECT_TRUE(backend_->RunUntil([&] { return store()->state().trouble.empty(); }));
  EXPECT_EQ(backend_->Write(two[0]), absl::OkStatus());
}

TEST_P(PersistConformance, AfterAFailureTheHandleIsAbandonedAndOpenedAnew) {
  const TestSnapshot one(1, 1, kBytes);
  const TestSnapshot two(2, 1, kBytes);
  ASSERT_EQ(backend_->Write(one[0]), absl::OkStatus());
  const uint64_t openings = store()->state().openings;
  backend_->FailNext();
  const absl::Status failed = backend_->Write(two[0]);
  EXPECT_EQ(failed.code(), absl::StatusCode::kUnavailable) << failed;
  EXPECT_THAT(store()->state().trouble, HasSubstr("failed"));
  EXPECT_EQ(backend_->Write(two[0]).code(), absl::StatusCode::kUnavailable)
      << "not on the same handle";
  ASSERT_TRUE(backend_->RunUntil([&] { return store()->state().trouble.empty(); }));
  EXPECT_EQ(store()->state().openings, openings + 1);
  EXPECT_EQ(Shards(), std::vector<ShardId>{one[0].shard.shard});
  EXPECT_LT(backend_->OccupiedBytes(), kBytes + kSmall);
  EXPECT_TRUE(backend_->Holds(one[0]));
  EXPECT_EQ(backend_->Write(two[0]), absl::OkStatus());
  EXPECT_TRUE(backend_->Holds(two[0]));
}

TEST_P(PersistConformance, AHangingDiskHoldsResultsAndNotTheLoop) {
  const TestSnapshot one(1, 1, kBytes);
  backend_->List();
  backend_->SetHung(true);
  const auto written = backend_->Start(store()->Write(one[0]));
  const auto read = backend_->Start(store()->ReadDigests(one[0].shard.shard));
  backend_->RunUntil([] { return false; }, 50ms);
  EXPECT_FALSE(written->has_value());
  const uint64_t progress = store()->state().progress;
  backend_->RunUntil([] { return false; }, 50ms);
  EXPECT_EQ(store()->state().progress, progress);
  backend_->SetHung(false);
  ASSERT_TRUE(backend_->RunUntil([&] { return written->has_value() && read->has_value(); }));
  EXPECT_EQ(**written, absl::OkStatus());
  EXPECT_GT(store()->state().progress, progress);
}

TEST_P(PersistConformance, TheQueueOfWritesIsBounded) {
  const TestSnapshot one(1, 1, kBytes);
  backend_->List();
  backend_->SetHung(true);
  std::vector<std::shared_ptr<std::optional<absl::Status>>> results;
  for (size_t i = 0; i < kPersistWritesMax + 2; ++i) {
    results.push_back(backend_->Start(store()->Drop(one.id)));
    results.push_back(backend_->Start(store()->Write(one[0])));
  }
  backend_->RunUntil([] { return false; }, 50ms);
  ASSERT_TRUE(results.back()->has_value());
  EXPECT_EQ((*results.back())->code(), absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(results.front()->has_value() && results[1]->has_value());
  backend_->SetHung(false);
  EXPECT_TRUE(backend_->RunUntil([&] {
    return std::all_of(results.begin(), results.end(),
                       [](const auto& one) { return one->has_value(); });
  }));
}

INSTANTIATE_TEST_SUITE_P(Stores, PersistConformance, ::testing::Values("sim", "rocksdb"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace gemel::testing
