// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>

#include <algorithm>

#include "common/errors.h"
#include "common/status_macros.h"
#include "placement/manager/state.h"
#include "placement_manager_cluster.h"

namespace gemel::placement_test {
namespace {

using ::testing::HasSubstr;

class PlacementSave : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(cluster.Start().ok());
    ASSERT_TRUE(cluster.RunUntilJoined()) << cluster.events.All();
  }

  // An inventory that names no object.
  absl::Status JoinWithNothing(const ScriptedServer& server) {
    return cluster.Call<pb::JoinReply>("Join", NothingOf(server)).status();
  }

  pb::JoinRequest NothingOf(const ScriptedServer& server) {
    pb::JoinRequest join;
    *join.mutable_caller() = cluster.CallerOf(server);
    join.set_name(server.name);
    join.set_domain(server.domain);
    join.set_data_address(server.address);
    join.set_capacity_bytes(server.capacity);
    join.set_generation(server.generation);
    return join;
  }

  std::vector<pb::OpenReply> OpenAll(const JobRun& run) {
    std::vector<pb::OpenReply> opened;
    opened.reserve(run.world);
    for (uint32_t rank = 0; rank < run.world; ++rank) {
      opened.push_back(*cluster.OpenRank(run, "1", rank));
    }
    return opened;
  }

  // Every holder that the open of the rank named.
  absl::Status SealAtAll(const JobRun& run, const pb::OpenReply& opened, uint32_t rank) {
    for (const pb::Member& holder : opened.holders()) {
      const auto object = Cluster::ObjectOf(run, opened.snapshot(), rank);
      GEMEL_RETURN_IF_ERROR(cluster.Seal(*cluster.Find(holder.server_id()), object));
    }
    return absl::OkStatus();
  }

  // The manager and the process of rank 0's server end at once; trainers live on, and wait.
  enum class Memory { kLost, kKept };

  absl::Status RestartTheManagerAndAServer(Memory memory) {
    const auto kept = cluster.server(0).objects;
    cluster.Kill();
    cluster.KillServer(0);
    if (memory == Memory::kKept) {
      cluster.server(0).objects = kept;
    }
    cluster.RestartServer(0);
    GEMEL_RETURN_IF_ERROR(cluster.Start());
    return cluster.RunUntilJoined() ? absl::OkStatus() : error::Internal("not all have joined");
  }

  // What rank 0 is told in the end, by polls of a server that has no upload of it.
  absl::StatusOr<pb::AwaitCommitReply> AwaitUnsent(const pb::SnapshotId& snapshot) {
    auto told = cluster.Await(snapshot, 0, 500, true);
    for (int i = 0; i < 5 && told.ok() && told->state() == pb::SNAPSHOT_OPEN; ++i) {
      told = cluster.Await(snapshot, 0, 500, true);
    }
    return told;
  }

  // Rank 0 is sealed at its own server alone when the manager and that server's process end.
  pb::SnapshotId SavedBesideRestarts(const std::function<void(ScriptedServer*)>& change) {
    const JobRun run = cluster.NewRun();
    const std::vector<pb::OpenReply> opened = OpenAll(run);
    const pb::SnapshotId snapshot = opened[0].snapshot();
    EXPECT_TRUE(cluster.Seal(cluster.HomeOf(0), Cluster::ObjectOf(run, snapshot, 0)).ok());
    EXPECT_TRUE(SealAtAll(run, opened[1], 1).ok());
    for (const auto& server : cluster.servers) {
      change(server.get());
    }
    EXPECT_TRUE(RestartTheManagerAndAServer(Memory::kKept).ok());
    return snapshot;
  }

  Cluster cluster{3};
};

TEST_F(PlacementSave, CommitsWhenEveryShardHasItsReceiptsAndTheDisksTheRecord) {
  const JobRun run = cluster.NewRun();
  auto saved = cluster.Save(run, "1");
  ASSERT_TRUE(saved.ok()) << saved.status() << cluster.events.All();
  EXPECT_EQ(saved->sequence(), 1U);
  size_t disks = 0;
  for (const auto& server : cluster.servers) {
    for (const auto& [id, record] : server->records) {
      EXPECT_LE(record.size(), model::kCommitRecordBytesMax);
      disks += id.name == "1" ? 1 : 0;
    }
  }
  EXPECT_GE(disks, 2U);
}

TEST_F(PlacementSave, IsNotToldCommittedBeforeEnoughDisksHaveTheRecord) {
  const JobRun run = cluster.NewRun();
  for (const auto& server : cluster.servers) {
    server->stores_commits = false;
  }
  auto saved = cluster.Save(run, "1");
  ASSERT_FALSE(saved.ok());
  EXPECT_THAT(saved.status().ToString(), HasSubstr("on its way"));
  for (const auto& server : cluster.servers) {
    server->stores_commits = true;
  }
  EXPECT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("snapshot_committed"); }));
}

