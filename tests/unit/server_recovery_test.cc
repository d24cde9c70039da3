// SPDX-License-Identifier: Apache-2.0
//
// A server whose memory a keeper holds: killed, and started again on it.
#include <gtest/gtest.h>

#include "tests/unit/server_world.h"

namespace gemel::testing {
namespace {

constexpr uint64_t kBytes = 5 * kMiB + 123;  // three slabs of 2 MiB
const char* const kNode = "server-0";
const char* const kSlabName = "gemel-slab";
const char* const kDirectoryName = "gemel-slab-directory";

struct Kept : ServerWorld {
  Kept() : ServerWorld(1, {32 * kMiB, 2 * kMiB, {}, true}) {}

  // A client that has said hello, on a node of the servers.
  std::unique_ptr<TestClient> Client() {
    auto client = std::make_unique<TestClient>(&world, kNode);
    GEMEL_CHECK(Hello(client.get()).ok());
    return client;
  }

  absl::Status Hello(TestClient* client) {
    absl::Status connected = client->Connect(std::string("unix:///") + kNode);
    if (!connected.ok()) {
      return connected;
    }
    Handles own = {*client->life.host.OwnProcess()};
    const absl::StatusOr<Reply> reply =
        client->Ask(FrameType::kClientHello, ClientHello(), std::move(own));
    if (!reply.ok()) {
      return reply.status();
    }
    const auto answer = DecodeMessage<ClientHelloReply>(reply->body);
    holder = answer->holder;
    return answer.status();
  }

  void KillAndSettle() {
    world.RunFor(200ms);  // what was sent to the keeper has come
    Kill(0);
    world.RunFor(50ms);
  }

  absl::Status Restart() {
    KillAndSettle();
    return Start(0);
  }

  std::shared_ptr<SimMemory> Directory() {
    return world.world.machine(kNode)->Memories(kDirectoryName).back();
  }

  std::shared_ptr<SimMemory> SlabMemory(uint32_t slab) {
    return world.world.machine(kNode)->Memories(kSlabName).at(slab);
  }

  SlabEntry Entry(uint32_t slab) {
    return ReadSlabDirectory(server(0).pool().directory())->entries.at(slab);
  }

  const CountedEvents& events() { return nodes[0]->events; }

  bool Told(const std::string& words) {
    return std::any_of(events().texts.begin(), events().texts.end(), [&](const std::string& text) {
      return text.find(words) != std::string::npos;
    });
  }

  uint32_t Sealed() { return static_cast<uint32_t>(server(0).objects().Sealed().size()); }

