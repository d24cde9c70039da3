// SPDX-License-Identifier: Apache-2.0
//
// What people ask and what memory allows: RemoveSnapshots, Explain, admission, manifests in memory.
#include <gmock/gmock.h>

#include "absl/strings/str_join.h"

#include "placement/manager/parts.h"
#include "placement_manager_cluster.h"

namespace gemel::placement_test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

absl::StatusOr<uint32_t> Remove(Cluster& cluster, const std::string& job, const std::string& name) {
  pb::RemoveSnapshotsRequest request;
  *request.mutable_caller() = Cluster::Person();
  request.set_job(job);
  request.set_name(name);
  auto reply = cluster.Call<pb::RemoveSnapshotsReply>("RemoveSnapshots", request);
  if (!reply.ok()) {
    return reply.status();
  }
  return reply->removed();
}

// More snapshots than one transaction lets go of.
class PlacementMany : public ::testing::Test {
 protected:
  static constexpr int kSnapshots = 2 * kLeavingMax + 10;

  void SetUp() override {
    ASSERT_TRUE(cluster.Start().ok());
    ASSERT_TRUE(cluster.RunUntilJoined()) << cluster.events.All();
    run = cluster.NewRun();
    run.keep = 0;
    for (int i = 1; i <= kSnapshots; ++i) {
      auto committed = cluster.Save(run, std::to_string(i));
      ASSERT_TRUE(committed.ok()) << committed.status();
    }
    cluster.store.on_applied = [this](const Txn& txn) {
      writes += txn.deletes.empty() ? 0 : 1;
      EXPECT_LE(txn.puts.size() + txn.deletes.size(), kMetaTxnOpsMax);
    };
  }

  size_t Stored() const {
    size_t count = 0;
    for (const auto& [key, value] : cluster.store.values) {
      count += key.starts_with("snapshot/") ? 1 : 0;
    }
    return count;
  }

  Cluster cluster{3};
  JobRun run;
  int writes = 0;
};

TEST_F(PlacementMany, OfAJobAreRemovedInParts) {
  EXPECT_EQ(*Remove(cluster, "gpt", ""), static_cast<uint32_t>(kSnapshots));
  EXPECT_GE(writes, 3);
  EXPECT_EQ(Stored(), 0U);
  EXPECT_THAT(cluster.Names("gpt"), HasSubstr("NOT_FOUND"));
}

TEST_F(PlacementMany, ARemovalThatIsCutShortLeavesTheNewestAndTheJob) {
  cluster.store.on_applied = [this](const Txn& txn) {
    writes += txn.deletes.empty() ? 0 : 1;
    cluster.store.unavailable = writes > 0;
  };
  EXPECT_EQ(Remove(cluster, "gpt", "").status().code(), absl::StatusCode::kUnavailable);
  cluster.store.unavailable = false;
  cluster.store.on_applied = nullptr;
  EXPECT_EQ(Stored(), static_cast<size_t>(kSnapshots) - kLeavingMax);
  cluster.Kill();
  ASSERT_TRUE(cluster.Start().ok());
  cluster.Run(2s);
  EXPECT_TRUE(cluster.Names("gpt").ends_with(fmt::format(" {} ", kSnapshots)));
  EXPECT_EQ(*Remove(cluster, "gpt", ""), static_cast<uint32_t>(kSnapshots) - kLeavingMax);
}

TEST_F(PlacementMany, AreRetiredInPartsOnceTheJobKeepsOne) {
  run.keep = 1;
  ASSERT_TRUE(cluster.Save(run, "last").ok());
  ASSERT_TRUE(cluster.RunUntil([&] { return Stored() == 1; }, 10s)) << Stored();
  EXPECT_GE(writes, 3);
}

class PlacementRemove : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(cluster.Start().ok());
    ASSERT_TRUE(cluster.RunUntilJoined()) << cluster.events.All();
    run = cluster.NewRun();
    run.keep = 0;
    for (const char* name : {"1", "2", "3"}) {
      auto committed = cluster.Save(run, name);
      ASSERT_TRUE(committed.ok()) << committed.status();
      saved.push_back(*committed);
    }
  }

  Cluster cluster{3};
  JobRun run;
  std::vector<pb::SnapshotId> saved;
};

