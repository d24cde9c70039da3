// SPDX-License-Identifier: Apache-2.0
//
// The persistent tier as placement sees it: which snapshots go to disk, PERSISTED as a second
// commit, retention there, what is found again after everything was killed, and what a bad disk
// does.
#include <gtest/gtest.h>

#include "tests/unit/placement_manager_cluster.h"

namespace gemel::placement_test {
namespace {

class PlacementPersist : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(cluster.Start().ok());
    ASSERT_TRUE(cluster.RunUntilJoined());
    run = cluster.NewRun();
    run.persist.set_every(1);
  }

  // kill -9 of every server, until they are found dead.
  void LoseAllServers() {
    for (size_t i = 0; i < cluster.servers.size(); ++i) {
      cluster.KillServer(i);
    }
    cluster.Run(2s);
  }

  // The same, and they come back: memory is gone, disks stay.
  void KillAllServers() {
    LoseAllServers();
    for (size_t i = 0; i < cluster.servers.size(); ++i) {
      cluster.RestartServer(i);
    }
    ASSERT_TRUE(cluster.RunUntilJoined());
  }

  void SaveOneToDiskAndTwoToMemory() {
    ASSERT_TRUE(cluster.Save(run, "1").ok());
    ASSERT_TRUE(cluster.RunUntilPersisted("gpt", "1"));
    run.persist.Clear();
    ASSERT_TRUE(cluster.Save(run, "2").ok());
  }

  // kill -9 of the manager, and another on the same store.
  void RestartManager() {
    cluster.Kill();
    ASSERT_TRUE(cluster.Start().ok());
    for (const auto& server : cluster.servers) {
      server->joined = error::Unavailable("not joined");
    }
    ASSERT_TRUE(cluster.RunUntilJoined());
  }

  bool Marked(const std::string& name) {
    for (const auto& server : cluster.servers) {
      for (const auto& [shard, object] : server->disk) {
        if (shard.snapshot.name == name && !server->marked.contains(shard.snapshot)) {
          return false;
        }
      }
    }
    return true;
  }

  // As if each shard had been synced and nobody had said so yet: rank 0 on its first holder's disk,
  // rank 1 on its last one's.
  void PutOnDisks(const std::string& name) {
    std::map<ShardId, ScriptedServer*> at;
    for (const auto& server : cluster.servers) {
      for (const auto& [shard, object] : server->objects) {
        if (shard.snapshot.name == name && (shard.rank != 0 || !at.contains(shard))) {
          at[shard] = server.get();
        }
      }
    }
    ASSERT_EQ(at.size(), 2U);
    for (const auto& [shard, server] : at) {
      server->disk[shard] = server->objects[shard];
      server->disk_records[shard.snapshot] = server->records[shard.snapshot];
    }
    ASSERT_NE(at.begin()->second, at.rbegin()->second);
  }

  Cluster cluster;
  JobRun run;
};

TEST_F(PlacementPersist, EveryShardGoesToOneDiskAndIsMarked) {
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  ASSERT_TRUE(cluster.RunUntilPersisted("gpt", "1")) << cluster.events.All();
  EXPECT_EQ(cluster.OnDisk("1"), 2U);
  EXPECT_TRUE(cluster.RunUntil([&] { return Marked("1"); }));
  EXPECT_TRUE(cluster.events.Has("snapshot_persisted"));
}

TEST_F(PlacementPersist, PersistCopiesAsksForSoManyDisks) {
  run.persist.set_copies(2);
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  ASSERT_TRUE(cluster.RunUntilPersisted("gpt", "1"));
  EXPECT_EQ(cluster.OnDisk("1"), 4U);
}

TEST_F(PlacementPersist, HostsShareTheWork) {
  run.world = 3;
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  ASSERT_TRUE(cluster.RunUntilPersisted("gpt", "1"));
  for (const auto& server : cluster.servers) {
    EXPECT_EQ(server->disk.size(), 1U) << server->name;
  }
}

TEST_F(PlacementPersist, EveryNthIsTaken) {
  run.persist.set_every(3);
  for (const char* name : {"1", "2", "3", "4"}) {
    ASSERT_TRUE(cluster.Save(run, name).ok());
  }
  ASSERT_TRUE(cluster.RunUntilPersisted("gpt", "3"));
  EXPECT_EQ(cluster.OnDisk("1") + cluster.OnDisk("2") + cluster.OnDisk("4"), 0U);
}