  HolderKey holder = 0;  // of the last hello
};

TEST(Recovery, KeepsWhatWasSealedAndReportsItWhenItJoins) {
  Kept k;
  auto client = k.Client();
  const ShardId shard = k.CommitShard(client.get(), "7", kBytes);
  const Digest128 root = k.server(0).objects().Find(shard)->root();
  const Incarnation first = k.server(0).incarnation();
  ASSERT_TRUE(k.Restart().ok());
  EXPECT_NE(k.server(0).incarnation(), first);
  const std::shared_ptr<Object> object = k.server(0).objects().Find(shard);
  ASSERT_NE(object, nullptr);
  EXPECT_EQ(object->state(), ObjectState::kSealed);
  EXPECT_EQ(object->root(), root);
  EXPECT_EQ(k.server(0).pool().used_bytes(), 6 * kMiB) << "what came back counts";
  const pb::JoinRequest& join = k.fake().named(kNode).last_join;
  ASSERT_EQ(join.objects_size(), 1);
  EXPECT_EQ(join.objects(0).root(), DigestBytes(root));
}

TEST(Recovery, GivesTheBytesBackToAClientWithoutAPeer) {
  Kept k;
  auto client = k.Client();
  k.CommitShard(client.get(), "7", kBytes);
  ASSERT_TRUE(k.Restart().ok());
  ASSERT_TRUE(k.Hello(client.get()).ok());
  client->slabs.clear();
  const auto begun = client->Begin();
  ASSERT_TRUE(begun.ok()) << begun.status().ToString();
  const auto fetched = client->Fetch(begun->restore, 0, 0, 6);
  ASSERT_TRUE(fetched.ok()) << fetched.status().ToString();
  EXPECT_EQ(fetched->local_bytes, kBytes);
  EXPECT_EQ(fetched->peer_bytes, 0U);
  EXPECT_TRUE(client->Holds(*fetched, 0, 0));
}

TEST(Recovery, KeepsWhatIsSealedAndNotCommitted) {
  Kept k;
  k.fake().no_holders.insert("7");
  auto client = k.Client();
  const auto opened = client->Save("7", 0, 2, kBytes);  // rank 1 of 2 never comes
  ASSERT_TRUE(opened.ok()) << opened.status().ToString();
  ASSERT_TRUE(k.Restart().ok());
  EXPECT_NE(k.server(0).objects().Find(ShardId{opened->snapshot, 0}), nullptr);
}

TEST(Recovery, DropsWhatWasNotSealed) {
  Kept k;
  auto client = k.Client();
  const auto opened = client->Open(TestClient::OpenFor("7", 0, 1, kBytes));
  ASSERT_TRUE(opened.ok());
  ASSERT_TRUE(client->Filled(opened->upload, client->Fill(*opened, 0)).ok());
  ASSERT_TRUE(k.Restart().ok());
  EXPECT_EQ(k.server(0).objects().size(), 0U);
  EXPECT_TRUE(k.Told("as are 3 slabs that were not sealed"));
}

TEST(Recovery, FindsABitThatFlippedWhileTheServerWasDead) {
  Kept k;
  auto client = k.Client();
  const ShardId first = k.CommitShard(client.get(), "7", kBytes);
  const ShardId second = k.CommitShard(client.get(), "8", kBytes);
  const uint32_t slab = k.server(0).objects().Find(first)->SlabOf(5);
  k.KillAndSettle();
  k.SlabMemory(slab)->bytes()[100] ^= std::byte{4};
  ASSERT_TRUE(k.Start(0).ok());
  EXPECT_EQ(k.server(0).objects().Find(first), nullptr);
  EXPECT_NE(k.server(0).objects().Find(second), nullptr);
  EXPECT_EQ(k.events().counts.at("former_object_dropped"), 1U);
  EXPECT_TRUE(k.Told(first.ToString()));
}

TEST(Recovery, DropsWhatTheCommittedManifestDoesNotName) {
  Kept k;
  auto client = k.Client();
  const ShardId shard = k.CommitShard(client.get(), "7", kMiB);
  const std::shared_ptr<Object> object = k.server(0).objects().Find(shard);
  const uint32_t slab = object->SlabOf(0);
  SlabEntry entry = k.Entry(slab);
  k.KillAndSettle();
  // Other bytes, under the root of those bytes: the directory alone is at one with itself.
  const MutableByteSpan bytes = k.SlabMemory(slab)->bytes().first(kMiB);
  bytes[0] ^= std::byte{1};
  entry.root = RootOf(shard, {Xxh3_128(bytes)}, kMiB);
  const std::string raw = EncodeSlabEntry(entry);
  std::memcpy(k.Directory()->bytes().data() + kSlabDirectoryHeaderBytes + slab * kSlabEntryBytes,
              raw.data(), raw.size());
  ASSERT_TRUE(k.Start(0).ok());
  EXPECT_EQ(k.server(0).objects().Find(shard), nullptr);
  EXPECT_TRUE(k.Told("committed is another"));
}

TEST(Recovery, DropsAnObjectWithATornEntryAndKeepsItsSlabFromOthersWhileClientsLive) {
  Kept k;
  auto client = k.Client();
  const ShardId shard = k.CommitShard(client.get(), "7", kBytes);
  const uint32_t slab = k.server(0).objects().Find(shard)->SlabOf(3);
  k.KillAndSettle();
  k.Directory()->bytes()[kSlabDirectoryHeaderBytes + slab * kSlabEntryBytes + 77] ^= std::byte{1};
  ASSERT_TRUE(k.Start(0).ok());
  EXPECT_EQ(k.server(0).objects().Find(shard), nullptr);
  EXPECT_EQ(k.events().counts.at("slab_entry_torn"), 1U);
  EXPECT_EQ(k.server(0).pool().state(slab), SlabState::kIdle);
  EXPECT_EQ(k.server(0).pool().holder(slab), kUnknownHolder);
  // The next life knows as little.
  ASSERT_TRUE(k.Restart().ok());
  EXPECT_EQ(k.server(0).pool().holder(slab), kUnknownHolder);
  client = nullptr;
  k.world.RunFor(100ms);
  EXPECT_EQ(k.server(0).pool().state(slab), SlabState::kFree);
}

TEST(Recovery, KeepsTheSlabsOfALivingClientFromOthersUntilItIsDead) {
  Kept k;
  auto client = k.Client();
  const auto opened = client->Open(TestClient::OpenFor("7", 0, 1, kBytes));
  ASSERT_TRUE(opened.ok());
  const uint32_t slab = opened->pieces.front().slab;
  const HolderKey key = k.holder;
  ASSERT_TRUE(k.Restart().ok());
  EXPECT_EQ(k.server(0).pool().state(slab), SlabState::kIdle);
  EXPECT_EQ(k.server(0).pool().holder(slab), key);
  auto other = k.Client();
  EXPECT_NE(k.holder, key) << "a key is never used again";
  const auto taken = other->Open(TestClient::OpenFor("8", 0, 1, 20 * kMiB));
  ASSERT_TRUE(taken.ok()) << taken.status().ToString();
  for (const SlabPiece& piece : taken->pieces) {
    EXPECT_NE(piece.slab, slab);
  }
  client = nullptr;
  k.world.RunFor(100ms);
  EXPECT_EQ(k.server(0).pool().state(slab), SlabState::kFree);
}

TEST(Recovery, FreesTheSlabsOfAClientThatDiedWhileTheServerWasDead) {
  Kept k;
  auto client = k.Client();
  const auto opened = client->Open(TestClient::OpenFor("7", 0, 1, kBytes));
  ASSERT_TRUE(opened.ok());
  k.KillAndSettle();
  client = nullptr;
  ASSERT_TRUE(k.Start(0).ok());
  k.world.RunFor(50ms);
  EXPECT_EQ(k.server(0).pool().idle_bytes(), 0U);
  EXPECT_EQ(k.server(0).pool().state(opened->pieces.front().slab), SlabState::kFree);
  // Its handle is not kept any longer than an entry names it.
  k.world.RunFor(100ms);
  const size_t slabs = k.server(0).pool().slabs();
  EXPECT_EQ(k.keepers[0]->service.items(), slabs + 1) << "slabs and directory";
}

TEST(Recovery, ASlabOfAProcessThatNobodyKnowsGoesToNobody) {
  Kept k;
  auto client = k.Client();
  const auto opened = client->Open(TestClient::OpenFor("7", 0, 1, kBytes));
  ASSERT_TRUE(opened.ok());
  const uint32_t slab = opened->pieces.front().slab;
  SlabEntry entry = k.Entry(slab);
  k.KillAndSettle();
  entry.holder = 4711;
  const std::string raw = EncodeSlabEntry(entry);
  std::memcpy(k.Directory()->bytes().data() + kSlabDirectoryHeaderBytes + slab * kSlabEntryBytes,
              raw.data(), raw.size());
  client = nullptr;
  ASSERT_TRUE(k.Start(0).ok());
  k.world.RunFor(100ms);
  EXPECT_EQ(k.server(0).pool().state(slab), SlabState::kIdle);
  EXPECT_EQ(k.server(0).pool().holder(slab), 4711U);
}

TEST(Recovery, AProcessThatConnectsAgainGetsWhatItGaveUp) {
  Kept k;
  auto client = k.Client();
  const auto opened = client->Open(TestClient::OpenFor("7", 0, 1, kBytes));
  ASSERT_TRUE(opened.ok());
  const HolderKey key = k.holder;
  ASSERT_TRUE(k.Restart().ok());
  auto stranger = k.Client();
  ReclaimSlabs reclaim;
  reclaim.holders = {key};
  ASSERT_TRUE(stranger->Ask(FrameType::kReclaimSlabs, reclaim).ok());
  EXPECT_EQ(k.server(0).pool().holder(opened->pieces.front().slab), key)
      << "another process's slabs are not to be had";
  ASSERT_TRUE(k.Hello(client.get()).ok());
  ASSERT_TRUE(client->Ask(FrameType::kReclaimSlabs, reclaim).ok());
  EXPECT_EQ(k.server(0).pool().holder(opened->pieces.front().slab), k.holder);
  client->slabs.clear();
  const auto again = client->Open(TestClient::OpenFor("8", 0, 1, kBytes));
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->pieces.front().slab, opened->pieces.front().slab);
}

TEST(Recovery, GenerationsGoOnAboveThoseOfTheFormerLife) {
  Kept k;
  auto client = k.Client();
  const ShardId shard = k.CommitShard(client.get(), "7", kBytes);
  const uint32_t slab = k.server(0).objects().Find(shard)->SlabOf(0);
  const uint64_t first = k.server(0).pool().generation(slab);
  ASSERT_TRUE(k.Restart().ok());
  EXPECT_EQ(k.server(0).pool().generation(slab), first) << "the same life of the slab";
  k.nodes[0]->server->mutable_objects()->Drop(shard);
  client = nullptr;
  k.world.RunFor(100ms);
  ASSERT_EQ(k.server(0).pool().state(slab), SlabState::kFree);
  auto next = k.Client();
  const auto opened = next->Open(TestClient::OpenFor("8", 0, 1, 20 * kMiB));
  ASSERT_TRUE(opened.ok());
  for (const SlabPiece& piece : opened->pieces) {
    EXPECT_EQ(k.server(0).pool().generation(piece.slab) >> 32, 2U);
  }
}

TEST(Recovery, RefusesMemoryOfALifeThatIsNotDead) {
  Kept k;
  auto client = k.Client();
  const ShardId shard = k.CommitShard(client.get(), "7", kBytes);
  k.nodes[0]->life.loop.Pause();  // as by SIGSTOP: it may go on to write at any time
  Life second(&k.world, kNode);
  CountedEvents events;
  KeeperLink link(&second.loop, &second.net, &events, KeeperNode::AddressAt(kNode));
  Keeper::Taker taker{kNode, k.server(0).id(), ClusterId(), k.server(0).incarnation(), nullptr};
  taker.incarnation.bytes[0] ^= 1;
  taker.process = *second.host.OwnProcess();
  const absl::Status refused = second.Run(link.Take(taker)).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(MessageOf(refused).find("is not dead"), std::string_view::npos) << refused;
  EXPECT_NE(MessageOf(refused).find("kill -9"), std::string_view::npos);
  EXPECT_EQ(k.keepers[0]->service.items(), k.server(0).pool().slabs() + 2);
  EXPECT_NE(k.server(0).objects().Find(shard), nullptr);
  second.Kill();
}

TEST(Recovery, IsRefusedByTheKeeperOfAnotherServer) {
  Kept k;
  SimDiskState fresh;  // another identity
  k.Kill(0);
  ServerNode other(&k.world, kNode, &fresh, {k.memory_bytes, k.slab_bytes, {}, true});
  const absl::Status refused = other.life.Run(other.server->Start());
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(MessageOf(refused).find("keeps memory of server"), std::string_view::npos) << refused;
  EXPECT_TRUE(k.Start(0).ok());
}

TEST(Recovery, RefusesSlabsOfAnotherSizeAndABudgetThatIsTooSmall) {
  Kept k;
  auto client = k.Client();
  const ShardId shard = k.CommitShard(client.get(), "7", kBytes);
  k.KillAndSettle();
  k.slab_bytes = 4 * kMiB;
  absl::Status refused = k.Start(0);
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(MessageOf(refused).find("--slab-bytes 2097152"), std::string_view::npos) << refused;
  k.Kill(0);
  k.slab_bytes = 2 * kMiB;
  k.memory_bytes = 4 * kMiB;
  refused = k.Start(0);
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(MessageOf(refused).find("--memory"), std::string_view::npos) << refused;
  k.Kill(0);
  k.memory_bytes = 64 * kMiB;  // more is no harm
  ASSERT_TRUE(k.Start(0).ok());
  EXPECT_NE(k.server(0).objects().Find(shard), nullptr);
}

TEST(Recovery, SaysThatNoKeeperIsThere) {
  Kept k;
  k.Kill(0);
  k.keepers[0]->life.Kill();
  const absl::Status refused = k.Start(0);
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(MessageOf(refused).find("start gemel-keeper there first"), std::string_view::npos);
}

TEST(Recovery, AKeeperThatIsStartedAgainGetsEverything) {
  Kept k;
  auto client = k.Client();
  const ShardId shard = k.CommitShard(client.get(), "7", kBytes);
  k.keepers[0] = nullptr;
  k.world.RunFor(500ms);
  EXPECT_EQ(k.events().counts.at("keeper_lost"), 1U);
  const auto meanwhile = k.Commit(client.get(), "8", kBytes);
  EXPECT_TRUE(meanwhile.ok()) << "the server goes on: " << meanwhile.status().ToString();
  k.StartKeeper(0);
  k.world.RunFor(2s);
  EXPECT_EQ(k.events().counts.at("keeper_found"), 1U);
  EXPECT_EQ(k.keepers[0]->service.items(), k.server(0).pool().slabs() + 2);
  ASSERT_TRUE(k.Restart().ok());
  EXPECT_NE(k.server(0).objects().Find(shard), nullptr);
  EXPECT_EQ(k.Sealed(), 2U);
}

TEST(Recovery, ADirectoryThatCannotBeReadIsToldAndNothingIsBelieved) {
  Kept k;
  auto client = k.Client();
  k.CommitShard(client.get(), "7", kBytes);
  k.KillAndSettle();
  k.Directory()->bytes()[8] ^= std::byte{1};
  ASSERT_TRUE(k.Start(0).ok());
  EXPECT_EQ(k.Sealed(), 0U);
  EXPECT_EQ(k.events().counts.at("former_memory_refused"), 1U);
  k.world.RunFor(100ms);
  EXPECT_EQ(k.keepers[0]->service.items(), k.server(0).pool().slabs() + 1);
}

TEST(Recovery, TwentyLivesLoseNothingAndTakeNoMoreMemory) {
  Kept k;
  auto client = k.Client();
  std::vector<ShardId> shards = {k.CommitShard(client.get(), "0", kMiB)};
  for (int life = 1; life <= 20; ++life) {
    const HolderKey before = k.holder;
    ASSERT_TRUE(k.Restart().ok()) << life;
    ASSERT_TRUE(k.Hello(client.get()).ok()) << life;
    client->slabs.clear();
    ReclaimSlabs reclaim;
    reclaim.holders = {before};
    ASSERT_TRUE(client->Ask(FrameType::kReclaimSlabs, reclaim).ok());
    if (life % 4 == 0) {
      shards.push_back(k.CommitShard(client.get(), std::to_string(life), kMiB));
    }
    EXPECT_EQ(k.Sealed(), shards.size()) << life;
  }
  EXPECT_EQ(k.server(0).pool().life(), 21U);
  EXPECT_LE(k.server(0).pool().idle_bytes(), 2 * kMiB);
  EXPECT_LE(k.keepers[0]->service.items(), k.server(0).pool().slabs() + 1 + shards.size() + 2);
}

}  // namespace
}  // namespace gemel::testing
