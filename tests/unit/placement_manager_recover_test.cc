// SPDX-License-Identifier: Apache-2.0
//
// A lost MetaStore rebuilt from the servers, a foreign one refused, manifests fetched from disks.
#include <gmock/gmock.h>

#include "placement/manager/parts.h"
#include "placement/manager/stored.h"
#include "placement_manager_cluster.h"

namespace gemel::placement_test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class PlacementRecover : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(cluster.Start().ok());
    ASSERT_TRUE(cluster.RunUntilJoined()) << cluster.events.All();
    before = cluster.NewRun();
    auto committed = cluster.Save(before, "1");
    ASSERT_TRUE(committed.ok()) << committed.status();
    saved = *committed;
    cluster.Run(1s);
  }

  // The manager's disk is lost; those of `away` do not come back yet.
  void Lose(const std::vector<size_t>& away) {
    cluster.Kill();
    cluster.store = SimStoreState();
    cluster.store.latency_max = cluster.store.latency_min;
    cluster.options.recover_from_servers = true;
    for (const size_t index : away) {
      kept[index] = cluster.server(index).objects;
      cluster.server(index).running = false;
    }
    for (const auto& server : cluster.servers) {
      server->joined = error::Unavailable("not joined");
    }
    ASSERT_TRUE(cluster.Start().ok());
  }

  std::vector<size_t> Holders() {
    std::vector<size_t> holders;
    for (size_t i = 0; i < cluster.servers.size(); ++i) {
      if (cluster.server(i).objects.contains(ShardId{*FromProto(saved), 0})) {
        holders.push_back(i);
      }
    }
    EXPECT_EQ(holders.size(), 2U);
    return holders;
  }

  // Nobody else has the record or knows of the job.
  void ForgetJobBut(const std::vector<size_t>& holders) {
    cluster.Kill();
    for (size_t i = 0; i < cluster.servers.size(); ++i) {
      if (std::find(holders.begin(), holders.end(), i) == holders.end()) {
        cluster.server(i).records.clear();
        cluster.server(i).epochs.clear();
      }
    }
  }

  // The manager dies after its recovery, and starts as usual.
  void RestartManager() {
    cluster.Kill();
    cluster.options.recover_from_servers = false;
    for (const auto& server : cluster.servers) {
      server->joined = error::Unavailable("not joined");
    }
    ASSERT_TRUE(cluster.Start().ok());
  }

  absl::Status Serving() {
    pb::ListJobsRequest request;
    *request.mutable_caller() = Cluster::Person();
    return cluster.Call<pb::ListJobsReply>("ListJobs", request).status();
  }

  // Nobody but `holders` knows of the job, and the recovery is done, and its grace over, without
  // them.
  void RecoverWithout(const std::vector<size_t>& holders) {
    ForgetJobBut(holders);
    Lose(holders);
    ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("recovered"); }));
    cluster.Run(5s);
  }

  // With their memory.
  void ComeBack(const std::vector<size_t>& servers) {
    for (const size_t index : servers) {
      cluster.server(index).objects = kept[index];
      cluster.RestartServer(index);
    }
    ASSERT_TRUE(RunUntilJoined()) << cluster.server(servers[0]).joined;
  }

  // What a new run begins from, or why it does not.
  std::string Restored() {
    const auto chosen = cluster.Begin(cluster.NewRun(), 0, 2);
    return chosen.ok() ? Cluster::NameOf(*chosen) : ToText(chosen.status());
  }

  // And a majority has the new generation on disk.
  bool RunUntilServing() {
    return cluster.RunUntil([&] { return Serving().ok(); }, 5s);
  }

  bool RunUntilJoined() { return cluster.RunUntilJoined() && RunUntilServing(); }

  Cluster cluster{5};
  JobRun before;
  pb::SnapshotId saved;
  std::map<size_t, std::map<ShardId, pb::HeldObject>> kept;
};

TEST_F(PlacementRecover, WithoutAMajorityItWaitsAndSaysForWhatAndWithAcceptedLossItGoesOn) {
  Lose({2, 3, 4});
  cluster.Run(5s);
  const absl::Status waits = Serving();
  EXPECT_EQ(waits.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(waits.ToString(), AllOf(HasSubstr("heard 2 of 5 last members, 3 are needed"),
                                      HasSubstr("--accept-loss")));
  EXPECT_EQ(cluster.server(0).joined.code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(cluster.store.values.contains(kClusterKey));
  cluster.Kill();
  cluster.options.accept_loss = true;
  ASSERT_TRUE(cluster.Start().ok());
  cluster.Run(1s);
  EXPECT_FALSE(Serving().ok()) << "it listens first";
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.server(0).joined.ok(); }));
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.server(1).joined.ok(); }));
  EXPECT_TRUE(RunUntilServing());
  EXPECT_GT(cluster.NewRun().epoch, before.epoch);
}

