// SPDX-License-Identifier: Apache-2.0
//
// Repair: order of risk over all jobs, room, failures, slots of dead servers, disks.
#include <gmock/gmock.h>

#include "placement_manager_cluster.h"

namespace gemel::placement_test {
namespace {

using ::testing::HasSubstr;

class PlacementRepair : public ::testing::Test {
 protected:
  void Begin(uint32_t servers) {
    for (uint32_t i = 0; i < servers; ++i) {
      cluster.AddServer(i);
    }
    ASSERT_TRUE(cluster.Start().ok());
    ASSERT_TRUE(cluster.RunUntilJoined()) << cluster.events.All();
  }

  // The manager, with other options.
  void Restart(const std::function<void()>& change) {
    change();
    cluster.Kill();
    ASSERT_TRUE(cluster.Start().ok());
    cluster.Run(1s);
    ASSERT_TRUE(cluster.RunUntilJoined());
  }

  pb::SnapshotId Saved(const JobRun& run, const std::string& name) {
    auto saved = cluster.Save(run, name);
    EXPECT_TRUE(saved.ok()) << saved.status();
    cluster.Run(100ms);
    return saved.value_or(pb::SnapshotId());
  }

  bool FullAgain(Duration limit = 10s) {
    const TimePoint end = Add(cluster.scheduler.now(), limit);
    while (cluster.scheduler.now() < end) {
      if (IsFull()) {
        return true;
      }
      cluster.Run(20ms);
    }
    return false;
  }

  bool IsFull() {
    const pb::RepairReply reply = cluster.Repaired();
    return reply.shards() == 0 && reply.lost_shards() == 0 && reply.unknown_snapshots() == 0 &&
           reply.persisted_shards() == 0 && reply.blocked_size() == 0;
  }

  // The server that has the rank, other than `except`.
  size_t HolderOf(const pb::SnapshotId& snapshot, uint32_t rank, size_t except = 99) {
    for (size_t i = 0; i < cluster.servers.size(); ++i) {
      if (i != except && cluster.server(i).running && Has(i, snapshot, rank)) {
        return i;
      }
    }
    return 99;
  }

  bool Has(size_t index, const pb::SnapshotId& snapshot, uint32_t rank) {
    return cluster.server(index).objects.contains(ShardId{*FromProto(snapshot), rank});
  }

  Cluster cluster{0};
};

TEST_F(PlacementRepair, BringsEveryShardBackToItsCopies) {
  Begin(4);
  JobRun run = cluster.NewRun();
  run.world = 4;
  const pb::SnapshotId saved = Saved(run, "1");
  EXPECT_TRUE(IsFull());
  cluster.KillServer(1);
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("member_dead"); }));
  EXPECT_TRUE(FullAgain());
  for (uint32_t rank = 0; rank < 4; ++rank) {
    EXPECT_EQ(cluster.Holders(saved, rank), 2U) << rank;
  }
}

TEST_F(PlacementRepair, TheLastCopyGoesFirstAcrossJobsThenTheNewestSnapshot) {
  Begin(4);
  Restart([&] { cluster.options.repair_wait = Duration{}; });
  JobRun safe = cluster.NewRun("a-safe");  // sorts first by its name
  safe.copies = 3;
  safe.min_copies = 3;
  safe.world = 4;
  safe.keep = 2;
  Saved(safe, "1");
  JobRun thin = cluster.NewRun("b-thin");
  thin.world = 4;
  thin.keep = 2;
  Saved(thin, "1");
  Saved(thin, "2");
  for (const auto& server : cluster.servers) {
    server->pulls_hang = true;  // what is told stays under way
  }
  cluster.KillServer(3);
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("member_dead"); }));
  cluster.Run(300ms);
  std::map<std::string, int> told;
  for (const auto& server : cluster.servers) {
    bool calm = false;
    bool older = false;
    for (const pb::PullShard& pull : server->pulls) {
      const pb::SnapshotId& id = pull.object().shard().snapshot();
      told[id.job() + "@" + id.name()] += 1;
      EXPECT_EQ(pull.urgent(), id.job() == "b-thin") << pull.ShortDebugString();
      EXPECT_FALSE(pull.urgent() && calm) << "the last copy came after one that has two";
      EXPECT_FALSE(id.name() == "2" && older) << "the newest came after an older one";
      calm = calm || !pull.urgent();
      older = older || (id.job() == "b-thin" && id.name() == "1");
    }
  }
  EXPECT_GT(told["b-thin@2"], 0);
  EXPECT_GT(told["b-thin@1"], 0);
  EXPECT_GT(told["a-safe@1"], 0);
}