TEST_F(PlacementSave, GivesTheSameAnswerToTheSameOpenAndRefusesADifferentOne) {
  const JobRun run = cluster.NewRun();
  auto first = cluster.OpenRank(run, "1", 0);
  auto again = cluster.OpenRank(run, "1", 0);
  ASSERT_TRUE(first.ok() && again.ok()) << first.status() << again.status();
  EXPECT_EQ(first->SerializeAsString(), again->SerializeAsString());
  JobRun other = run;
  other.world = 4;
  auto refused = cluster.OpenRank(other, "1", 1);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(refused.status().ToString(), HasSubstr("world size 4, it was opened with 2"));
  pb::OpenRequest layout = cluster.OpenOf(run, "1", 1);
  layout.set_layout_hash(std::string(16, 'M'));
  EXPECT_EQ(cluster.Call<pb::OpenReply>("Open", layout).status().code(),
            absl::StatusCode::kInvalidArgument);
  pb::OpenRequest rank = cluster.OpenOf(run, "1", 2);
  EXPECT_EQ(cluster.Call<pb::OpenReply>("Open", rank).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(PlacementSave, OneTokenIsOneEpochAndASupersededOneIsRefusedForEver) {
  const JobRun old = cluster.NewRun();
  EXPECT_EQ(*cluster.Acquire("gpt", old.token), old.epoch);
  auto open = cluster.OpenRank(old, "1", 0);
  ASSERT_TRUE(open.ok());
  const JobRun fresh = cluster.NewRun();
  EXPECT_GT(fresh.epoch, old.epoch);
  auto refused = cluster.Acquire("gpt", old.token);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(refused.status().ToString(), HasSubstr(fresh.epoch.ToString()));
  EXPECT_EQ(cluster.OpenRank(old, "2", 0).status().code(), absl::StatusCode::kFailedPrecondition);
  auto aborted = cluster.Await(open->snapshot(), 0);
  ASSERT_TRUE(aborted.ok()) << aborted.status();
  EXPECT_EQ(aborted->state(), pb::SNAPSHOT_ABORTED);
  cluster.Kill();
  ASSERT_TRUE(cluster.Start().ok());
  EXPECT_EQ(*cluster.Acquire("gpt", fresh.token), fresh.epoch);
  EXPECT_FALSE(cluster.Acquire("gpt", old.token).ok());
}

TEST_F(PlacementSave, ARankThatComesLateToAnAbortedOpenIsToldSoByTheNextManagerToo) {
  const JobRun run = cluster.NewRun();
  const auto opened = cluster.OpenRank(run, "1", 0);
  ASSERT_TRUE(opened.ok()) << opened.status();
  pb::AbortSnapshotRequest abort;
  *abort.mutable_caller() = cluster.CallerOf(cluster.server(0));
  *abort.mutable_snapshot() = opened->snapshot();
  abort.set_token(run.token.ToBytes());
  abort.set_why("its disk burns");
  ASSERT_TRUE(cluster.Call<pb::AbortSnapshotReply>("AbortSnapshot", abort).ok());
  EXPECT_EQ(cluster.AwaitEnd(opened->snapshot(), 0)->state(), pb::SNAPSHOT_ABORTED);
  cluster.Kill();
  ASSERT_TRUE(cluster.Start().ok());
  cluster.Run(1s);  // until the servers have joined it
  const auto told = cluster.AwaitEnd(opened->snapshot(), 1);
  ASSERT_TRUE(told.ok()) << told.status();
  EXPECT_EQ(told->state(), pb::SNAPSHOT_ABORTED);
  EXPECT_THAT(told->why(), HasSubstr("its disk burns"));
  const auto late = cluster.OpenRank(run, "1", 1);
  EXPECT_EQ(late.status().code(), absl::StatusCode::kAborted) << "a second sequence for one open";
  EXPECT_TRUE(cluster.Save(run, "1", 1).ok()) << "the next attempt";
}

TEST_F(PlacementSave, ACommitThatANewerOneReplacedIsToldByTheNextManagerToo) {
  const JobRun run = cluster.NewRun();
  const auto first = cluster.Save(run, "1");
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_TRUE(cluster.Save(run, "2").ok());
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.Names("gpt") == "2 "; }));
  cluster.Kill();
  ASSERT_TRUE(cluster.Start().ok());
  cluster.Run(1s);  // until the servers have joined it
  const auto told = cluster.AwaitEnd(*first, 1);
  ASSERT_TRUE(told.ok()) << told.status();
  EXPECT_EQ(told->state(), pb::SNAPSHOT_COMMITTED);
  EXPECT_EQ(told->copies(), 2U);
  EXPECT_TRUE(told->redundancy_full());
}