TEST_F(PlacementRecover, AMinorityThatReportsNothingNewerIsNotWaitedForBeyondTheSettleTime) {
  Lose({4});
  cluster.Run(1s);
  EXPECT_THAT(Serving().ToString(), HasSubstr("heard 4 of 5 last members, enough"));
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.server(0).joined.ok(); }, 2s));
}

TEST_F(PlacementRecover, OneThatKnowsOfNobodyElseIsNotAloneBeforeTheSettleTimeIsOver) {
  cluster.Kill();
  cluster.server(0).last_members = {cluster.server(0).id.ToBytes()};  // it joined first
  Lose({1, 2, 3, 4});
  cluster.Run(1s);
  EXPECT_THAT(Serving().ToString(), HasSubstr("heard 1 of 1 last members, enough"));
  for (const size_t index : {1, 2, 3, 4}) {
    cluster.RestartServer(index);
  }
  ASSERT_TRUE(RunUntilJoined());
  EXPECT_GE(cluster.server(0).last_members.size(), 5U);
}

// One that has no map could else recover alone, and tell what the others hold as lost.
TEST_F(PlacementRecover, ACommitTellsItsHoldersWhoElseIsAMemberUntilTheySayThatTheyKnow) {
  const std::vector<size_t> holders = Holders();
  for (const size_t index : holders) {
    EXPECT_EQ(cluster.server(index).commits.back().members_size(), 5);
  }
  pb::WatchMapRequest ask;
  *ask.mutable_caller() = cluster.CallerOf(cluster.server(0));
  const auto map = cluster.Call<pb::WatchMapReply>("WatchMap", ask);
  ASSERT_TRUE(map.ok()) << map.status();
  for (const auto& server : cluster.servers) {
    server->map_version = map->map().version();
  }
  cluster.Run(300ms);
  ASSERT_TRUE(cluster.Save(before, "2").ok());
  cluster.Run(1s);
  for (const size_t index : holders) {
    EXPECT_EQ(cluster.server(index).commits.size(), 2U);
    EXPECT_EQ(cluster.server(index).commits.back().members_size(), 0);
  }
}

TEST_F(PlacementRecover, TheNewGenerationAndItsEpochsAreAboveAllThatWasReported) {
  cluster.Kill();
  cluster.server(0).generation = 7;
  cluster.server(1).epochs["other"] = {.generation = 9, .counter = 4};
  cluster.server(2).epochs["gpt"] = {.generation = 3, .counter = 100};
  Lose({});
  ASSERT_TRUE(RunUntilJoined()) << cluster.server(0).joined << cluster.events.All();
  ASSERT_TRUE(RunUntilServing());
  for (const auto& server : cluster.servers) {
    EXPECT_EQ(server->generation, 10U);
  }
  EXPECT_EQ(cluster.NewRun("other").epoch.generation, 10U);
  EXPECT_GT(cluster.NewRun("gpt").epoch, (EpochId{.generation = 10, .counter = 100}));
  EXPECT_EQ(cluster.NewRun("fresh").epoch.generation, 10U);
}

TEST_F(PlacementRecover, NoTrainerFromBeforeGoesOnNotEvenThatOfTheNewestEpoch) {
  Lose({});
  ASSERT_TRUE(RunUntilJoined());
  auto token = cluster.Acquire("gpt", before.token);
  EXPECT_EQ(token.status().code(), absl::StatusCode::kFailedPrecondition) << token.status();
  EXPECT_THAT(token.status().ToString(), HasSubstr("stop this one"));
  EXPECT_EQ(cluster.OpenRank(before, "2", 0).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(PlacementRecover, AServerThatSawANewerEpochThanTheMajorityJoinsLater) {
  cluster.Kill();
  cluster.server(4).epochs["gpt"] = {.generation = 1, .counter = 50};
  Lose({4});
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.server(0).joined.ok(); }));
  cluster.RestartServer(4);
  ASSERT_TRUE(RunUntilJoined()) << cluster.server(4).joined;
  EXPECT_GT(cluster.NewRun().epoch, (EpochId{.generation = 1, .counter = 50}));
}

