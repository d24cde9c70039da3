// SPDX-License-Identifier: Apache-2.0
//
// What is ordered behind what: joins and commits, the store and what is told, tokens and restarts,
// suspicion and death.
#include <gmock/gmock.h>

#include "placement/manager/state.h"
#include "placement_manager_cluster.h"

namespace gemel::placement_test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class PlacementOrder : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(cluster.Start().ok());
    ASSERT_TRUE(cluster.RunUntilJoined()) << cluster.events.All();
    run = cluster.NewRun();
    run.world = 1;
    run.deadline_ms = 60'000;
    cluster.store.on_applied = [this](const Txn& txn) {
      for (const auto& [key, value] : txn.puts) {
        applied.push_back(key.substr(0, key.find('/')));
      }
    };
  }

  // Opens rank 0; first and second are its holders.
  void Open(const std::string& name) {
    auto opened = cluster.OpenRank(run, name, 0);
    ASSERT_TRUE(opened.ok()) << opened.status();
    ASSERT_EQ(opened->holders_size(), 2);
    snapshot = opened->snapshot();
    first = cluster.Find(opened->holders(0).server_id());
    second = cluster.Find(opened->holders(1).server_id());
  }

  absl::Status SealAt(ScriptedServer* holder) {
    return cluster.Seal(*holder, Cluster::ObjectOf(run, snapshot, 0));
  }

  void Slow(Duration latency) { cluster.store.latency_min = cluster.store.latency_max = latency; }

  // kill -9 and a start with empty memory, before the manager notices.
  void Restart(ScriptedServer* server) {
    for (size_t i = 0; i < cluster.servers.size(); ++i) {
      if (&cluster.server(i) == server) {
        cluster.KillServer(i, false);
        cluster.RestartServer(i);
      }
    }
  }

  size_t Count(const std::string& prefix) const {
    return static_cast<size_t>(std::count(applied.begin(), applied.end(), prefix));
  }

  Cluster cluster{3};
  JobRun run;
  pb::SnapshotId snapshot;
  ScriptedServer* first = nullptr;
  ScriptedServer* second = nullptr;
  std::vector<std::string> applied;  // first parts of the keys that were put
};