TEST_F(PlacementRepair, CalmPullsLeaveRoomForUrgentOnes) {
  Begin(4);
  Restart([&] { cluster.options.repair_wait = Duration{}; });
  JobRun safe = cluster.NewRun("safe");
  safe.copies = 3;
  safe.min_copies = 3;
  safe.world = 32;
  Saved(safe, "1");
  for (const auto& server : cluster.servers) {
    server->pulls_hang = true;
  }
  cluster.KillServer(3);
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("member_dead"); }));
  cluster.Run(300ms);
  for (size_t i = 0; i < 3; ++i) {
    std::set<uint32_t> ranks;
    for (const pb::PullShard& pull : cluster.server(i).pulls) {
      ranks.insert(pull.object().shard().rank());
    }
    EXPECT_LE(ranks.size(), 4U) << i;
  }
}

TEST_F(PlacementRepair, APullThatBecameUrgentIsHurried) {
  Begin(5);
  JobRun run = cluster.NewRun();
  run.world = 1;
  run.copies = 3;
  run.min_copies = 3;
  const pb::SnapshotId saved = Saved(run, "1");
  for (const auto& server : cluster.servers) {
    server->pulls_hang = true;
  }
  const size_t first = HolderOf(saved, 0, 0);
  const size_t second = [&] {
    for (size_t i = 1; i < 5; ++i) {
      if (i != first && Has(i, saved, 0)) {
        return i;
      }
    }
    return size_t{99};
  }();
  ASSERT_LT(second, 5U);
  cluster.KillServer(first);
  cluster.Run(500ms);
  size_t puller = 99;
  for (size_t i = 0; i < 5; ++i) {
    puller = cluster.server(i).pulls.empty() ? puller : i;
  }
  ASSERT_LT(puller, 5U);
  EXPECT_FALSE(cluster.server(puller).pulls.back().urgent());
  cluster.KillServer(second);
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.server(puller).pulls.back().urgent(); }, 3s));
  for (const auto& server : cluster.servers) {
    server->pulls_hang = false;
  }
  EXPECT_TRUE(FullAgain());
}

TEST_F(PlacementRepair, AServerWithoutRoomIsPassedOver) {
  Begin(4);
  JobRun run = cluster.NewRun();
  run.world = 1;
  run.shard_bytes = 1000;
  const pb::SnapshotId saved = Saved(run, "1");
  const size_t other = HolderOf(saved, 0, 0);
  std::vector<size_t> free;
  for (size_t i = 1; i < 4; ++i) {
    if (i != other) {
      free.push_back(i);
    }
  }
  cluster.server(free[0]).capacity = 999;
  cluster.Run(300ms);
  cluster.KillServer(other);
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("member_dead"); }));
  EXPECT_TRUE(FullAgain()) << cluster.events.All();
  EXPECT_TRUE(Has(free[1], saved, 0));
}

TEST_F(PlacementRepair, WithoutRoomAnywhereItSaysSoAndGoesOnWhenThereIs) {
  Begin(3);
  JobRun run = cluster.NewRun();
  run.world = 1;
  const pb::SnapshotId saved = Saved(run, "1");
  const size_t other = HolderOf(saved, 0, 0);
  const size_t third = 3 - other;
  cluster.server(third).capacity = 10;
  cluster.Run(300ms);
  cluster.KillServer(other);
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("repair_blocked"); }));
  const pb::RepairReply blocked = cluster.Repaired();
  ASSERT_EQ(blocked.blocked_size(), 1);
  EXPECT_THAT(blocked.blocked(0), HasSubstr("--memory"));
  EXPECT_EQ(blocked.last_copy_shards(), 1U);
  EXPECT_EQ(blocked.bytes(), 1000U);
  cluster.Run(5s);
  size_t told = 0;
  for (const std::string& line : cluster.events.lines) {
    told += line.starts_with("repair_blocked:") ? 1 : 0;
  }
  EXPECT_EQ(told, 1U) << "told once for each change";
  cluster.server(third).capacity = 1 << 30;
  EXPECT_TRUE(FullAgain());
}

TEST_F(PlacementRepair, PullsUnderWayCountAgainstTheRoom) {
  Begin(3);
  JobRun run = cluster.NewRun();
  run.world = 6;
  run.shard_bytes = 1000;
  Saved(run, "1");
  for (const auto& server : cluster.servers) {
    server->pulls_hang = true;
  }
  uint64_t held = 0;
  for (const auto& [shard, object] : cluster.server(0).objects) {
    held += object.bytes();
  }
  cluster.server(0).capacity = held + 1500;
  cluster.Run(300ms);
  cluster.KillServer(2);
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("member_dead"); }));
  cluster.Run(1s);
  std::set<uint32_t> ranks;
  for (const pb::PullShard& pull : cluster.server(0).pulls) {
    ranks.insert(pull.object().shard().rank());
  }
  EXPECT_LE(ranks.size(), 1U) << "two of 1000 bytes do not fit into 1500";
}