TEST_F(PlacementPersist, TheFirstAfterAnIntervalIsTaken) {
  run.persist.set_every(0);
  run.persist.set_interval_s(10);
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  cluster.Run(5s);
  ASSERT_TRUE(cluster.Save(run, "2").ok());
  cluster.Run(6s);
  EXPECT_EQ(cluster.OnDisk("1") + cluster.OnDisk("2"), 0U);
  ASSERT_TRUE(cluster.Save(run, "3").ok());
  ASSERT_TRUE(cluster.Save(run, "4").ok());
  ASSERT_TRUE(cluster.RunUntilPersisted("gpt", "3"));
  EXPECT_EQ(cluster.OnDisk("4"), 0U);
}

TEST_F(PlacementPersist, ByHand) {
  run.persist.Clear();
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  const auto reply = cluster.Persist("gpt", "");
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->state(), pb::PERSIST_DONE);
  EXPECT_EQ(reply->snapshot().name(), "1");
  EXPECT_EQ(reply->shards_done(), 2U);
  EXPECT_EQ(reply->bytes_done(), 2 * run.shard_bytes);
  EXPECT_EQ(cluster.OnDisk("1"), 2U);
  EXPECT_EQ(cluster.Persist("gpt", "7").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(PlacementPersist, AJobThatKeepsAllHasAllOnDisk) {
  run.keep = 0;
  for (const char* name : {"1", "2", "3", "4", "5"}) {
    ASSERT_TRUE(cluster.Save(run, name).ok());
  }
  for (const char* name : {"1", "2", "3", "4", "5"}) {
    EXPECT_TRUE(cluster.RunUntilPersisted("gpt", name)) << name;
  }
}

TEST_F(PlacementPersist, OlderOnesAreRetiredAfterNewerOnesAreWhole) {
  for (const char* name : {"1", "2", "3", "4"}) {
    ASSERT_TRUE(cluster.Save(run, name).ok());
    ASSERT_TRUE(cluster.RunUntilPersisted("gpt", name)) << name;
  }
  EXPECT_TRUE(cluster.RunUntil([&] { return cluster.OnDisk("1") + cluster.OnDisk("2") == 0; }));
  EXPECT_EQ(cluster.OnDisk("3"), 2U);  // two stay by default
  EXPECT_EQ(cluster.OnDisk("4"), 2U);
}

TEST_F(PlacementPersist, AnOlderOneStaysWhileTheNewerIsNotWholeOnDisk) {
  run.persist.set_keep(1);
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  ASSERT_TRUE(cluster.RunUntilPersisted("gpt", "1"));
  for (const auto& server : cluster.servers) {
    server->disk_hangs = true;
  }
  ASSERT_TRUE(cluster.Save(run, "2").ok());
  cluster.Run(5s);
  EXPECT_EQ(cluster.OnDisk("1"), 2U);
  EXPECT_FALSE(cluster.InfoOf("gpt", "1").in_memory());
  for (const auto& server : cluster.servers) {
    server->disk_hangs = false;
  }
  ASSERT_TRUE(cluster.RunUntilPersisted("gpt", "2"));
  EXPECT_TRUE(cluster.RunUntil([&] { return cluster.OnDisk("1") == 0; }));
}

TEST_F(PlacementPersist, ASnapshotOnDiskLeavesMemoryWhenItIsRetiredThere) {
  const auto first = cluster.Save(run, "1");
  ASSERT_TRUE(first.ok());
  ASSERT_TRUE(cluster.RunUntilPersisted("gpt", "1"));
  run.persist.Clear();
  ASSERT_TRUE(cluster.Save(run, "2").ok());
  EXPECT_TRUE(cluster.RunUntil([&] { return cluster.Holders(*first, 0) == 0; }));
  EXPECT_EQ(cluster.Names("gpt"), "1 2 ");
  const pb::SnapshotInfo info = cluster.InfoOf("gpt", "1");
  EXPECT_FALSE(info.in_memory());
  EXPECT_EQ(info.persisted(), pb::PERSIST_DONE);
}

TEST_F(PlacementPersist, AllServersKilledTheNewestOnDiskIsChosen) {
  SaveOneToDiskAndTwoToMemory();
  KillAllServers();
  const JobRun next = cluster.NewRun();
  const auto begun = cluster.Begin(next, 0, 1);
  ASSERT_TRUE(begun.ok()) << begun.status();
  EXPECT_EQ(Cluster::NameOf(*begun), "1");
  ASSERT_EQ(begun->lost_size(), 1);
  EXPECT_NE(begun->lost(0).find("@2"), std::string::npos) << begun->lost(0);
  ASSERT_EQ(begun->sources_size(), 2);
  for (const pb::ShardSources& sources : begun->sources()) {
    ASSERT_EQ(sources.holders_size(), 1);
    const ScriptedServer* disk = cluster.Find(sources.holders(0).server_id());
    EXPECT_EQ(disk->disk.size(), 1U);
  }
}

TEST_F(PlacementPersist, ServersAndManagerKilled) {
  SaveOneToDiskAndTwoToMemory();
  cluster.Kill();
  for (size_t i = 0; i < cluster.servers.size(); ++i) {
    cluster.KillServer(i, false);
    cluster.RestartServer(i);
  }
  ASSERT_TRUE(cluster.Start().ok());
  ASSERT_TRUE(cluster.RunUntilJoined());
  const auto begun = cluster.Begin(cluster.NewRun(), 0, 2);
  ASSERT_TRUE(begun.ok()) << begun.status();
  EXPECT_EQ(Cluster::NameOf(*begun), "1");
}

TEST_F(PlacementPersist, TheNewestInMemoryIsBroughtBackFromDisk) {
  const auto first = cluster.Save(run, "1");
  ASSERT_TRUE(first.ok());
  ASSERT_TRUE(cluster.RunUntilPersisted("gpt", "1"));
  KillAllServers();
  EXPECT_TRUE(cluster.RunUntil([&] {
    return cluster.Holders(*first, 0) == 2 && cluster.Holders(*first, 1) == 2;
  })) << cluster.events.All();
}

TEST_F(PlacementPersist, MemoryLostAndMetaStoreLost) {
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  ASSERT_TRUE(cluster.RunUntilPersisted("gpt", "1"));
  ASSERT_TRUE(cluster.RunUntil([&] { return Marked("1"); }));
  run.persist.Clear();
  ASSERT_TRUE(cluster.Save(run, "2").ok());
  cluster.Kill();
  for (size_t i = 0; i < cluster.servers.size(); ++i) {
    cluster.KillServer(i, false);
    cluster.server(i).records.clear();
    cluster.RestartServer(i);
  }
  cluster.store = SimStoreState();
  cluster.options.recover_from_servers = true;
  ASSERT_TRUE(cluster.Start().ok());
  ASSERT_TRUE(cluster.RunUntilJoined(20s));
  cluster.Run(1s);  // until a majority has the new generation on disk
  const auto begun = cluster.Begin(cluster.NewRun(), 0, 2);
  ASSERT_TRUE(begun.ok()) << begun.status();
  EXPECT_EQ(Cluster::NameOf(*begun), "1");
}

TEST_F(PlacementPersist, WhatIsNotWholeIsNeverFoundAndItsSpaceComesBack) {
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  ASSERT_TRUE(cluster.RunUntilPersisted("gpt", "1"));
  for (size_t i = 1; i < cluster.servers.size(); ++i) {
    cluster.server(i).disk_hangs = true;
  }
  run.persist.set_copies(2);  // so that no single disk can be enough
  ASSERT_TRUE(cluster.Save(run, "2").ok());
  cluster.Run(2s);
  ASSERT_GT(cluster.OnDisk("2"), 0U);
  ASSERT_LT(cluster.OnDisk("2"), 4U);
  KillAllServers();
  const auto begun = cluster.Begin(cluster.NewRun(), 0, 2);
  ASSERT_TRUE(begun.ok()) << begun.status();
  if (Cluster::NameOf(*begun) == "1") {
    EXPECT_TRUE(cluster.RunUntil([&] { return cluster.OnDisk("2") == 0; }));
  }
  EXPECT_EQ(cluster.InfoOf("gpt", "2").persisted(), pb::PERSIST_NONE);
}

TEST_F(PlacementPersist, ADiskThatRefusesIsSaidAndSavesGoOn) {
  for (const auto& server : cluster.servers) {
    server->disk_refuses = error::ResourceExhausted("the disk is full: free 1000 bytes");
  }
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("persist_given_up"); }));
  EXPECT_NE(cluster.events.All().find("the disk is full: free 1000 bytes"), std::string::npos);
  EXPECT_EQ(cluster.InfoOf("gpt", "1").persisted(), pb::PERSIST_NONE);
  ASSERT_TRUE(cluster.Save(run, "2").ok());
  const auto by_hand = cluster.Persist("gpt", "2");
  EXPECT_EQ(by_hand.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(ToText(by_hand.status()).find("the disk is full"), std::string::npos);
  for (const auto& server : cluster.servers) {
    server->disk_refuses = absl::OkStatus();
  }
  EXPECT_TRUE(cluster.Persist("gpt", "2").ok());
}