TEST_F(PlacementRemove, OneSnapshotGoesFromStoreAndServersAndTheOthersStay) {
  EXPECT_EQ(*Remove(cluster, "gpt", "2"), 1U);
  EXPECT_EQ(cluster.Names("gpt"), "1 3 ");
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.Holders(saved[1], 0) == 0; }));
  EXPECT_EQ(cluster.Holders(saved[0], 0), 2U);
  EXPECT_EQ(cluster.Holders(saved[2], 1), 2U);
  cluster.Kill();
  ASSERT_TRUE(cluster.Start().ok());
  EXPECT_EQ(cluster.Names("gpt"), "");  // records are counted again when the servers have joined
  cluster.Run(2s);
  EXPECT_EQ(cluster.Names("gpt"), "1 3 ");
}

TEST_F(PlacementRemove, WithoutTheNewestLatestIsTheOneBefore) {
  EXPECT_EQ(*Remove(cluster, "gpt", "3"), 1U);
  auto chosen = cluster.Begin(cluster.NewRun(), 0, 2);
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  EXPECT_EQ(Cluster::NameOf(*chosen), "2");
}

TEST_F(PlacementRemove, UnknownSnapshotIsNamedWithTheOnesThereAre) {
  const auto refused = Remove(cluster, "gpt", "4");
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(refused.status().ToString(), HasSubstr("no snapshot '4'; it has: 3, 2, 1"));
  EXPECT_EQ(cluster.Names("gpt"), "1 2 3 ");
}

TEST_F(PlacementRemove, AWholeJobGoesWithItsOpenSavesAndANewEpochStartsEmpty) {
  auto open = cluster.OpenRank(run, "4", 0);
  ASSERT_TRUE(open.ok()) << open.status();
  EXPECT_EQ(*Remove(cluster, "gpt", ""), 3U);
  EXPECT_EQ(cluster.List("gpt").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(cluster.OpenRank(run, "5", 0).status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("save_aborted"); }));
  ASSERT_TRUE(cluster.RunUntil([&] {
    return cluster.Holders(saved[0], 0) + cluster.Holders(saved[1], 0) +
               cluster.Holders(saved[2], 1) ==
           0;
  }));
  const JobRun again = cluster.NewRun();
  EXPECT_GT(again.epoch, run.epoch);
  EXPECT_EQ(cluster.Begin(again, 0, 2)->decision(), pb::BeginRestoreReply::NEVER_COMMITTED);
  auto fresh = cluster.Save(again, "1");
  ASSERT_TRUE(fresh.ok()) << fresh.status();
  EXPECT_GT(fresh->sequence(), open->snapshot().sequence());
}

TEST_F(PlacementRemove, WhatIsBeingRestoredStaysUntilAllRanksHaveVerifiedIt) {
  const JobRun reader = cluster.NewRun();
  ASSERT_EQ(Cluster::NameOf(*cluster.Begin(reader, 0, 2)), "3");
  for (const char* name : {"3", ""}) {
    const auto refused = Remove(cluster, "gpt", name);
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(refused.status().ToString(), HasSubstr("being restored"));
  }
  EXPECT_EQ(cluster.Names("gpt"), "1 2 3 ");
  ASSERT_TRUE(cluster.Report(reader, 0, 0, true).ok());
  ASSERT_TRUE(cluster.Report(reader, 0, 1, true).ok());
  EXPECT_EQ(*Remove(cluster, "gpt", "3"), 1U);
}

TEST_F(PlacementRemove, ARefusingStoreRemovesNothing) {
  cluster.store.full = true;
  const auto refused = Remove(cluster, "gpt", "");
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(refused.status().ToString(), HasSubstr("simulated store"));
  cluster.Run(1s);
  EXPECT_EQ(cluster.Names("gpt"), "1 2 3 ");
  EXPECT_EQ(cluster.Holders(saved[0], 0), 2U);
}

