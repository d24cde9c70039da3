// SPDX-License-Identifier: Apache-2.0
//
// Reading one committed snapshot by name, listing and removing, through real servers.
#include <gtest/gtest.h>

#include "tests/unit/server_world.h"

namespace gemel::testing {
namespace {

constexpr uint64_t kBytes = 3 * kMiB + 77;
constexpr uint32_t kChunks = 4;

// Two snapshots are committed, "7" and "8"; server 2 may have neither.
struct Reading : ServerWorld {
  Reading() : ServerWorld(3), client(&world, "server-0") {
    GEMEL_CHECK(client.Hello("server-0").ok());
    for (const char* name : {"7", "8"}) {
      const auto opened = Commit(&client, name, kBytes);
      GEMEL_CHECK(opened.ok()) << opened.status().ToString();
    }
    world.RunFor(200ms);
  }

  static BeginRead Wanted(const std::string& name) {
    BeginRead begin;
    begin.job = "gpt";
    begin.name = name;
    return begin;
  }

  absl::StatusOr<BeginRestoreDone> Begin(const std::string& name) {
    return client.AskFor<BeginRestoreDone>(FrameType::kBeginRead, Wanted(name));
  }

  absl::Status Release(uint64_t restore) {
    ReleaseRestore release;
    release.restore = restore;
    return client.Ask(FrameType::kReleaseRestore, release).status();
  }

  bool NothingIsKept() {
    return world.RunUntil([this] { return fake().reads.empty(); }, 10s);
  }