TEST_F(PlacementPersist, WhatADiskInTroubleMayHoldIsNotLost) {
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  ASSERT_TRUE(cluster.RunUntilPersisted("gpt", "1"));
  std::vector<std::map<ShardId, pb::HeldObject>> disks;
  disks.reserve(cluster.servers.size());
  for (const auto& server : cluster.servers) {
    disks.push_back(std::exchange(server->disk, {}));  // not opened yet: nothing is listed
    server->tier_trouble = "the disk cannot be read";
    server->tier_unread = true;
  }
  KillAllServers();
  const JobRun next = cluster.NewRun();
  auto begun = cluster.Begin(next, 0, 2);
  ASSERT_TRUE(begun.ok()) << begun.status();
  EXPECT_EQ(begun->decision(), pb::BeginRestoreReply::WAIT);
  EXPECT_NE(begun->progress().find("the disk cannot be read"), std::string::npos)
      << begun->progress();
  for (size_t i = 0; i < disks.size(); ++i) {
    cluster.server(i).disk = disks[i];
    cluster.server(i).tier_trouble.clear();
    cluster.server(i).tier_unread = false;
    cluster.server(i).joined = error::Unavailable("joins again");
  }
  ASSERT_TRUE(cluster.RunUntilJoined());
  begun = cluster.Begin(next, 0, 2);
  ASSERT_TRUE(begun.ok()) << begun.status();
  EXPECT_EQ(Cluster::NameOf(*begun), "1");
}