TEST_F(PlacementSave, OnlyTheNewestOfThoseThatEndedAreStored) {
  const JobRun run = cluster.NewRun();
  for (size_t i = 0; i < 2 * kEndedStored; ++i) {
    ASSERT_TRUE(cluster.Save(run, fmt::format("{}", i)).ok());
  }
  const auto stored = cluster.store.values.find(EndedKey("gpt"));
  ASSERT_NE(stored, cluster.store.values.end());
  const auto record = DecodeStored<EndedRecord>(EndedKey("gpt"), stored->second.value);
  ASSERT_TRUE(record.ok()) << record.status();
  ASSERT_EQ(record->saves.size(), kEndedStored);
  EXPECT_TRUE(std::is_sorted(
      record->saves.begin(), record->saves.end(),
      [](const EndedSave& a, const EndedSave& b) { return a.sequence < b.sequence; }));
}

TEST_F(PlacementSave, ACopyThatAnInventoryDoesNotNameCountsNoMoreAndIsMadeAnew) {
  const JobRun run = cluster.NewRun();
  const std::vector<pb::OpenReply> opened = OpenAll(run);
  const pb::SnapshotId snapshot = opened[0].snapshot();
  const ShardId shard{*FromProto(snapshot), 0};
  ASSERT_TRUE(SealAtAll(run, opened[0], 0).ok());
  ScriptedServer& damaged = *cluster.Find(opened[0].holders(1).server_id());
  damaged.objects.erase(shard);
  damaged.pulls_hang = true;
  ASSERT_TRUE(JoinWithNothing(damaged).ok());
  ASSERT_TRUE(SealAtAll(run, opened[1], 1).ok());
  EXPECT_EQ(cluster.Await(snapshot, 0, 500)->state(), pb::SNAPSHOT_OPEN)
      << "of a copy that is gone";
  damaged.pulls_hang = false;
  EXPECT_EQ(cluster.AwaitEnd(snapshot, 0)->state(), pb::SNAPSHOT_COMMITTED);
  EXPECT_TRUE(damaged.objects.contains(shard));
}

TEST_F(PlacementSave, ACopyThatItsServerLostEndsTheSaveWhenTheOtherHolderGoes) {
  JobRun run = cluster.NewRun();
  run.world = 1;
  const std::vector<pb::OpenReply> opened = OpenAll(run);
  const pb::SnapshotId snapshot = opened[0].snapshot();
  ScriptedServer& owner = *cluster.Find(opened[0].holders(0).server_id());
  const std::string other = opened[0].holders(1).server_id();
  ASSERT_TRUE(cluster.Seal(*cluster.Find(other), Cluster::ObjectOf(run, snapshot, 0)).ok());
  owner.pulls_hang = true;
  ASSERT_TRUE(JoinWithNothing(owner).ok());
  for (size_t i = 0; i < cluster.servers.size(); ++i) {
    if (cluster.server(i).id.ToBytes() == other) {
      cluster.KillServer(i);
    }
  }
  const auto ended = cluster.Await(snapshot, 0, 1000);
  EXPECT_EQ(ended->state(), pb::SNAPSHOT_ABORTED) << ended->ShortDebugString();
}

// A call that the network kept while leaders changed.
TEST_F(PlacementSave, AnInventoryThatWasMadeForAnotherLeaderIsNotTaken) {
  const JobRun run = cluster.NewRun();
  const auto saved = cluster.Save(run, "1");
  ASSERT_TRUE(saved.ok()) << saved.status();
  ScriptedServer& server = *cluster.servers[0];
  pb::JoinRequest join = NothingOf(server);
  for (const std::string& leader : {std::string(), std::string(16, 'L')}) {
    join.set_leader(leader);
    const auto reply = cluster.Call<pb::JoinReply>("Join", join);
    ASSERT_TRUE(reply.ok()) << reply.status();
    EXPECT_TRUE(reply->again());
    EXPECT_EQ(reply->leader().size(), 16U);
    EXPECT_EQ(cluster.InfoOf("gpt", "1").copies_now(), 2U);
    join.set_leader(reply->leader());
  }
  const auto taken = cluster.Call<pb::JoinReply>("Join", join);
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_FALSE(taken->again());
  EXPECT_EQ(taken->leader(), join.leader());
  EXPECT_EQ(cluster.InfoOf("gpt", "1").copies_now(), 1U);
}

TEST_F(PlacementSave, ACopyThatItsServerLostBeforeItCouldTellOfItIsMadeAnew) {
  const JobRun run = cluster.NewRun();
  const std::vector<pb::OpenReply> opened = OpenAll(run);
  const pb::SnapshotId snapshot = opened[0].snapshot();
  ScriptedServer& owner = *cluster.Find(opened[0].holders(0).server_id());
  ScriptedServer& other = *cluster.Find(opened[0].holders(1).server_id());
  ASSERT_TRUE(cluster.Seal(other, Cluster::ObjectOf(run, snapshot, 0)).ok());
  ASSERT_TRUE(JoinWithNothing(owner).ok());
  ASSERT_TRUE(SealAtAll(run, opened[1], 1).ok());
  EXPECT_EQ(cluster.AwaitEnd(snapshot, 0)->state(), pb::SNAPSHOT_COMMITTED);
  EXPECT_TRUE(owner.objects.contains(ShardId{*FromProto(snapshot), 0}));
}