TEST_F(PlacementRemove, ASaveThatIsCompleteWhileItsJobIsRemovedDoesNotCommit) {
  pb::SnapshotId open;
  std::vector<pb::OpenReply> opened;
  for (uint32_t rank = 0; rank < 2; ++rank) {
    auto reply = cluster.OpenRank(run, "4", rank);
    ASSERT_TRUE(reply.ok());
    open = reply->snapshot();
    opened.push_back(*reply);
  }
  cluster.store.latency_min = cluster.store.latency_max = 500ms;
  pb::RemoveSnapshotsRequest remove;
  *remove.mutable_caller() = Cluster::Person();
  remove.set_job("gpt");
  std::optional<absl::StatusOr<std::string>> removed;
  cluster.CallBeside("RemoveSnapshots", remove.SerializeAsString(), &removed);
  cluster.Run(10ms);
  for (uint32_t rank = 0; rank < 2; ++rank) {
    for (const pb::Member& holder : opened[rank].holders()) {
      ASSERT_TRUE(
          cluster.Seal(*cluster.Find(holder.server_id()), Cluster::ObjectOf(run, open, rank)).ok());
    }
  }
  ASSERT_FALSE(removed.has_value());
  cluster.Run(5s);
  ASSERT_TRUE(removed.has_value() && removed->ok());
  for (const auto& [key, value] : cluster.store.values) {
    EXPECT_FALSE(key.starts_with("snapshot/")) << key;
  }
  EXPECT_EQ(cluster.Begin(cluster.NewRun(), 0, 2)->decision(),
            pb::BeginRestoreReply::NEVER_COMMITTED);
}

std::string Explained(Cluster& cluster, const std::string& job, uint32_t copies) {
  pb::ExplainRequest request;
  *request.mutable_caller() = Cluster::Person();
  request.set_job(job);
  request.set_copies(copies);
  auto reply = cluster.Call<pb::ExplainReply>("Explain", request);
  return reply.ok() ? absl::StrJoin(reply->lines(), "\n") : ToText(reply.status());
}

TEST(PlacementExplain, GivesTheExactChanceToSurviveBesideCorollaryOne) {
  // Five members, two copies: one group of two and a ring of three. Of the ten pairs four are
  // fatal, Corollary 1 says 1 - 5 * C(3, 0) / (2 * C(5, 2)).
  Cluster cluster(5);
  ASSERT_TRUE(cluster.Start().ok());
  ASSERT_TRUE(cluster.RunUntilJoined());
  const std::string lines = Explained(cluster, "", 0);
  EXPECT_THAT(lines, HasSubstr("5 members, 0 spares, 2 copies, strategy mixed"));
  EXPECT_THAT(lines, HasSubstr("domains: 5 at level"));
  EXPECT_THAT(lines, HasSubstr("P(survive 1 lost at once) = 1.0000 (Corollary 1: 1.0000)"));
  EXPECT_THAT(lines, HasSubstr("P(survive 2 lost at once) = 0.6000 (Corollary 1: 0.7500)"));
  const std::string three = Explained(cluster, "", 3);
  EXPECT_THAT(three, HasSubstr("5 members, 0 spares, 3 copies"));
  EXPECT_THAT(three, HasSubstr("P(survive 2 lost at once) = 1.0000"));
  EXPECT_THAT(Explained(cluster, "", 17), HasSubstr("17 copies; 1 to 16"));
}

TEST(PlacementExplain, NamesTheHoldersOfEveryRankAndTheRanksWithoutOne) {
  Cluster cluster(4);
  ASSERT_TRUE(cluster.Start().ok());
  ASSERT_TRUE(cluster.RunUntilJoined());
  auto saved = cluster.Save(cluster.NewRun(), "7");
  ASSERT_TRUE(saved.ok()) << saved.status();
  const std::string whole = Explained(cluster, "gpt", 0);
  EXPECT_THAT(whole, HasSubstr("2 ranks, 2000 bytes, 2 of 2 copies, redundancy full"));
  EXPECT_THAT(whole, AllOf(HasSubstr("server-0 (rack0/host0)"), Not(HasSubstr("NO LIVE"))));
  const ShardId shard{*FromProto(*saved), 0};
  std::vector<size_t> holders;
  for (size_t i = 0; i < 4; ++i) {
    if (cluster.server(i).objects.contains(shard)) {
      holders.push_back(i);
    }
  }
  for (const size_t i : holders) {
    cluster.KillServer(i);
  }
  cluster.Run(300ms);
  const std::string lost = Explained(cluster, "gpt", 0);
  EXPECT_THAT(lost, HasSubstr("0 of 2 copies, redundancy LOW"));
  EXPECT_THAT(lost, HasSubstr("rank 0: NO LIVE HOLDER"));
}

