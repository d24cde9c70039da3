// SPDX-License-Identifier: Apache-2.0
//
// Three managers on one store: election, failover, and a deposed leader that changes nothing.
#include <gmock/gmock.h>

#include <algorithm>
#include <set>

#include "placement/manager/stored.h"
#include "placement_manager_cluster.h"

namespace gemel::placement_test {
namespace {

using ::testing::HasSubstr;

class PlacementLeaders : public ::testing::Test {
 protected:
  void SetUp() override {
    cluster.options.shared_store = true;
    cluster.store.on_applied = [this](const Txn& txn) {
      const bool fenced =
          std::any_of(txn.compares.begin(), txn.compares.end(),
                      [](const Txn::Compare& compare) { return compare.key == kLeaderKey; });
      unfenced += fenced ? 0 : 1;
      for (const auto& [key, value] : txn.puts) {
        written.insert(key);
      }
    };
    for (size_t i = 0; i < 3; ++i) {
      ASSERT_TRUE(cluster.Start(i).ok());
    }
    ASSERT_TRUE(RunUntilLed()) << cluster.events.All();
    ASSERT_TRUE(cluster.RunUntilJoined()) << cluster.events.All();
    first = cluster.Leader();
  }

  void TearDown() override { EXPECT_EQ(unfenced, 0) << "each compares who leads"; }

  bool RunUntilLed(Duration limit = 5s) {
    return cluster.RunUntil([&] { return cluster.Leader() < cluster.managers(); }, limit);
  }

  // Another one than `than`, and all servers with it.
  bool RunUntilFailedOver(size_t than) {
    return cluster.RunUntil([&] {
      const size_t now = cluster.Leader();
      bool joined = now < cluster.managers() && now != than;
      for (const auto& server : cluster.servers) {
        joined = joined && server->joined.ok() && server->term == Stored().term;
      }
      return joined;
    });
  }

  LeaderRecord Stored() {
    const auto found = cluster.store.values.find(kLeaderKey);
    return found == cluster.store.values.end()
               ? LeaderRecord()
               : *DecodeStored<LeaderRecord>(kLeaderKey, found->second.value);
  }

  size_t Leading() {
    size_t count = 0;
    for (size_t i = 0; i < cluster.managers(); ++i) {
      count += cluster.node(i).manager != nullptr && cluster.node(i).manager->leads() ? 1 : 0;
    }
    return count;
  }

  // What one manager says to a person, whether it leads or not.
  absl::Status AskOne(size_t index) {
    std::optional<absl::StatusOr<std::string>> answer;
    pb::GetStatusRequest request;
    *request.mutable_caller() = Cluster::Person();
    cluster.node(index).loop->Spawn(AskInto(cluster.node(index).manager.get(), "GetStatus",
                                            request.SerializeAsString(), &answer));
    cluster.RunUntil([&] { return answer.has_value(); }, 2s);
    return answer.has_value() ? answer->status() : error::DeadlineExceeded("no answer");
  }

  static Task<void> AskInto(PlacementManager* manager, std::string method, std::string request,
                            std::optional<absl::StatusOr<std::string>>* out) {
    auto call = std::make_shared<ScriptedCall>();
    auto answer = co_await manager->Handle(std::move(call), std::move(method), std::move(request));
    out->emplace(std::move(answer));
  }