TEST_F(PlacementPersist, WhatADiskInTroubleWasSeenToLackIsLost) {
  run.persist.Clear();
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  for (const auto& server : cluster.servers) {
    server->tier_trouble = "the disk is full";
  }
  KillAllServers();
  const auto begun = cluster.Begin(cluster.NewRun(), 0, 2);
  EXPECT_EQ(begun.status().code(), absl::StatusCode::kDataLoss) << begun.status();
}

TEST_F(PlacementPersist, ADiskCopyThatIsGoodIsNotLostBecauseItCouldNotBeReadOnce) {
  SaveOneToDiskAndTwoToMemory();
  cluster.Run(2s);
  KillAllServers();
  const JobRun next = cluster.NewRun();
  const auto begun = cluster.Begin(next, 0, 1);
  ASSERT_TRUE(begun.ok()) << begun.status();
  ASSERT_EQ(Cluster::NameOf(*begun), "1");
  ASSERT_TRUE(cluster.Report(next, begun->round(), 0, false, {0}).ok());
  cluster.Run(3s);
  const auto again = cluster.Begin(next, 0, 1);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->round(), begun->round()) << "it was verified where it lies";
}

TEST_F(PlacementPersist, ADiskCopyThatIsDamagedIsLost) {
  SaveOneToDiskAndTwoToMemory();
  cluster.Run(2s);
  KillAllServers();
  const JobRun next = cluster.NewRun();
  const auto begun = cluster.Begin(next, 0, 1);
  ASSERT_TRUE(begun.ok()) << begun.status();
  ASSERT_EQ(Cluster::NameOf(*begun), "1");
  for (const auto& server : cluster.servers) {
    for (const auto& [shard, object] : server->disk) {
      server->corrupt.insert(shard);
    }
  }
  ASSERT_TRUE(cluster.Report(next, begun->round(), 0, false, {0}).ok());
  const auto end = cluster.AwaitRestored(next, begun->round());
  EXPECT_EQ(end.status().code(), absl::StatusCode::kDataLoss) << end.status();
}

TEST_F(PlacementPersist, RemovedInTheMiddleOfAPersistNothingStaysOnDisk) {
  run.persist.set_copies(2);
  cluster.server(1).disk_hangs = cluster.server(2).disk_hangs = true;
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  cluster.Run(2s);
  ASSERT_GT(cluster.OnDisk("1"), 0U);
  pb::RemoveSnapshotsRequest request;
  *request.mutable_caller() = Cluster::Person();
  request.set_job("gpt");
  request.set_name("1");
  ASSERT_TRUE(cluster.Call<pb::RemoveSnapshotsReply>("RemoveSnapshots", request).ok());
  cluster.server(1).disk_hangs = cluster.server(2).disk_hangs = false;
  EXPECT_TRUE(cluster.RunUntil([&] { return cluster.OnDisk("1") == 0; }));
}