TEST_F(PlacementOrder, AJoinWaitsForTheCommitThatCountsItsServer) {
  Open("1");
  ASSERT_TRUE(SealAt(first).ok());
  applied.clear();
  Slow(1s);
  ASSERT_TRUE(SealAt(second).ok());
  Slow(Duration(50'000));
  Restart(second);
  cluster.Run(700ms);
  EXPECT_FALSE(second->joined.ok());
  EXPECT_EQ(Count("member"), 0U);
  ASSERT_TRUE(cluster.RunUntil([&] { return second->joined.ok(); }));
  EXPECT_THAT(applied, ElementsAre("job", "snapshot", "cluster", "member"));
}

TEST_F(PlacementOrder, ACommitBehindAJoinDoesNotCountTheIncarnationThatGoes) {
  Open("1");
  ASSERT_TRUE(SealAt(second).ok());
  applied.clear();
  Slow(1s);
  Restart(second);
  cluster.Run(300ms);  // its join is on the way to the store
  Slow(Duration(50'000));
  ASSERT_TRUE(SealAt(first).ok());
  cluster.Run(300ms);
  EXPECT_EQ(Count("snapshot"), 0U) << "one present incarnation has the shard";
  ASSERT_TRUE(cluster.RunUntil([&] { return second->joined.ok(); }));
  cluster.Run(500ms);
  EXPECT_EQ(Count("snapshot"), 0U);
  ASSERT_TRUE(SealAt(second).ok());
  auto committed = cluster.AwaitEnd(snapshot, 0);
  ASSERT_TRUE(committed.ok()) << committed.status();
  EXPECT_EQ(committed->state(), pb::SNAPSHOT_COMMITTED);
}

TEST_F(PlacementOrder, ReceiptsOfAnIncarnationThatWentAreNotCounted) {
  Open("1");
  ASSERT_TRUE(SealAt(second).ok());
  Restart(second);
  ASSERT_TRUE(cluster.RunUntilJoined());
  ASSERT_TRUE(SealAt(first).ok());
  cluster.Run(500ms);
  EXPECT_EQ(Count("snapshot"), 0U);
}

TEST_F(PlacementOrder, AJoinThatTheStoreRefusesLeavesThePresentIncarnationCounted) {
  Open("1");
  ASSERT_TRUE(SealAt(second).ok());
  cluster.store.full = true;
  pb::JoinRequest join;
  *join.mutable_caller() = cluster.CallerOf(*second);
  join.mutable_caller()->set_incarnation(std::string(16, 'n'));
  join.set_name(second->name);
  join.set_domain(second->domain);
  join.set_data_address(second->address);
  EXPECT_EQ(cluster.Call<pb::JoinReply>("Join", join).status().code(),
            absl::StatusCode::kResourceExhausted);
  cluster.store.full = false;
  ASSERT_TRUE(SealAt(first).ok());
  EXPECT_EQ(cluster.AwaitEnd(snapshot, 0)->state(), pb::SNAPSHOT_COMMITTED);
}

TEST_F(PlacementOrder, AFullStoreHoldsTheCommitBackByNameAndTheSameSaveCommitsWhenItIsMended) {
  Open("1");
  cluster.store.full = true;
  ASSERT_TRUE(SealAt(first).ok());
  ASSERT_TRUE(SealAt(second).ok());
  cluster.Run(2s);
  EXPECT_EQ(Count("snapshot"), 0U);
  auto open = cluster.Await(snapshot, 0, 100);
  ASSERT_TRUE(open.ok()) << open.status();
  EXPECT_EQ(open->state(), pb::SNAPSHOT_OPEN);
  EXPECT_THAT(open->why(), HasSubstr("simulated store is full"));
  EXPECT_TRUE(cluster.events.Has("commit_refused"));
  pb::GetStatusRequest status;
  *status.mutable_caller() = Cluster::Person();
  EXPECT_THAT(cluster.Call<pb::GetStatusReply>("GetStatus", status)->ShortDebugString(),
              HasSubstr("simulated store is full"));
  cluster.store.full = false;
  auto committed = cluster.AwaitEnd(snapshot, 0);
  ASSERT_TRUE(committed.ok()) << committed.status();
  EXPECT_EQ(committed->state(), pb::SNAPSHOT_COMMITTED);
  EXPECT_EQ(Count("snapshot"), 1U);
}

TEST_F(PlacementOrder, ACommitWhoseAnswerIsLostIsReadAgainAndPutOnce) {
  for (const uint32_t permille : {0U, 1000U}) {
    Open(permille == 0 ? "not-applied" : "applied");
    ASSERT_TRUE(SealAt(first).ok());
    applied.clear();
    cluster.store.unknown_applied_permille = permille;
    cluster.store.unknown_next = 1;
    ASSERT_TRUE(SealAt(second).ok());
    EXPECT_EQ(cluster.AwaitEnd(snapshot, 0)->state(), pb::SNAPSHOT_COMMITTED);
    EXPECT_EQ(Count("snapshot"), 1U);
  }
  EXPECT_TRUE(cluster.events.Has("store_outcome_unknown"));
}

TEST_F(PlacementOrder, AWriteOfUnknownOutcomeEndsWhenAnotherManagerHasTakenTheStoreOver) {
  Open("1");
  ASSERT_TRUE(SealAt(first).ok());
  // What the other manager leaves: the job's key at a version of its own.
  cluster.store.values.at(JobKey(snapshot.job())).version = ++cluster.store.version;
  cluster.store.unknown_applied_permille = 0;
  cluster.store.unknown_next = 1;
  ASSERT_TRUE(SealAt(second).ok());
  cluster.Run(1s);
  EXPECT_TRUE(cluster.events.Has("store_outcome_unknown"));
  EXPECT_TRUE(cluster.events.Has("commit_refused"));
  const absl::Status stopped = cluster.Await(snapshot, 0, 100).status();
  EXPECT_EQ(stopped.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(stopped.ToString(), HasSubstr("stop this one"));
}

TEST_F(PlacementOrder, NothingIsToldOrReissuedWhileAnUnknownOutcomeCannotBeRead) {
  Open("1");
  ASSERT_TRUE(SealAt(first).ok());
  applied.clear();
  cluster.store.unknown_applied_permille = 1000;
  cluster.store.unknown_next = 1;
  auto record = cluster.store.on_applied;
  cluster.store.on_applied = [this, record](const Txn& txn) {
    record(txn);
    cluster.store.unavailable = true;
  };
  ASSERT_TRUE(SealAt(second).ok());
  cluster.Run(3s);
  EXPECT_EQ(Count("snapshot"), 1U);
  EXPECT_EQ(cluster.Await(snapshot, 0, 100)->state(), pb::SNAPSHOT_OPEN);
  EXPECT_TRUE(first->records.empty() && second->records.empty());
  cluster.store.on_applied = record;
  cluster.store.unavailable = false;
  EXPECT_EQ(cluster.AwaitEnd(snapshot, 0)->state(), pb::SNAPSHOT_COMMITTED);
  EXPECT_EQ(Count("snapshot"), 1U);
}

TEST_F(PlacementOrder, ATokenWhoseReplyWasLostKeepsItsEpochAndOnceSupersededIsRefusedForEver) {
  Random random(5);
  const EpochToken lost = EpochToken::Draw(&random);
  const EpochToken next = EpochToken::Draw(&random);
  pb::AcquireEpochRequest request;
  *request.mutable_caller() = Cluster::Person();
  request.set_job("gpt");
  request.set_token(lost.ToBytes());
  std::optional<absl::StatusOr<std::string>> answer;
  applied.clear();
  cluster.CallBeside("AcquireEpoch", request.SerializeAsString(), &answer);
  ASSERT_TRUE(cluster.RunUntil([&] { return Count("token") == 1; }));
  ASSERT_FALSE(answer.has_value());
  cluster.Kill();
  ASSERT_TRUE(cluster.Start().ok());
  auto again = cluster.Acquire("gpt", lost);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->counter, run.epoch.counter + 1);
  EXPECT_EQ(*cluster.Acquire("gpt", lost), *again);
  EXPECT_EQ(Count("token"), 1U);
  ASSERT_TRUE(cluster.Acquire("gpt", next).ok());
  for (int restart = 0; restart < 2; ++restart) {
    auto refused = cluster.Acquire("gpt", lost);
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(refused.status().ToString(), HasSubstr("superseded"));
    cluster.Kill();
    ASSERT_TRUE(cluster.Start().ok());
  }
  EXPECT_TRUE(cluster.Acquire("gpt", next).ok());
}

TEST_F(PlacementOrder, ANewEpochEndsTheOpenSavesOfTheOldOneInTheStoreToo) {
  Open("1");
  const auto opens = [this] {
    return std::count_if(cluster.store.values.begin(), cluster.store.values.end(),
                         [](const auto& entry) { return entry.first.starts_with("open/"); });
  };
  EXPECT_EQ(opens(), 1);
  cluster.NewRun();
  EXPECT_EQ(opens(), 0);
  cluster.Kill();
  ASSERT_TRUE(cluster.Start().ok());
  cluster.Run(2s);
  ASSERT_TRUE(SealAt(first).ok());
  ASSERT_TRUE(SealAt(second).ok());
  cluster.Run(2s);
  EXPECT_EQ(Count("snapshot"), 0U);
}

TEST_F(PlacementOrder, NothingOlderGoesForTheSakeOfACommitWhoseRecordIsNotOnTheDisksYet) {
  auto older = cluster.Save(run, "1");
  ASSERT_TRUE(older.ok()) << older.status();
  for (const auto& server : cluster.servers) {
    server->stores_commits = false;
  }
  EXPECT_FALSE(cluster.Save(run, "2").ok());
  EXPECT_EQ(Count("snapshot"), 2U);
  cluster.Run(3s);
  EXPECT_EQ(cluster.Holders(*older, 0), 2U);
  for (const auto& server : cluster.servers) {
    server->stores_commits = true;
  }
  EXPECT_TRUE(cluster.RunUntil([&] { return cluster.Holders(*older, 0) == 0; }));
}

TEST_F(PlacementOrder, ASecondOpenWithOtherCopiesOrKeepIsRefusedAndNamesBoth) {
  run.world = 2;
  ASSERT_TRUE(cluster.OpenRank(run, "1", 0).ok());
  pb::OpenRequest copies = cluster.OpenOf(run, "1", 1);
  copies.set_copies(3);
  auto refused = cluster.Call<pb::OpenReply>("Open", copies);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(refused.status().ToString(), HasSubstr("copies 3 and min_copies 2, it was opened"));
  pb::OpenRequest keep = cluster.OpenOf(run, "1", 1);
  keep.set_keep_latest(9);
  EXPECT_THAT(cluster.Call<pb::OpenReply>("Open", keep).status().ToString(),
              HasSubstr("keep 9, it was opened with 1"));
  pb::OpenRequest bytes = cluster.OpenOf(run, "1", 0);
  bytes.set_shard_bytes(7);
  EXPECT_THAT(cluster.Call<pb::OpenReply>("Open", bytes).status().ToString(),
              HasSubstr("7 bytes (0 of layout), before with 1000"));
  cluster.Kill();
  ASSERT_TRUE(cluster.Start().ok());
  cluster.Run(2s);
  EXPECT_EQ(cluster.Call<pb::OpenReply>("Open", copies).status().code(),
            absl::StatusCode::kInvalidArgument)
      << "also after a restart";
}

TEST_F(PlacementOrder, NamesOfAnOlderEpochDoNotPushOutThoseOfThePresentOne) {
  // More names than are remembered, over two epochs.
  run.keep = 1;
  run.deadline_ms = 1;
  for (size_t i = 0; i < kNamesMax; ++i) {
    ASSERT_TRUE(cluster.OpenRank(run, fmt::format("n{}", i), 0).ok()) << i;
    cluster.Run(120ms);
  }
  run = cluster.NewRun();
  run.world = 1;
  ASSERT_TRUE(cluster.Save(run, "n0", 5).ok());
  ASSERT_TRUE(cluster.Save(run, "n1", 5).ok());
  cluster.Run(1s);
  auto lower = cluster.OpenRank(run, "n0", 0, 4);
  EXPECT_EQ(lower.status().code(), absl::StatusCode::kFailedPrecondition) << lower.status();
  EXPECT_THAT(lower.status().ToString(), HasSubstr("comes after attempt 5"));
}

TEST_F(PlacementOrder, VerificationsReportedAtOnceAllCount) {
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  const JobRun reader = cluster.NewRun();
  ASSERT_TRUE(cluster.Begin(reader, 0, 3).ok());
  Slow(20ms);
  std::vector<std::optional<absl::StatusOr<std::string>>> answers(3);
  for (uint32_t rank = 0; rank < 3; ++rank) {
    pb::ReportRestoreRequest request;
    *request.mutable_caller() = cluster.CallerOf(cluster.server(rank));
    request.set_job("gpt");
    ToProto(reader.epoch, request.mutable_epoch());
    request.set_rank(rank);
    request.set_verified(true);
    cluster.CallBeside("ReportRestore", request.SerializeAsString(), &answers[rank]);
    cluster.Run(5ms);
  }
  EXPECT_EQ(cluster.AwaitRestored(reader, 0)->outcome(), pb::AwaitRestoreReply::VERIFIED);
  cluster.Run(200ms);
  cluster.Kill();
  ASSERT_TRUE(cluster.Start().ok());
  EXPECT_EQ(cluster.AwaitRestored(reader, 0)->outcome(), pb::AwaitRestoreReply::VERIFIED)
      << "durable before the ranks were answered";
}

TEST_F(PlacementOrder, AMemberThatAnswersNoDirectivesJoinsAgainAtTheBoundOfItsQueue) {
  run.keep = 0;
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  cluster.server(1).works = false;
  cluster.Run(1500ms);
  Random random(9);
  for (size_t i = 0; i <= kDirectivesMax; ++i) {  // each new epoch is told to every member
    ASSERT_TRUE(cluster.Acquire("other", EpochToken::Draw(&random)).ok());
  }
  EXPECT_TRUE(cluster.events.Has("directive_queue_full"));
  cluster.server(1).works = true;
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.server(1).epochs.contains("other"); }));
  cluster.Run(1s);
  EXPECT_EQ(cluster.List("gpt")->snapshots(0).copies_now(), 2U);
}

class PlacementSuspicion : public ::testing::Test {
 protected:
  void Begin() {
    ASSERT_TRUE(cluster.Start().ok());
    ASSERT_TRUE(cluster.RunUntilJoined());
    auto committed = cluster.Save(cluster.NewRun(), "1");
    ASSERT_TRUE(committed.ok()) << committed.status();
    saved = *committed;
    cluster.Run(1s);
  }

  // SIGSTOP: the kernel still accepts connections, nobody answers.
  void Hang(size_t index) { cluster.server(index).running = false; }

  Cluster cluster{3};
  pb::SnapshotId saved;
};

TEST_F(PlacementSuspicion, AServerThatAcceptsButDoesNotBeatIsDeadAfterTheHangTimeAndNotBefore) {
  cluster.options.liveness.hang_after = 3s;
  Begin();
  const TimePoint hung = cluster.scheduler.now();
  Hang(1);
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("member_suspect"); }));
  EXPECT_LE(cluster.scheduler.now() - hung, 600ms);
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("member_dead"); }));
  EXPECT_GE(cluster.scheduler.now() - hung, 2800ms);
  EXPECT_LE(cluster.scheduler.now() - hung, 3300ms);
  EXPECT_THAT(cluster.events.All(), HasSubstr("accepts: the process hangs"));
}

