// SPDX-License-Identifier: Apache-2.0
//
// SlabPool, SlabDirectory and ObjectTable.
#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "common/merkle.h"
#include "server/byte_size.h"
#include "server/limits.h"
#include "tests/unit/server_world.h"

namespace gemel::testing {
namespace {

struct Pool {
  explicit Pool(uint64_t memory = 8 * kMiB, uint64_t slab = 2 * kMiB, Net* net = nullptr)
      : world(3), life(&world, "host") {
    seams.loop = &life.loop;
    seams.net = net;
    seams.host = &life.host;
    seams.metrics = &metrics;
    seams.events = &events;
    SlabPool::Options options;
    options.server.bytes[0] = 1;
    options.slab_bytes = slab;
    options.memory_bytes = memory;
    auto created = SlabPool::Create(seams, options);
    GEMEL_CHECK(created.ok()) << created.status().ToString();
    pool = *created;
  }

  SlabEntry Entry(uint32_t slab) const {
    return ReadSlabDirectory(pool->directory())->entries[slab];
  }

  World world;
  Life life;
  MetricRegistry metrics;
  CountedEvents events;
  ServerSeams seams;
  std::shared_ptr<SlabPool> pool;
};

ShardId Shard(const std::string& name, uint32_t rank = 0) {
  ShardId shard;
  shard.snapshot = {"gpt", {1, 4}, 12, name, 2};
  shard.rank = rank;
  return shard;
}

Object::Shape Shape(const std::string& name, uint64_t bytes) {
  Object::Shape shape;
  shape.shard = Shard(name);
  shape.token.bytes[1] = 5;
  shape.bytes = bytes;
  shape.layout_bytes = 7;
  return shape;
}

TEST(SlabPool, RefusesMoreThanItsBudgetAndNamesTheSizes) {
  Pool p;
  const auto all = p.pool->Take(kServerHolder, 8 * kMiB);
  ASSERT_TRUE(all.ok());
  EXPECT_EQ(all->size(), 4U);
  const auto more = p.pool->Take(kServerHolder, 1);
  EXPECT_EQ(more.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(MessageOf(more.status()).find("--memory"), std::string_view::npos);
  EXPECT_NE(MessageOf(more.status()).find("8388608"), std::string_view::npos);
  EXPECT_EQ(p.pool->used_bytes(), 8 * kMiB);
}

TEST(SlabPool, NamesTheLivingProcessesWhoseSlabsAreMissing) {
  Pool p;
  p.pool->Prepare(p.pool->AddHolder(41), 4 * kMiB);
  p.pool->Prepare(p.pool->AddHolder(42), 2 * kMiB);
  const auto refused = p.pool->Take(kServerHolder, 8 * kMiB);
  ASSERT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(MessageOf(refused.status()).find("(process 41 4194304, process 42 2097152)"),
            std::string_view::npos)
      << refused.status();
}

TEST(SlabPool, GivesASlabOfALivingClientToNobodyElse) {
  Pool p;
  const HolderKey client = p.pool->AddHolder(41);
  const auto taken = p.pool->Take(client, 8 * kMiB);
  ASSERT_TRUE(taken.ok());
  for (const uint32_t slab : *taken) {
    p.pool->Release(slab);
  }
  EXPECT_EQ(p.pool->used_bytes(), 0U);
  EXPECT_EQ(p.pool->state(0), SlabState::kIdle);
  EXPECT_FALSE(p.pool->Take(kServerHolder, 1).ok());
  EXPECT_FALSE(p.pool->Take(p.pool->AddHolder(42), 1).ok());
  EXPECT_TRUE(p.pool->Take(client, 1).ok());
}

TEST(SlabPool, FreesIdleSlabsAndInheritsUsedOnesWhenTheHolderIsDead) {
  Pool p;
  const HolderKey client = p.pool->AddHolder(41);
  const auto used = p.pool->Take(client, 2 * kMiB);
  const auto idle = p.pool->Take(client, 2 * kMiB);
  p.pool->Release(idle->front());
  p.pool->HolderDied(client);
  EXPECT_EQ(p.pool->state(idle->front()), SlabState::kFree);
  EXPECT_EQ(p.pool->state(used->front()), SlabState::kInUse);
  EXPECT_EQ(p.pool->holder(used->front()), kServerHolder);
  p.pool->Release(used->front());
  EXPECT_TRUE(p.pool->Take(kServerHolder, 8 * kMiB).ok());
}

TEST(SlabPool, CountsALifeOfASlabForEachNewOwner) {
  Pool p;
  const uint32_t slab = p.pool->Take(kServerHolder, 1)->front();
  const uint64_t first = p.pool->generation(slab);
  p.pool->Release(slab);
  EXPECT_EQ(p.pool->Take(kServerHolder, 1)->front(), slab);
  EXPECT_GT(p.pool->generation(slab), first);
}

TEST(SlabPool, PreparesTheSlabsThatTheNextTakeGivesAndLeavesAShareToOthers) {
  Pool p;
  const HolderKey client = p.pool->AddHolder(41);
  const std::vector<uint32_t> prepared = p.pool->Prepare(client, 4 * kMiB);
  EXPECT_EQ(prepared.size(), 2U);
  EXPECT_EQ(*p.pool->Take(client, 4 * kMiB), prepared);
  // 4 slabs: 2 busy, 1 is left to others.
  EXPECT_EQ(p.pool->Prepare(client, 8 * kMiB).size(), 1U);
}

TEST(SlabPool, PopulatesAheadOfTheWatermarkInTheBackground) {
  Pool p(16 * kMiB, 8 * kMiB);
  Gate gate(&p.life.loop);
  ASSERT_TRUE(p.pool->WarmFirst().ok());
  p.life.loop.Spawn(p.pool->KeepWarm(&gate));
  p.world.RunFor(100ms);
  EXPECT_EQ(p.world.world.machine("host")->Memories("gemel-slab").size(), 2U);
  p.life.Run([](Gate* closing) -> Task<bool> {
    co_await closing->Close();
    co_return true;
  }(&gate));
}

// A net that is shown memory, and does nothing else.
class ShownNet final : public Net {
 public:
  Task<absl::StatusOr<std::unique_ptr<Connection>>> Connect(std::string /*address*/,
                                                            TimePoint /*deadline*/) override {
    co_return error::Unavailable("nobody is here");
  }

  absl::StatusOr<std::unique_ptr<Listener>> Listen(std::string /*address*/,
                                                   AcceptCallback /*accept*/) override {
    return error::Unavailable("nobody is here");
  }

  void AddMemory(MutableByteSpan memory) override { shown.push_back(memory); }

  std::vector<MutableByteSpan> shown;
};

TEST(SlabPool, ShowsTheNetASlabOnceWhenItIsWarm) {
  ShownNet net;
  Pool p(8 * kMiB, 2 * kMiB, &net);
  const auto cold = p.pool->Take(kServerHolder, 2 * kMiB);
  EXPECT_TRUE(net.shown.empty()) << "its pages are not there yet";
  Gate gate(&p.life.loop);
  p.life.loop.Spawn(p.pool->KeepWarm(&gate));
  p.world.RunFor(100ms);
  p.pool->Release(cold->front());
  p.world.RunFor(2s);
  ASSERT_EQ(net.shown.size(), p.pool->slabs());
  std::set<const std::byte*> different;
  for (const MutableByteSpan memory : net.shown) {
    EXPECT_EQ(memory.size(), 2 * kMiB);
    different.insert(memory.data());
  }
  EXPECT_EQ(different.size(), net.shown.size());
  EXPECT_TRUE(different.contains(p.pool->bytes(cold->front()).data()));
  p.life.Run([](Gate* closing) -> Task<bool> {
    co_await closing->Close();
    co_return true;
  }(&gate));
}

TEST(SlabPool, RefusesSizesThatCannotBe) {
  Pool p;
  for (const auto& [slab, memory] : std::vector<std::pair<uint64_t, uint64_t>>{
           {0, kMiB}, {kMiB + 1, 8 * kMiB}, {2 * kMiB, kMiB}, {kMiB, uint64_t{1} << 40}}) {
    SlabPool::Options options;
    options.slab_bytes = slab;
    options.memory_bytes = memory;
    EXPECT_EQ(SlabPool::Create(p.seams, options).status().code(),
              absl::StatusCode::kInvalidArgument)
        << slab << " " << memory;
  }
}

TEST(SlabDirectory, SaysWhatLiesInEachSlab) {
  Pool p;
  ObjectTable objects(p.seams, p.pool);
  const HolderKey client = p.pool->AddHolder(41);
  auto object = *objects.Stage(Shape("7", 3 * kMiB), client);
  SlabEntry second = p.Entry(1);
  EXPECT_EQ(second.state, SlabState::kInUse);
  EXPECT_EQ(second.holder, client);
  EXPECT_EQ(second.shard, Shard("7"));
  EXPECT_EQ(second.offset, 2 * kMiB);
  EXPECT_EQ(second.length, kMiB);
  EXPECT_FALSE(second.sealed);
  for (uint32_t chunk = 0; chunk < 3; ++chunk) {
    object->SetPresent(chunk, Xxh3_128(object->Chunk(chunk)));
  }
  const Digest128 root = object->ComputeRoot();
  ASSERT_TRUE(objects.Seal(object, root).ok());
  second = p.Entry(1);
  EXPECT_TRUE(second.sealed);
  EXPECT_EQ(second.root, root);
  objects.Drop(Shard("7"));
  object = nullptr;
  EXPECT_EQ(p.Entry(1).state, SlabState::kIdle);
  EXPECT_EQ(p.Entry(1).object_bytes, 0U);
}

TEST(SlabDirectory, ReportsATornEntryAndKeepsTheOthers) {
  Pool p;
  ASSERT_TRUE(p.pool->Take(kServerHolder, 1).ok());
  std::string copy(AsText(p.pool->directory()));
  copy[kSlabDirectoryHeaderBytes + 40] ^= 1;
  const auto read = ReadSlabDirectory(AsBytes(copy));
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(read->torn, std::vector<uint32_t>{0});
  EXPECT_EQ(read->entries.size(), 3U);
}

TEST(SlabDirectory, RefusesEveryCutAndAForeignHeader) {
  Pool p;
  const std::string whole(AsText(p.pool->directory()));
  for (size_t bytes = 0; bytes < whole.size(); bytes += 61) {
    EXPECT_FALSE(ReadSlabDirectory(AsBytes(whole.substr(0, bytes))).ok()) << bytes;
  }
  std::string foreign = whole;
  foreign[0] = 'X';
  EXPECT_FALSE(ReadSlabDirectory(AsBytes(foreign)).ok());
}

TEST(ObjectTable, KeepsMemoryOfADroppedObjectForItsLastReader) {
  Pool p;
  ObjectTable objects(p.seams, p.pool);
  auto reader = *objects.Stage(Shape("7", kMiB), kServerHolder);
  objects.Drop(Shard("7"));
  EXPECT_EQ(objects.Find(Shard("7")), nullptr);
  EXPECT_EQ(p.pool->used_bytes(), 2 * kMiB);
  reader = nullptr;
  EXPECT_EQ(p.pool->used_bytes(), 0U);
}

TEST(ObjectTable, RefusesASealUnderAnotherRoot) {
  Pool p;
  ObjectTable objects(p.seams, p.pool);
  auto object = *objects.Stage(Shape("7", kMiB), kServerHolder);
  object->SetPresent(0, Xxh3_128(object->Chunk(0)));
  EXPECT_EQ(objects.Seal(object, Digest128{1, 2}).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(object->state(), ObjectState::kStaging);
  // The same bytes under another name have another root.
  EXPECT_NE(object->ComputeRoot(), RootOf(Shard("8"), object->digests(), kMiB));
}

TEST(ObjectTable, FindsABitThatFlippedAfterTheSeal) {
  Pool p;
  ObjectTable objects(p.seams, p.pool);
  auto object = *objects.Stage(Shape("7", 2 * kMiB), kServerHolder);
  for (uint32_t chunk = 0; chunk < 2; ++chunk) {
    object->SetPresent(chunk, Xxh3_128(object->Chunk(chunk)));
  }
  ASSERT_TRUE(objects.Seal(object, object->ComputeRoot()).ok());
  EXPECT_TRUE(p.life.Run(CheckAllChunks(&p.life.loop, object)).ok());
  object->Chunk(1)[77] ^= std::byte{4};
  EXPECT_TRUE(object->CheckChunk(0).ok());
  const absl::Status found = p.life.Run(CheckAllChunks(&p.life.loop, object));
  EXPECT_EQ(found.code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(MessageOf(found).find("chunk 1"), std::string_view::npos);
}

TEST(ObjectTable, HasOneObjectAShard) {
  Pool p;
  ObjectTable objects(p.seams, p.pool);
  ASSERT_TRUE(objects.Stage(Shape("7", kMiB), kServerHolder).ok());
  EXPECT_EQ(objects.Stage(Shape("7", kMiB), kServerHolder).status().code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(objects.FindSealed(Shard("7"), Digest128{}).status().code(),
            absl::StatusCode::kNotFound);
}

TEST(ByteSize, ReadsWhatPeopleWrite) {
  EXPECT_EQ(*ParseByteSize("67108864", "--memory"), 64 * kMiB);
  EXPECT_EQ(*ParseByteSize("64MiB", "--memory"), 64 * kMiB);
  EXPECT_EQ(*ParseByteSize("4 gib", "--memory"), 4 * kGiB);
  EXPECT_EQ(*ParseByteSize("512k", "--memory"), 512 * kKiB);
  for (const char* bad :
       {"", "MiB", "4XiB", "-1", "1.5GiB", "99999999999999999999", "9999999TiB", "4MiBs"}) {
    const auto parsed = ParseByteSize(bad, "--memory");
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_NE(MessageOf(parsed.status()).find("--memory"), std::string_view::npos);
  }
}

TEST(ObjectTable, TakesInAPartialObjectOnlyUnderItsRoot) {
  Pool p;
  ObjectTable objects(p.seams, p.pool);
  const auto whole = [&](const std::string& name, bool sound) {
    const Object::Shape shape = Shape(name, kMiB);
    auto scratch = objects.NewPartial(shape, Digest128{});
    GEMEL_CHECK(scratch->TakeFor(0).ok());
    const Digest128 digest = Xxh3_128(scratch->Chunk(0));
    auto object =
        objects.NewPartial(shape, sound ? RootOf(shape.shard, {digest}, kMiB) : Digest128{1, 2});
    GEMEL_CHECK(object->TakeFor(0).ok());
    object->SetPresent(0, Xxh3_128(object->Chunk(0)));
    return object;
  };
  EXPECT_EQ(objects.Adopt(whole("7", false)).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(objects.size(), 0U);
  EXPECT_TRUE(objects.Adopt(whole("7", true)).ok());
  EXPECT_EQ(objects.Adopt(whole("7", true)).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(p.pool->used_bytes(), 2 * kMiB) << "what was not taken in is free again";
}

TEST(ObjectTable, DropsOnlyTheObjectThatIsMeant) {
  Pool p;
  ObjectTable objects(p.seams, p.pool);
  auto old = *objects.Stage(Shape("7", kMiB), kServerHolder);
  objects.Drop(Shard("7"));
  auto fresh = *objects.Stage(Shape("7", kMiB), kServerHolder);
  objects.DropObject(old);
  EXPECT_EQ(objects.Find(Shard("7")), fresh);
}

TEST(SlabPool, GivesWhatIsLeftWhenMoreIsPrepared) {
  Pool p;
  ASSERT_TRUE(p.pool->Take(kServerHolder, 6 * kMiB).ok());
  const HolderKey client = p.pool->AddHolder(41);
  EXPECT_TRUE(p.pool->Prepare(client, 2 * kMiB).empty()) << "the last slab is left to others";
  EXPECT_TRUE(p.pool->Take(client, 2 * kMiB).ok()) << "a save may have it";
}

}  // namespace
}  // namespace gemel::testing