TEST_F(PlacementPersist, AnOlderOneStaysWhenADiskOfTheNewerWasLost) {
  run.persist.set_keep(1);
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  ASSERT_TRUE(cluster.RunUntilPersisted("gpt", "1"));
  constexpr size_t kReader = 0;
  const ReadId id = cluster.NewReadId();
  ASSERT_TRUE(cluster.BeginRead("gpt", "1", id, kReader).ok());
  ASSERT_TRUE(cluster.Save(run, "2").ok());
  ASSERT_TRUE(cluster.RunUntilPersisted("gpt", "2"));
  for (const auto& server : cluster.servers) {
    server->disk_hangs = true;  // nobody writes it again
  }
  for (size_t i = 1; i < cluster.servers.size(); ++i) {
    std::erase_if(cluster.server(i).disk,
                  [](const auto& entry) { return entry.first.snapshot.name == "2"; });
    cluster.KillServer(i);
    cluster.RestartServer(i);
  }
  ASSERT_TRUE(cluster.RunUntilJoined());
  ASSERT_LT(cluster.OnDisk("2"), 2U);
  ASSERT_TRUE(cluster.EndRead(id, kReader).ok());
  cluster.Run(3s);
  EXPECT_EQ(cluster.InfoOf("gpt", "1").persisted(), pb::PERSIST_DONE);
  for (const auto& server : cluster.servers) {
    server->disk_hangs = false;
  }
  EXPECT_TRUE(cluster.RunUntil([&] { return cluster.OnDisk("2") == 2; })) << "it is written again";
  EXPECT_TRUE(cluster.RunUntil([&] { return cluster.OnDisk("1") == 0; }));
}

TEST_F(PlacementPersist, OneBadDiskLeavesItToTheOtherHolder) {
  cluster.server(0).disk_refuses = error::Unavailable("fsync failed");
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  ASSERT_TRUE(cluster.RunUntilPersisted("gpt", "1"));
  EXPECT_TRUE(cluster.server(0).disk.empty());
}

TEST_F(PlacementPersist, AHangingDiskHoldsUpNoSaveAndIsAWarning) {
  for (const auto& server : cluster.servers) {
    server->disk_hangs = true;
    server->tier_trouble = "the disk has not answered for 10 s";
  }
  for (int step = 1; step <= 20; ++step) {
    ASSERT_TRUE(cluster.Save(run, std::to_string(step)).ok()) << step;
    cluster.Run(3s);
  }
  EXPECT_TRUE(cluster.events.Has("tier_trouble"));
  EXPECT_NE(cluster.events.All().find("stood still for 30 s"), std::string::npos);
  pb::GetStatusRequest request;
  *request.mutable_caller() = Cluster::Person();
  const auto status = cluster.Call<pb::GetStatusReply>("GetStatus", request);
  ASSERT_TRUE(status.ok());
  EXPECT_NE(status->ShortDebugString().find("has not answered for 10 s"), std::string::npos);
  for (const auto& server : cluster.servers) {
    server->disk_hangs = false;
    server->tier_trouble.clear();
  }
  ASSERT_TRUE(cluster.Save(run, "21").ok());
  ASSERT_TRUE(cluster.RunUntilPersisted("gpt", "21", 60s)) << cluster.events.All();
  EXPECT_TRUE(cluster.events.Has("tier_well"));
  EXPECT_EQ(cluster.OnDisk("1"), 0U);
}

TEST_F(PlacementPersist, APersistGivesUpItsMemoryToASave) {
  for (const auto& server : cluster.servers) {
    server->disk_hangs = true;
    server->capacity = 6 * run.shard_bytes;  // three snapshots on the busiest server
  }
  cluster.Run(1s);
  ASSERT_TRUE(cluster.Save(run, "1").ok());  // pinned by its persist
  ASSERT_TRUE(cluster.Save(run, "2").ok());
  ASSERT_TRUE(cluster.BeginRead("gpt", "2", cluster.NewReadId()).ok());  // pinned by a reader
  ASSERT_TRUE(cluster.Save(run, "3").ok());
  auto fourth = cluster.Save(run, "4");
  for (int i = 0; i < 10 && !fourth.ok(); ++i) {
    cluster.Run(500ms);
    fourth = cluster.Save(run, "4");
  }
  EXPECT_TRUE(fourth.ok()) << fourth.status() << cluster.events.All();
  EXPECT_NE(cluster.events.All().find("is needed to save"), std::string::npos);
}

