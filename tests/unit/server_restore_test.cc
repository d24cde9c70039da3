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

// The chunks as a request that runs beside others.
Task<absl::StatusOr<Reply>> AskChunks(TestClient* client, uint64_t restore, uint32_t first,
                                      uint32_t count) {
  FetchChunks fetch;
  fetch.restore = restore;
  fetch.first_chunk = first;
  fetch.count = count;
  Request request;
  request.type = FrameType::kFetchChunks;
  request.body = EncodeMessage(fetch);
  return client->session->Call(std::move(request), {}, Add(client->life.loop.Now(), 20s));
}

using Pending = std::shared_ptr<std::optional<absl::StatusOr<Reply>>>;

Pending Begun(TestClient* client, Task<absl::StatusOr<Reply>> task) {
  auto done = std::make_shared<std::optional<absl::StatusOr<Reply>>>();
  client->life.loop.Spawn(Life::Keep(std::move(task), done));
  return done;
}

absl::Status StatusOf(const Pending& done) {
  return (*done)->ok() ? (**done)->status : (*done)->status();
}

TEST(Restore, CountsDamageAtItsSourceAndGoesToTheOther) {
  Restoring r;
  const uint32_t without = r.Other(false);
  for (uint32_t chunk = 0; chunk < kChunks; ++chunk) {
    r.server(r.Other(true)).objects().Find(r.shard)->Chunk(chunk)[1] ^= std::byte{1};
  }
  const uint32_t damaged = r.Other(true);
  const auto client = r.ClientAt(without);
  const auto begun = client->Begin();
  const auto fetched = client->Fetch(begun->restore, 0, 0, kChunks);
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  EXPECT_TRUE(client->Holds(*fetched, 0, 0));
  EXPECT_GE(r.nodes[damaged]->events.counts["chunk_corrupt"], 1U);
  EXPECT_GE(r.nodes[without]->events.counts["chunk_corrupt"], 1U);
  EXPECT_EQ(r.server(damaged).objects().Find(r.shard), nullptr) << "it serves it no more";
}

TEST(Restore, ReadsOnWhenLanesOfAForgottenFetchComeBack) {
  Restoring r;
  const uint32_t without = r.Other(false);
  const std::string name = "server-" + std::to_string(without);
  const auto first = r.ClientAt(without);
  const auto a = first->Begin(0, 2);
  const auto piece = first->Fetch(a->restore, 0, 0, 1);
  ASSERT_TRUE(piece.ok()) << piece.status();
  first->At(piece->pieces[0])[7] ^= std::byte{1};  // damaged after it came
  // The source that is asked first has chunk 0 damaged, the other one is slow and at work.
  uint32_t fast = 0;
  uint32_t slow = r.Other(true);
  if (r.server(slow).id() < r.server(fast).id()) {
    std::swap(fast, slow);
  }
  r.server(fast).objects().Find(r.shard)->Chunk(0)[1] ^= std::byte{1};
  r.world.world.Faults("server-" + std::to_string(slow), name).transmit_per_mib = 300ms;
  pb::Directive pull;
  *pull.mutable_pull_shard()->mutable_object() = r.fake().Held(r.fake().saves.at(1), 0);
  for (const auto& [id, member] : r.fake().members) {
    *pull.mutable_pull_shard()->add_sources() = member.member;
  }
  const uint64_t id = r.fake().Direct(name, std::move(pull));
  r.world.RunFor(100ms);
  ASSERT_EQ(r.fake().ResultOf(name, id), nullptr) << "it waits for the slow source";
  const auto second = r.ClientAt(without);
  const auto b = second->Begin(1, 2);
  const auto fetched = second->Fetch(b->restore, 0, 0, 1);
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  EXPECT_TRUE(second->Holds(*fetched, 0, 0));
}