class PlacementMemory : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const auto& server : cluster.servers) {
      server->capacity = 2500;
    }
    ASSERT_TRUE(cluster.Start().ok());
    ASSERT_TRUE(cluster.RunUntilJoined()) << cluster.events.All();
    first = cluster.NewRun("first");
    second = cluster.NewRun("second");
    first.world = second.world = 1;
  }

  Cluster cluster{3};
  JobRun first;
  JobRun second;
};

TEST_F(PlacementMemory, AnOpenWithoutRoomWaitsAndIsAdmittedWhenASaveEnds) {
  auto open = cluster.OpenRank(first, "1", 0);
  ASSERT_TRUE(open.ok()) << open.status();
  auto wait = cluster.OpenRank(second, "1", 0);
  ASSERT_TRUE(wait.ok()) << wait.status();
  EXPECT_EQ(wait->decision(), pb::OpenReply::WAIT);
  EXPECT_THAT(wait->reason(), AllOf(HasSubstr("2500 bytes"), HasSubstr("0 committed + 1000 in "),
                                    HasSubstr("wait for the saves in flight")));
  pb::OpenRequest patient = cluster.OpenOf(second, "1", 0);
  patient.set_wait_ms(4000);
  std::optional<absl::StatusOr<std::string>> answer;
  cluster.CallBeside("Open", patient.SerializeAsString(), &answer);
  cluster.Run(1s);
  ASSERT_FALSE(answer.has_value());
  pb::AbortSnapshotRequest abort;
  *abort.mutable_caller() = cluster.CallerOf(cluster.server(0));
  *abort.mutable_snapshot() = open->snapshot();
  abort.set_token(first.token.ToBytes());
  ASSERT_TRUE(cluster.Call<pb::AbortSnapshotReply>("AbortSnapshot", abort).ok());
  ASSERT_TRUE(cluster.RunUntil([&] { return answer.has_value(); }, 500ms));
  pb::OpenReply reply;
  ASSERT_TRUE(answer->ok() && reply.ParseFromString(**answer)) << answer->status();
  EXPECT_EQ(reply.decision(), pb::OpenReply::ACCEPT) << reply.ShortDebugString();
}

TEST_F(PlacementMemory, ACallThatIsHeldIsNoSignOfLife) {
  auto open = cluster.OpenRank(first, "1", 0);
  ASSERT_TRUE(open.ok()) << open.status();
  pb::OpenRequest patient = cluster.OpenOf(second, "1", 0);
  patient.set_wait_ms(20'000);
  std::optional<absl::StatusOr<std::string>> answer;
  cluster.CallBeside("Open", patient.SerializeAsString(), &answer);
  cluster.Run(1s);
  ASSERT_FALSE(answer.has_value());
  cluster.server(0).running = false;  // it hangs: its connections stay, and its address accepts
  const TimePoint hangs = cluster.scheduler.now();
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("member_dead"); }));
  EXPECT_LE(cluster.scheduler.now() - hangs, 1000ms);
}

TEST_F(PlacementMemory, WhatCanNeverFitIsRefusedWithTheSizes) {
  second.shard_bytes = 1300;
  auto refused = cluster.OpenRank(second, "1", 0);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(
      refused.status().ToString(),
      AllOf(HasSubstr("second@1"), HasSubstr("has 2500 bytes"), HasSubstr("need 2600 bytes"),
            HasSubstr("1300 for this snapshot + 1300 for a pin"), HasSubstr("--memory")));
}