TEST_F(PlacementPersist, WhatWasWholeOnDiskBeforeItWasRecordedIsFinished) {
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  ASSERT_TRUE(cluster.RunUntilPersisted("gpt", "1"));
  for (const auto& server : cluster.servers) {
    server->disk_refuses = error::Unavailable("not now");
  }
  ASSERT_TRUE(cluster.Save(run, "2").ok());
  cluster.Run(2s);
  ASSERT_EQ(cluster.InfoOf("gpt", "2").persisted(), pb::PERSIST_NONE);
  PutOnDisks("2");
  KillAllServers();
  EXPECT_TRUE(cluster.RunUntilPersisted("gpt", "2")) << cluster.events.All();
  EXPECT_TRUE(cluster.RunUntil([&] { return Marked("2"); }));
}

TEST_F(PlacementPersist, WhatIsWholeOnDiskStaysWhileItsServersComeBackOneByOne) {
  SaveOneToDiskAndTwoToMemory();
  PutOnDisks("2");
  LoseAllServers();
  for (size_t i = 0; i < cluster.servers.size(); ++i) {
    cluster.RestartServer(i);
    ASSERT_TRUE(cluster.RunUntilJoined());
    cluster.Run(3s);  // the others are dead: as far as is known, shards are lost
  }
  EXPECT_TRUE(cluster.RunUntilPersisted("gpt", "2")) << cluster.events.All();
}

TEST_F(PlacementPersist, APersistThatIsGivenUpTakesNothingWholeOffADisk) {
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  ASSERT_TRUE(cluster.RunUntilPersisted("gpt", "1"));
  for (const auto& server : cluster.servers) {
    server->disk_hangs = true;
  }
  ASSERT_TRUE(cluster.Save(run, "2").ok());
  cluster.Run(1s);
  PutOnDisks("2");
  for (size_t i = 0; i < cluster.servers.size(); ++i) {
    cluster.KillServer(i, false);
  }
  cluster.server(0).works = false;  // pulls nothing from the others
  cluster.RestartServer(0);         // before these are found dead, and the persist is given up
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("persist_given_up"); }))
      << cluster.events.All();
  cluster.server(0).works = true;
  cluster.Run(3s);
  for (size_t i = 1; i < cluster.servers.size(); ++i) {
    cluster.RestartServer(i);
  }
  EXPECT_TRUE(cluster.RunUntilPersisted("gpt", "2")) << cluster.events.All();
}

TEST_F(PlacementPersist, ARemovalThatIsRefusedEndsNone) {
  for (const auto& server : cluster.servers) {
    server->disk_hangs = true;
  }
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  cluster.Run(1s);
  const JobRun reader = cluster.NewRun();
  ASSERT_EQ(Cluster::NameOf(*cluster.Begin(reader, 0, 2)), "1");
  pb::RemoveSnapshotsRequest remove;
  *remove.mutable_caller() = Cluster::Person();
  remove.set_job("gpt");
  const auto refused = cluster.Call<pb::RemoveSnapshotsReply>("RemoveSnapshots", remove);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  for (const auto& server : cluster.servers) {
    server->disk_hangs = false;
  }
  EXPECT_TRUE(cluster.RunUntilPersisted("gpt", "1")) << cluster.events.All();
}

TEST_F(PlacementPersist, WhatIsWholeOnDiskWaitsForAMetaStoreThatRefusesIt) {
  for (const auto& server : cluster.servers) {
    server->disk_hangs = true;
  }
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  cluster.Run(1s);
  cluster.store.full = true;
  for (const auto& server : cluster.servers) {
    server->disk_hangs = false;
  }
  cluster.Run(3s);
  EXPECT_FALSE(cluster.events.Has("persist_given_up")) << cluster.events.All();
  EXPECT_EQ(cluster.OnDisk("1"), 2U);
  cluster.store.full = false;
  EXPECT_TRUE(cluster.RunUntilPersisted("gpt", "1")) << cluster.events.All();
}

TEST_F(PlacementPersist, ACopyThatAServerFindsDamagedAsItWritesItCountsNoMore) {
  for (const auto& server : cluster.servers) {
    server->disk_refuses = absl::DataLossError("the shard is damaged in memory and was dropped");
    server->pulls_hang = true;
  }
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  EXPECT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("copy_gone"); }))
      << cluster.events.All();
  EXPECT_LT(cluster.InfoOf("gpt", "1").copies_now(), 2U);
}