TEST_F(PlacementRecover, TheSequenceGoesOnAboveWhatTheServersHold) {
  Lose({});
  ASSERT_TRUE(RunUntilJoined());
  auto next = cluster.Save(cluster.NewRun(), "2");
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_GT(next->sequence(), saved.sequence());
}

TEST_F(PlacementRecover, HoldersThatReportAfterTheMajorityAreUnknownAndNotLost) {
  const std::vector<size_t> holders = Holders();
  Lose(holders);
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("recovered"); }));
  cluster.Run(300ms);
  ASSERT_TRUE(RunUntilServing()) << Serving();
  const JobRun run = cluster.NewRun();
  auto waits = cluster.Begin(run, 0, 2, 500);
  ASSERT_TRUE(waits.ok()) << waits.status();
  EXPECT_EQ(waits->decision(), pb::BeginRestoreReply::WAIT);
  EXPECT_THAT(waits->progress(), HasSubstr("2 servers of the map before the recovery"));
  for (const size_t index : holders) {
    cluster.RestartServer(index);
  }
  auto chosen = cluster.Begin(run, 0, 2);
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  EXPECT_EQ(Cluster::NameOf(*chosen), "1");
}

TEST_F(PlacementRecover, LastMembersThatNeverComeBackAreLostAfterTheGrace) {
  Lose(Holders());
  cluster.Run(5s);
  auto lost = cluster.Begin(cluster.NewRun(), 0, 2, 5000);
  EXPECT_EQ(lost.status().code(), absl::StatusCode::kDataLoss) << lost.status();
}

TEST_F(PlacementRecover, ARestartAfterItWaitsForTheSameServersAsItDid) {
  const std::vector<size_t> holders = Holders();
  Lose(holders);
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("recovered"); }));
  cluster.Run(300ms);
  RestartManager();
  ASSERT_TRUE(RunUntilServing());
  auto waits = cluster.Begin(cluster.NewRun(), 0, 2, 500);
  ASSERT_TRUE(waits.ok()) << waits.status();
  EXPECT_EQ(waits->decision(), pb::BeginRestoreReply::WAIT);
  for (const size_t index : holders) {
    cluster.RestartServer(index);
  }
  EXPECT_EQ(Restored(), "1");
}

TEST_F(PlacementRecover, ServersThatDidNotReportStayAmongTheLastMembers) {
  Lose({3, 4});
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.server(0).joined.ok(); }));
  EXPECT_EQ(cluster.server(0).last_members.size(), 5U);
}

TEST_F(PlacementRecover, ARestartAfterItServesNothingEitherBeforeAMajorityHasTheGeneration) {
  Lose({3, 4});
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("recovered"); }));
  cluster.server(1).running = false;
  cluster.server(2).running = false;
  RestartManager();
  cluster.Run(5s);
  EXPECT_THAT(Serving().ToString(),
              HasSubstr("1 of 3 last members have it on disk, waiting for more"));
  cluster.RestartServer(1);
  cluster.RestartServer(2);
  ASSERT_TRUE(RunUntilServing()) << Serving();
  cluster.Run(100ms);
  RestartManager();
  cluster.server(1).running = false;
  cluster.server(2).running = false;
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.server(0).joined.ok(); }));
  EXPECT_TRUE(Serving().ok()) << "a majority had it once: " << Serving();
}

TEST_F(PlacementRecover, ThatAMajorityHasTheGenerationIsWrittenWhenTheStoreTakesItAgain) {
  Lose({3, 4});
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("recovered"); }));
  cluster.store.full = true;
  cluster.Run(1s);
  EXPECT_THAT(cluster.events.All(), HasSubstr("store_refused"));
  cluster.store.full = false;
  cluster.Run(300ms);
  RestartManager();
  cluster.server(1).running = false;
  cluster.server(2).running = false;
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.server(0).joined.ok(); }));
  EXPECT_TRUE(Serving().ok()) << Serving();
}

TEST_F(PlacementRecover, CommitsThatOnlyServersKnewThatComeLaterAreKnownAgain) {
  const std::vector<size_t> holders = Holders();
  RecoverWithout(holders);
  EXPECT_FALSE(cluster.store.values.contains(
      StoredSnapshotKey("gpt", FromProto(saved)->epoch, FromProto(saved)->sequence)));
  ComeBack(holders);
  EXPECT_THAT(cluster.events.All(), HasSubstr("late_commit: " + FromProto(saved)->ToString()));
  const JobRun run = cluster.NewRun();
  EXPECT_GT(run.epoch, before.epoch);
  auto chosen = cluster.Begin(run, 0, 2);
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  EXPECT_EQ(Cluster::NameOf(*chosen), "1");
  EXPECT_TRUE(cluster.server(holders[0]).objects.contains(ShardId{*FromProto(saved), 0}));
}

