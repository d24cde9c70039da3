// SPDX-License-Identifier: Apache-2.0
//
// Scrubbing of memory and disk, and the budget of pulls that can wait.
#include <gmock/gmock.h>

#include "tests/unit/server_world.h"

namespace gemel::testing {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kBytes = 3 * kMiB + 5;
constexpr uint32_t kServers = 3;

ServerNode::Pace PaceOf(Duration memory_pass, Duration disk_pass, uint64_t repair_rate) {
  ServerNode::Pace pace;
  pace.repair_bytes_per_second = repair_rate;
  pace.scrub.memory_pass = memory_pass;
  pace.scrub.disk_pass = disk_pass;
  return pace;
}

struct Paced : ServerWorld {
  explicit Paced(const ServerNode::Pace& pace, uint64_t memory = 32 * kMiB)
      : ServerWorld(kServers, {memory, 2 * kMiB, pace}, true), client(&world, "server-0") {
    GEMEL_CHECK(client.Hello("server-0").ok());
  }

  int64_t Count(uint32_t i, const std::string& name) {
    return nodes[i]->metrics.Counter(name, "").Get();
  }

  uint32_t Without(const ShardId& shard) {
    return server(1).objects().Find(shard) == nullptr ? 1 : 2;
  }

  pb::Directive Pull(const ShardId& shard, bool urgent) {
    pb::Directive directive;
    pb::PullShard* pull = directive.mutable_pull_shard();
    *pull->mutable_object() = fake().Held(fake().saves.at(shard.snapshot.sequence), 0);
    *pull->add_sources() = fake().named("server-0").member;
    pull->set_urgent(urgent);
    return directive;
  }

  pb::Directive Persist(const ShardId& shard) {
    FakePlacement::Save& save = fake().saves.at(shard.snapshot.sequence);
    pb::Directive directive;
    *directive.mutable_persist_shard()->mutable_object() = fake().Held(save, 0);
    directive.mutable_persist_shard()->set_record(save.record);
    directive.mutable_persist_shard()->set_manifest(save.manifest);
    return directive;
  }

  Duration TimeOf(uint32_t i, const pb::Directive& directive) {
    const TimePoint begun = world.scheduler.now();
    const pb::DirectiveResult result = Do(i, directive);
    EXPECT_EQ(result.code(), 0U) << result.message();
    return world.scheduler.now() - begun;
  }

  void Flip(uint32_t i, const ShardId& shard, uint32_t chunk) {
    const std::shared_ptr<Object> object = server(i).mutable_objects()->Find(shard);
    GEMEL_CHECK(object != nullptr);
    object->Chunk(chunk)[4] ^= std::byte{4};
  }

  bool Reports(uint32_t i, const ShardId& shard) {
    for (const pb::HeldObject& object :
         fake().named("server-" + std::to_string(i)).last_join.objects()) {
      if (ReadShardId(object.shard()) == shard) {
        return true;
      }
    }
    return false;
  }

