// SPDX-License-Identifier: Apache-2.0
//
// Restoring through real servers: from local slabs, from peers, past damage and death.
#include <gtest/gtest.h>

#include "tests/unit/server_world.h"

namespace gemel::testing {
namespace {

constexpr uint64_t kBytes = 5 * kMiB + 123;
constexpr uint32_t kChunks = 6;

struct Restoring : ServerWorld {
  explicit Restoring(uint32_t copies = 2) : ServerWorld(3), saver(&world, "server-0") {
    GEMEL_CHECK(saver.Hello("server-0").ok());
    auto opened = Commit(&saver, "7", kBytes, copies);
    GEMEL_CHECK(opened.ok()) << opened.status().ToString();
    shard = ShardId{opened->snapshot, 0};
    world.RunFor(200ms);
  }

  // The server with a copy that is not server 0, and the one without.
  uint32_t Other(bool with) {
    const uint32_t first = server(1).objects().Find(shard) != nullptr ? 1 : 2;
    return with ? first : 3 - first;
  }

  std::unique_ptr<TestClient> ClientAt(uint32_t i) {
    auto client = std::make_unique<TestClient>(&world, "server-" + std::to_string(i));
    GEMEL_CHECK(client->Hello("server-" + std::to_string(i)).ok());
    return client;
  }