TEST_F(PlacementSave, TheOnlyCopyThatAnInventoryDoesNotNameEndsTheSaveAtOnce) {
  const JobRun run = cluster.NewRun();
  const std::vector<pb::OpenReply> opened = OpenAll(run);
  const pb::SnapshotId snapshot = opened[0].snapshot();
  ScriptedServer& owner = *cluster.Find(opened[0].holders(0).server_id());
  ASSERT_TRUE(cluster.Seal(owner, Cluster::ObjectOf(run, snapshot, 0)).ok());
  owner.objects.erase(ShardId{*FromProto(snapshot), 0});
  ASSERT_TRUE(JoinWithNothing(owner).ok());
  const auto ended = cluster.Await(snapshot, 0, 500);
  EXPECT_EQ(ended->state(), pb::SNAPSHOT_ABORTED) << ended->ShortDebugString();
  EXPECT_NE(ended->why().find("damaged before another was made"), std::string::npos)
      << ended->ShortDebugString();
}

TEST_F(PlacementSave, TwoTokensAtOnceGetTwoEpochsAndOnlyTheLastStands) {
  Random random(3);
  std::vector<EpochToken> tokens = {EpochToken::Draw(&random), EpochToken::Draw(&random)};
  std::vector<std::optional<absl::StatusOr<std::string>>> results(2);
  for (size_t i = 0; i < 2; ++i) {
    pb::AcquireEpochRequest request;
    request.mutable_caller()->set_protocol_version(kControlProtocolVersion);
    request.set_job("raced");
    request.set_token(tokens[i].ToBytes());
    cluster.CallBeside("AcquireEpoch", request.SerializeAsString(), &results[i]);
  }
  ASSERT_TRUE(cluster.RunUntil([&] { return results[0].has_value() && results[1].has_value(); }));
  int standing = 0;
  for (const EpochToken& token : tokens) {
    standing += cluster.Acquire("raced", token).ok() ? 1 : 0;
  }
  EXPECT_EQ(standing, 1);
}

