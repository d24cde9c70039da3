// SPDX-License-Identifier: Apache-2.0
//
// Drain: what a server keeps goes to others until it may be stopped.
#include <gmock/gmock.h>

#include "placement_manager_cluster.h"

namespace gemel::placement_test {
namespace {

using ::testing::HasSubstr;

class PlacementDrain : public ::testing::Test {
 protected:
  void Begin(uint32_t servers) {
    for (uint32_t i = 0; i < servers; ++i) {
      cluster.AddServer(i);
    }
    ASSERT_TRUE(cluster.Start().ok());
    ASSERT_TRUE(cluster.RunUntilJoined()) << cluster.events.All();
  }

  JobRun Run(uint32_t world, uint32_t copies = 2) {
    JobRun run = cluster.NewRun();
    run.world = world;
    run.copies = copies;
    run.min_copies = copies;
    return run;
  }

  absl::Status BeginDrain(size_t index, bool force = false) {
    return cluster.Drain(index, pb::DrainRequest::BEGIN, force).status();
  }

  // Copies at servers other than `index`.
  size_t Elsewhere(const pb::SnapshotId& snapshot, uint32_t rank, size_t index) {
    size_t count = 0;
    for (size_t i = 0; i < cluster.servers.size(); ++i) {
      const bool has = cluster.server(i).objects.contains(ShardId{*FromProto(snapshot), rank});
      count += i != index && cluster.server(i).running && has ? 1 : 0;
    }
    return count;
  }

  Cluster cluster{0};
};

TEST_F(PlacementDrain, EverythingMovesThenItIsReadyAndItsEndIsNoEvent) {
  Begin(4);
  JobRun run = Run(4);
  run.keep = 3;
  std::vector<pb::SnapshotId> saved;
  for (const char* name : {"1", "2"}) {
    auto one = cluster.Save(run, name);
    ASSERT_TRUE(one.ok()) << one.status();
    saved.push_back(*one);
  }
  cluster.Run(200ms);
  ASSERT_TRUE(BeginDrain(1).ok());
  ASSERT_TRUE(cluster.RunUntilReady(1)) << cluster.events.All();
  for (const pb::SnapshotId& snapshot : saved) {
    for (uint32_t rank = 0; rank < 4; ++rank) {
      EXPECT_EQ(Elsewhere(snapshot, rank, 1), 2U) << rank;
    }
  }
  const int pulled = cluster.PulledByAll();
  cluster.KillServer(1);
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("member_dead"); }));
  cluster.Run(5s);
  EXPECT_EQ(cluster.PulledByAll(), pulled) << "no repair follows";
  EXPECT_EQ(cluster.Repaired().shards(), 0U);
  EXPECT_EQ(cluster.InfoOf("gpt", "2").copies_now(), 2U);
}

TEST_F(PlacementDrain, HoldersGetTheCommitRecordToo) {
  Begin(4);
  JobRun run = Run(1);
  auto saved = cluster.Save(run, "1");
  ASSERT_TRUE(saved.ok()) << saved.status();
  cluster.Run(200ms);
  ASSERT_TRUE(BeginDrain(0).ok());
  ASSERT_TRUE(cluster.RunUntilReady(0));
  size_t records = 0;
  for (size_t i = 1; i < 4; ++i) {
    records += cluster.server(i).records.contains(*FromProto(*saved)) ? 1 : 0;
  }
  EXPECT_GE(records, 2U);
}

TEST_F(PlacementDrain, ARankThatStillSavesThereHasAllCopiesElsewhereToo) {
  Begin(4);
  JobRun run = Run(4);
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  cluster.Run(200ms);
  ASSERT_TRUE(BeginDrain(1).ok());
  ASSERT_TRUE(cluster.RunUntilReady(1));
  auto saved = cluster.Save(run, "2");
  ASSERT_TRUE(saved.ok()) << saved.status();
  for (uint32_t rank = 0; rank < 4; ++rank) {
    EXPECT_GE(Elsewhere(*saved, rank, 1), 2U) << rank;
  }
  EXPECT_TRUE(cluster.Drain(1, pb::DrainRequest::STATUS)->ready()) << "at every moment";
  const auto opened = cluster.OpenRank(run, "3", 0);
  ASSERT_TRUE(opened.ok());
  for (const pb::Member& holder : opened->holders()) {
    EXPECT_NE(holder.name(), "server-1") << "it takes no copy of others";
  }
}