TEST(Restore, TellsEachRankHowAllWent) {
  Restoring r;
  const auto begun = r.saver.Begin();
  AwaitRestore await;
  await.restore = begun->restore;
  await.wait_ms = 10;
  auto done = r.saver.AskFor<AwaitRestoreDone>(FrameType::kAwaitRestore, await);
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_EQ(done->outcome, RestoreOutcome::kPending);
  ReportRestore report;
  report.restore = begun->restore;
  report.verified = true;
  ASSERT_TRUE(r.saver.Ask(FrameType::kReportRestore, report).ok());
  EXPECT_TRUE(r.fake().restore_reports.at(0).verified());
  done = r.saver.AskFor<AwaitRestoreDone>(FrameType::kAwaitRestore, await);
  EXPECT_EQ(done->outcome, RestoreOutcome::kVerified);
  report.unreadable_shards = {1};
  EXPECT_EQ(r.saver.Ask(FrameType::kReportRestore, report).status().code(),
            absl::StatusCode::kInvalidArgument);
  report.restore = 99;
  EXPECT_EQ(r.saver.Ask(FrameType::kReportRestore, report).status().code(),
            absl::StatusCode::kNotFound);
  await.restore = 99;
  EXPECT_EQ(r.saver.Ask(FrameType::kAwaitRestore, await).status().code(),
            absl::StatusCode::kNotFound);
}

TEST(Restore, RefusesARecordOfAnotherClusterOrJob) {
  Restoring r;
  std::string& raw = r.fake().saves.at(1).record;
  const std::string sound = raw;
  model::CommitRecord record = *model::DecodeCommitRecord(sound);
  record.cluster.bytes[4] ^= 1;
  raw = model::EncodeCommitRecord(record);
  EXPECT_EQ(r.saver.Begin().status().code(), absl::StatusCode::kDataLoss);
  record = *model::DecodeCommitRecord(sound);
  record.snapshot.job = "other";
  raw = model::EncodeCommitRecord(record);
  EXPECT_EQ(r.saver.Begin().status().code(), absl::StatusCode::kDataLoss);
  raw = "no record";
  EXPECT_FALSE(r.saver.Begin().ok());
  EXPECT_EQ(r.server(0).restores().size(), 0U);
}

TEST(Restore, RefusesSourcesOfARankThatTheManifestDoesNotHave) {
  Restoring r;
  r.fake().saves.at(1).ranks[5] = r.fake().saves.at(1).ranks.at(0);
  EXPECT_EQ(r.saver.Begin().status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Restore, NamesTheSizesWhenThereIsNoMemoryForTheCopy) {
  Restoring r;
  const uint32_t without = r.Other(false);
  const auto client = r.ClientAt(without);
  OpenShard large = TestClient::OpenFor("large", 0, 1, 30 * kMiB);
  large.copies = 1;
  ASSERT_TRUE(client->Open(large).ok());
  const auto begun = client->Begin();
  ASSERT_TRUE(begun.ok());
  const absl::Status full = client->Fetch(begun->restore, 0, 0, kChunks).status();
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted) << full;
  EXPECT_NE(MessageOf(full).find(std::to_string(32 * kMiB)), std::string_view::npos) << full;
}

TEST(Restore, GoesOnAfterTheSessionsAreReset) {
  Restoring r;
  const uint32_t without = r.Other(false);
  const auto client = r.ClientAt(without);
  const auto begun = client->Begin();
  for (const uint32_t holder : {0U, r.Other(true)}) {
    r.world.world.Faults("server-" + std::to_string(holder), "server-" + std::to_string(without))
        .transmit_per_mib = 10ms;
  }
  const Pending done = Begun(client.get(), AskChunks(client.get(), begun->restore, 0, kChunks));
  r.world.RunFor(15ms);
  for (const uint32_t holder : {0U, r.Other(true)}) {
    r.world.world.BreakConnections("server-" + std::to_string(holder),
                                   "server-" + std::to_string(without));
  }
  ASSERT_TRUE(r.world.RunUntil([&] { return done->has_value(); }, 20s));
  EXPECT_TRUE(StatusOf(done).ok()) << StatusOf(done);
}

TEST(Restore, ReadsAgainWhatTheWireCorrupted) {
  Restoring r;
  const uint32_t without = r.Other(false);
  const auto client = r.ClientAt(without);
  const auto begun = client->Begin();
  ASSERT_TRUE(client->Fetch(begun->restore, 0, 0, 2).ok()) << "sessions and digests are there";
  r.world.world.Faults("server-0", "server-" + std::to_string(without)).corrupt_ppm = 1'000'000;
  const auto fetched = client->Fetch(begun->restore, 0, 2, kChunks - 2);
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  EXPECT_TRUE(client->Holds(*fetched, 0, 2));
  EXPECT_GE(r.nodes[without]->events.counts["chunk_corrupt"], 1U);
}

}  // namespace
}  // namespace gemel::testing