TEST_F(PlacementSave, HigherAttemptTakesThePlaceOfALowerOne) {
  const JobRun run = cluster.NewRun();
  auto first = cluster.OpenRank(run, "1", 0, 0);
  ASSERT_TRUE(first.ok());
  pb::OpenRequest higher = cluster.OpenOf(run, "1", 0, 1);
  higher.set_wait_ms(2000);
  auto second = cluster.Call<pb::OpenReply>("Open", higher);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->decision(), pb::OpenReply::ACCEPT);
  EXPECT_GT(second->snapshot().sequence(), first->snapshot().sequence());
  EXPECT_EQ(cluster.OpenRank(run, "1", 1, 0).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(PlacementSave, CommittedNameTakesOnlyAHigherAttemptWhichReplacesIt) {
  const JobRun run = cluster.NewRun();
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  EXPECT_EQ(cluster.OpenRank(run, "1", 0).status().code(), absl::StatusCode::kAlreadyExists);
  auto replaced = cluster.Save(run, "1", 1);
  ASSERT_TRUE(replaced.ok()) << replaced.status();
  cluster.Run(1s);
  for (const auto& server : cluster.servers) {
    for (const auto& [id, record] : server->records) {
      EXPECT_EQ(id.attempt, 1U);
    }
  }
}

TEST_F(PlacementSave, SkipIsDecidedOnceForAllRanksAndWaitIsReported) {
  const JobRun run = cluster.NewRun();
  ASSERT_TRUE(cluster.OpenRank(run, "1", 0).ok());
  ASSERT_TRUE(cluster.OpenRank(run, "2", 0).ok());
  auto wait = cluster.OpenRank(run, "3", 0);
  ASSERT_TRUE(wait.ok());
  EXPECT_EQ(wait->decision(), pb::OpenReply::WAIT);
  EXPECT_THAT(wait->reason(), HasSubstr("2 saves of job gpt are open"));
  pb::OpenRequest skip = cluster.OpenOf(run, "4", 0);
  skip.set_on_busy(pb::ON_BUSY_SKIP);
  EXPECT_EQ(cluster.Call<pb::OpenReply>("Open", skip)->decision(), pb::OpenReply::SKIP);
  EXPECT_EQ(cluster.OpenRank(run, "4", 1)->decision(), pb::OpenReply::SKIP);
}

TEST_F(PlacementSave, RefusesWhatDoesNotFitAndAbortsItForAllRanks) {
  JobRun run = cluster.NewRun();
  auto fits = cluster.OpenRank(run, "1", 0);
  ASSERT_TRUE(fits.ok());
  run.shard_bytes = 1ULL << 40;
  auto refused = cluster.OpenRank(run, "1", 1);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(refused.status().ToString(), HasSubstr("--memory"));
  auto aborted = cluster.Await(fits->snapshot(), 0);
  ASSERT_TRUE(aborted.ok()) << aborted.status();
  EXPECT_EQ(aborted->state(), pb::SNAPSHOT_ABORTED);
  EXPECT_EQ(aborted->code(), static_cast<uint32_t>(absl::StatusCode::kResourceExhausted));
}

TEST_F(PlacementSave, DeadlineAbortsAndSaysWhatWasMissing) {
  JobRun run = cluster.NewRun();
  run.deadline_ms = 500;
  auto opened = cluster.OpenRank(run, "1", 0);
  ASSERT_TRUE(opened.ok());
  auto aborted = cluster.Await(opened->snapshot(), 0);
  ASSERT_TRUE(aborted.ok()) << aborted.status();
  EXPECT_EQ(aborted->state(), pb::SNAPSHOT_ABORTED);
  EXPECT_EQ(aborted->code(), static_cast<uint32_t>(absl::StatusCode::kDeadlineExceeded));
  EXPECT_THAT(aborted->why(), HasSubstr("rank 1 did not open"));
}

TEST_F(PlacementSave, DifferentRootsOfOneShardAbortAsDataLoss) {
  const JobRun run = cluster.NewRun();
  auto opened = cluster.OpenRank(run, "1", 0);
  ASSERT_TRUE(opened.ok());
  pb::HeldObject object = Cluster::ObjectOf(run, opened->snapshot(), 0);
  ASSERT_TRUE(cluster.Seal(*cluster.Find(opened->holders(0).server_id()), object).ok());
  object.set_root(std::string(16, 'x'));
  ASSERT_TRUE(cluster.Seal(*cluster.Find(opened->holders(1).server_id()), object).ok());
  auto aborted = cluster.Await(opened->snapshot(), 0);
  ASSERT_TRUE(aborted.ok()) << aborted.status();
  EXPECT_EQ(aborted->code(), static_cast<uint32_t>(absl::StatusCode::kDataLoss));
  EXPECT_TRUE(cluster.events.Has("roots_differ"));
}

TEST_F(PlacementSave, ReceiptUnderAnotherTokenIsNotCounted) {
  const JobRun run = cluster.NewRun();
  auto opened = cluster.OpenRank(run, "1", 0);
  ASSERT_TRUE(opened.ok());
  JobRun stale = run;
  stale.token.bytes[0] ^= 1;
  for (const pb::Member& holder : opened->holders()) {
    ASSERT_TRUE(cluster
                    .Seal(*cluster.Find(holder.server_id()),
                          Cluster::ObjectOf(stale, opened->snapshot(), 0))
                    .ok());
  }
  EXPECT_TRUE(cluster.events.Has("receipt_refused"));
  EXPECT_THAT(cluster.Await(opened->snapshot(), 0, 100)->why(), HasSubstr("0 have enough"));
}

TEST_F(PlacementSave, AMemberThatDiesMovesOnlyTheMissingReceipts) {
  JobRun run = cluster.NewRun();
  run.world = 1;
  auto opened = cluster.OpenRank(run, "1", 0);
  ASSERT_TRUE(opened.ok());
  ASSERT_EQ(opened->holders_size(), 2);
  ScriptedServer* second = cluster.Find(opened->holders(1).server_id());
  const pb::HeldObject object = Cluster::ObjectOf(run, opened->snapshot(), 0);
  ASSERT_TRUE(cluster.Seal(*cluster.Find(opened->holders(0).server_id()), object).ok());
  for (size_t i = 0; i < 3; ++i) {
    if (&cluster.server(i) == second) {
      cluster.KillServer(i);
    }
  }
  auto open = cluster.Await(opened->snapshot(), 0);
  ASSERT_TRUE(open.ok()) << open.status();
  ASSERT_EQ(open->state(), pb::SNAPSHOT_OPEN) << open->ShortDebugString();
  ASSERT_EQ(open->holders_size(), 2);
  EXPECT_EQ(open->holders(0).server_id(), opened->holders(0).server_id());
  EXPECT_NE(open->holders(1).server_id(), second->id.ToBytes());
  ASSERT_TRUE(cluster.Seal(*cluster.Find(open->holders(1).server_id()), object).ok());
  EXPECT_EQ(cluster.Await(opened->snapshot(), 0)->state(), pb::SNAPSHOT_COMMITTED);
}

TEST_F(PlacementSave, BelowMinCopiesWaitsAndFailsAndWithOneCommitsWithLowRedundancy) {
  cluster.KillServer(1);
  cluster.KillServer(2);
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("member_dead"); }));
  cluster.Run(200ms);
  JobRun run = cluster.NewRun();
  run.deadline_ms = 400;
  auto failed = cluster.Save(run, "1");
  EXPECT_FALSE(failed.ok());
  run.min_copies = 1;
  auto low = cluster.Save(run, "2");
  ASSERT_TRUE(low.ok()) << low.status() << cluster.events.All();
  EXPECT_TRUE(cluster.events.Has("snapshot_committed_redundancy_low"));
}