TEST_F(PlacementDrain, ACommitWaitsForTheCopiesThatStay) {
  Begin(4);
  JobRun run = Run(2);
  ASSERT_TRUE(BeginDrain(1).ok());
  pb::SnapshotId snapshot;
  std::vector<pb::Member> holders;
  for (uint32_t rank = 0; rank < 2; ++rank) {
    const auto opened = cluster.OpenRank(run, "1", rank);
    ASSERT_TRUE(opened.ok()) << opened.status();
    snapshot = opened->snapshot();
    for (const pb::Member& holder : opened->holders()) {
      if (rank == 0) {
        const pb::HeldObject object = Cluster::ObjectOf(run, snapshot, rank);
        ASSERT_TRUE(cluster.Seal(*cluster.Find(holder.server_id()), object).ok());
      } else {
        holders.push_back(holder);
      }
    }
  }
  ASSERT_EQ(holders.size(), 3U) << "the local copy, and two that stay";
  EXPECT_EQ(holders[0].name(), "server-1");
  const pb::HeldObject object = Cluster::ObjectOf(run, snapshot, 1);
  ASSERT_TRUE(cluster.Seal(*cluster.Find(holders[0].server_id()), object).ok());
  ASSERT_TRUE(cluster.Seal(*cluster.Find(holders[1].server_id()), object).ok());
  auto waits = cluster.Await(snapshot, 0, 300);
  ASSERT_TRUE(waits.ok()) << waits.status();
  EXPECT_EQ(waits->state(), pb::SNAPSHOT_OPEN) << "two copies, but one of them is to go";
  ASSERT_TRUE(cluster.Seal(*cluster.Find(holders[2].server_id()), object).ok());
  EXPECT_EQ(cluster.AwaitEnd(snapshot, 0)->state(), pb::SNAPSHOT_COMMITTED);
}

TEST_F(PlacementDrain, ASaveThatWasOpenedBeforeIsWaitedFor) {
  Begin(4);
  JobRun run = Run(1);
  auto opened = cluster.OpenRank(run, "1", 0);
  ASSERT_TRUE(opened.ok());
  const std::string peer = opened->holders(1).name();
  const size_t index = static_cast<size_t>(peer.back() - '0');
  const pb::HeldObject object = Cluster::ObjectOf(run, opened->snapshot(), 0);
  ASSERT_TRUE(cluster.Seal(cluster.server(index), object).ok());
  ASSERT_TRUE(BeginDrain(index).ok());
  auto status = cluster.Drain(index, pb::DrainRequest::STATUS);
  ASSERT_TRUE(status.ok());
  EXPECT_FALSE(status->ready());
  EXPECT_EQ(status->open_saves(), 1U);
  ASSERT_TRUE(cluster.Seal(cluster.server(0), object).ok());
  ASSERT_TRUE(cluster.RunUntilReady(index)) << cluster.events.All();
  EXPECT_EQ(Elsewhere(opened->snapshot(), 0, index), 2U);
}

TEST_F(PlacementDrain, ARestartedManagerGoesOnWithIt) {
  Begin(4);
  ASSERT_TRUE(cluster.Save(Run(4), "1").ok());
  cluster.Run(200ms);
  for (const auto& server : cluster.servers) {
    server->pulls_hang = true;
  }
  ASSERT_TRUE(BeginDrain(1).ok());
  cluster.Run(200ms);
  cluster.Kill();
  ASSERT_TRUE(cluster.Start().ok());
  ASSERT_TRUE(cluster.RunUntilJoined());
  auto status = cluster.Drain(1, pb::DrainRequest::STATUS);
  ASSERT_TRUE(status.ok());
  EXPECT_TRUE(status->server().draining());
  EXPECT_FALSE(status->ready());
  for (const auto& server : cluster.servers) {
    server->pulls_hang = false;
  }
  EXPECT_TRUE(cluster.RunUntilReady(1));
}

TEST_F(PlacementDrain, AnotherIncarnationIsDrainedStillUntilItIsCancelled) {
  Begin(4);
  ASSERT_TRUE(BeginDrain(1).ok());
  cluster.KillServer(1);
  cluster.Run(1s);
  cluster.RestartServer(1);
  ASSERT_TRUE(cluster.RunUntilJoined());
  EXPECT_TRUE(cluster.Drain(1, pb::DrainRequest::STATUS)->server().draining());
  auto cancelled = cluster.Drain(1, pb::DrainRequest::CANCEL);
  ASSERT_TRUE(cancelled.ok()) << cancelled.status();
  EXPECT_FALSE(cancelled->server().draining());
  auto saved = cluster.Save(Run(4), "1");
  ASSERT_TRUE(saved.ok());
  EXPECT_FALSE(cluster.server(1).objects.empty()) << "it takes work again";
  cluster.Kill();
  ASSERT_TRUE(cluster.Start().ok());
  ASSERT_TRUE(cluster.RunUntilJoined());
  EXPECT_FALSE(cluster.Drain(1, pb::DrainRequest::STATUS)->server().draining());
}