  TestClient saver;
  ShardId shard;
};

TEST(Restore, ReadsLocalSlabsWithoutTheNetwork) {
  Restoring r;
  const auto begun = r.saver.Begin();
  ASSERT_TRUE(begun.ok()) << begun.status();
  ASSERT_EQ(begun->shards.size(), 1U);
  EXPECT_EQ(begun->shards[0].bytes, kBytes);
  const auto fetched = r.saver.Fetch(begun->restore, 0, 0, kChunks);
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  EXPECT_TRUE(r.saver.Holds(*fetched, 0, 0));
  EXPECT_EQ(fetched->local_bytes, kBytes);
  EXPECT_EQ(fetched->peer_bytes, 0U);
}

TEST(Restore, FetchesFromAllHoldersAtOnceAndKeepsTheCopy) {
  Restoring r;
  const uint32_t without = r.Other(false);
  const uint32_t with = r.Other(true);
  const auto client = r.ClientAt(without);
  const auto begun = client->Begin();
  const auto fetched = client->Fetch(begun->restore, 0, 0, kChunks);
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  EXPECT_TRUE(client->Holds(*fetched, 0, 0));
  EXPECT_EQ(fetched->peer_bytes, kBytes);
  for (const uint32_t holder : {0U, with}) {
    EXPECT_GT(r.nodes[holder]->metrics.Counter("gemel_read_bytes_total", "").Get(), 0) << holder;
  }
  EXPECT_EQ(r.server(without).objects().Find(r.shard)->state(), ObjectState::kSealed);
  EXPECT_TRUE(r.world.RunUntil(
      [&] {
        return r.fake().saves.at(1).ranks.at(0).receipts.contains(r.server(without).id().ToBytes());
      },
      1s));
}

TEST(Restore, FetchesOnlyWhatIsAskedFor) {
  Restoring r;
  const uint32_t without = r.Other(false);
  const auto client = r.ClientAt(without);
  const auto begun = client->Begin();
  const auto fetched = client->Fetch(begun->restore, 0, 4, 2);
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  EXPECT_TRUE(client->Holds(*fetched, 0, 4));
  EXPECT_EQ(fetched->peer_bytes, kMiB + 123);
  EXPECT_EQ(r.server(without).objects().Find(r.shard), nullptr) << "a part is no copy";
  EXPECT_EQ(r.server(without).pool().used_bytes(), 2 * kMiB);
  ReleaseRestore release;
  release.restore = begun->restore;
  ASSERT_TRUE(client->Ask(FrameType::kReleaseRestore, release).ok());
  EXPECT_EQ(r.server(without).pool().used_bytes(), 0U);
}

TEST(Restore, SharesOneFetchAmongTheRanksOfAHost) {
  Restoring r;
  const uint32_t without = r.Other(false);
  const auto first = r.ClientAt(without);
  const auto second = r.ClientAt(without);
  const auto a = first->Begin(0, 2);
  const auto b = second->Begin(1, 2);
  const auto ask = [](TestClient* client, uint64_t restore) {
    FetchChunks fetch;
    fetch.restore = restore;
    fetch.count = kChunks;
    Request request;
    request.type = FrameType::kFetchChunks;
    request.body = EncodeMessage(fetch);
    return client->session->Call(std::move(request), {}, Add(client->life.loop.Now(), 10s));
  };
  auto done = std::make_shared<std::optional<absl::StatusOr<Reply>>>();
  first->life.loop.Spawn(Life::Keep(ask(first.get(), a->restore), done));
  ASSERT_TRUE(second->life.Run(ask(second.get(), b->restore))->status.ok());
  ASSERT_TRUE(r.world.RunUntil([&] { return done->has_value(); }));
  ASSERT_TRUE((**done)->status.ok());
  EXPECT_EQ(r.nodes[without]->metrics.Counter("gemel_fetched_bytes_total", "").Get(),
            static_cast<int64_t>(kBytes));
}

TEST(Restore, UsesTheOtherCopyWhenALocalChunkDecayed) {
  Restoring r;
  r.server(0).objects().Find(r.shard)->Chunk(3)[17] ^= std::byte{1};
  const auto begun = r.saver.Begin();
  const auto fetched = r.saver.Fetch(begun->restore, 0, 0, kChunks);
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  EXPECT_TRUE(r.saver.Holds(*fetched, 0, 0));
  EXPECT_EQ(fetched->peer_bytes, kBytes);
  EXPECT_GE(r.nodes[0]->events.counts["chunk_corrupt"], 1U);
}

TEST(Restore, UsesTheOtherSourceWhenOneSendsDamage) {
  Restoring r;
  const uint32_t without = r.Other(false);
  r.server(r.Other(true)).objects().Find(r.shard)->Chunk(0)[1] ^= std::byte{1};
  const auto client = r.ClientAt(without);
  const auto begun = client->Begin();
  const auto fetched = client->Fetch(begun->restore, 0, 0, kChunks);
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  EXPECT_TRUE(client->Holds(*fetched, 0, 0));
}

TEST(Restore, NamesChunkSourcesAndReasonsWhenNobodyHasIt) {
  Restoring r;
  const uint32_t without = r.Other(false);
  for (const uint32_t holder : {0U, r.Other(true)}) {
    r.server(holder).objects().Find(r.shard)->Chunk(2)[1] ^= std::byte{1};
  }
  const auto client = r.ClientAt(without);
  const auto begun = client->Begin();
  const auto fetched = client->Fetch(begun->restore, 0, 2, 1);
  ASSERT_FALSE(fetched.ok());
  EXPECT_EQ(fetched.status().code(), absl::StatusCode::kDataLoss);
  const std::string text(MessageOf(fetched.status()));
  EXPECT_NE(text.find("chunk 2"), std::string::npos) << text;
  EXPECT_NE(text.find("server-0"), std::string::npos) << text;
  EXPECT_NE(text.find("digest"), std::string::npos) << text;
  ReportRestore report;
  report.restore = begun->restore;
  report.unreadable_shards = {0};
  report.why = text;
  ASSERT_TRUE(client->Ask(FrameType::kReportRestore, report).ok());
  ASSERT_EQ(r.fake().restore_reports.size(), 1U);
  EXPECT_EQ(r.fake().restore_reports[0].unreadable_ranks(0), 0U);
}

TEST(Restore, SurvivesTheDeathOfAHolder) {
  Restoring r;
  const uint32_t without = r.Other(false);
  const uint32_t with = r.Other(true);
  const auto client = r.ClientAt(without);
  const auto begun = client->Begin();
  r.Kill(with);
  const auto fetched = client->Fetch(begun->restore, 0, 0, kChunks);
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  EXPECT_TRUE(client->Holds(*fetched, 0, 0));
}

TEST(Restore, FailsWithinABoundWhenAllHoldersAreDead) {
  Restoring r;
  const uint32_t without = r.Other(false);
  const auto client = r.ClientAt(without);
  const auto begun = client->Begin();
  const uint32_t with = r.Other(true);
  r.Kill(with);
  r.saver.session = nullptr;
  r.Kill(0);
  const auto fetched = client->Fetch(begun->restore, 0, 0, 1);
  EXPECT_EQ(fetched.status().code(), absl::StatusCode::kUnavailable) << fetched.status();
  EXPECT_NE(MessageOf(fetched.status()).find("server-0"), std::string_view::npos);
}

TEST(Restore, RefusesAManifestThatIsNotTheRecords) {
  Restoring r;
  r.fake().corrupt_manifest = r.fake().saves.at(1).manifest;
  r.fake().corrupt_manifest[20] ^= 1;
  EXPECT_FALSE(r.saver.Begin().ok());
  EXPECT_EQ(r.server(0).restores().size(), 0U);
}

TEST(Restore, PassesOnWaitAndNeverCommitted) {
  Restoring r;
  r.fake().restore_decision = pb::BeginRestoreReply::WAIT;
  const auto waiting = r.saver.Begin();
  EXPECT_EQ(waiting->decision, RestoreDecision::kWait);
  EXPECT_EQ(waiting->progress, "waiting for server-9");
  r.fake().saves.clear();
  EXPECT_EQ(r.saver.Begin()->decision, RestoreDecision::kNeverCommitted);
}

TEST(Restore, RefusesUnknownRestoresAndRanges) {
  Restoring r;
  const auto begun = r.saver.Begin();
  const uint64_t restore = begun->restore;
  EXPECT_EQ(r.saver.Fetch(99, 0, 0, 1).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(r.saver.Fetch(restore, 1, 0, 1).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(r.saver.Fetch(restore, 0, kChunks, 1).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(r.saver.Fetch(restore, 0, 1, 0xffffffff).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(r.saver.Fetch(restore, 0, 0, 0).status().code(), absl::StatusCode::kInvalidArgument);
  const auto other = r.ClientAt(0);
  EXPECT_EQ(other->Fetch(restore, 0, 0, 1).status().code(), absl::StatusCode::kNotFound);
}

TEST(Restore, ReleasesWhatADeadClientHeld) {
  Restoring r;
  const uint32_t without = r.Other(false);
  auto client = r.ClientAt(without);
  const auto begun = client->Begin();
  ASSERT_TRUE(client->Fetch(begun->restore, 0, 4, 1).ok());
  client = nullptr;
  r.world.RunFor(200ms);
  EXPECT_EQ(r.server(without).restores().size(), 0U);
  EXPECT_EQ(r.server(without).pool().used_bytes(), 0U);
}

TEST(Restore, KeepsMemoryOfASnapshotThatIsDroppedMeanwhile) {
  Restoring r;
  const auto begun = r.saver.Begin();
  const auto fetched = r.saver.Fetch(begun->restore, 0, 0, kChunks);
  pb::Directive drop;
  WriteSnapshotId(r.shard.snapshot, drop.mutable_drop_snapshot()->mutable_snapshot());
  ASSERT_EQ(r.Do(0, drop).code(), 0U);
  EXPECT_EQ(r.server(0).objects().Find(r.shard), nullptr);
  EXPECT_TRUE(r.saver.Holds(*fetched, 0, 0));
  EXPECT_GT(r.server(0).pool().used_bytes(), 0U);
  ReleaseRestore release;
  release.restore = begun->restore;
  ASSERT_TRUE(r.saver.Ask(FrameType::kReleaseRestore, release).ok());
  EXPECT_EQ(r.server(0).pool().used_bytes(), 0U);
}

}  // namespace
}  // namespace gemel::testing