TEST_F(PlacementSave, RetiresOnlyWhenANewerOneIsAtFullRedundancy) {
  JobRun run = cluster.NewRun();
  auto first = cluster.Save(run, "1");
  ASSERT_TRUE(first.ok());
  ASSERT_TRUE(cluster.Save(run, "2").ok());
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.Holders(*first, 0) == 0; }));
  cluster.KillServer(1);
  cluster.KillServer(2);
  cluster.Run(2s);
  run.min_copies = 1;
  ASSERT_TRUE(cluster.Save(run, "3").ok());
  cluster.Run(2s);
  pb::ListSnapshotsRequest list;
  list.mutable_caller()->set_protocol_version(kControlProtocolVersion);
  list.set_job("gpt");
  auto listed = cluster.Call<pb::ListSnapshotsReply>("ListSnapshots", list);
  ASSERT_TRUE(listed.ok());
  EXPECT_EQ(listed->snapshots_size(), 2) << listed->DebugString();
}

TEST_F(PlacementSave, AnOpenSaveOutlivesTheManager) {
  const JobRun run = cluster.NewRun();
  std::vector<pb::OpenReply> opened;
  for (uint32_t rank = 0; rank < 2; ++rank) {
    auto reply = cluster.OpenRank(run, "1", rank);
    ASSERT_TRUE(reply.ok());
    opened.push_back(*reply);
  }
  for (const pb::Member& holder : opened[0].holders()) {
    ASSERT_TRUE(cluster
                    .Seal(*cluster.Find(holder.server_id()),
                          Cluster::ObjectOf(run, opened[0].snapshot(), 0))
                    .ok());
  }
  cluster.Kill();
  ASSERT_TRUE(cluster.Start().ok());
  cluster.Run(1s);
  for (const pb::Member& holder : opened[1].holders()) {
    ASSERT_TRUE(cluster
                    .Seal(*cluster.Find(holder.server_id()),
                          Cluster::ObjectOf(run, opened[0].snapshot(), 1))
                    .ok());
  }
  auto committed = cluster.AwaitEnd(opened[0].snapshot(), 0);
  ASSERT_TRUE(committed.ok()) << committed.status();
  EXPECT_EQ(committed->state(), pb::SNAPSHOT_COMMITTED)
      << committed->ShortDebugString() << cluster.events.All();
}

TEST_F(PlacementSave, ARankWhoseServerLostItsCopyBesideTheManagerIsCopiedFromAHolder) {
  const JobRun run = cluster.NewRun();
  const std::vector<pb::OpenReply> opened = OpenAll(run);
  const pb::SnapshotId snapshot = opened[0].snapshot();
  ASSERT_TRUE(SealAtAll(run, opened[0], 0).ok());
  ASSERT_TRUE(RestartTheManagerAndAServer(Memory::kLost).ok());
  EXPECT_EQ(cluster.Await(snapshot, 0, 100, true)->state(), pb::SNAPSHOT_OPEN);
  ASSERT_TRUE(SealAtAll(run, opened[1], 1).ok());
  const auto committed = cluster.Await(snapshot, 0, 2000, true);
  EXPECT_EQ(committed->state(), pb::SNAPSHOT_COMMITTED) << committed->ShortDebugString();
  EXPECT_EQ(cluster.PulledByAll(), 1);
}

// Its server takes it for delivered, and says nothing.
TEST_F(PlacementSave, ARankWhoseHolderLostItsCopyBesideTheManagerIsCopiedFromItsServer) {
  JobRun run = cluster.NewRun();
  run.deadline_ms = 20'000;
  const std::vector<pb::OpenReply> opened = OpenAll(run);
  const pb::SnapshotId snapshot = opened[0].snapshot();
  ASSERT_TRUE(SealAtAll(run, opened[0], 0).ok());
  cluster.Kill();
  cluster.Find(opened[0].holders(1).server_id())->objects.clear();
  for (const auto& server : cluster.servers) {
    server->joined = error::Unavailable("not joined");
  }
  ASSERT_TRUE(cluster.Start().ok());
  ASSERT_TRUE(cluster.RunUntilJoined());
  ASSERT_TRUE(SealAtAll(run, opened[1], 1).ok());
  cluster.Run(6s);
  const auto committed = cluster.Await(snapshot, 0, 2000, false);
  ASSERT_TRUE(committed.ok()) << committed.status();
  EXPECT_EQ(committed->state(), pb::SNAPSHOT_COMMITTED) << committed->ShortDebugString();
  EXPECT_EQ(cluster.PulledByAll(), 1);
}

TEST_F(PlacementSave, ARankWhoseServerCameBackOnItsMemoryBesideTheManagerIsCopiedFromIt) {
  const pb::SnapshotId snapshot = SavedBesideRestarts([](ScriptedServer*) {});
  const auto told = AwaitUnsent(snapshot);
  EXPECT_EQ(told->state(), pb::SNAPSHOT_COMMITTED) << told->ShortDebugString();
  EXPECT_EQ(cluster.PulledByAll(), 1);
}