  TestClient client;
};

TEST(Scrub, FindsAFlippedBitInMemoryWithinAPassAndTellsPlacement) {
  Paced p(PaceOf(10s, Duration::zero(), 0));
  const ShardId shard = p.CommitShard(&p.client, "7", kBytes);
  p.world.RunFor(12s);
  EXPECT_EQ(p.Count(0, "gemel_scrub_memory_corruptions_total"), 0);
  EXPECT_GE(p.Count(0, "gemel_scrub_passes_total"), 1);
  p.Flip(0, shard, 2);
  const uint32_t joins = p.fake().named("server-0").joins;
  p.world.RunFor(12s);
  EXPECT_EQ(p.Count(0, "gemel_scrub_memory_corruptions_total"), 1);
  EXPECT_EQ(p.nodes[0]->events.counts["scrub_corruption"], 1U);
  EXPECT_EQ(p.server(0).objects().Find(shard), nullptr) << "it is no source any more";
  EXPECT_GT(p.fake().named("server-0").joins, joins);
  EXPECT_FALSE(p.Reports(0, shard));
  p.world.RunFor(20s);
  EXPECT_EQ(p.Count(0, "gemel_scrub_memory_corruptions_total"), 1) << "told once";
}

TEST(Scrub, EveryChunkOfEveryObjectIsReached) {
  Paced p(PaceOf(10s, Duration::zero(), 0));
  std::vector<ShardId> shards;
  for (const char* name : {"1", "2", "3"}) {
    shards.push_back(p.CommitShard(&p.client, name, kBytes));
  }
  for (const ShardId& shard : shards) {
    p.Flip(0, shard, 3);
  }
  p.world.RunFor(30s);
  EXPECT_EQ(p.Count(0, "gemel_scrub_memory_corruptions_total"), 3);
}

TEST(Scrub, ReadsNoFasterThanItsRate) {
  Paced p(PaceOf(100s, Duration::zero(), 0));
  p.CommitShard(&p.client, "7", kBytes);
  const int64_t before = p.Count(0, "gemel_scrub_bytes_total");
  p.world.RunFor(50s);
  const int64_t used = static_cast<int64_t>(p.server(0).pool().used_bytes());
  EXPECT_LE(p.Count(0, "gemel_scrub_bytes_total") - before, used / 2 + 2 * int64_t{kMiB});
  EXPECT_GE(p.Count(0, "gemel_scrub_bytes_total") - before, used / 4);
}

TEST(Scrub, IsPutOffWhileClientsWriteButNotForEver) {
  Paced p(PaceOf(5s, Duration::zero(), 0));
  const ShardId shard = p.CommitShard(&p.client, "7", kBytes);
  p.world.RunFor(100ms);
  const auto open = p.client.Open(TestClient::OpenFor("8", 0, 1, kBytes));
  ASSERT_TRUE(open.ok()) << open.status();
  p.Flip(0, shard, 1);
  p.world.RunFor(900ms);
  EXPECT_EQ(p.Count(0, "gemel_scrub_memory_corruptions_total"), 0);
  p.world.RunFor(12s);
  EXPECT_EQ(p.Count(0, "gemel_scrub_memory_corruptions_total"), 1);
}

TEST(Scrub, ZeroIsNever) {
  Paced p(PaceOf(Duration::zero(), Duration::zero(), 0));
  const ShardId shard = p.CommitShard(&p.client, "7", kBytes);
  p.Flip(0, shard, 0);
  p.world.RunFor(3600s);
  EXPECT_EQ(p.Count(0, "gemel_scrub_bytes_total"), 0);
  EXPECT_NE(p.server(0).objects().Find(shard), nullptr);
}

TEST(Scrub, FindsRotOnDiskAndTellsPlacement) {
  Paced p(PaceOf(Duration::zero(), 20s, 0));
  const ShardId shard = p.CommitShard(&p.client, "7", kBytes);
  ASSERT_EQ(p.Do(0, p.Persist(shard)).code(), 0U);
  p.world.RunFor(25s);
  EXPECT_EQ(p.Count(0, "gemel_scrub_disk_corruptions_total"), 0);
  EXPECT_GE(p.Count(0, "gemel_scrub_disk_passes_total"), 1);
  ASSERT_TRUE(p.tiers[0]->Rot(shard, 1));
  const uint32_t joins = p.fake().named("server-0").joins;
  p.world.RunFor(25s);
  EXPECT_EQ(p.Count(0, "gemel_scrub_disk_corruptions_total"), 1);
  EXPECT_GT(p.fake().named("server-0").joins, joins);
  EXPECT_EQ(p.fake().named("server-0").last_join.persisted_size(), 0);
  EXPECT_TRUE(p.Reports(0, shard)) << "the copy in memory is good";
  ASSERT_EQ(p.Do(0, p.Persist(shard)).code(), 0U) << "written again";
  p.world.RunFor(25s);
  EXPECT_EQ(p.Count(0, "gemel_scrub_disk_corruptions_total"), 1);
}

TEST(Scrub, ADiskThatHangsHoldsUpNothing) {
  Paced p(PaceOf(10s, 10s, 0));
  const ShardId shard = p.CommitShard(&p.client, "7", kBytes);
  ASSERT_EQ(p.Do(0, p.Persist(shard)).code(), 0U);
  p.tiers[0]->set_hung(true);
  p.world.RunFor(30s);
  EXPECT_EQ(p.Count(0, "gemel_scrub_disk_corruptions_total"), 0) << "no answer is no damage";
  EXPECT_GE(p.Count(0, "gemel_scrub_passes_total"), 1) << "memory goes on";
  const auto next = p.Commit(&p.client, "8", kBytes);
  EXPECT_TRUE(next.ok()) << next.status();
  p.tiers[0]->set_hung(false);
  p.world.RunFor(30s);
  EXPECT_GE(p.Count(0, "gemel_scrub_disk_passes_total"), 1);
}

TEST(RepairBudget, ACalmPullKeepsToItAndAnUrgentOneDoesNot) {
  constexpr uint64_t kRate = 1 * kMiB;
  Paced p(PaceOf(Duration::zero(), Duration::zero(), kRate));
  const ShardId calm = p.CommitShard(&p.client, "1", 8 * kMiB);
  const uint32_t at = p.Without(calm);
  const Duration slow = p.TimeOf(at, p.Pull(calm, false));
  EXPECT_GE(slow, 6s);
  EXPECT_LE(slow, 9s);
  const ShardId urgent = p.CommitShard(&p.client, "2", 8 * kMiB);
  EXPECT_LE(p.TimeOf(p.Without(urgent), p.Pull(urgent, true)), 1s);
}

TEST(RepairBudget, NoBoundIsNoBound) {
  Paced p(PaceOf(Duration::zero(), Duration::zero(), 0));
  const ShardId shard = p.CommitShard(&p.client, "1", 8 * kMiB);
  EXPECT_LE(p.TimeOf(p.Without(shard), p.Pull(shard, false)), 1s);
}

TEST(RepairBudget, ThatItBecameUrgentHurriesAPullUnderWay) {
  Paced p(PaceOf(Duration::zero(), Duration::zero(), 64 * 1024));
  const ShardId shard = p.CommitShard(&p.client, "1", 8 * kMiB);
  const uint32_t at = p.Without(shard);
  const std::string name = "server-" + std::to_string(at);
  const uint64_t calm = p.fake().Direct(name, p.Pull(shard, false));
  p.world.RunFor(5s);
  EXPECT_EQ(p.fake().ResultOf(name, calm), nullptr) << "two minutes at that rate";
  EXPECT_LE(p.TimeOf(at, p.Pull(shard, true)), 1s);
  p.world.RunFor(200ms);
  ASSERT_NE(p.fake().ResultOf(name, calm), nullptr) << "both are answered";
  EXPECT_EQ(p.fake().ResultOf(name, calm)->code(), 0U);
}

TEST(RepairBudget, ARestoreOfTheSameShardDoesNotWaitForIt) {
  Paced p(PaceOf(Duration::zero(), Duration::zero(), 64 * 1024));
  const ShardId shard = p.CommitShard(&p.client, "1", 8 * kMiB);
  const uint32_t at = p.Without(shard);
  const std::string name = "server-" + std::to_string(at);
  p.fake().Direct(name, p.Pull(shard, false));
  p.world.RunFor(1s);
  TestClient reader(&p.world, name);
  ASSERT_TRUE(reader.Hello(name).ok());
  const auto begun = reader.Begin();
  ASSERT_TRUE(begun.ok()) << begun.status();
  const TimePoint from = p.world.scheduler.now();
  const auto fetched = reader.Fetch(begun->restore, 0, 0, 8);
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  EXPECT_LE(p.world.scheduler.now() - from, 1s);
  EXPECT_TRUE(reader.Holds(*fetched, 0, 0));
}

TEST(RepairBudget, ASourceThatDiesInTheMiddleLeavesItToTheOther) {
  Paced p(PaceOf(Duration::zero(), Duration::zero(), 2 * kMiB));
  const ShardId shard = p.CommitShard(&p.client, "1", 8 * kMiB);
  const uint32_t at = p.Without(shard);
  const uint32_t other = 3 - at;
  const std::string name = "server-" + std::to_string(at);
  pb::Directive pull = p.Pull(shard, false);
  *pull.mutable_pull_shard()->add_sources() =
      p.fake().named("server-" + std::to_string(other)).member;
  const uint64_t id = p.fake().Direct(name, pull);
  p.world.RunFor(1s);
  EXPECT_EQ(p.fake().ResultOf(name, id), nullptr);
  p.client.session = nullptr;
  p.Kill(0);
  ASSERT_TRUE(p.world.RunUntil([&] { return p.fake().ResultOf(name, id) != nullptr; }));
  EXPECT_EQ(p.fake().ResultOf(name, id)->code(), 0U) << p.fake().ResultOf(name, id)->message();
  EXPECT_TRUE(
      p.server(at).objects().FindSealed(shard, p.server(other).objects().Find(shard)->root()).ok());
}

}  // namespace
}  // namespace gemel::testing