TEST_F(PlacementSuspicion, SuspicionAloneDeletesAndMovesNothing) {
  cluster.options.liveness.hang_after = 1h;
  Begin();
  for (size_t i = 0; i < 3; ++i) {
    cluster.server(i).dropped = cluster.server(i).pulled = 0;
  }
  Hang(1);
  cluster.Run(30s);
  EXPECT_TRUE(cluster.events.Has("member_suspect"));
  EXPECT_FALSE(cluster.events.Has("member_dead"));
  auto chosen = cluster.Begin(cluster.NewRun(), 0, 2);
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  for (const pb::ShardSources& sources : chosen->sources()) {
    EXPECT_EQ(sources.holders_size(), 2) << "a suspect stays a source";
  }
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(cluster.server(i).dropped + cluster.server(i).pulled, 0) << i;
  }
  EXPECT_EQ(cluster.List("gpt")->snapshots(0).copies_now(), 2U);
}

TEST_F(PlacementSuspicion, APeersWordMakesASuspectAndAHeartbeatClearsIt) {
  Begin();
  pb::HeartbeatRequest beat;
  *beat.mutable_caller() = cluster.CallerOf(cluster.server(0));
  beat.set_capacity_bytes(1 << 30);
  beat.add_unreachable(cluster.server(1).id.ToBytes());
  ASSERT_TRUE(cluster.Call<pb::HeartbeatReply>("Heartbeat", beat).ok());
  EXPECT_THAT(cluster.events.All(), HasSubstr("data session with server-0 was reset"));
  cluster.Run(1s);
  EXPECT_TRUE(cluster.events.Has("suspicion_cleared"));
  EXPECT_FALSE(cluster.events.Has("member_dead"));
}

}  // namespace
}  // namespace gemel::placement_test