// Its copies in memory decay while one of them is being written to a disk.
TEST_F(PlacementPersist, WhatIsBeingWrittenIsNotLostBeforeThatEnds) {
  run.world = 1;
  for (const auto& server : cluster.servers) {
    server->disk_hangs = true;
    server->pull_refuses = error::Unavailable("no source gives it");
  }
  const auto saved = cluster.Save(run, "1");
  ASSERT_TRUE(saved.ok());
  cluster.Run(1s);
  const JobRun next = cluster.NewRun();
  const auto begun = cluster.Begin(next, 0, 1);
  ASSERT_EQ(Cluster::NameOf(*begun), "1");
  for (const auto& server : cluster.servers) {
    server->corrupt.insert({*FromProto(*saved), 0});
  }
  ASSERT_TRUE(cluster.Report(next, begun->round(), 0, false, {0}).ok());
  const auto waits = cluster.AwaitRestored(next, begun->round());
  ASSERT_TRUE(waits.ok()) << waits.status();
  EXPECT_EQ(waits->outcome(), pb::AwaitRestoreReply::PENDING);
  EXPECT_EQ(cluster.InfoOf("gpt", "1").copies_now(), 0U);
  for (const auto& server : cluster.servers) {
    server->disk_hangs = false;
    server->corrupt.clear();
  }
  EXPECT_TRUE(cluster.RunUntilPersisted("gpt", "1")) << cluster.events.All();
  EXPECT_TRUE(cluster.AwaitRestored(next, begun->round()).ok());
  EXPECT_EQ(Cluster::NameOf(*cluster.Begin(cluster.NewRun(), 0, 1)), "1");
}

TEST_F(PlacementPersist, APersistWaitsForTheCopiesThatRepairBrings) {
  run.persist.set_copies(2);
  cluster.server(0).disk_hangs = true;
  cluster.server(1).disk_hangs = true;
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  cluster.Run(1s);
  cluster.KillServer(0);
  cluster.server(1).disk_hangs = false;
  EXPECT_TRUE(cluster.RunUntilPersisted("gpt", "1")) << cluster.events.All();
  EXPECT_FALSE(cluster.events.Has("persist_given_up")) << cluster.events.All();
}

TEST_F(PlacementPersist, WhatIsWholeOnDiskStaysUntilItsCommitIsToldAgain) {
  run.persist.Clear();
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  PutOnDisks("1");
  cluster.Kill();
  for (size_t i = 0; i < cluster.servers.size(); ++i) {
    cluster.KillServer(i, false);
    cluster.server(i).records.clear();
    cluster.server(i).stores_commits = false;
    cluster.RestartServer(i);
  }
  ASSERT_TRUE(cluster.Start().ok());
  ASSERT_TRUE(cluster.RunUntilJoined());
  cluster.Run(3s);  // long enough for memory to have all copies again
  EXPECT_EQ(cluster.OnDisk("1"), 2U);
  for (const auto& server : cluster.servers) {
    server->stores_commits = true;
  }
  EXPECT_TRUE(cluster.RunUntilPersisted("gpt", "1")) << cluster.events.All();
}

TEST_F(PlacementPersist, WhatIsNotWholeStaysWhileADeadServerMayBringTheRest) {
  run.persist.Clear();
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  PutOnDisks("1");
  LoseAllServers();
  for (size_t i = 1; i < cluster.servers.size(); ++i) {
    cluster.RestartServer(i);
  }
  ASSERT_TRUE(cluster.RunUntilJoined());
  cluster.Run(3s);
  ASSERT_EQ(cluster.OnDisk("1"), 2U) << "one of them on the disk of server 0, which is down";
  JobRun next = cluster.NewRun();
  ASSERT_TRUE(cluster.Save(next, "2").ok());
  EXPECT_TRUE(cluster.RunUntil([&] { return cluster.OnDisk("1") == 1; })) << "retired by a newer";
  cluster.RestartServer(0);
  EXPECT_TRUE(cluster.RunUntil([&] { return cluster.OnDisk("1") == 0; })) << "nobody knows it";
}

TEST_F(PlacementPersist, WhatAnEmptyDiskCanNotCompleteGoes) {
  run.persist.Clear();
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  PutOnDisks("1");
  cluster.server(0).disk.clear();
  ASSERT_EQ(cluster.OnDisk("1"), 1U);
  KillAllServers();
  EXPECT_TRUE(cluster.RunUntil([&] { return cluster.OnDisk("1") == 0; }));
}