// A recovery that only these heard of, and that was lost, gave the same number.
TEST_F(PlacementRecover, CommitsOfServersThatSawThisGenerationOfALostRecoveryAreKnownAgain) {
  const std::vector<size_t> holders = Holders();
  RecoverWithout(holders);
  for (const size_t index : holders) {
    cluster.server(index).generation = 2;
  }
  ComeBack(holders);
  EXPECT_THAT(cluster.events.All(), HasSubstr("late_commit: " + FromProto(saved)->ToString()));
}

TEST_F(PlacementRecover, WhatAPersonRemovedDoesNotComeBackWithAServerOfThisGeneration) {
  const std::vector<size_t> holders = Holders();
  Lose({});
  ASSERT_TRUE(RunUntilJoined());
  for (const size_t index : holders) {
    kept[index] = cluster.server(index).objects;
    cluster.KillServer(index);
    cluster.Run(2s);
  }
  pb::RemoveSnapshotsRequest remove;
  *remove.mutable_caller() = Cluster::Person();
  remove.set_job("gpt");
  ASSERT_TRUE(cluster.Call<pb::RemoveSnapshotsReply>("RemoveSnapshots", remove).ok());
  cluster.NewRun();  // the job is back, and has nothing
  ComeBack(holders);
  EXPECT_FALSE(cluster.events.Has("late_commit")) << cluster.events.All();
}

// The shards come first, with a server that has no record of them.
TEST_F(PlacementRecover, ShardsThatALaterServerMayNameAreKeptUntilAllHaveReported) {
  const std::vector<size_t> holders = Holders();
  const ShardId first{*FromProto(saved), 0};
  ForgetJobBut({holders[1]});
  Lose({holders[1]});
  cluster.server(holders[1]).objects.clear();
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.server(holders[0]).joined.ok(); }));
  cluster.Run(500ms);
  EXPECT_TRUE(cluster.server(holders[0]).objects.contains(first));
  cluster.RestartServer(holders[1]);
  ASSERT_TRUE(RunUntilJoined());
  EXPECT_EQ(Restored(), "1");
}

// Its first receipt went unanswered as the old manager died.
TEST_F(PlacementRecover, AShardWhoseReceiptIsSentAgainIsKeptUntilAllHaveReported) {
  const std::vector<size_t> holders = Holders();
  const ShardId first{*FromProto(saved), 0};
  ForgetJobBut({holders[1]});
  Lose({holders[1]});
  ASSERT_TRUE(cluster.RunUntil([&] { return Serving().ok(); }));
  cluster.NewRun();  // the job is known, that snapshot is not
  const pb::HeldObject object = cluster.server(holders[0]).objects.at(first);
  ASSERT_TRUE(cluster.Seal(cluster.server(holders[0]), object).ok());
  cluster.Run(500ms);
  EXPECT_TRUE(cluster.server(holders[0]).objects.contains(first));
  cluster.RestartServer(holders[1]);
  ASSERT_TRUE(RunUntilJoined());
  EXPECT_THAT(cluster.events.All(), HasSubstr("late_commit: " + FromProto(saved)->ToString()));
  EXPECT_TRUE(cluster.server(holders[0]).objects.contains(first));
}

TEST_F(PlacementRecover, ShardsThatNobodyNamesGoOnceAllHaveReported) {
  ForgetJobBut({});
  Lose({});
  ASSERT_TRUE(RunUntilJoined());
  EXPECT_TRUE(cluster.RunUntil([&] {
    return std::all_of(cluster.servers.begin(), cluster.servers.end(),
                       [](const auto& server) { return server->objects.empty(); });
  }));
}

// The term that ends a recovery is a claim of the leader's own, whenever the store applies it.
TEST_F(PlacementRecover, ATermThatIsWrittenLateIsNotTakenForAnotherManagers) {
  for (int round = 0; round < 12; ++round) {
    Lose({});
    cluster.Run(1s);  // it listens for two
    cluster.store.latency_min = cluster.store.latency_max = 10ms;
    cluster.store.unknown_applied_permille = 0;
    cluster.store.unknown_late_permille = 1000;
    cluster.store.late_max = (round + 1) * 8ms;
    cluster.store.unknown_next = 1;
    ASSERT_TRUE(RunUntilJoined()) << cluster.events.All();
    EXPECT_EQ(cluster.store.unknown_next, 0U);
  }
}