TEST_F(PlacementDrain, AForgottenServerIsDrainedNoMore) {
  cluster.options.liveness.forget_after = 2s;
  Begin(3);
  ASSERT_TRUE(BeginDrain(1).ok());
  cluster.KillServer(1);
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("member_forgotten"); }));
  cluster.Run(500ms);
  EXPECT_FALSE(cluster.store.values.contains("drain/" + cluster.server(1).id.ToHex()));
}

TEST_F(PlacementDrain, TheLastServersAreRefusedUnlessForced) {
  Begin(2);
  ASSERT_TRUE(cluster.Save(Run(1), "1").ok());
  cluster.Run(200ms);
  const absl::Status refused = BeginDrain(1);
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(refused.ToString(), HasSubstr("keeps 2 copies and without server-1 only 1 servers"));
  EXPECT_FALSE(cluster.Drain(1, pb::DrainRequest::STATUS)->server().draining());
  ASSERT_TRUE(BeginDrain(1, true).ok());
  ASSERT_TRUE(cluster.RunUntilReady(1)) << "what others can have they have";
  const absl::Status last = BeginDrain(0);
  EXPECT_EQ(last.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(last.ToString(), HasSubstr("the cluster keeps 1 copies"));
  ASSERT_TRUE(BeginDrain(0, true).ok());
  EXPECT_FALSE(cluster.RunUntilReady(0)) << "it has the last copy";
  EXPECT_FALSE(cluster.RunUntilReady(1, 1s));
  const auto reply = cluster.Drain(0, pb::DrainRequest::STATUS);
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_THAT(reply->blocked(), testing::Contains(HasSubstr("0 servers take work")));
}

TEST_F(PlacementDrain, ASaveGoesOnWhenTheLastServersTakeWorkAgain) {
  Begin(2);
  const JobRun run = Run(1);
  ASSERT_TRUE(cluster.OpenRank(run, "1", 0).ok());
  for (const size_t index : {1, 0}) {
    ASSERT_TRUE(BeginDrain(index, true).ok());
  }
  EXPECT_TRUE(cluster.OpenRank(run, "1", 0).ok());
  for (const size_t index : {0, 1}) {
    ASSERT_TRUE(cluster.Drain(index, pb::DrainRequest::CANCEL).ok());
  }
  EXPECT_TRUE(cluster.Save(run, "1").ok());
}

TEST_F(PlacementDrain, FewerDomainsAreRefused) {
  for (uint32_t i = 0; i < 3; ++i) {
    cluster.AddServer(i);
  }
  cluster.server(0).domain = "rack0/host0";
  cluster.server(1).domain = "rack0/host1";
  cluster.server(2).domain = "rack1/host2";
  ASSERT_TRUE(cluster.Start().ok());
  ASSERT_TRUE(cluster.RunUntilJoined());
  ASSERT_TRUE(cluster.Save(Run(1), "1").ok());
  cluster.Run(200ms);
  const absl::Status refused = BeginDrain(2);
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(refused.ToString(), HasSubstr("failure domains"));
  EXPECT_TRUE(BeginDrain(1).ok());
}

TEST_F(PlacementDrain, WithoutRoomElsewhereItIsRefusedWithTheSizes) {
  Begin(3);
  auto saved = cluster.Save(Run(1), "1");
  ASSERT_TRUE(saved.ok());
  cluster.Run(200ms);
  size_t holder = 1;
  holder = cluster.server(1).objects.empty() ? 2 : holder;
  cluster.server(3 - holder).capacity = 500;
  cluster.Run(300ms);
  const absl::Status refused = BeginDrain(holder);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(refused.ToString(), HasSubstr("1 shards of 1000 bytes"));
  EXPECT_THAT(refused.ToString(), HasSubstr("has 500"));
  EXPECT_TRUE(BeginDrain(holder, true).ok());
  cluster.Run(1s);
  auto status = cluster.Drain(holder, pb::DrainRequest::STATUS);
  ASSERT_TRUE(status.ok());
  EXPECT_FALSE(status->ready());
  EXPECT_EQ(status->blocked_size(), 1);
}

TEST_F(PlacementDrain, ItsDiskIsEmptiedOfWhatOnlyItHas) {
  Begin(3);
  JobRun run = Run(2);
  run.persist.set_every(1);
  auto saved = cluster.Save(run, "1");
  ASSERT_TRUE(saved.ok());
  ASSERT_TRUE(cluster.RunUntilPersisted("gpt", "1"));
  const ShardId shard{*FromProto(*saved), 0};
  size_t owner = 0;
  for (size_t i = 0; i < 3; ++i) {
    owner = cluster.server(i).disk.contains(shard) ? i : owner;
  }
  const uint64_t free = cluster.server((owner + 1) % 3).tier_free;
  for (size_t i = 0; i < 3; ++i) {
    cluster.server(i).tier_free = i == owner ? free : 0;
  }
  cluster.Run(300ms);
  const absl::Status refused = BeginDrain(owner);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(refused.ToString(), HasSubstr("0 other servers have a persistent tier"));
  for (size_t i = 0; i < 3; ++i) {
    cluster.server(i).tier_free = free;
  }
  cluster.Run(300ms);
  ASSERT_TRUE(BeginDrain(owner).ok());
  ASSERT_TRUE(cluster.RunUntilReady(owner)) << cluster.events.All();
  size_t others = 0;
  for (size_t i = 0; i < 3; ++i) {
    others += i != owner && cluster.server(i).disk.contains(shard) ? 1 : 0;
  }
  EXPECT_EQ(others, 1U);
}

// While a snapshot is taken from memory nothing of it moves; what it has on disk stays there.
TEST_F(PlacementDrain, ItIsNotReadyWhileTheMetaStoreHearsOfARetirement) {
  Begin(3);
  JobRun run = Run(1);
  run.persist.set_every(1);
  auto saved = cluster.Save(run, "1");
  ASSERT_TRUE(saved.ok());
  ASSERT_TRUE(cluster.RunUntilPersisted("gpt", "1"));
  const ShardId shard{*FromProto(*saved), 0};
  size_t owner = 0;
  for (size_t i = 0; i < 3; ++i) {
    owner = cluster.server(i).disk.contains(shard) ? i : owner;
    cluster.server(i).disk_refuses = absl::UnavailableError("no disk takes the only copy over");
  }
  ASSERT_TRUE(BeginDrain(owner).ok());
  ASSERT_FALSE(cluster.RunUntilReady(owner, 1s)) << cluster.events.All();
  cluster.store.latency_min = cluster.store.latency_max = 300ms;
  ASSERT_TRUE(cluster.Save(run, "2").ok());
  EXPECT_FALSE(cluster.RunUntilReady(owner, 3s)) << cluster.events.All();
  EXPECT_FALSE(cluster.InfoOf("gpt", "1").in_memory());
}

TEST_F(PlacementDrain, AServerThatIsSilentIsNotReadyThoughNothingIsKnownOfIt) {
  Begin(2);
  JobRun run = Run(1, 1);
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  const size_t holder = cluster.server(0).objects.empty() ? 1 : 0;
  ASSERT_FALSE(cluster.server(holder).objects.empty());
  cluster.server(1 - holder).works = false;  // pulls nothing
  ASSERT_TRUE(BeginDrain(holder).ok());
  cluster.KillServer(holder);
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("member_dead"); }));
  EXPECT_FALSE(cluster.RunUntilReady(holder)) << cluster.events.All();
  const auto reply = cluster.Drain(holder, pb::DrainRequest::STATUS);
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_THAT(reply->waiting(), testing::Contains(HasSubstr("it is dead")));
}

TEST_F(PlacementDrain, UnknownAndDeadServersAreNamed) {
  Begin(3);
  pb::DrainRequest request;
  *request.mutable_caller() = Cluster::Person();
  request.set_server("server-9");
  const auto unknown = cluster.Call<pb::DrainReply>("Drain", request);
  EXPECT_EQ(unknown.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(unknown.status().ToString(), HasSubstr("server-0"));
  EXPECT_THAT(unknown.status().ToString(), HasSubstr("server-2"));
  request.set_server(cluster.server(1).id.ToHex());
  EXPECT_TRUE(cluster.Call<pb::DrainReply>("Drain", request).ok());
  cluster.KillServer(1);
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("member_dead"); }));
  EXPECT_EQ(BeginDrain(1).code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace gemel::placement_test