TEST_F(PlacementRepair, AFailedPullIsTriedElsewhereAndLaterAgain) {
  Begin(4);
  JobRun run = cluster.NewRun();
  run.world = 1;
  const pb::SnapshotId saved = Saved(run, "1");
  const size_t other = HolderOf(saved, 0, 0);
  for (size_t i = 1; i < 4; ++i) {
    cluster.server(i).pull_refuses = error::ResourceExhausted("no slab is free");
  }
  cluster.KillServer(other);
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("repair_failed"); }));
  cluster.Run(500ms);
  size_t asked = 0;
  for (size_t i = 1; i < 4; ++i) {
    asked += cluster.server(i).pulls.empty() ? 0 : 1;
    EXPECT_LE(cluster.server(i).pulls.size(), 1U) << "not before its time";
    cluster.server(i).pull_refuses = absl::OkStatus();
  }
  EXPECT_EQ(asked, 2U) << "both that lack it";
  EXPECT_FALSE(IsFull());
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.Holders(saved, 0) == 2; }, 5s));
}

TEST_F(PlacementRepair, AnotherHoldersDeathInTheMiddleIsSurvived) {
  Begin(5);
  JobRun run = cluster.NewRun();
  run.world = 5;
  run.copies = 3;
  run.min_copies = 3;
  const pb::SnapshotId saved = Saved(run, "1");
  for (const auto& server : cluster.servers) {
    server->pulls_hang = true;
  }
  cluster.KillServer(4);
  cluster.Run(700ms);
  cluster.KillServer(3);  // a source of some pulls, the target of others
  cluster.Run(700ms);
  for (const auto& server : cluster.servers) {
    server->pulls_hang = false;
  }
  EXPECT_TRUE(FullAgain()) << cluster.events.All();
  for (uint32_t rank = 0; rank < 5; ++rank) {
    EXPECT_EQ(cluster.Holders(saved, rank), 3U) << rank;
  }
}

// The server may have all of it already, and its answer be on the way.
TEST_F(PlacementRepair, WhatIsBeingCopiedIsNotLostWhenItsSourceDiesAndIsWhenTheCopyFails) {
  for (const bool fails : {false, true}) {
    cluster.Kill();
    cluster.servers.clear();
    cluster.store = SimStoreState();
    cluster.store.latency_max = cluster.store.latency_min;
    Begin(3);
    JobRun run = cluster.NewRun();
    run.world = 1;
    const pb::SnapshotId saved = Saved(run, "1");
    const size_t second = HolderOf(saved, 0, 0);
    const size_t third = 3 - second;
    cluster.server(third).pulls_hang = true;
    cluster.KillServer(second);
    ASSERT_TRUE(cluster.RunUntil([&] { return !cluster.server(third).pulls.empty(); }));
    cluster.KillServer(0);
    cluster.Run(2s);
    const JobRun next = cluster.NewRun();
    const auto rank = static_cast<uint32_t>(third);
    auto waits = cluster.Begin(next, rank, 3, 500);
    ASSERT_TRUE(waits.ok()) << waits.status();
    EXPECT_EQ(waits->decision(), pb::BeginRestoreReply::WAIT);
    EXPECT_THAT(waits->progress(), HasSubstr("is being copied"));
    cluster.server(third).pull_refuses = fails ? error::DataLoss("no source") : absl::OkStatus();
    cluster.server(third).pulls_hang = false;
    auto chosen = cluster.Begin(next, rank, 3);
    EXPECT_EQ(chosen.status().code(), fails ? absl::StatusCode::kDataLoss : absl::StatusCode::kOk);
  }
}

TEST_F(PlacementRepair, ARestartedManagerGoesOn) {
  Begin(4);
  JobRun run = cluster.NewRun();
  run.world = 4;
  Saved(run, "1");
  for (const auto& server : cluster.servers) {
    server->pulls_hang = true;
  }
  cluster.KillServer(1);
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("member_dead"); }));
  cluster.Run(100ms);
  cluster.Kill();
  for (const auto& server : cluster.servers) {
    server->pulls_hang = false;
  }
  ASSERT_TRUE(cluster.Start().ok());
  ASSERT_TRUE(cluster.RunUntilJoined());
  EXPECT_TRUE(FullAgain());
}