// A claim that the store applies late is seen before another is made, which might be late, too.
TEST_F(PlacementRecover, OneOfSeveralClaimsThatAreWrittenLateIsWon) {
  cluster.store.unknown_applied_permille = 0;
  cluster.store.unknown_late_permille = 1000;
  Random random(1);
  for (int round = 0; round < 40; ++round) {
    cluster.Kill();
    cluster.store.late_max = (round % 8 + 1) * 20ms;
    cluster.store.unknown_permille = 700;
    ASSERT_TRUE(cluster.Start().ok());
    cluster.store.unknown_permille = 0;
    cluster.Run(300ms);
    const auto epoch = cluster.Acquire("gpt", EpochToken::Draw(&random));
    ASSERT_TRUE(epoch.ok()) << "round " << round << ": " << epoch.status();
  }
}

// Who came later is unknown to those that did not hear of the recovery: a majority of them alone
// would give the same generation again.
TEST_F(PlacementRecover, OnlyLastMembersCountForTheMajorityThatHasTheGeneration) {
  Lose({3, 4});
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("recovered"); }));
  cluster.server(1).running = false;
  cluster.server(2).running = false;
  for (const uint32_t index : {5, 6}) {
    cluster.AddServer(index);
    cluster.RestartServer(index);
  }
  cluster.Run(1s);
  const std::string lacking = "1 of 3 last members have it on disk";
  EXPECT_THAT(Serving().ToString(), AllOf(HasSubstr(lacking), HasSubstr("--accept-loss")));
  RestartManager();
  cluster.Run(6s);
  EXPECT_THAT(Serving().ToString(), HasSubstr(lacking));
  cluster.options.accept_loss = true;
  cluster.server(0).running = false;  // none of the last members is left
  RestartManager();
  EXPECT_TRUE(RunUntilServing()) << Serving();
}

// The store of a recovery was lost before a majority had its generation. The next one did not hear
// who had, and gives the same, in a lower term.
TEST_F(PlacementRecover, AServerThatObeyedALostRecoveryOfThisGenerationObeysTheNext) {
  Lose({});
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("recovered"); }));
  for (const auto& server : cluster.servers) {
    server->beating = false;
  }
  RestartManager();
  RestartManager();
  ASSERT_TRUE(cluster.RunUntilJoined());
  EXPECT_FALSE(Serving().ok());
  for (size_t i = 0; i < 5; ++i) {
    cluster.server(i).beating = true;
    if (i != 4) {  // as they were on their disks
      cluster.server(i).generation = cluster.server(i).term = 1;
    }
  }
  Lose({4});
  ASSERT_TRUE(RunUntilServing());
  ComeBack({4});
  EXPECT_FALSE(cluster.events.Has("newer_term_seen"));
}

TEST_F(PlacementRecover, AServerThatCouldNotKeepTheNewGenerationDoesNotCountForTheMajority) {
  Lose({3, 4});
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("recovered"); }));
  for (const auto& server : cluster.servers) {
    server->beating = false;  // it joined, and has not come back with the generation
  }
  cluster.Run(300ms);
  EXPECT_THAT(Serving().ToString(), HasSubstr("0 of 3 last members have it on disk"));
}

TEST_F(PlacementRecover, ACommitThatComesLateIsOlderThanWhatTheNewGenerationSaved) {
  const std::vector<size_t> holders = Holders();
  RecoverWithout(holders);
  auto next = cluster.Save(cluster.NewRun(), "2");
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_GT(next->sequence(), uint64_t{1} << 40) << "no sequence is given twice";
  ComeBack(holders);
  EXPECT_EQ(Restored(), "2");
}

