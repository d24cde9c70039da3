// SPDX-License-Identifier: Apache-2.0
//
// Where the copies of a job lie: by the strategy that its ranks ask for, and by the room there is.
#include <gmock/gmock.h>

#include "absl/strings/str_join.h"

#include "tests/unit/placement_manager_cluster.h"

namespace gemel::placement_test {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kMiB = 1 << 20;

class PlacementPlacing : public ::testing::Test {
 protected:
  // Each server has a rack of its own, so with two copies groups are 0 and 2, 1 and 3.
  void Start() {
    ASSERT_TRUE(cluster.Start().ok());
    ASSERT_TRUE(cluster.RunUntilJoined());
  }

  // Index of the server that holds the copy of rank `rank`'s shard that is not local.
  size_t OtherHolder(const absl::StatusOr<pb::OpenReply>& opened) {
    EXPECT_TRUE(opened.ok()) << opened.status() << cluster.events.All();
    if (!opened.ok() || opened->holders_size() != 2) {
      return cluster.servers.size();
    }
    size_t index = 0;
    while (cluster.server(index).id.ToBytes() != opened->holders(1).server_id()) {
      ++index;
    }
    return index;
  }

  // The same of a snapshot that is committed.
  size_t OtherHolder(const pb::SnapshotId& snapshot, uint32_t rank) {
    const absl::StatusOr<SnapshotId> id = FromProto(snapshot);
    size_t found = cluster.servers.size();
    for (size_t i = 0; i < cluster.servers.size(); ++i) {
      found = i != rank && cluster.server(i).objects.contains({*id, rank}) ? i : found;
    }
    return found;
  }

  std::string Explained(const std::string& job) {
    pb::ExplainRequest request;
    *request.mutable_caller() = Cluster::Person();
    request.set_job(job);
    const auto reply = cluster.Call<pb::ExplainReply>("Explain", request);
    EXPECT_TRUE(reply.ok()) << reply.status();
    return reply.ok() ? absl::StrJoin(reply->lines(), "\n") : "";
  }

  void Remove(const std::string& job) {
    pb::RemoveSnapshotsRequest request;
    *request.mutable_caller() = Cluster::Person();
    request.set_job(job);
    const auto reply = cluster.Call<pb::RemoveSnapshotsReply>("RemoveSnapshots", request);
    ASSERT_TRUE(reply.ok()) << reply.status();
    cluster.Run(1s);
  }