  Cluster cluster{3};
  size_t first = 0;
  int unfenced = 0;               // transactions that any manager could have made
  std::set<std::string> written;  // keys
};

TEST_F(PlacementLeaders, OneLeadsAndTheOthersSayWho) {
  EXPECT_EQ(Leading(), 1U);
  EXPECT_TRUE(AskOne(first).ok());
  const absl::Status other = AskOne((first + 1) % 3);
  EXPECT_EQ(other.code(), absl::StatusCode::kAborted) << other;
  EXPECT_THAT(other.ToString(), HasSubstr(fmt::format("placement-{} at sim://", first)));
}

TEST_F(PlacementLeaders, AKilledLeaderIsReplacedWithinTwoSecondsAndNothingCommittedIsLost) {
  const JobRun run = cluster.NewRun();
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  const TimePoint killed = cluster.scheduler.now();
  cluster.Kill(first);
  ASSERT_TRUE(RunUntilFailedOver(first)) << cluster.events.All();
  EXPECT_LE(Milliseconds(cluster.scheduler.now() - killed), 2000.0);
  EXPECT_EQ(cluster.Names("gpt"), "1 ");
  EXPECT_TRUE(cluster.Save(run, "2").ok());
}

TEST_F(PlacementLeaders, AReceiptThatTheFormerLeaderTookIsNotLost) {
  const JobRun run = cluster.NewRun();
  pb::SnapshotId snapshot;
  for (uint32_t rank = 0; rank < run.world; ++rank) {
    auto opened = cluster.OpenRank(run, "1", rank);
    ASSERT_TRUE(opened.ok()) << opened.status();
    snapshot = opened->snapshot();
    for (const pb::Member& holder : opened->holders()) {
      if (rank == 0 || holder.server_id() == opened->holders(0).server_id()) {
        ASSERT_TRUE(
            cluster.Seal(*cluster.Find(holder.server_id()), Cluster::ObjectOf(run, snapshot, rank))
                .ok());
      }
    }
  }
  cluster.Kill(first);
  ASSERT_TRUE(RunUntilFailedOver(first)) << cluster.events.All();
  // Only the receipt that is missing is given now.
  auto opened = cluster.OpenRank(run, "1", 1);
  ASSERT_TRUE(opened.ok()) << opened.status();
  ASSERT_TRUE(
      cluster
          .Seal(*cluster.Find(opened->holders(1).server_id()), Cluster::ObjectOf(run, snapshot, 1))
          .ok());
  auto end = cluster.AwaitEnd(snapshot, 0);
  ASSERT_TRUE(end.ok()) << end.status();
  EXPECT_EQ(end->state(), pb::SNAPSHOT_COMMITTED) << end->ShortDebugString();
}

TEST_F(PlacementLeaders, APausedLeaderThatWakesAnswersNothingAndChangesNothing) {
  const JobRun run = cluster.NewRun();
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  cluster.node(first).loop->Pause();
  ASSERT_TRUE(RunUntilFailedOver(first)) << cluster.events.All();
  const JobRun next = cluster.NewRun();
  ASSERT_TRUE(cluster.Save(next, "2").ok());
  cluster.Run(60s);
  const uint64_t term = Stored().term;
  written.clear();
  cluster.node(first).loop->Resume();
  const absl::Status woken = AskOne(first);
  EXPECT_EQ(woken.code(), absl::StatusCode::kAborted) << woken;
  cluster.Run(2s);
  EXPECT_EQ(written, std::set<std::string>{kBeatKey}) << "the leader's beats, and nothing else";
  EXPECT_EQ(Stored().term, term);
  EXPECT_EQ(Leading(), 1U);
  EXPECT_EQ(cluster.Names("gpt"), "2 ");
  EXPECT_TRUE(cluster.Save(next, "3").ok());
}

TEST_F(PlacementLeaders, WhatADeposedLeaderReadIsNotToldAnyMore) {
  pb::GetStatusRequest status;
  *status.mutable_caller() = Cluster::Person();
  pb::WatchMapRequest request;
  *request.mutable_caller() = Cluster::Person();
  request.set_known_version(cluster.Call<pb::GetStatusReply>("GetStatus", status)->map().version());
  request.set_wait_ms(2000);
  std::optional<absl::StatusOr<std::string>> map;
  cluster.node(first).loop->Spawn(
      AskInto(cluster.node(first).manager.get(), "WatchMap", request.SerializeAsString(), &map));
  cluster.Run(10ms);
  EXPECT_FALSE(map.has_value());
  cluster.node(first).loop->Pause();
  ASSERT_TRUE(RunUntilFailedOver(first));
  cluster.node(first).loop->Resume();
  ASSERT_TRUE(cluster.RunUntil([&] { return map.has_value(); }));
  EXPECT_EQ(map->status().code(), absl::StatusCode::kUnavailable) << map->status();
}

TEST_F(PlacementLeaders, AStandbyThatReadsAnOldStateDeposesNobodyWhoBeats) {
  cluster.store.stale_permille = 1000;
  const uint64_t term = Stored().term;
  cluster.Run(20s);
  EXPECT_EQ(Stored().term, term) << cluster.events.All();
}

// The transaction of a commit is on its way when the leader is paused.
TEST_F(PlacementLeaders, ACommitOfADeposedLeaderIsRefusedByTheStore) {
  const JobRun run = cluster.NewRun();
  pb::SnapshotId snapshot;
  std::vector<std::pair<ScriptedServer*, pb::HeldObject>> last;
  for (uint32_t rank = 0; rank < run.world; ++rank) {
    auto opened = cluster.OpenRank(run, "1", rank);
    ASSERT_TRUE(opened.ok()) << opened.status();
    snapshot = opened->snapshot();
    for (const pb::Member& holder : opened->holders()) {
      last.emplace_back(cluster.Find(holder.server_id()), Cluster::ObjectOf(run, snapshot, rank));
    }
  }
  for (size_t i = 0; i + 1 < last.size(); ++i) {
    ASSERT_TRUE(cluster.Seal(*last[i].first, last[i].second).ok());
  }
  std::optional<absl::StatusOr<std::string>> reported;
  pb::ReportReceiptsRequest request;
  *request.mutable_caller() = cluster.CallerOf(*last.back().first);
  *request.add_receipts()->mutable_object() = last.back().second;
  cluster.CallBeside("ReportReceipts", request.SerializeAsString(), &reported);
  cluster.Run(Duration(1'000));  // the commit began and its transaction is not applied yet
  cluster.node(first).loop->Pause();
  const uint64_t before = cluster.store.transactions;
  ASSERT_TRUE(RunUntilFailedOver(first)) << cluster.events.All();
  EXPECT_GT(cluster.store.transactions, before);
  // The next incarnation of the job: the former save must never be committed after it.
  const JobRun next = cluster.NewRun();
  cluster.node(first).loop->Resume();
  cluster.Run(3s);
  EXPECT_EQ(cluster.Names("gpt").find("1 "), std::string::npos) << cluster.Names("gpt");
  EXPECT_TRUE(cluster.Save(next, "2").ok());
}

TEST_F(PlacementLeaders, AnOrderlyEndHandsOverWithoutAWait) {
  std::optional<bool> stopped;

  struct Stopper {
    static Task<void> Run(PlacementManager* manager, std::optional<bool>* done) {
      co_await manager->Stop();
      *done = true;
    }
  };

  const TimePoint began = cluster.scheduler.now();
  cluster.node(first).loop->Spawn(Stopper::Run(cluster.node(first).manager.get(), &stopped));
  ASSERT_TRUE(cluster.RunUntil([&] { return stopped.has_value(); }));
  cluster.Kill(first);
  ASSERT_TRUE(RunUntilLed());
  EXPECT_LE(Milliseconds(cluster.scheduler.now() - began), 200.0) << cluster.events.All();
}

TEST_F(PlacementLeaders, TheStoreAwayForAWhileIsNoReasonToChangeTheLeader) {
  const uint64_t term = Stored().term;
  cluster.store.unavailable = true;
  cluster.Run(600ms);
  EXPECT_EQ(Leading(), 0U) << "without a beat it answers nothing";
  cluster.Run(5s);
  cluster.store.unavailable = false;
  ASSERT_TRUE(RunUntilLed());
  cluster.Run(3s);
  EXPECT_EQ(cluster.Leader(), first);
  EXPECT_EQ(Stored().term, term);
  EXPECT_FALSE(cluster.events.Has("member_dead")) << "it did not hear them, and may not judge them";
}

TEST_F(PlacementLeaders, ALeaderCutFromTheStoreIsReplacedAndNeverTwoAnswer) {
  // Its clock and its callers go on; only the store is out of its reach.
  cluster.node(first).sim_store->set_cut(true);
  bool two = false;
  ASSERT_TRUE(cluster.RunUntil([&] {
    two = two || Leading() > 1;
    return Leading() == 1 && cluster.Leader() != first;
  }));
  EXPECT_FALSE(two);
  cluster.node(first).sim_store->set_cut(false);
  cluster.Run(2s);
  EXPECT_EQ(Leading(), 1U);
  EXPECT_NE(cluster.Leader(), first);
}

TEST_F(PlacementLeaders, AClaimOfUnknownOutcomeEndsWithOneLeader) {
  for (const uint32_t applied : {0U, 1000U}) {
    const size_t was = cluster.Leader();
    cluster.store.unknown_applied_permille = applied;
    cluster.Kill(was);
    // Beats are over: the next transaction is a claim.
    cluster.store.unknown_next = 1;
    ASSERT_TRUE(RunUntilFailedOver(was)) << cluster.events.All();
    EXPECT_EQ(Leading(), 1U);
    ASSERT_TRUE(cluster.Start(was).ok());
  }
}

TEST_F(PlacementLeaders, AServerThatObeyedALaterLeaderDeposesTheOneItMeets) {
  // The store was put back to what it was two elections ago, under a leader that still runs.
  pb::HeartbeatRequest request;
  *request.mutable_caller() = cluster.CallerOf(cluster.server(0));
  request.mutable_caller()->set_term(Stored().term + 2);
  const absl::Status met = cluster.Call<pb::HeartbeatReply>("Heartbeat", request).status();
  EXPECT_FALSE(met.ok());
  cluster.Run(1s);
  const absl::Status unfit = AskOne(first);
  EXPECT_EQ(unfit.code(), absl::StatusCode::kFailedPrecondition) << unfit;
  EXPECT_THAT(unfit.ToString(), HasSubstr("recover --from-servers"));
}

TEST_F(PlacementLeaders, TermsGrowWithEveryLeader) {
  uint64_t term = Stored().term;
  for (int round = 0; round < 5; ++round) {
    const size_t was = cluster.Leader();
    cluster.Kill(was);
    ASSERT_TRUE(RunUntilFailedOver(was)) << cluster.events.All();
    EXPECT_GT(Stored().term, term);
    term = Stored().term;
    ASSERT_TRUE(cluster.Start(was).ok());
  }
}

TEST_F(PlacementLeaders, ARecoveredClusterGoesOnAboveTheTermsThatItsServersHaveSeen) {
  for (int round = 0; round < 3; ++round) {
    const size_t was = cluster.Leader();
    cluster.Kill(was);
    ASSERT_TRUE(RunUntilFailedOver(was));
    ASSERT_TRUE(cluster.Start(was).ok());
  }
  const uint64_t term = Stored().term;
  for (size_t i = 0; i < cluster.managers(); ++i) {
    cluster.Kill(i);
  }
  cluster.store = SimStoreState();
  cluster.options.recover_from_servers = true;
  for (const auto& server : cluster.servers) {
    server->joined = error::Unavailable("not joined");
  }
  for (size_t i = 0; i < 3; ++i) {
    ASSERT_TRUE(cluster.Start(i).ok());
  }
  ASSERT_TRUE(cluster.RunUntilJoined(10s)) << cluster.events.All();
  EXPECT_GT(Stored().term, term);
}

}  // namespace
}  // namespace gemel::placement_test