TEST_F(PlacementRepair, WhatKeepsTwoCopiesWaitsForAServerThatComesBackButTheNewestDoesNot) {
  Begin(4);
  JobRun run = cluster.NewRun();
  run.world = 1;
  run.copies = 3;
  run.min_copies = 3;
  run.keep = 2;
  const pb::SnapshotId older = Saved(run, "1");
  const pb::SnapshotId newest = Saved(run, "2");
  const size_t dead = HolderOf(older, 0, 0);
  ASSERT_TRUE(Has(dead, newest, 0));
  cluster.KillServer(dead);
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("member_dead"); }));
  cluster.Run(1s);
  EXPECT_EQ(cluster.Holders(newest, 0), 3U);
  EXPECT_EQ(cluster.Holders(older, 0), 2U);
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.Holders(older, 0) == 3; }, 5s));
}

TEST_F(PlacementRepair, APersonsWordEndsTheWaiting) {
  cluster.options.repair_wait = 1h;
  Begin(4);
  JobRun run = cluster.NewRun();
  run.world = 1;
  run.copies = 3;
  run.min_copies = 3;
  run.keep = 2;
  const pb::SnapshotId older = Saved(run, "1");
  Saved(run, "2");
  cluster.KillServer(HolderOf(older, 0, 0));
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("member_dead"); }));
  cluster.Run(10s);
  EXPECT_EQ(cluster.Holders(older, 0), 2U);
  cluster.Repaired();
  EXPECT_TRUE(cluster.RunUntil([&] { return cluster.Holders(older, 0) == 3; }, 1s));
}

// Ranks live on 0 to 5; 6 and 7 are spares.
TEST(PlacementHeirs, ASlotOfADeadServerIsTakenOverAtDetection) {
  size_t tried = 0;
  for (uint32_t dead = 0; dead < 6; ++dead) {
    Cluster cluster(8);
    ASSERT_TRUE(cluster.Start().ok());
    ASSERT_TRUE(cluster.RunUntilJoined());
    JobRun run = cluster.NewRun();
    run.world = 6;
    auto saved = cluster.Save(run, "1");
    ASSERT_TRUE(saved.ok()) << saved.status();
    cluster.Run(100ms);
    const ShardId shard{*FromProto(*saved), dead};
    const auto spare_has = [&] {
      return cluster.server(6).objects.contains(shard) || cluster.server(7).objects.contains(shard);
    };
    if (spare_has()) {
      continue;  // nothing has to be pulled for it
    }
    tried += 1;
    const TimePoint killed = cluster.scheduler.now();
    cluster.KillServer(dead);
    ASSERT_TRUE(cluster.RunUntil(spare_has, 1s)) << dead << cluster.events.All();
    EXPECT_LE(cluster.scheduler.now() - killed, 200ms) << "at detection, before anybody asks";
    EXPECT_TRUE(cluster.events.Has("slot_taken_over"));
  }
  EXPECT_GE(tried, 2U);
}

TEST_F(PlacementRepair, ANewServerGetsWorkAndNothingIsReshuffled) {
  Begin(3);
  JobRun run = cluster.NewRun();
  run.world = 3;
  run.keep = 4;
  Saved(run, "1");
  EXPECT_TRUE(IsFull());
  const int before = cluster.PulledByAll();
  cluster.AddServer(3);
  ASSERT_TRUE(cluster.RunUntilJoined());
  cluster.Run(3s);
  EXPECT_EQ(cluster.PulledByAll(), before);
  run.world = 4;
  const pb::SnapshotId next = Saved(run, "2");
  bool works = false;
  for (uint32_t rank = 0; rank < 3; ++rank) {
    works = works || Has(3, next, rank);
  }
  EXPECT_TRUE(works || Has(3, next, 3));
}

TEST_F(PlacementRepair, TooFewServersAreNamed) {
  Begin(2);
  JobRun run = cluster.NewRun();
  run.world = 1;
  Saved(run, "1");
  cluster.KillServer(1);
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("member_dead"); }));
  cluster.Run(100ms);
  const pb::RepairReply reply = cluster.Repaired();
  ASSERT_EQ(reply.blocked_size(), 1);
  EXPECT_THAT(reply.blocked(0), HasSubstr("keeps 2 copies and 1 servers take work"));
}