  TestClient client;
};

TEST(Read, GivesTheSnapshotOfThatNameWithoutAnEpoch) {
  Reading r;
  TestClient other(&r.world, "server-2");
  ASSERT_TRUE(other.Hello("server-2").ok());
  const auto begun = other.AskFor<BeginRestoreDone>(FrameType::kBeginRead, Reading::Wanted("7"));
  ASSERT_TRUE(begun.ok()) << begun.status();
  EXPECT_EQ(begun->decision, RestoreDecision::kChosen);
  EXPECT_EQ(begun->snapshot.name, "7");
  ASSERT_EQ(begun->shards.size(), 1U);
  const auto fetched = other.Fetch(begun->restore, 0, 0, kChunks);
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  EXPECT_TRUE(other.Holds(*fetched, 0, 0));
}

TEST(Read, GivesTheNewestWhenNoNameIsAskedFor) {
  Reading r;
  EXPECT_EQ(r.Begin("")->snapshot.name, "8");
}

TEST(Read, KeepsItsSnapshotUntilItIsReleased) {
  Reading r;
  const auto begun = r.Begin("7");
  ASSERT_TRUE(begun.ok()) << begun.status();
  r.world.RunFor(500ms);
  ASSERT_EQ(r.fake().reads.size(), 1U);
  EXPECT_EQ(r.fake().reads.begin()->second, begun->snapshot.sequence);
  ASSERT_TRUE(r.Release(begun->restore).ok());
  EXPECT_TRUE(r.NothingIsKept());
  EXPECT_EQ(r.client.Fetch(begun->restore, 0, 0, 1).status().code(), absl::StatusCode::kNotFound);
}

TEST(Read, EndsWhenItsClientDies) {
  Reading r;
  auto dying = std::make_unique<TestClient>(&r.world, "server-0");
  ASSERT_TRUE(dying->Hello("server-0").ok());
  ASSERT_TRUE(dying->Ask(FrameType::kBeginRead, Reading::Wanted("7")).ok());
  ASSERT_TRUE(r.Begin("8").ok());
  ASSERT_EQ(r.fake().reads.size(), 2U);
  dying = nullptr;
  EXPECT_TRUE(r.world.RunUntil([&] { return r.fake().reads.size() == 1; }, 5s));
  EXPECT_EQ(r.server(0).restores().size(), 1U) << "the other client's";
}

TEST(Read, EndsWhenItsClientLeftBeforeItWasAnswered) {
  Reading r;
  r.fake().read_takes = 300ms;
  auto leaving = std::make_unique<TestClient>(&r.world, "server-0");
  ASSERT_TRUE(leaving->Hello("server-0").ok());
  Request request;
  request.type = FrameType::kBeginRead;
  request.body = EncodeMessage(Reading::Wanted("7"));
  auto done = std::make_shared<std::optional<absl::StatusOr<Reply>>>();
  leaving->life.loop.Spawn(Life::Keep(
      leaving->session->Call(std::move(request), {}, Add(leaving->life.loop.Now(), 10s)), done));
  r.world.RunFor(100ms);
  ASSERT_EQ(r.fake().calls["BeginRead"], 1U);
  leaving = nullptr;
  r.world.RunFor(300ms);
  EXPECT_TRUE(r.NothingIsKept());
  EXPECT_GE(r.fake().calls["EndRead"], 1U);
  EXPECT_EQ(r.server(0).restores().size(), 0U);
}

TEST(Read, TellsOfItsEndUntilPlacementHasHeard) {
  Reading r;
  const auto begun = r.Begin("7");
  r.fake().failures["EndRead"].assign(4, absl::UnavailableError("lost"));
  ASSERT_TRUE(r.Release(begun->restore).ok());
  EXPECT_TRUE(r.NothingIsKept());
  EXPECT_EQ(r.fake().calls["EndRead"], 5U);
  r.world.RunFor(3s);
  EXPECT_EQ(r.fake().calls["EndRead"], 5U) << "heard once is enough";
}

TEST(Read, IsOneReadHoweverOftenItsBeginIsRepeated) {
  Reading r;
  r.fake().failures["BeginRead"] = {absl::UnavailableError("a"), absl::UnavailableError("b")};
  ASSERT_TRUE(r.Begin("7").ok());
  EXPECT_EQ(r.fake().calls["BeginRead"], 3U);
  EXPECT_EQ(r.fake().reads.size(), 1U);
}

TEST(Read, IsEndedWhenTheOutcomeOfItsBeginIsUnknown) {
  Reading r;
  r.fake().failures["BeginRead"].assign(1000, absl::UnavailableError("down"));
  EXPECT_EQ(r.Begin("7").status().code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(r.world.RunUntil([&] { return r.fake().calls["EndRead"] == 1; }, 5s));
}

TEST(Read, SaysWhatIsThereWhenTheNameIsNot) {
  Reading r;
  const auto begun = r.Begin("9");
  EXPECT_EQ(begun.status().code(), absl::StatusCode::kNotFound);
  EXPECT_NE(MessageOf(begun.status()).find("it has:"), std::string_view::npos) << begun.status();
  EXPECT_EQ(r.server(0).restores().size(), 0U);
}

TEST(Read, PassesOnWaitAndKeepsNothingMeanwhile) {
  Reading r;
  r.fake().read_decision = pb::BeginReadReply::WAIT;
  const auto begun = r.Begin("7");
  ASSERT_TRUE(begun.ok()) << begun.status();
  EXPECT_EQ(begun->decision, RestoreDecision::kWait);
  EXPECT_EQ(begun->progress, "waiting for server-9");
  EXPECT_TRUE(r.NothingIsKept());
  EXPECT_EQ(r.server(0).restores().size(), 0U);
}

TEST(Read, RefusesAndEndsWhatDoesNotFit) {
  Reading r;
  r.fake().corrupt_manifest = r.fake().saves.at(1).manifest;
  r.fake().corrupt_manifest[20] ^= 1;
  EXPECT_FALSE(r.Begin("7").ok());
  EXPECT_TRUE(r.NothingIsKept());
  r.fake().corrupt_manifest.clear();
  r.fake().other_name = true;
  EXPECT_EQ(r.Begin("7").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(r.NothingIsKept());
  r.fake().other_name = false;
  r.fake().read_decision = pb::BeginReadReply::DECISION_UNKNOWN;
  EXPECT_EQ(r.Begin("7").status().code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(r.NothingIsKept());
  EXPECT_EQ(r.server(0).restores().size(), 0U);
}

TEST(Read, IsNeitherReportedNorAwaited) {
  Reading r;
  const auto begun = r.Begin("7");
  ReportRestore report;
  report.restore = begun->restore;
  report.verified = true;
  EXPECT_EQ(r.client.Ask(FrameType::kReportRestore, report).status().code(),
            absl::StatusCode::kFailedPrecondition);
  AwaitRestore await;
  await.restore = begun->restore;
  EXPECT_EQ(r.client.Ask(FrameType::kAwaitRestore, await).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(r.fake().restore_reports.empty());
}

TEST(Read, CountsAsARestoreOfItsClient) {
  Reading r;
  for (size_t i = 0; i < kRestoresPerClientMax; ++i) {
    ASSERT_TRUE((i % 2 == 0 ? r.Begin("7") : r.client.Begin()).ok()) << i;
  }
  EXPECT_EQ(r.Begin("7").status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(r.client.Begin().status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(r.fake().reads.size(), kRestoresPerClientMax / 2);
}

TEST(Read, RefusesNamesThatAreNone) {
  Reading r;
  EXPECT_EQ(r.Begin(std::string(5000, 'x')).status().code(), absl::StatusCode::kInvalidArgument);
  BeginRead begin = Reading::Wanted("7");
  begin.job = "no/such job";
  EXPECT_EQ(r.client.Ask(FrameType::kBeginRead, begin).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(r.fake().calls["BeginRead"], 0U);
}

TEST(List, TellsWhatIsCommittedByRisingOrder) {
  Reading r;
  ASSERT_TRUE(r.client.Open(TestClient::OpenFor("9", 0, 1, kBytes)).ok());
  ListSnapshots list;
  list.job = "gpt";
  const auto done = r.client.AskFor<ListSnapshotsReply>(FrameType::kListSnapshots, list);
  ASSERT_TRUE(done.ok()) << done.status();
  ASSERT_EQ(done->snapshots.size(), 2U) << "9 is open";
  EXPECT_EQ(done->snapshots[0].snapshot.name, "7");
  EXPECT_TRUE(done->snapshots[0].persisted);
  EXPECT_FALSE(done->snapshots[0].in_memory);
  EXPECT_EQ(done->snapshots[1].snapshot.name, "8");
  EXPECT_FALSE(done->snapshots[1].persisted) << "it is still being written";
  EXPECT_TRUE(done->snapshots[1].in_memory);
  EXPECT_EQ(done->snapshots[1].bytes, kBytes);
  EXPECT_EQ(done->snapshots[1].world_size, 1U);
  EXPECT_EQ(done->snapshots[1].committed_unix_s, 1002);
}

TEST(List, IsEmptyForAJobThatWasNeverSeen) {
  Reading r;
  ListSnapshots list;
  list.job = "other";
  const auto done = r.client.AskFor<ListSnapshotsReply>(FrameType::kListSnapshots, list);
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_TRUE(done->snapshots.empty());
  r.fake().failures["ListSnapshots"] = {absl::FailedPreconditionError("recovering")};
  list.job = "gpt";
  EXPECT_EQ(r.client.Ask(FrameType::kListSnapshots, list).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(Remove, TakesOneNameAway) {
  Reading r;
  RemoveSnapshot remove;
  remove.job = "gpt";
  remove.name = "7";
  ASSERT_TRUE(r.client.Ask(FrameType::kRemoveSnapshot, remove).ok());
  EXPECT_TRUE(r.fake().saves.at(1).dropped);
  EXPECT_FALSE(r.fake().saves.at(2).dropped);
  EXPECT_EQ(r.client.Ask(FrameType::kRemoveSnapshot, remove).status().code(),
            absl::StatusCode::kNotFound);
}

TEST(Remove, IsDoneWhenOnlyItsAnswerWasLost) {
  Reading r;
  r.fake().lose_removals = 1;
  RemoveSnapshot remove;
  remove.job = "gpt";
  remove.name = "7";
  EXPECT_TRUE(r.client.Ask(FrameType::kRemoveSnapshot, remove).ok());
  EXPECT_EQ(r.fake().calls["RemoveSnapshots"], 2U);
}

TEST(Remove, NeverTakesAWholeJob) {
  Reading r;
  RemoveSnapshot remove;
  remove.job = "gpt";
  EXPECT_EQ(r.client.Ask(FrameType::kRemoveSnapshot, remove).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(r.fake().calls["RemoveSnapshots"], 0U);
}

TEST(Save, PassesOnWhichSnapshotsGoToDisk) {
  Reading r;
  OpenShard open = TestClient::OpenFor("9", 0, 1, kBytes);
  open.persist_every = 10;
  open.persist_interval_s = 600;
  open.persist_copies = 2;
  open.persist_keep = 3;
  ASSERT_TRUE(r.client.Open(open).ok());
  const pb::PersistPolicy& policy = r.fake().saves.rbegin()->second.open.persist();
  EXPECT_EQ(policy.every(), 10U);
  EXPECT_EQ(policy.interval_s(), 600U);
  EXPECT_EQ(policy.copies(), 2U);
  EXPECT_EQ(policy.keep(), 3U);
}

}  // namespace
}  // namespace gemel::testing