TEST_F(PlacementMemory, RemovedBytesCountUntilTheServersHaveDroppedThem) {
  first.keep = 0;
  ASSERT_TRUE(cluster.Save(first, "1").ok());
  second.shard_bytes = 1200;
  EXPECT_EQ(cluster.OpenRank(second, "1", 0).status().code(), absl::StatusCode::kResourceExhausted);
  // Nobody polls for directives: what is removed is still in the servers' memory.
  for (const auto& server : cluster.servers) {
    server->works = false;
  }
  cluster.Run(1500ms);
  ASSERT_EQ(*Remove(cluster, "first", "1"), 1U);
  auto wait = cluster.OpenRank(second, "2", 0);
  ASSERT_TRUE(wait.ok()) << wait.status();
  EXPECT_EQ(wait->decision(), pb::OpenReply::WAIT) << wait->ShortDebugString();
  for (const auto& server : cluster.servers) {
    server->works = true;
  }
  cluster.Run(1s);
  EXPECT_EQ(cluster.OpenRank(second, "2", 0)->decision(), pb::OpenReply::ACCEPT);
}

int64_t ManifestBytes(Cluster& cluster) {
  cluster.Run(2500ms);
  return cluster.metrics.Gauge("gemel_manifest_bytes", "").Get();
}

TEST_F(PlacementRemove, ManifestsOfOldSnapshotsLeaveMemoryAndComeBackWhenNeeded) {
  ASSERT_TRUE(cluster.Save(run, "4").ok());
  const int64_t four = ManifestBytes(cluster);
  ASSERT_GT(four, 0);
  for (int i = 5; i <= 12; ++i) {
    ASSERT_TRUE(cluster.Save(run, std::to_string(i)).ok());
  }
  EXPECT_LE(ManifestBytes(cluster), four + 16);  // names grew by a byte
  // A lost copy of an old one is repaired from what its holders know.
  cluster.KillServer(0);
  ASSERT_TRUE(cluster.RunUntil([&] {
    return cluster.Holders(saved[0], 0) == 2 && cluster.Holders(saved[0], 1) == 2;
  })) << cluster.events.All();
  EXPECT_LE(ManifestBytes(cluster), four + 16);
  // A restore of an old one gets its manifest.
  for (int i = 2; i <= 12; ++i) {
    ASSERT_EQ(*Remove(cluster, "gpt", std::to_string(i)), 1U);
    if (i == 7) {
      cluster.Run(2s);
    }
  }
  auto chosen = cluster.Begin(cluster.NewRun(), 0, 2);
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  EXPECT_EQ(Cluster::NameOf(*chosen), "1");
  EXPECT_FALSE(chosen->manifest().empty());
}

TEST_F(PlacementRemove, AWrongRootIsNoCopyOfASnapshotWhoseManifestLeftMemory) {
  for (int i = 4; i <= 9; ++i) {
    ASSERT_TRUE(cluster.Save(run, std::to_string(i)).ok());
  }
  cluster.Run(2500ms);
  const ShardId shard{*FromProto(saved[0]), 0};
  for (const auto& server : cluster.servers) {
    if (server->objects.contains(shard)) {
      pb::HeldObject wrong = server->objects.at(shard);
      wrong.set_root(std::string(16, 'x'));
      pb::ReportReceiptsRequest request;
      *request.mutable_caller() = cluster.CallerOf(*server);
      *request.add_receipts()->mutable_object() = wrong;
      ASSERT_TRUE(cluster.Call<pb::ReportReceiptsReply>("ReportReceipts", request).ok());
      break;
    }
  }
  EXPECT_THAT(cluster.events.All(), HasSubstr("which is not the committed one"));
  // Also when it is reported by a server that joins again.
  cluster.Run(2500ms);
  ScriptedServer* first = nullptr;
  for (size_t i = 0; i < 3 && first == nullptr; ++i) {
    ScriptedServer& server = cluster.server(i);
    if (server.objects.contains(shard)) {
      first = &server;
      server.objects.at(shard).set_root(std::string(16, 'x'));
      const auto kept = server.objects;
      cluster.KillServer(i, false);
      cluster.server(i).objects = kept;
      cluster.RestartServer(i);
    }
  }
  ASSERT_TRUE(cluster.RunUntilJoined());
  ASSERT_TRUE(cluster.RunUntil([&] {
    return Explained(cluster, "gpt", 0).find("of 2 copies, redundancy full") != std::string::npos;
  }));
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.Holders(saved[0], 0) == 3; }))
      << cluster.events.All();
}

}  // namespace
}  // namespace gemel::placement_test