  Cluster cluster{4};
};

TEST_F(PlacementPlacing, ARingIsOneCycleAndGroupsArePairs) {
  Start();
  for (const pb::Strategy strategy : {pb::STRATEGY_GROUP, pb::STRATEGY_RING}) {
    JobRun run = cluster.NewRun(pb::Strategy_Name(strategy));
    run.world = 4;
    run.strategy = strategy;
    std::vector<size_t> next;
    for (uint32_t rank = 0; rank < run.world; ++rank) {
      next.push_back(OtherHolder(cluster.OpenRank(run, "1", rank)));
      ASSERT_LT(next.back(), 4U);
    }
    size_t steps = 1;
    for (size_t at = next[0]; at != 0; at = next[at]) {
      steps += 1;
      ASSERT_LE(steps, 4U);
    }
    EXPECT_EQ(steps, strategy == pb::STRATEGY_RING ? 4U : 2U);
  }
}

TEST_F(PlacementPlacing, RanksThatDifferInTheStrategyAreRefused) {
  Start();
  JobRun run = cluster.NewRun();
  run.strategy = pb::STRATEGY_RING;
  ASSERT_TRUE(cluster.OpenRank(run, "1", 0).ok());
  run.strategy = pb::STRATEGY_GROUP;
  const auto refused = cluster.OpenRank(run, "1", 1);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(refused.status().ToString(),
              HasSubstr("with strategy group, it was opened with ring"));
  run.strategy = static_cast<pb::Strategy>(7);
  EXPECT_THAT(cluster.OpenRank(run, "2", 0).status().ToString(), HasSubstr("strategy 7"));
}

TEST_F(PlacementPlacing, TheStrategyOutlivesTheManagerAndSaysWhatASnapshotSurvives) {
  Start();
  JobRun run = cluster.NewRun();
  run.strategy = pb::STRATEGY_RING;
  run.world = 4;
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  std::vector<pb::OpenReply> opened;
  opened.reserve(run.world);
  for (uint32_t rank = 0; rank < run.world; ++rank) {
    opened.push_back(*cluster.OpenRank(run, "2", rank));
  }
  cluster.Kill();
  ASSERT_TRUE(cluster.Start().ok());
  cluster.Run(1s);
  EXPECT_THAT(Explained("gpt"), HasSubstr("strategy ring"));
  EXPECT_THAT(Explained("gpt"), HasSubstr("P(survive 2 lost at once) = 0.3333"));
  EXPECT_THAT(Explained(""), HasSubstr("strategy group"));
  for (uint32_t rank = 0; rank < run.world; ++rank) {
    const auto again = cluster.OpenRank(run, "2", rank);
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(again->holders(1).server_id(), opened[rank].holders(1).server_id()) << rank;
  }
}

TEST_F(PlacementPlacing, ACopyThatDoesNotFitWhereItShouldLieGoesToAServerWithRoom) {
  cluster.server(2).capacity = 1500;
  Start();
  JobRun run = cluster.NewRun();
  run.world = 1;
  const auto saved = cluster.Save(run, "1");
  ASSERT_TRUE(saved.ok()) << saved.status() << cluster.events.All();
  EXPECT_NE(OtherHolder(*saved, 0), 2U);
  EXPECT_LT(OtherHolder(*saved, 0), 4U);
  EXPECT_TRUE(cluster.events.Has("placed_elsewhere")) << cluster.events.All();
  EXPECT_TRUE(cluster.events.Has("snapshot_committed")) << cluster.events.All();
  cluster.Run(3s);
  EXPECT_EQ(cluster.PulledByAll(), 0) << "repair has nothing to bring back";
}

// Used bytes come and go; copies do not follow them within an epoch.
TEST_F(PlacementPlacing, WhatWentElsewhereStaysThereForTheEpoch) {
  cluster.server(0).capacity = 4096 * kMiB;
  Start();
  JobRun filler = cluster.NewRun("filler");
  filler.world = 3;
  filler.copies = filler.min_copies = 1;
  filler.shard_bytes = 400 * kMiB;
  ASSERT_TRUE(cluster.Save(filler, "1").ok()) << cluster.events.All();
  JobRun run = cluster.NewRun();
  run.world = 1;
  run.shard_bytes = 330 * kMiB;
  const auto first = cluster.Save(run, "1");
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(OtherHolder(*first, 0), 3U);
  Remove("filler");
  const auto second = cluster.Save(run, "2");
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(OtherHolder(*second, 0), 3U);
  JobRun later = cluster.NewRun();
  later.world = 1;
  later.shard_bytes = run.shard_bytes;
  const auto third = cluster.Save(later, "3");
  ASSERT_TRUE(third.ok()) << third.status();
  EXPECT_EQ(OtherHolder(*third, 0), 2U);
}

TEST_F(PlacementPlacing, WhatFitsNowhereIsRefusedWithWhatEveryServerHas) {
  for (size_t i = 1; i < 4; ++i) {
    cluster.server(i).capacity = 1500 + i;
  }
  Start();
  JobRun run = cluster.NewRun();
  run.world = 1;
  const auto refused = cluster.OpenRank(run, "1", 0);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  const std::string text = refused.status().ToString();
  EXPECT_THAT(text, HasSubstr("server server-2 has 1502 bytes"));
  EXPECT_THAT(text, HasSubstr("would need 2000 bytes"));
  EXPECT_THAT(text, HasSubstr("server-1 has 1501 bytes free of 2000 needed"));
  EXPECT_THAT(text, HasSubstr("server-3 has 1503 bytes free of 2000 needed"));
  EXPECT_THAT(text, HasSubstr("--memory"));
}

// Server 2 can keep what its own rank saves and nothing else; that rank opens last but one.
TEST_F(PlacementPlacing, RoomForLocalCopiesThatAreStillToComeIsNotGivenAway) {
  cluster.server(2).capacity = 2000;
  Start();
  JobRun run = cluster.NewRun();
  run.world = 4;
  const auto saved = cluster.Save(run, "1");
  ASSERT_TRUE(saved.ok()) << saved.status() << cluster.events.All();
  const absl::StatusOr<SnapshotId> id = FromProto(*saved);
  for (uint32_t rank = 0; rank < 4; ++rank) {
    EXPECT_EQ(cluster.server(2).objects.contains({*id, rank}), rank == 2) << rank;
  }
}

TEST_F(PlacementPlacing, AHolderThatDiesIsReplacedByOneWithRoom) {
  cluster.server(1).capacity = 1500;
  Start();
  JobRun run = cluster.NewRun();
  run.world = 1;
  const auto opened = cluster.OpenRank(run, "1", 0);
  ASSERT_EQ(OtherHolder(opened), 2U);
  const pb::HeldObject object = Cluster::ObjectOf(run, opened->snapshot(), 0);
  ASSERT_TRUE(cluster.Seal(cluster.server(0), object).ok());
  cluster.KillServer(2);
  const auto open = cluster.Await(opened->snapshot(), 0);
  ASSERT_TRUE(open.ok()) << open.status();
  ASSERT_EQ(open->holders_size(), 2) << open->ShortDebugString();
  EXPECT_EQ(open->holders(1).server_id(), cluster.server(3).id.ToBytes());
}

// Three copies on five servers in two racks are spread over hosts; an attempt that was opened
// before most of them came, over racks.
TEST(PlacementSpread, RanksThatOpenOnAnotherMapAreSpreadAsTheAttemptAsks) {
  Cluster cluster(5);
  for (uint32_t i = 0; i < 5; ++i) {
    cluster.server(i).domain = fmt::format("rack{}/host{}", i % 2, i);
    cluster.server(i).running = i == 1;
  }
  ASSERT_TRUE(cluster.Start().ok());
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.server(1).joined.ok(); }));
  JobRun run = cluster.NewRun();
  run.world = 5;
  run.copies = run.min_copies = 3;
  ASSERT_TRUE(cluster.OpenRank(run, "1", 1).ok());
  for (const uint32_t index : {0, 2, 3, 4}) {
    cluster.RestartServer(index);
  }
  ASSERT_TRUE(cluster.RunUntilJoined()) << cluster.events.All();
  pb::SnapshotId snapshot;
  for (uint32_t rank = 0; rank < run.world; ++rank) {
    const auto opened = cluster.OpenRank(run, "1", rank);
    ASSERT_TRUE(opened.ok()) << opened.status();
    snapshot = opened->snapshot();
    std::set<std::string> racks;
    for (const pb::Member& holder : opened->holders()) {
      ScriptedServer& server = *cluster.Find(holder.server_id());
      racks.insert(server.domain.substr(0, server.domain.find('/')));
      ASSERT_TRUE(cluster.Seal(server, Cluster::ObjectOf(run, snapshot, rank)).ok());
    }
    EXPECT_EQ(racks.size(), 2U) << "rank " << rank;
  }
  EXPECT_EQ(cluster.Await(snapshot, 0)->state(), pb::SNAPSHOT_COMMITTED);
}