TEST_F(PlacementSave, AReceiptOfAnIncarnationThatIsGoneIsRefused) {
  const JobRun run = cluster.NewRun();
  const pb::OpenReply opened = *cluster.OpenRank(run, "1", 0);
  ScriptedServer& holder = *cluster.Find(opened.holders(1).server_id());
  pb::ReportReceiptsRequest late;
  *late.mutable_caller() = cluster.CallerOf(holder);
  *late.add_receipts()->mutable_object() = Cluster::ObjectOf(run, opened.snapshot(), 0);
  const size_t index = &holder == &cluster.server(1) ? 1 : 2;
  ASSERT_EQ(&holder, &cluster.server(index));
  cluster.KillServer(index);
  cluster.Run(1s);
  cluster.RestartServer(index);
  ASSERT_TRUE(cluster.RunUntilJoined());
  EXPECT_EQ(cluster.Call<pb::ReportReceiptsReply>("ReportReceipts", late).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

// Kept by the network while leaders changed, or its server joined again: its receipts may be
// dropped since, and the directive that it tells of is another.
TEST_F(PlacementSave, ACallFromBeforeTheLastJoinIsRefused) {
  const JobRun run = cluster.NewRun();
  const pb::OpenReply opened = *cluster.OpenRank(run, "1", 0);
  ScriptedServer& holder = *cluster.Find(opened.holders(1).server_id());
  for (const bool of_other : {true, false}) {
    pb::ReportReceiptsRequest late;
    *late.mutable_caller() = cluster.CallerOf(holder);
    late.mutable_caller()->set_leader(of_other ? std::string(16, 'L') : "");
    late.mutable_caller()->set_join(of_other ? 0 : 77);
    *late.add_receipts()->mutable_object() = Cluster::ObjectOf(run, opened.snapshot(), 0);
    EXPECT_EQ(cluster.Call<pb::ReportReceiptsReply>("ReportReceipts", late).status().code(),
              absl::StatusCode::kFailedPrecondition);
    pb::DirectivesRequest results;
    *results.mutable_caller() = late.caller();
    EXPECT_TRUE(cluster.Call<pb::DirectivesReply>("Directives", results)->rejoin());
  }
}

TEST_F(PlacementSave, AHolderThatCouldNotPullACopyCountsForNone) {
  const pb::SnapshotId snapshot = SavedBesideRestarts([](ScriptedServer* server) {
    server->pull_refuses = error::Unavailable("no source gives it");
  });
  EXPECT_EQ(AwaitUnsent(snapshot)->state(), pb::SNAPSHOT_OPEN);
  size_t told = 0;
  for (const auto& server : cluster.servers) {
    told += server->pulls.size();
  }
  EXPECT_GE(told, 1U) << "nobody was told to pull it";
  for (const auto& server : cluster.servers) {
    for (const pb::PullShard& pull : server->pulls) {
      EXPECT_TRUE(pull.writer_gone());
    }
  }
}

TEST_F(PlacementSave, AHolderThatCouldNotPullACopyIsToldAgain) {
  const pb::SnapshotId snapshot = SavedBesideRestarts(
      [](ScriptedServer* server) { server->pull_refuses = error::Unavailable("not now"); });
  EXPECT_EQ(AwaitUnsent(snapshot)->state(), pb::SNAPSHOT_OPEN);
  for (const auto& server : cluster.servers) {
    EXPECT_LE(server->pulls.size(), 6U) << "every half a second, not more often";
    server->pull_refuses = absl::OkStatus();
  }
  EXPECT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("snapshot_committed"); }, 2s));
}

TEST_F(PlacementSave, AHolderThatJoinedAgainWhileItPulledACopyIsToldAgain) {
  const pb::SnapshotId snapshot =
      SavedBesideRestarts([](ScriptedServer* server) { server->pulls_hang = true; });
  EXPECT_EQ(AwaitUnsent(snapshot)->state(), pb::SNAPSHOT_OPEN);
  for (const auto& server : cluster.servers) {
    server->joined = error::Unavailable("joining again");
  }
  ASSERT_TRUE(cluster.RunUntilJoined());
  for (const auto& server : cluster.servers) {
    server->pulls_hang = false;
  }
  EXPECT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("snapshot_committed"); }, 2s));
}

TEST_F(PlacementSave, AHolderThatDiesWhileACommitIsRefusedByTheStoreIsReplaced) {
  const JobRun run = cluster.NewRun();
  const std::vector<pb::OpenReply> opened = OpenAll(run);
  ASSERT_TRUE(SealAtAll(run, opened[1], 1).ok());
  cluster.store.latency_min = cluster.store.latency_max = 1s;
  ASSERT_TRUE(SealAtAll(run, opened[0], 0).ok());  // the commit is on its way to the store
  cluster.store.full = true;
  const ScriptedServer& holder = *cluster.Find(opened[0].holders(1).server_id());
  const size_t dead = &holder == &cluster.server(1) ? 1 : 2;
  cluster.KillServer(dead);
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("member_dead"); }, 900ms));
  cluster.Run(2s);
  cluster.store.full = false;
  cluster.store.latency_min = cluster.store.latency_max = 1ms;
  const ScriptedServer& other = cluster.server(3 - dead);
  EXPECT_TRUE(cluster.RunUntil(
      [&] {
        const auto again = cluster.OpenRank(run, "1", 0);
        return again.ok() && again->holders_size() == 2 &&
               again->holders(1).server_id() == other.id.ToBytes();
      },
      3s));
}