TEST_F(PlacementRepair, AShardThatNobodyHasIsLostNotLacking) {
  Begin(3);
  JobRun run = cluster.NewRun();
  run.world = 1;
  const pb::SnapshotId saved = Saved(run, "1");
  const size_t other = HolderOf(saved, 0, 0);
  cluster.KillServer(0);
  cluster.KillServer(other);
  cluster.Run(1s);
  const pb::RepairReply reply = cluster.Repaired();
  EXPECT_EQ(reply.shards(), 0U);
  EXPECT_EQ(reply.lost_shards(), 1U);
}

class PlacementRewrite : public PlacementRepair {
 protected:
  pb::SnapshotId Persisted(uint32_t copies) {
    JobRun run = cluster.NewRun();
    run.world = 2;
    run.persist.set_every(1);
    run.persist.set_copies(copies);
    const pb::SnapshotId saved = Saved(run, "1");
    EXPECT_TRUE(cluster.RunUntilPersisted("gpt", "1"));
    return saved;
  }

  // Where a rank lies on disk.
  std::vector<size_t> Disks(const pb::SnapshotId& snapshot, uint32_t rank) {
    std::vector<size_t> found;
    for (size_t i = 0; i < cluster.servers.size(); ++i) {
      if (cluster.server(i).disk.contains(ShardId{*FromProto(snapshot), rank})) {
        found.push_back(i);
      }
    }
    return found;
  }

  // The server finds it rotten, and joins again without it.
  void Rot(size_t index, const pb::SnapshotId& snapshot, uint32_t rank) {
    cluster.server(index).disk.erase(ShardId{*FromProto(snapshot), rank});
    cluster.server(index).joined = error::Unavailable("damaged on disk: joining again");
  }
};

TEST_F(PlacementRewrite, ARottenShardIsWrittenAgainFromMemory) {
  Begin(3);
  const pb::SnapshotId saved = Persisted(1);
  Rot(Disks(saved, 0).at(0), saved, 0);
  EXPECT_TRUE(cluster.RunUntil([&] { return Disks(saved, 0).size() == 1; }));
  EXPECT_TRUE(FullAgain());
}

TEST_F(PlacementRewrite, FromAnotherDiskWhenNoMemoryHasIt) {
  Begin(3);
  const pb::SnapshotId saved = Persisted(2);
  const std::vector<size_t> disks = Disks(saved, 0);
  ASSERT_EQ(disks.size(), 2U);
  for (size_t i = 0; i < 3; ++i) {
    cluster.KillServer(i);
  }
  cluster.Run(2s);
  for (size_t i = 0; i < 3; ++i) {
    cluster.RestartServer(i);
  }
  ASSERT_TRUE(cluster.RunUntilJoined());
  ASSERT_TRUE(FullAgain());
  const SnapshotId id = *FromProto(saved);
  for (size_t i = 0; i < 3; ++i) {  // nobody keeps it in memory
    std::erase_if(cluster.server(i).objects, [](const auto&) { return true; });
    cluster.server(i).joined = error::Unavailable("joins again without memory");
  }
  Rot(disks[0], saved, 0);
  EXPECT_TRUE(cluster.RunUntil([&] { return Disks(saved, 0).size() == 2; }, 10s))
      << cluster.events.All();
  EXPECT_TRUE(FullAgain());
}

TEST_F(PlacementRewrite, AServerThatDiedMayComeBackWithItsDisk) {
  Begin(3);
  Restart([&] { cluster.options.liveness.forget_after = 20s; });
  const pb::SnapshotId saved = Persisted(1);
  const size_t owner = Disks(saved, 0).at(0);
  cluster.KillServer(owner);
  cluster.Run(10s);
  EXPECT_EQ(Disks(saved, 0).size(), 1U) << "nothing is written for a moment's absence";
  EXPECT_TRUE(cluster.RunUntil([&] { return Disks(saved, 0).size() == 2; }, 30s));
}

TEST_F(PlacementRewrite, WithoutAFurtherDiskItSaysWhy) {
  Begin(3);
  const pb::SnapshotId saved = Persisted(1);
  for (size_t i = 0; i < 3; ++i) {
    cluster.server(i).tier_trouble = i == 0 ? "disk below /x is broken" : "";
    cluster.server(i).tier_free = 0;
  }
  cluster.Run(300ms);
  Rot(Disks(saved, 0).at(0), saved, 0);
  cluster.Run(1s);
  const pb::RepairReply reply = cluster.Repaired();
  EXPECT_EQ(reply.persisted_shards(), 1U);
  ASSERT_EQ(reply.blocked_size(), 1);
  EXPECT_THAT(reply.blocked(0), HasSubstr("disk below /x is broken"));
}

}  // namespace
}  // namespace gemel::placement_test
