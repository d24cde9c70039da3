// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>

#include "placement_manager_cluster.h"

namespace gemel::placement_test {
namespace {

using ::testing::HasSubstr;

class PlacementRestore : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(cluster.Start().ok());
    ASSERT_TRUE(cluster.RunUntilJoined()) << cluster.events.All();
  }

  Cluster cluster{3};
};

TEST_F(PlacementRestore, NeverCommittedIsSaidOnlyWhenNothingWas) {
  const JobRun run = cluster.NewRun();
  auto none = cluster.Begin(run, 0, 2);
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_EQ(none->decision(), pb::BeginRestoreReply::NEVER_COMMITTED);
  EXPECT_EQ(cluster.Begin(run, 1, 2)->decision(), pb::BeginRestoreReply::NEVER_COMMITTED);
}

TEST_F(PlacementRestore, AllRanksGetTheNewestAndVerifiedMeansAll) {
  ASSERT_TRUE(cluster.Save(cluster.NewRun(), "1").ok());
  const JobRun run = cluster.NewRun();
  auto first = cluster.Begin(run, 0, 3);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(Cluster::NameOf(*first), "1");
  EXPECT_EQ(first->sources_size(), 2);
  EXPECT_EQ(first->sources(0).holders_size(), 2);
  EXPECT_EQ(cluster.Begin(run, 1, 4).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(cluster.Begin(run, 2, 3)->record(), first->record());
  ASSERT_TRUE(cluster.Report(run, 0, 0, true).ok());
  ASSERT_TRUE(cluster.Report(run, 0, 1, true).ok());
  EXPECT_EQ(cluster.AwaitRestored(run, 0, 100)->outcome(), pb::AwaitRestoreReply::PENDING);
  cluster.Kill();
  ASSERT_TRUE(cluster.Start().ok());
  ASSERT_TRUE(cluster.Report(run, 0, 2, true).ok());
  EXPECT_EQ(cluster.AwaitRestored(run, 0)->outcome(), pb::AwaitRestoreReply::VERIFIED);
}

TEST_F(PlacementRestore, AReportThatWasLostWithItsLeaderIsTakenAgainFromThePollsOfItsRank) {
  ASSERT_TRUE(cluster.Save(cluster.NewRun(), "1").ok());
  const JobRun run = cluster.NewRun();
  ASSERT_TRUE(cluster.Begin(run, 0, 2).ok());
  ASSERT_TRUE(cluster.Begin(run, 1, 2).ok());
  const SimStoreState before = cluster.store;
  ASSERT_TRUE(cluster.Report(run, 0, 0, true).ok());
  cluster.Kill();
  cluster.store = before;
  ASSERT_TRUE(cluster.Start().ok());
  ASSERT_TRUE(cluster.RunUntilJoined());
  ASSERT_TRUE(cluster.Report(run, 0, 1, true).ok());
  EXPECT_EQ(cluster.AwaitRestored(run, 0, 100)->outcome(), pb::AwaitRestoreReply::PENDING);
  pb::AwaitRestoreRequest poll;
  *poll.mutable_caller() = cluster.CallerOf(cluster.HomeOf(0));
  poll.set_job(run.job);
  ToProto(run.epoch, poll.mutable_epoch());
  poll.set_wait_ms(100);
  poll.set_verified(true);
  EXPECT_EQ(cluster.Call<pb::AwaitRestoreReply>("AwaitRestore", poll)->outcome(),
            pb::AwaitRestoreReply::VERIFIED);
}

TEST_F(PlacementRestore, SavingFirstForbidsRestoringInThatEpoch) {
  const JobRun run = cluster.NewRun();
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  EXPECT_EQ(cluster.Begin(run, 0, 2).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(PlacementRestore, ARestartedManagerWaitsForTheInventoryOfEveryMember) {
  ASSERT_TRUE(cluster.Save(cluster.NewRun(), "1").ok());
  const JobRun run = cluster.NewRun();
  cluster.Kill();
  // One server is alive but silent to the manager for a while.
  cluster.server(1).running = false;
  ASSERT_TRUE(cluster.Start().ok());
  cluster.node().net->answers[cluster.server(1).address] = ProbedNet::Answer::kSilent;
  auto waiting = cluster.Begin(run, 0, 2, 500);
  ASSERT_TRUE(waiting.ok()) << waiting.status();
  EXPECT_EQ(waiting->decision(), pb::BeginRestoreReply::WAIT);
  EXPECT_THAT(waiting->progress(), HasSubstr("server-1"));
  cluster.RestartServer(1);
  auto chosen = cluster.Begin(run, 0, 2);
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  EXPECT_EQ(Cluster::NameOf(*chosen), "1");
}

TEST_F(PlacementRestore, ADeadServersShardsAreCopiedAgainAtDetection) {
  auto saved = cluster.Save(cluster.NewRun(), "1");
  ASSERT_TRUE(saved.ok());
  cluster.KillServer(0);
  ASSERT_TRUE(cluster.RunUntil([&] {
    return cluster.Holders(*saved, 0) == 2 && cluster.Holders(*saved, 1) == 2;
  })) << cluster.events.All();
  cluster.Run(1s);
  cluster.KillServer(1);
  const JobRun run = cluster.NewRun();
  auto chosen = cluster.Begin(run, 0, 2);
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  EXPECT_EQ(Cluster::NameOf(*chosen), "1");
}

TEST_F(PlacementRestore, DamagedEverywhereMovesTheRecordToAnOlderSnapshotForAllRanks) {
  JobRun writer = cluster.NewRun();
  writer.keep = 0;
  ASSERT_TRUE(cluster.Save(writer, "1").ok());
  auto newest = cluster.Save(writer, "2");
  ASSERT_TRUE(newest.ok());
  const JobRun run = cluster.NewRun();
  ASSERT_EQ(Cluster::NameOf(*cluster.Begin(run, 0, 2)), "2");
  const ShardId shard{*FromProto(*newest), 1};
  for (const auto& server : cluster.servers) {
    server->corrupt.insert(shard);
  }
  ASSERT_TRUE(cluster.Report(run, 0, 0, false, {1}).ok());
  auto moved = cluster.AwaitRestored(run, 0);
  ASSERT_TRUE(moved.ok()) << moved.status();
  EXPECT_EQ(moved->outcome(), pb::AwaitRestoreReply::MOVED) << cluster.events.All();
  auto older = cluster.Begin(run, 1, 2);
  ASSERT_TRUE(older.ok());
  EXPECT_EQ(Cluster::NameOf(*older), "1");
  EXPECT_EQ(older->round(), 1U);
  ASSERT_EQ(older->lost_size(), 1);
  EXPECT_THAT(older->lost(0), HasSubstr("gpt@2"));
}

TEST_F(PlacementRestore, WhatARankVerifiedOfAnotherRoundIsNotOfThisOne) {
  JobRun writer = cluster.NewRun();
  writer.keep = 0;
  ASSERT_TRUE(cluster.Save(writer, "1").ok());
  const auto newest = cluster.Save(writer, "2");
  ASSERT_TRUE(newest.ok());
  const JobRun run = cluster.NewRun();
  ASSERT_TRUE(cluster.Begin(run, 0, 2).ok());
  ASSERT_TRUE(cluster.Begin(run, 1, 2).ok());
  for (const auto& server : cluster.servers) {
    server->corrupt.insert(ShardId{*FromProto(*newest), 1});
  }
  ASSERT_TRUE(cluster.Report(run, 0, 0, false, {1}).ok());
  EXPECT_EQ(cluster.AwaitRestored(run, 0)->outcome(), pb::AwaitRestoreReply::MOVED);
  EXPECT_TRUE(cluster.Report(run, 0, 1, true).ok()) << "late: it verified what is passed over now";
  EXPECT_TRUE(cluster.Report(run, 1, 0, true).ok());
  EXPECT_EQ(cluster.AwaitRestored(run, 1, 100)->outcome(), pb::AwaitRestoreReply::PENDING);
  EXPECT_EQ(cluster.AwaitRestored(run, 0)->outcome(), pb::AwaitRestoreReply::MOVED);
  EXPECT_TRUE(cluster.Report(run, 1, 1, true).ok());
  EXPECT_EQ(cluster.AwaitRestored(run, 1)->outcome(), pb::AwaitRestoreReply::VERIFIED);
}

TEST_F(PlacementRestore, WhatARestoreWentByIsNotToldCommittedToThoseItSuperseded) {
  JobRun writer = cluster.NewRun();
  writer.keep = 0;
  const auto older = cluster.Save(writer, "1");
  ASSERT_TRUE(older.ok());
  const auto newest = cluster.Save(writer, "2");
  ASSERT_TRUE(newest.ok());
  const JobRun run = cluster.NewRun();
  ASSERT_EQ(Cluster::NameOf(*cluster.Begin(run, 0, 2)), "2");
  EXPECT_EQ(cluster.AwaitEnd(*newest, 0)->state(), pb::SNAPSHOT_COMMITTED);
  for (const auto& server : cluster.servers) {
    server->corrupt.insert(ShardId{*FromProto(*newest), 1});
  }
  ASSERT_TRUE(cluster.Report(run, 0, 0, false, {1}).ok());
  ASSERT_EQ(cluster.AwaitRestored(run, 0)->outcome(), pb::AwaitRestoreReply::MOVED);
  const auto passed_over = cluster.AwaitEnd(*newest, 0);
  EXPECT_EQ(passed_over.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(passed_over.status().ToString(), HasSubstr("restored from sequence 1"));
  EXPECT_EQ(cluster.AwaitEnd(*older, 0)->state(), pb::SNAPSHOT_COMMITTED);
}

TEST_F(PlacementRestore, ASaveOfTheEpochEndsThePinOfItsRestoreThoughAReportWasLost) {
  ASSERT_TRUE(cluster.Save(cluster.NewRun(), "1").ok());
  const JobRun run = cluster.NewRun();
  ASSERT_EQ(Cluster::NameOf(*cluster.Begin(run, 0, 2)), "1");
  ASSERT_TRUE(cluster.Report(run, 0, 0, true).ok());
  ASSERT_TRUE(cluster.Save(run, "2").ok());
  EXPECT_TRUE(cluster.RunUntil([&] { return cluster.Names("gpt") == "2 "; })) << "pinned for ever";
}

TEST_F(PlacementRestore, AGoodCopyKeepsTheRecordWhereItIs) {
  auto saved = cluster.Save(cluster.NewRun(), "1");
  ASSERT_TRUE(saved.ok());
  const JobRun run = cluster.NewRun();
  ASSERT_TRUE(cluster.Begin(run, 0, 2).ok());
  const ShardId shard{*FromProto(*saved), 0};
  for (const auto& server : cluster.servers) {
    if (server->objects.contains(shard)) {
      server->corrupt.insert(shard);
      break;
    }
  }
  ASSERT_TRUE(cluster.Report(run, 0, 0, false, {0}).ok());
  EXPECT_EQ(cluster.AwaitRestored(run, 0, 1000)->outcome(), pb::AwaitRestoreReply::PENDING);
  EXPECT_TRUE(cluster.events.Has("copy_gone"));
}

TEST_F(PlacementRestore, EverythingLostIsDataLossAndNeverNothingWasThere) {
  ASSERT_TRUE(cluster.Save(cluster.NewRun(), "1").ok());
  for (size_t i = 0; i < 3; ++i) {
    cluster.KillServer(i);
  }
  cluster.Run(1s);
  for (size_t i = 0; i < 3; ++i) {
    cluster.RestartServer(i);
  }
  ASSERT_TRUE(cluster.RunUntilJoined());
  auto lost = cluster.Begin(cluster.NewRun(), 0, 2);
  EXPECT_EQ(lost.status().code(), absl::StatusCode::kDataLoss) << lost.status();
  EXPECT_THAT(lost.status().ToString(), HasSubstr("ranks 0, 1 of 2"));
}

TEST_F(PlacementRestore, ARestartedManagerFinishesTheDispersalOfACommit) {
  const JobRun run = cluster.NewRun();
  for (const auto& server : cluster.servers) {
    server->stores_commits = false;
  }
  EXPECT_FALSE(cluster.Save(run, "1").ok());
  cluster.Kill();
  for (const auto& server : cluster.servers) {
    server->stores_commits = true;
  }
  ASSERT_TRUE(cluster.Start().ok());
  auto chosen = cluster.Begin(cluster.NewRun(), 0, 2);
  ASSERT_TRUE(chosen.ok()) << chosen.status() << cluster.events.All();
  EXPECT_EQ(Cluster::NameOf(*chosen), "1");
}

TEST_F(PlacementRestore, VerifyFindsADamagedCopyAndRepairsIt) {
  auto saved = cluster.Save(cluster.NewRun(), "1");
  ASSERT_TRUE(saved.ok());
  const ShardId shard{*FromProto(*saved), 0};
  cluster.server(0).corrupt.insert(shard);
  cluster.server(1).corrupt.insert(shard);
  const size_t before = cluster.Holders(*saved, 0);
  EXPECT_EQ(before, 2U);
  pb::VerifySnapshotRequest request;
  request.mutable_caller()->set_protocol_version(kControlProtocolVersion);
  request.set_job("gpt");
  request.set_wait_ms(5000);
  auto verified = cluster.Call<pb::VerifySnapshotReply>("VerifySnapshot", request);
  ASSERT_TRUE(verified.ok()) << verified.status();
  EXPECT_TRUE(verified->complete());
  int bad = 0;
  for (const auto& copy : verified->copies()) {
    bad += copy.good() ? 0 : 1;
  }
  EXPECT_GE(bad, 1);
}

TEST_F(PlacementRestore, ALostStoreIsRebuiltFromAMajorityOfTheServers) {
  const JobRun before = cluster.NewRun();
  ASSERT_TRUE(cluster.Save(before, "1").ok());
  cluster.Run(1s);
  const ClusterId id = cluster.node().manager->cluster();
  cluster.Kill();
  cluster.store = SimStoreState();
  ASSERT_TRUE(cluster.Start().ok());
  cluster.Run(1s);
  EXPECT_EQ(cluster.server(0).joined.code(), absl::StatusCode::kFailedPrecondition);
  cluster.Kill();
  cluster.store = SimStoreState();
  cluster.options.recover_from_servers = true;
  cluster.server(1).running = false;
  cluster.server(2).running = false;
  ASSERT_TRUE(cluster.Start().ok());
  cluster.Run(2s);
  EXPECT_EQ(cluster.server(0).joined.code(), absl::StatusCode::kUnavailable)
      << cluster.server(0).joined;
  cluster.RestartServer(1);
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.server(0).joined.ok(); }))
      << cluster.server(0).joined << cluster.events.All();
  EXPECT_EQ(cluster.node().manager->cluster(), id);
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.server(1).joined.ok(); }));
  cluster.Run(1s);  // until a majority has the new generation on disk
  const JobRun run = cluster.NewRun();
  EXPECT_EQ(run.epoch.generation, 2U);
  EXPECT_GT(run.epoch, before.epoch);
  auto chosen = cluster.Begin(run, 0, 2);
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  EXPECT_EQ(Cluster::NameOf(*chosen), "1");
}

TEST_F(PlacementRestore, RecoveryRefusesAStoreThatHoldsACluster) {
  cluster.Kill();
  cluster.options.recover_from_servers = true;
  const absl::Status refused = cluster.Start();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(refused.ToString(), HasSubstr("empty"));
}

}  // namespace
}  // namespace gemel::placement_test