TEST_F(PlacementPersist, WhatAGivenUpPersistWroteGoesWhenMemoryHasAll) {
  run.persist.set_copies(2);
  cluster.server(0).disk_refuses = error::ResourceExhausted("the disk is full");
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("persist_given_up"); }));
  EXPECT_TRUE(cluster.RunUntil([&] { return cluster.OnDisk("1") == 0; }));
}

TEST_F(PlacementPersist, WhatAGivenUpPersistWritesLateIsDroppedOnceMore) {
  run.persist.set_copies(2);
  cluster.server(0).disk_refuses = error::ResourceExhausted("the disk is full");
  cluster.server(1).disk_hangs = true;
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.events.Has("persist_given_up"); }));
  cluster.Run(1s);  // the drop is done, before there is anything
  cluster.server(1).disk_hangs = false;
  ASSERT_TRUE(cluster.RunUntil([&] { return !cluster.server(1).disk.empty(); }));
  EXPECT_TRUE(cluster.RunUntil([&] { return cluster.OnDisk("1") == 0; }));
}

TEST_F(PlacementPersist, AServerThatDiesInAPersistLeavesItToOthers) {
  cluster.server(0).disk_hangs = true;
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  cluster.Run(1s);
  cluster.KillServer(0);
  EXPECT_TRUE(cluster.RunUntilPersisted("gpt", "1")) << cluster.events.All();
}

TEST_F(PlacementPersist, ARestartedManagerKnowsWhatIsOnDisk) {
  SaveOneToDiskAndTwoToMemory();
  cluster.Run(2s);
  RestartManager();
  EXPECT_EQ(cluster.Names("gpt"), "1 2 ");
  EXPECT_EQ(cluster.InfoOf("gpt", "1").persisted(), pb::PERSIST_DONE);
  EXPECT_EQ(cluster.OnDisk("1"), 2U);
  const auto reply = cluster.BeginRead("gpt", "1", cluster.NewReadId());
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->sources(0).holders_size(), 1);
}

TEST_F(PlacementPersist, AMarkThatWasNotToldIsToldAgain) {
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  ASSERT_TRUE(cluster.RunUntilPersisted("gpt", "1"));
  for (const auto& server : cluster.servers) {
    server->marked.clear();
  }
  RestartManager();
  EXPECT_TRUE(cluster.RunUntil([&] { return Marked("1"); }));
}

TEST_F(PlacementPersist, WhatNobodyKnowsIsDroppedFromAJoiningDisk) {
  ASSERT_TRUE(cluster.Save(run, "1").ok());
  ASSERT_TRUE(cluster.RunUntilPersisted("gpt", "1"));
  std::vector<std::map<ShardId, pb::HeldObject>> disks;
  disks.reserve(cluster.servers.size());
  for (const auto& server : cluster.servers) {
    disks.push_back(server->disk);
  }
  pb::RemoveSnapshotsRequest request;
  *request.mutable_caller() = Cluster::Person();
  request.set_job("gpt");
  request.set_name("1");
  ASSERT_TRUE(cluster.Call<pb::RemoveSnapshotsReply>("RemoveSnapshots", request).ok());
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.OnDisk("1") == 0; }))
      << "removed from disk too";
  for (size_t i = 0; i < disks.size(); ++i) {
    cluster.server(i).disk = disks[i];
  }
  ASSERT_EQ(cluster.OnDisk("1"), 2U);
  RestartManager();
  EXPECT_TRUE(cluster.RunUntil([&] { return cluster.OnDisk("1") == 0; }));
}

TEST_F(PlacementPersist, AReplacedNameStaysOnDiskUntilTheNewerAttemptIsThere) {
  run.keep = 0;
  ASSERT_TRUE(cluster.Save(run, "1", 1).ok());
  ASSERT_TRUE(cluster.RunUntilPersisted("gpt", "1"));
  for (const auto& server : cluster.servers) {
    server->disk_hangs = true;
  }
  ASSERT_TRUE(cluster.Save(run, "1", 2).ok());
  cluster.Run(3s);
  EXPECT_EQ(cluster.OnDisk("1"), 2U);
  for (const auto& server : cluster.servers) {
    server->disk_hangs = false;
  }
  ASSERT_TRUE(cluster.RunUntilPersisted("gpt", "1"));
  cluster.Run(3s);
  EXPECT_EQ(cluster.OnDisk("1"), 2U);
  EXPECT_EQ(cluster.Names("gpt"), "1 ");
}

}  // namespace
}  // namespace gemel::placement_test
