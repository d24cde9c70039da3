// SPDX-License-Identifier: Apache-2.0
//
// The persistent tier of real servers: directives, inventory, heartbeats, and reading back.
#include <gmock/gmock.h>

#include "tests/unit/server_world.h"

namespace gemel::testing {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kBytes = 3 * kMiB + 5;

struct Tiered : ServerWorld {
  Tiered() : ServerWorld(3, {32 * kMiB, 2 * kMiB}, true), client(&world, "server-0") {
    GEMEL_CHECK(client.Hello("server-0").ok());
  }

  ShardId Committed(const std::string& name) { return CommitShard(&client, name, kBytes); }

  // Commits, and has server 0 persist it.
  ShardId Persisted(const std::string& name) {
    const ShardId shard = Committed(name);
    const pb::DirectiveResult result = Do(0, Persist(shard));
    GEMEL_CHECK_EQ(result.code(), 0U) << result.message();
    return shard;
  }

  pb::Directive Persist(const ShardId& shard) {
    FakePlacement::Save& save = fake().saves.at(shard.snapshot.sequence);
    pb::Directive directive;
    *directive.mutable_persist_shard()->mutable_object() = fake().Held(save, 0);
    directive.mutable_persist_shard()->set_record(save.record);
    directive.mutable_persist_shard()->set_manifest(save.manifest);
    return directive;
  }

  static pb::Directive Mark(const ShardId& shard) {
    pb::Directive directive;
    WriteSnapshotId(shard.snapshot, directive.mutable_mark_persisted()->mutable_snapshot());
    return directive;
  }

  static pb::Directive Drop(const ShardId& shard) {
    pb::Directive directive;
    WriteSnapshotId(shard.snapshot, directive.mutable_drop_persisted()->mutable_snapshot());
    return directive;
  }

  pb::Directive Pull(const ShardId& shard, const std::vector<uint32_t>& sources) {
    pb::Directive directive;
    *directive.mutable_pull_shard()->mutable_object() =
        fake().Held(fake().saves.at(shard.snapshot.sequence), 0);
    for (const uint32_t i : sources) {
      *directive.mutable_pull_shard()->add_sources() =
          fake().named("server-" + std::to_string(i)).member;
    }
    return directive;
  }

  // Every server dies at once: all memory is gone.
  void KillAllAndStart() {
    client.session = nullptr;
    for (uint32_t i = 0; i < 3; ++i) {
      Kill(i);
    }
    for (uint32_t i = 0; i < 3; ++i) {
      GEMEL_CHECK(Start(i).ok());
    }
    world.RunFor(300ms);
  }

  const pb::JoinRequest& JoinOf(uint32_t i) {
    return fake().named("server-" + std::to_string(i)).last_join;
  }

  // Told to, under its incarnation.
  bool JoinsAgain(const std::string& server) {
    const uint32_t joins = fake().named(server).joins;
    fake().named(server).rejoin = true;
    return world.RunUntil([&] { return fake().named(server).joins > joins; });
  }

  int64_t Count(uint32_t i, const std::string& name) {
    return nodes[i]->metrics.Counter(name, "").Get();
  }