// Its copies are in one rack, as it was planned; by now there are two, and the old one is in both.
TEST(PlacementSpread, ASaveThatWasOpenedInOneRackReplacesNothingThatIsInTwo) {
  Cluster cluster;
  for (uint32_t i = 0; i < 3; ++i) {
    cluster.server(i).domain = fmt::format("rack{}/host{}", i % 2, i);
    cluster.server(i).pull_refuses = error::ResourceExhausted("no slab is free");
  }
  ASSERT_TRUE(cluster.Start().ok());
  ASSERT_TRUE(cluster.RunUntilJoined());
  JobRun run = cluster.NewRun();
  run.world = 1;
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  const auto kept = cluster.server(1).objects;
  EXPECT_EQ(kept.size(), 1U);
  cluster.KillServer(1);
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("member_dead"); }));
  const auto opened = cluster.OpenRank(run, "1", 0, 1);
  ASSERT_TRUE(opened.ok()) << opened.status();
  cluster.server(1).objects = kept;
  cluster.RestartServer(1);
  ASSERT_TRUE(cluster.RunUntilJoined()) << cluster.events.All();
  for (const pb::Member& holder : opened->holders()) {
    ASSERT_TRUE(
        cluster
            .Seal(*cluster.Find(holder.server_id()), Cluster::ObjectOf(run, opened->snapshot(), 0))
            .ok());
  }
  ASSERT_EQ(cluster.Await(opened->snapshot(), 0)->state(), pb::SNAPSHOT_COMMITTED);
  cluster.Run(2s);
  EXPECT_EQ(cluster.List(run.job)->snapshots_size(), 2) << cluster.events.All();

  cluster.server(1).pull_refuses = absl::OkStatus();
  EXPECT_TRUE(cluster.RunUntil([&] { return cluster.List(run.job)->snapshots_size() == 1; }))
      << cluster.events.All();
}

}  // namespace
}  // namespace gemel::placement_test