TEST_F(PlacementSave, ARankWhoseBytesAreNowhereAfterTheManagerIsToldToSaveAgain) {
  const JobRun run = cluster.NewRun();
  const std::vector<pb::OpenReply> opened = OpenAll(run);
  const pb::SnapshotId snapshot = opened[0].snapshot();
  ASSERT_TRUE(cluster.Seal(cluster.HomeOf(0), Cluster::ObjectOf(run, snapshot, 0)).ok());
  ASSERT_TRUE(RestartTheManagerAndAServer(Memory::kLost).ok());
  EXPECT_EQ(cluster.Await(snapshot, 1, 100)->state(), pb::SNAPSHOT_OPEN) << "it has an upload";
  const auto told = AwaitUnsent(snapshot);
  EXPECT_EQ(told->state(), pb::SNAPSHOT_ABORTED) << told->ShortDebugString();
  EXPECT_EQ(told->code(), static_cast<uint32_t>(absl::StatusCode::kUnavailable));
  EXPECT_NE(told->why().find("save again"), std::string::npos) << told->ShortDebugString();
  EXPECT_TRUE(told->closed());
}

TEST_F(PlacementSave, ACommitWhoseCopiesWentBeforeItWasToldIsToldLost) {
  const JobRun run = cluster.NewRun();
  for (const auto& server : cluster.servers) {
    server->stores_commits = false;
  }
  const std::vector<pb::OpenReply> opened = OpenAll(run);
  const pb::SnapshotId snapshot = opened[0].snapshot();
  for (uint32_t rank = 0; rank < run.world; ++rank) {
    ASSERT_TRUE(SealAtAll(run, opened[rank], rank).ok());
  }
  EXPECT_EQ(cluster.Await(snapshot, 0, 500)->state(), pb::SNAPSHOT_OPEN);
  for (size_t i = 0; i < cluster.servers.size(); ++i) {
    cluster.KillServer(i);
    cluster.RestartServer(i);
  }
  cluster.Run(3s);
  ASSERT_TRUE(cluster.RunUntilJoined());
  const auto told = cluster.Await(snapshot, 0, 500);
  EXPECT_EQ(told.status().code(), absl::StatusCode::kDataLoss) << told.status();
}

TEST_F(PlacementSave, UnknownOutcomesAreReadAgainAndNothingIsDoneTwice) {
  const JobRun run = cluster.NewRun();
  for (uint32_t applied : {0U, 1000U}) {
    cluster.store.unknown_applied_permille = applied;
    cluster.store.unknown_permille = 300;
    auto saved = cluster.Save(run, fmt::format("a{}", applied));
    ASSERT_TRUE(saved.ok()) << saved.status() << cluster.events.All();
    cluster.store.unknown_permille = 0;
    cluster.store.unknown_next = 3;
    auto next = cluster.Save(run, fmt::format("b{}", applied));
    ASSERT_TRUE(next.ok()) << next.status();
    EXPECT_EQ(next->sequence(), saved->sequence() + 1);
  }
  EXPECT_TRUE(cluster.events.Has("store_outcome_unknown"));
}

TEST_F(PlacementSave, AFullStoreFailsSavesByNameAndRecoversWhenSpaceReturns) {
  const JobRun run = cluster.NewRun();
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  auto opened = cluster.OpenRank(run, "2", 0);
  ASSERT_TRUE(opened.ok());
  cluster.store.full = true;
  auto refused = cluster.OpenRank(run, "3", 0);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(refused.status().ToString(), HasSubstr("simulated store"));
  cluster.Run(5s);
  auto undecided = cluster.Await(opened->snapshot(), 0, 100);
  EXPECT_EQ(undecided.status().code(), absl::StatusCode::kResourceExhausted) << undecided.status();
  cluster.store.full = false;
  auto aborted = cluster.Await(opened->snapshot(), 0);
  ASSERT_TRUE(cluster.Save(run, "4").ok());
}

TEST_F(PlacementSave, SixteenThousandRanksFitARecordAndFourThousandCommit) {
  model::CommitRecord record;
  record.snapshot = {std::string(128, 'j'), {~0ULL, ~0ULL}, ~0ULL, std::string(128, 'n'), ~0U};
  record.world_size = 16'384;
  EXPECT_LE(model::EncodeCommitRecord(record).size(), model::kCommitRecordBytesMax);
  JobRun run = cluster.NewRun();
  run.world = 4096;
  run.shard_bytes = 10;
  run.deadline_ms = 600'000;
  auto saved = cluster.Save(run, "1");
  ASSERT_TRUE(saved.ok()) << saved.status();
  EXPECT_LE(cluster.server(0).records.begin()->second.size(), model::kCommitRecordBytesMax);
}

}  // namespace
}  // namespace gemel::placement_test