  TestClient client;
};

TEST(Tier, PersistShardAnswersOnceTheShardIsOnDisk) {
  Tiered t;
  const ShardId shard = t.Committed("7");
  EXPECT_EQ(t.tiers[0]->occupied_bytes(), 0U);
  EXPECT_EQ(t.Do(0, t.Persist(shard)).code(), 0U);
  EXPECT_EQ(t.tiers[0]->occupied_bytes(), kBytes);
  EXPECT_EQ(t.Count(0, "gemel_persisted_bytes_total"), static_cast<int64_t>(kBytes));
  EXPECT_EQ(t.nodes[0]->events.counts["shard_persisted"], 1U);
  EXPECT_EQ(t.Do(0, t.Persist(shard)).code(), 0U);
  EXPECT_EQ(t.Count(0, "gemel_persisted_shards_total"), 1) << "its receipt was lost, no more";
}

TEST(Tier, PersistShardRefusesWhatIsNotHereOrDoesNotFit) {
  Tiered t;
  const ShardId shard = t.Committed("7");
  const ShardId other = t.Committed("8");
  const uint32_t without = t.server(1).objects().Find(shard) == nullptr ? 1 : 2;
  EXPECT_EQ(t.Do(without, t.Persist(shard)).code(),
            static_cast<uint32_t>(absl::StatusCode::kNotFound));
  pb::Directive bad = t.Persist(shard);
  bad.mutable_persist_shard()->set_manifest(t.fake().saves.at(2).manifest);
  EXPECT_EQ(t.Do(0, bad).code(), static_cast<uint32_t>(absl::StatusCode::kDataLoss));
  bad = t.Persist(shard);
  bad.mutable_persist_shard()->set_record(t.fake().saves.at(2).record);
  bad.mutable_persist_shard()->set_manifest(t.fake().saves.at(2).manifest);
  EXPECT_EQ(t.Do(0, bad).code(), static_cast<uint32_t>(absl::StatusCode::kInvalidArgument));
  bad = t.Persist(shard);
  bad.mutable_persist_shard()->set_record("no record");
  EXPECT_EQ(t.Do(0, bad).code(), static_cast<uint32_t>(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(t.tiers[0]->occupied_bytes(), 0U);
  EXPECT_EQ(other.rank, 0U);
}

TEST(Tier, MemoryThatRottedIsNeitherPersistedNorKept) {
  Tiered t;
  const ShardId shard = t.Committed("7");
  t.server(0).objects().Find(shard)->Chunk(1)[7] ^= std::byte{1};
  EXPECT_EQ(t.Do(0, t.Persist(shard)).code(), static_cast<uint32_t>(absl::StatusCode::kDataLoss));
  EXPECT_EQ(t.server(0).objects().Find(shard), nullptr);
  EXPECT_EQ(t.nodes[0]->events.counts["chunk_corrupt"], 1U);
  EXPECT_EQ(t.tiers[0]->occupied_bytes(), 0U);
}

TEST(Tier, JoinsWithWhatIsOnDisk) {
  Tiered t;
  const ShardId shard = t.Persisted("7");
  t.Persisted("8");
  ASSERT_EQ(t.Do(0, t.Mark(shard)).code(), 0U);
  t.KillAllAndStart();
  const pb::JoinRequest& join = t.JoinOf(0);
  EXPECT_EQ(join.objects_size(), 0);
  ASSERT_EQ(join.persisted_size(), 2);
  EXPECT_EQ(ReadShardId(join.persisted(0).object().shard()), shard);
  EXPECT_EQ(join.persisted(0).object().SerializeAsString(),
            t.fake().Held(t.fake().saves.at(1), 0).SerializeAsString());
  EXPECT_TRUE(join.persisted(0).complete());
  EXPECT_FALSE(join.persisted(1).complete());
  ASSERT_EQ(join.persisted_records_size(), 2);
  EXPECT_EQ(join.persisted_records(0), t.fake().saves.at(1).record);
  EXPECT_EQ(join.tier().trouble(), "");
  EXPECT_EQ(t.JoinOf(1).persisted_size(), 0);
}

TEST(Tier, ADiskOfAnotherClusterIsNotReported) {
  Tiered t;
  t.Persisted("7");
  t.client.session = nullptr;
  t.Kill(0);
  t.disks[0]->Wipe();
  t.fake().cluster.bytes[0] = 0x55;
  ASSERT_TRUE(t.Start(0).ok()) << "a new server of another cluster on the old disk";
  t.fake().named("server-0").rejoin = true;
  t.world.RunFor(500ms);
  const auto& members = t.fake().members;
  const std::string id = t.server(0).id().ToBytes();
  EXPECT_EQ(members.at(id).last_join.persisted_size(), 0);
  EXPECT_EQ(members.at(id).joins, 2U);
}

TEST(Tier, DropPersistedForgetsItAndItsSpace) {
  Tiered t;
  const ShardId shard = t.Persisted("7");
  ASSERT_EQ(t.Do(0, t.Drop(shard)).code(), 0U);
  EXPECT_EQ(t.tiers[0]->occupied_bytes(), 0U);
  EXPECT_EQ(t.Do(0, t.Drop(shard)).code(), 0U);
  EXPECT_EQ(t.Count(0, "gemel_persist_dropped_total"), 1);
  EXPECT_EQ(t.nodes[0]->events.counts["persisted_dropped"], 1U);
  EXPECT_EQ(t.Do(0, t.Mark(shard)).code(), static_cast<uint32_t>(absl::StatusCode::kNotFound));
  EXPECT_NE(t.server(0).objects().Find(shard), nullptr) << "memory keeps it";
}

TEST(Tier, DropPersistedGivesUpAWriteUnderWay) {
  Tiered t;
  const ShardId shard = t.Committed("7");
  t.tiers[0]->set_slowness(1000);
  const uint64_t write = t.fake().Direct("server-0", t.Persist(shard));
  t.world.RunFor(1s);
  const uint64_t drop = t.fake().Direct("server-0", t.Drop(shard));
  ASSERT_TRUE(t.world.RunUntil([&] { return t.fake().ResultOf("server-0", drop) != nullptr; }));
  ASSERT_NE(t.fake().ResultOf("server-0", write), nullptr);
  EXPECT_EQ(t.fake().ResultOf("server-0", write)->code(),
            static_cast<uint32_t>(absl::StatusCode::kAborted));
  EXPECT_EQ(t.Count(0, "gemel_persist_given_up_total"), 1);
  EXPECT_EQ(t.nodes[0]->events.counts["persist_given_up"], 1U);
  EXPECT_EQ(t.tiers[0]->occupied_bytes(), 0U);
}

TEST(Tier, AShardThatIsBeingWrittenIsWrittenOnce) {
  Tiered t;
  const ShardId shard = t.Committed("7");
  t.tiers[0]->set_slowness(100);
  const uint64_t first = t.fake().Direct("server-0", t.Persist(shard));
  const uint64_t second = t.fake().Direct("server-0", t.Persist(shard));
  ASSERT_TRUE(t.world.RunUntil([&] {
    return t.fake().ResultOf("server-0", first) != nullptr &&
           t.fake().ResultOf("server-0", second) != nullptr;
  }));
  EXPECT_EQ(t.fake().ResultOf("server-0", first)->code(), 0U);
  EXPECT_EQ(t.fake().ResultOf("server-0", second)->code(), 0U);
  EXPECT_EQ(t.Count(0, "gemel_persisted_shards_total"), 1);
}

TEST(Tier, ASnapshotThatMemoryDropsWhileItIsPersistedIsPersistedWhole) {
  Tiered t;
  const ShardId shard = t.Committed("7");
  t.tiers[0]->set_slowness(100);
  const uint64_t write = t.fake().Direct("server-0", t.Persist(shard));
  t.world.RunFor(100ms);
  pb::Directive drop;
  WriteSnapshotId(shard.snapshot, drop.mutable_drop_snapshot()->mutable_snapshot());
  ASSERT_EQ(t.Do(0, drop).code(), 0U);
  ASSERT_TRUE(t.world.RunUntil([&] { return t.fake().ResultOf("server-0", write) != nullptr; }));
  EXPECT_EQ(t.fake().ResultOf("server-0", write)->code(), 0U);
  t.world.RunFor(100ms);
  EXPECT_EQ(t.server(0).pool().used_bytes(), 0U) << "and its memory is free";
}

TEST(Tier, RestoresAfterEveryServerWasKilledAtOnce) {
  Tiered t;
  t.Persisted("7");
  t.KillAllAndStart();
  t.fake().restore_names_all = true;  // the disks of members are sources
  for (const char* host : {"server-0", "server-2"}) {
    SCOPED_TRACE(host);
    TestClient reader(&t.world, host);
    ASSERT_TRUE(reader.Hello(host).ok());
    const auto begun = reader.Begin();
    ASSERT_TRUE(begun.ok()) << begun.status();
    const auto fetched = reader.Fetch(begun->restore, 0, 0, 4);
    ASSERT_TRUE(fetched.ok()) << fetched.status();
    EXPECT_TRUE(reader.Holds(*fetched, 0, 0));
  }
  EXPECT_EQ(t.Count(0, "gemel_persist_read_bytes_total"), static_cast<int64_t>(kBytes))
      << "the disk once; then the copy in memory";
}

TEST(Tier, APeerReadsWhatIsOnDiskOnly) {
  Tiered t;
  const ShardId shard = t.Persisted("7");
  t.KillAllAndStart();
  ASSERT_EQ(t.Do(2, t.Pull(shard, {0})).code(), 0U);
  EXPECT_NE(t.server(2).objects().Find(shard), nullptr);
  EXPECT_EQ(t.Count(0, "gemel_persist_read_bytes_total"), static_cast<int64_t>(kBytes));
  EXPECT_EQ(t.Count(2, "gemel_fetched_bytes_total"), static_cast<int64_t>(kBytes));
}

TEST(Tier, PullShardMakesAMemoryCopyOfTheOwnDisk) {
  for (const std::vector<uint32_t>& sources : {std::vector<uint32_t>{0}, std::vector<uint32_t>{}}) {
    Tiered t;
    const ShardId shard = t.Persisted("7");
    t.KillAllAndStart();
    ASSERT_EQ(t.Do(0, t.Pull(shard, sources)).code(), 0U);
    const auto object = t.server(0).objects().Find(shard);
    ASSERT_NE(object, nullptr);
    EXPECT_EQ(object->state(), ObjectState::kSealed);
    EXPECT_EQ(t.Count(0, "gemel_fetched_bytes_total"), 0) << "not from another server";
  }
}

TEST(Tier, TheOwnDiskIsNotReadWhileMemoryHoldersAreNamed) {
  Tiered t;
  const ShardId shard = t.Persisted("7");
  t.client.session = nullptr;
  ASSERT_TRUE(t.Start(0).ok());
  const uint32_t holder = t.server(1).objects().Find(shard) != nullptr ? 1 : 2;
  ASSERT_EQ(t.Do(0, t.Pull(shard, {holder})).code(), 0U);
  EXPECT_EQ(t.Count(0, "gemel_persist_read_bytes_total"), 0);
}

TEST(Tier, TheOwnDiskIsTheLastSourceWhenTheNamedOnesFail) {
  Tiered t;
  const ShardId shard = t.Persisted("7");
  t.KillAllAndStart();
  ASSERT_EQ(t.Do(0, t.Pull(shard, {1})).code(), 0U) << "server-1 has nothing any more";
  EXPECT_NE(t.server(0).objects().Find(shard), nullptr);
}

TEST(Tier, TheOwnDiskGivesTheChunkThatRottedAtTheNamedHolder) {
  Tiered t;
  const ShardId shard = t.Persisted("7");
  t.client.session = nullptr;
  ASSERT_TRUE(t.Start(0).ok());
  const uint32_t holder = t.server(1).objects().Find(shard) != nullptr ? 1 : 2;
  t.server(holder).objects().Find(shard)->Chunk(2)[7] ^= std::byte{1};
  ASSERT_EQ(t.Do(0, t.Pull(shard, {holder})).code(), 0U);
  EXPECT_LT(t.Count(0, "gemel_persist_read_bytes_total"), static_cast<int64_t>(kBytes));
  EXPECT_GT(t.Count(0, "gemel_persist_read_bytes_total"), 0);
}

TEST(Tier, FetchManifestFallsBackToTheDisk) {
  Tiered t;
  const ShardId shard = t.Persisted("7");
  pb::Directive drop;
  WriteSnapshotId(shard.snapshot, drop.mutable_drop_snapshot()->mutable_snapshot());
  ASSERT_EQ(t.Do(0, drop).code(), 0U);
  pb::Directive fetch;
  WriteSnapshotId(shard.snapshot, fetch.mutable_fetch_manifest()->mutable_snapshot());
  const std::string& manifest = t.fake().saves.at(1).manifest;
  fetch.mutable_fetch_manifest()->set_root(DigestBytes(model::ManifestRoot(manifest)));
  const pb::DirectiveResult result = t.Do(0, fetch);
  EXPECT_EQ(result.code(), 0U) << result.message();
  EXPECT_EQ(result.manifest(), manifest);
  fetch.mutable_fetch_manifest()->set_root(std::string(16, 'x'));
  EXPECT_NE(t.Do(0, fetch).code(), 0U);
}

TEST(Tier, AShardThatIsOnlyOnDiskIsVerifiedThere) {
  Tiered t;
  const ShardId shard = t.Persisted("7");
  pb::Directive verify;
  *verify.mutable_verify_shard()->mutable_object() = t.Persist(shard).persist_shard().object();
  t.client.session = nullptr;
  ASSERT_TRUE(t.Start(0).ok());
  ASSERT_EQ(t.server(0).objects().Find(shard), nullptr);
  EXPECT_EQ(t.Do(0, verify).code(), 0U);
  ASSERT_TRUE(t.tiers[0]->Rot(shard, 1));
  const pb::DirectiveResult result = t.Do(0, verify);
  EXPECT_EQ(result.code(), static_cast<uint32_t>(absl::StatusCode::kDataLoss));
  EXPECT_THAT(result.message(), HasSubstr("chunk 1"));
}

TEST(Tier, ADamagedShardIsReportedAsGoneAndPersistedAnew) {
  Tiered t;
  const ShardId shard = t.Persisted("7");
  t.client.session = nullptr;
  ASSERT_TRUE(t.Start(0).ok());
  ASSERT_EQ(t.JoinOf(0).persisted_size(), 1);
  ASSERT_TRUE(t.tiers[0]->Rot(shard, 2));
  const pb::DirectiveResult result = t.Do(0, t.Pull(shard, {0}));
  EXPECT_EQ(result.code(), static_cast<uint32_t>(absl::StatusCode::kDataLoss));
  EXPECT_THAT(result.message(), HasSubstr("chunk 2 of rank 0"));
  t.world.RunFor(500ms);
  EXPECT_EQ(t.JoinOf(0).persisted_size(), 0) << "placement was told";
  const uint32_t holder = t.server(1).objects().Find(shard) != nullptr ? 1 : 2;
  ASSERT_EQ(t.Do(0, t.Pull(shard, {holder})).code(), 0U);
  ASSERT_EQ(t.Do(0, t.Persist(shard)).code(), 0U);
  EXPECT_EQ(t.tiers[0]->occupied_bytes(), kBytes);
  t.fake().named("server-0").rejoin = true;
  t.world.RunFor(500ms);
  EXPECT_EQ(t.JoinOf(0).persisted_size(), 1);
}

TEST(Tier, HeartbeatsSayHowTheDiskIs) {
  Tiered t;
  t.Persisted("7");
  t.world.RunFor(200ms);
  EXPECT_EQ(t.fake().named("server-0").tier.trouble(), "");
  EXPECT_EQ(t.fake().named("server-0").tier.used_bytes(), kBytes);
  EXPECT_GT(t.fake().named("server-0").tier.free_bytes(), kBytes);
}

TEST(Tier, AServerWithoutATierIsInNoTroubleAndRefuses) {
  ServerWorld s(1);
  EXPECT_EQ(s.fake().named("server-0").tier.trouble(), "");
  EXPECT_FALSE(s.fake().named("server-0").last_join.tier().unread());
  TestClient client(&s.world, "server-0");
  ASSERT_TRUE(client.Hello("server-0").ok());
  const auto opened = s.Commit(&client, "7", kBytes, 1);
  ASSERT_TRUE(opened.ok());
  pb::Directive persist;
  FakePlacement::Save& save = s.fake().saves.at(1);
  *persist.mutable_persist_shard()->mutable_object() = s.fake().Held(save, 0);
  persist.mutable_persist_shard()->set_record(save.record);
  persist.mutable_persist_shard()->set_manifest(save.manifest);
  EXPECT_EQ(s.Do(0, persist).code(), static_cast<uint32_t>(absl::StatusCode::kFailedPrecondition));
  pb::Directive drop;
  WriteSnapshotId(opened->snapshot, drop.mutable_drop_persisted()->mutable_snapshot());
  EXPECT_EQ(s.Do(0, drop).code(), 0U);
}

TEST(Tier, AHangingDiskIsToldAfter10SecondsAndSavesGoOn) {
  Tiered t;
  const ShardId shard = t.Committed("7");
  t.tiers[0]->set_hung(true);
  const uint64_t write = t.fake().Direct("server-0", t.Persist(shard));
  t.world.RunFor(9s);
  EXPECT_EQ(t.fake().named("server-0").tier.trouble(), "");
  t.world.RunFor(3s);
  EXPECT_THAT(t.fake().named("server-0").tier.trouble(), HasSubstr("has not answered for 1"));
  t.world.RunFor(48s);
  EXPECT_THAT(t.fake().named("server-0").tier.trouble(), HasSubstr("has not answered for 5"));
  EXPECT_EQ(t.nodes[0]->events.counts["tier_trouble"], 1U) << "once, not per heartbeat";
  const TimePoint before = t.world.scheduler.now();
  t.Committed("8");
  EXPECT_LT(t.world.scheduler.now() - before, 2s) << "training goes on";
  EXPECT_EQ(t.fake().ResultOf("server-0", write), nullptr);
  t.tiers[0]->set_hung(false);
  ASSERT_TRUE(t.world.RunUntil([&] { return t.fake().ResultOf("server-0", write) != nullptr; }));
  EXPECT_EQ(t.fake().ResultOf("server-0", write)->code(), 0U);
  t.world.RunFor(1s);
  EXPECT_EQ(t.fake().named("server-0").tier.trouble(), "");
  EXPECT_EQ(t.nodes[0]->events.counts["tier_recovered"], 1U);
}

TEST(Tier, AFullDiskIsToldAndRecoversByItself) {
  Tiered t;
  const ShardId shard = t.Committed("7");
  t.tiers[0]->set_capacity_bytes(kMiB);
  const pb::DirectiveResult result = t.Do(0, t.Persist(shard));
  EXPECT_EQ(result.code(), static_cast<uint32_t>(absl::StatusCode::kResourceExhausted));
  t.world.RunFor(1s);
  EXPECT_THAT(t.fake().named("server-0").tier.trouble(), HasSubstr(std::to_string(kBytes)));
  EXPECT_EQ(t.Count(0, "gemel_persist_errors_total"), 1);
  t.tiers[0]->set_capacity_bytes(UINT64_MAX);
  t.world.RunFor(1s);
  EXPECT_EQ(t.fake().named("server-0").tier.trouble(), "");
  EXPECT_EQ(t.Do(0, t.Persist(shard)).code(), 0U);
}

TEST(Tier, AfterAFailureOfTheDiskTheInventoryIsReadAnew) {
  Tiered t;
  const ShardId shard = t.Persisted("7");
  const ShardId other = t.Committed("8");
  t.tiers[0]->FailNextStep();
  EXPECT_EQ(t.Do(0, t.Persist(other)).code(),
            static_cast<uint32_t>(absl::StatusCode::kUnavailable));
  ASSERT_TRUE(t.world.RunUntil([&] { return t.nodes[0]->events.counts["tier_recovered"] == 1U; }));
  EXPECT_EQ(t.nodes[0]->events.counts["tier_trouble"], 1U);
  EXPECT_EQ(t.Do(0, t.Persist(other)).code(), 0U);
  EXPECT_EQ(t.Do(0, t.Persist(shard)).code(), 0U);
  EXPECT_EQ(t.Count(0, "gemel_persisted_shards_total"), 2);
}

TEST(Tier, AServerJoinsWithoutADiskThatHangsAndAgainWhenItWasRead) {
  Tiered t;
  t.Persisted("7");
  t.client.session = nullptr;
  t.Kill(0);
  t.tiers[0]->set_hung(true);
  ASSERT_TRUE(t.Start(0).ok());
  EXPECT_EQ(t.JoinOf(0).persisted_size(), 0);
  EXPECT_NE(t.JoinOf(0).tier().trouble(), "");
  EXPECT_TRUE(t.JoinOf(0).tier().unread());
  const uint32_t joins = t.fake().named("server-0").joins;
  t.tiers[0]->set_hung(false);
  ASSERT_TRUE(t.world.RunUntil([&] { return t.fake().named("server-0").joins > joins; }));
  EXPECT_EQ(t.JoinOf(0).persisted_size(), 1);
  EXPECT_EQ(t.JoinOf(0).tier().trouble(), "");
  EXPECT_FALSE(t.JoinOf(0).tier().unread());
}

TEST(Tier, AShardThatComesToDiskAfterAnInventoryIsToldByAnotherJoin) {
  Tiered t;
  const ShardId shard = t.Committed("7");
  t.tiers[0]->set_hung(true);
  t.fake().Direct("server-0", t.Persist(shard));
  t.world.RunFor(300ms);
  ASSERT_TRUE(t.JoinsAgain("server-0"));
  EXPECT_EQ(t.JoinOf(0).persisted_size(), 0);
  t.tiers[0]->set_hung(false);
  ASSERT_TRUE(t.world.RunUntil([&] { return t.JoinOf(0).persisted_size() == 1; }));
}

TEST(Tier, AnInventoryDoesNotNameWhatIsBeingDropped) {
  Tiered t;
  const ShardId shard = t.Persisted("7");
  t.tiers[0]->set_hung(true);
  pb::Directive drop;
  WriteSnapshotId(shard.snapshot, drop.mutable_drop_persisted()->mutable_snapshot());
  t.fake().Direct("server-0", drop);
  t.world.RunFor(300ms);
  ASSERT_TRUE(t.JoinsAgain("server-0"));
  EXPECT_EQ(t.JoinOf(0).persisted_size(), 0);
  t.tiers[0]->set_hung(false);
}

TEST(Tier, AReadOfADiskThatHangsEnds) {
  Tiered t;
  const ShardId shard = t.Persisted("7");
  t.KillAllAndStart();
  t.tiers[0]->set_hung(true);
  const pb::DirectiveResult result = t.Do(0, t.Pull(shard, {0}));
  EXPECT_NE(result.code(), 0U);
  EXPECT_THAT(result.message(), HasSubstr("gave no answer"));
}

TEST(Tier, AServerStopsWhileItsDiskHangs) {
  Tiered t;
  const ShardId shard = t.Committed("7");
  t.tiers[0]->set_hung(true);
  t.fake().Direct("server-0", t.Persist(shard));
  t.world.RunFor(500ms);
  const auto stop = [](Server* server) -> Task<bool> {
    co_await server->Stop();
    co_return true;
  };
  EXPECT_TRUE(t.nodes[0]->life.Run(stop(&t.server(0)), 4s));
}

}  // namespace
}  // namespace gemel::testing