TEST_F(PlacementRecover, AnInventoryOfAnIncarnationThatIsGoneBringsNothingBack) {
  const std::vector<size_t> holders = Holders();
  ScriptedServer& first = cluster.server(holders[0]);
  const std::map<SnapshotId, std::string> records = first.records;
  const Incarnation gone = first.incarnation;
  ForgetJobBut(holders);
  Lose({});
  ASSERT_TRUE(RunUntilJoined());
  cluster.RestartServer(holders[0]);
  ASSERT_TRUE(RunUntilJoined());
  ASSERT_TRUE(cluster.Save(cluster.NewRun(), "2").ok());
  ASSERT_TRUE(cluster.RunUntil([&] { return first.records.size() == 1; }));
  pb::JoinRequest late;
  *late.mutable_caller() = cluster.CallerOf(first);
  late.mutable_caller()->set_incarnation(gone.ToBytes());
  late.set_name(first.name);
  late.set_domain(first.domain);
  late.set_data_address(first.address);
  late.set_generation(1);
  for (const auto& [id, record] : records) {
    late.add_commit_records(record);
  }
  EXPECT_EQ(cluster.Call<pb::JoinReply>("Join", late).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_FALSE(cluster.events.Has("late_commit"));
}

TEST_F(PlacementRecover, AJobThatAPersonRemovedSinceDoesNotComeBackWithALateServer) {
  const std::vector<size_t> holders = Holders();
  RecoverWithout(holders);
  ASSERT_TRUE(cluster.Save(cluster.NewRun(), "2").ok());
  pb::RemoveSnapshotsRequest remove;
  *remove.mutable_caller() = Cluster::Person();
  remove.set_job("gpt");
  ASSERT_TRUE(cluster.Call<pb::RemoveSnapshotsReply>("RemoveSnapshots", remove).ok());
  ComeBack(holders);
  EXPECT_FALSE(cluster.events.Has("late_commit"));
}

TEST_F(PlacementRecover, WhatWasPersistedOnDisksThatComeLateIsPersistedAgain) {
  const std::vector<size_t> holders = Holders();
  const SnapshotId id = *FromProto(saved);
  for (const size_t index : holders) {
    ScriptedServer& server = cluster.server(index);
    for (const auto& [shard, object] : server.objects) {
      server.disk[shard] = object;
    }
    server.disk_records = server.records;
    server.disk_manifests = server.manifests;
    server.marked = {id};
  }
  RecoverWithout(holders);
  kept.clear();  // memory is lost
  ComeBack(holders);
  EXPECT_TRUE(cluster.store.values.contains(PersistedKey("gpt", id.epoch, id.sequence)));
  EXPECT_EQ(Restored(), "1");
}

TEST_F(PlacementRecover, DeathsAfterARecoveryDoNotStopServing) {
  Lose({3, 4});
  ASSERT_TRUE(cluster.RunUntil([&] {
    return cluster.server(0).joined.ok() && cluster.server(1).joined.ok() &&
           cluster.server(2).joined.ok();
  }));
  ASSERT_TRUE(RunUntilServing()) << Serving();
  cluster.KillServer(1);
  cluster.KillServer(2);
  cluster.Run(2s);
  EXPECT_TRUE(RunUntilServing()) << Serving();
  JobRun run = cluster.NewRun();
  run.min_copies = 1;
  EXPECT_TRUE(cluster.Save(run, "2").ok());
}

TEST_F(PlacementRecover, AStoreThatDoesNotAnswerAfterTheRecoveryIsWrittenIsAskedAgain) {
  Lose({});
  cluster.store.on_applied = [this](const Txn&) {
    cluster.store.on_applied = nullptr;
    cluster.store.unavailable = true;
  };
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.store.unavailable; }));
  cluster.Run(1s);
  EXPECT_EQ(Serving().code(), absl::StatusCode::kUnavailable);
  cluster.store.unavailable = false;
  ASSERT_TRUE(RunUntilJoined()) << cluster.server(0).joined;
  EXPECT_EQ(Restored(), "1");
}

TEST_F(PlacementRecover, NothingIsServedBeforeAMajorityHasTheNewGeneration) {
  Lose({3, 4});
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("recovered"); }));
  EXPECT_EQ(cluster.Acquire("gpt", before.token).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Serving().ToString(),
              HasSubstr("of 3 last members have it on disk, waiting for more"));
  cluster.Run(1s);
  EXPECT_TRUE(Serving().ok()) << Serving();
}

TEST_F(PlacementRecover, NothingIsServedBeforeAMajorityHasReported) {
  Lose({3, 4});
  cluster.server(1).running = false;
  cluster.Run(3s);
  EXPECT_EQ(Serving().code(), absl::StatusCode::kUnavailable) << "two of five";
  EXPECT_EQ(cluster.Acquire("gpt", before.token).status().code(), absl::StatusCode::kUnavailable);
}

// So many jobs that no transaction holds them.
class PlacementLargeRecover : public PlacementRecover {
 protected:
  static constexpr int kJobs = 300;

  static std::string JobName(int i) { return fmt::format("job-{:03}", i); }

  void LoseLarge() {
    cluster.Kill();
    for (int i = 0; i < kJobs; ++i) {
      cluster.server(i % 5).epochs[JobName(i)] = {.generation = 1, .counter = 7};
    }
    Lose({});
    cluster.store.on_applied = [this](const Txn& txn) {
      parts += txn.puts.front().first == kClusterKey ? 1 : 0;
      EXPECT_LE(txn.puts.size() + txn.deletes.size(), kMetaTxnOpsMax);
    };
  }

  size_t parts = 0;
};

TEST_F(PlacementLargeRecover, IsWrittenInSeveralTransactionsAndAllOfItIsThere) {
  LoseLarge();
  ASSERT_TRUE(RunUntilJoined()) << cluster.events.All();
  EXPECT_GE(parts, 3U);
  ASSERT_TRUE(RunUntilServing()) << Serving();
  for (int i = 0; i < kJobs; ++i) {
    ASSERT_TRUE(cluster.store.values.contains(JobKey(JobName(i)))) << i;
  }
  EXPECT_GT(cluster.NewRun(JobName(7)).epoch, (EpochId{.generation = 2, .counter = 7}));
  EXPECT_EQ(Restored(), "1");
}

TEST_F(PlacementLargeRecover, CutShortAfterAnyTransactionItIsNoClusterAndBeginsAnew) {
  LoseLarge();
  for (size_t cut = 1; cut <= 4; ++cut) {
    parts = 0;
    ASSERT_TRUE(cluster.RunUntil([&] { return parts == cut; })) << cut;
    cluster.Kill();
    cluster.options.recover_from_servers = false;
    const absl::Status refused = cluster.Start();
    EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << cut;
    EXPECT_THAT(ToText(refused), HasSubstr("start with --recover-from-servers again"));
    cluster.Kill();
    cluster.options.recover_from_servers = true;
    for (const auto& server : cluster.servers) {
      server->joined = error::Unavailable("not joined");
    }
    ASSERT_TRUE(cluster.Start().ok()) << cut;
  }
  // What the cut ones have written passes for nothing: this job is not reported any more.
  cluster.server(0).epochs.erase(JobName(0));
  ASSERT_TRUE(RunUntilJoined()) << cluster.events.All();
  ASSERT_TRUE(RunUntilServing()) << Serving();
  EXPECT_FALSE(cluster.store.values.contains(JobKey(JobName(0))));
  EXPECT_TRUE(cluster.store.values.contains(JobKey(JobName(1))));
  EXPECT_EQ(Restored(), "1");
}

TEST_F(PlacementLargeRecover, GoesOnThroughUnknownOutcomes) {
  LoseLarge();
  cluster.store.unknown_permille = 300;
  ASSERT_TRUE(RunUntilJoined()) << cluster.events.All();
  cluster.store.unknown_permille = 0;
  ASSERT_TRUE(RunUntilServing()) << Serving();
  for (int i = 0; i < kJobs; ++i) {
    ASSERT_TRUE(cluster.store.values.contains(JobKey(JobName(i)))) << i;
  }
}

TEST(InParts, KeepsOrderAndTheLimits) {
  Txn whole;
  for (size_t i = 0; i < 200; ++i) {
    whole.puts.emplace_back(fmt::format("p{:03}", i), std::string(i % 40 * 1000, 'x'));
    whole.deletes.push_back(fmt::format("d{:03}", i));
  }
  const Txn copy = whole;
  Txn together;
  for (Txn& part : InParts(std::move(whole))) {
    part.puts.emplace_back(std::string(kMetaKeyBytesMax, 'k'),
                           std::string(kPartSpareBytes - 2 * kMetaKeyBytesMax, 'v'));
    part.compares.push_back({.key = part.puts.back().first, .version = 1});
    EXPECT_TRUE(CheckTxn(part).ok()) << CheckTxn(part);
    part.puts.pop_back();
    together.puts.insert(together.puts.end(), part.puts.begin(), part.puts.end());
    together.deletes.insert(together.deletes.end(), part.deletes.begin(), part.deletes.end());
  }
  EXPECT_EQ(together.puts, copy.puts);
  EXPECT_EQ(together.deletes, copy.deletes);
  EXPECT_TRUE(InParts(Txn()).empty());
}

TEST(PlacementSecondCluster, ServersOfAnotherClusterAreRefusedByAnEmptyStoreWithBothNamed) {
  Cluster own(3);
  ASSERT_TRUE(own.Start().ok());
  ASSERT_TRUE(own.RunUntilJoined());
  Cluster other(0);
  ASSERT_TRUE(other.Start().ok());
  ASSERT_FALSE(own.node().manager->cluster() == other.node().manager->cluster());
  pb::JoinRequest join;
  *join.mutable_caller() = own.CallerOf(own.server(0));
  join.set_name("server-0");
  join.set_domain("rack0/host0");
  join.set_data_address("tcp://127.0.0.1:9000");
  auto refused = other.Call<pb::JoinReply>("Join", join);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(refused.status().ToString(),
              AllOf(HasSubstr(own.node().manager->cluster().ToHex()),
                    HasSubstr(other.node().manager->cluster().ToHex())));
  pb::GetStatusRequest status;
  *status.mutable_caller() = Cluster::Person();
  EXPECT_EQ(other.Call<pb::GetStatusReply>("GetStatus", status)->map().members_size(), 0);
  for (const auto& [key, value] : other.store.values) {
    EXPECT_TRUE(key == kClusterKey || key == kLeaderKey || key == kBeatKey) << key;
  }
}

// Four servers in two groups; one group dies while the manager is down.
class PlacementManifest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(cluster.Start().ok());
    ASSERT_TRUE(cluster.RunUntilJoined());
    JobRun run = cluster.NewRun();
    run.world = 4;
    auto committed = cluster.Save(run, "1");
    ASSERT_TRUE(committed.ok()) << committed.status();
    id = *FromProto(*committed);
    ASSERT_TRUE(cluster.RunUntil([&] { return cluster.server(3).manifests.contains(id); }));
    cluster.Run(1s);
    cluster.Kill();
    for (size_t i = 0; i < 4; ++i) {
      if (cluster.server(i).objects.contains(ShardId{id, 0})) {
        cluster.KillServer(i, false);
      } else {
        alive.push_back(&cluster.server(i));
      }
    }
    ASSERT_EQ(alive.size(), 2U);
    if (alive[1]->id < alive[0]->id) {
      std::swap(alive[0], alive[1]);  // in the order in which they are asked
    }
    good = alive[0]->manifests.at(id);
  }

  Cluster cluster{4};
  SnapshotId id;
  std::vector<ScriptedServer*> alive;
  std::string good;
};

TEST_F(PlacementManifest, IsFetchedFromADiskWhenInventoriesDoNotRebuildIt) {
  alive[1]->records.clear();
  alive[1]->manifests.clear();
  ASSERT_TRUE(cluster.Start().ok());
  ASSERT_TRUE(cluster.RunUntil([&] { return alive[1]->manifests.contains(id); }, 5s))
      << cluster.events.All();
  EXPECT_EQ(alive[0]->manifests_fetched, 1);
  EXPECT_EQ(alive[1]->manifests.at(id), good);
  EXPECT_FALSE(cluster.events.Has("manifest_refused"));
}

TEST_F(PlacementManifest, ADamagedOneIsRefusedAndTheNextHolderIsAskedAndTheFirstRepaired) {
  alive[0]->manifests.at(id)[good.size() / 2] ^= 1;
  ASSERT_TRUE(cluster.Start().ok());
  ASSERT_TRUE(cluster.RunUntil([&] { return alive[0]->manifests.at(id) == good; }, 5s))
      << cluster.events.All();
  EXPECT_EQ(alive[0]->manifests_fetched, 1);
  EXPECT_EQ(alive[1]->manifests_fetched, 1);
  EXPECT_THAT(cluster.events.All(), HasSubstr("manifest_refused"));
  EXPECT_THAT(cluster.events.All(), HasSubstr(id.ToString()));
}

TEST_F(PlacementManifest, ItsShardsWithoutHolderAreLostAndNamedAlthoughTheManifestIsThere) {
  ASSERT_TRUE(cluster.Start().ok());
  cluster.Run(5s);
  EXPECT_GE(alive[0]->manifests_fetched, 1);
  auto lost = cluster.Begin(cluster.NewRun(), 0, 2);
  EXPECT_EQ(lost.status().code(), absl::StatusCode::kDataLoss) << lost.status();
  EXPECT_THAT(lost.status().ToString(), HasSubstr("ranks 0, "));
}

}  // namespace
}  // namespace gemel::placement_test
