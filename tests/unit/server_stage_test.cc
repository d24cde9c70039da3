// SPDX-License-Identifier: Apache-2.0
//
// Shards that are written before they have a name: staged, sealed, opened by any process of the
// host, dropped, bounded; and what becomes of their memory.
#include <gtest/gtest.h>

#include "tests/unit/server_world.h"

namespace gemel::testing {
namespace {

constexpr uint64_t kBytes = 3 * kMiB + 5;
constexpr uint64_t kSlabs = 2;  // of 2 MiB

bool Names(const absl::Status& status, std::string_view text) {
  return MessageOf(status).find(text) != std::string_view::npos;
}

StageId IdOf(uint8_t number) {
  StageId id;
  id.bytes[0] = number;
  return id;
}

struct Staging : ServerWorld {
  explicit Staging(uint32_t servers = 2, uint64_t memory = 32 * kMiB)
      : ServerWorld(servers, {memory, 2 * kMiB}), client(&world, "server-0") {
    GEMEL_CHECK(client.Hello("server-0").ok());
  }

  std::unique_ptr<TestClient> Another() {
    auto other = std::make_unique<TestClient>(&world, "server-0");
    GEMEL_CHECK(other->Hello("server-0").ok());
    return other;
  }

  static StageShard Wanted(uint8_t number, uint64_t bytes = kBytes) {
    StageShard stage;
    stage.stage = IdOf(number);
    stage.shard_bytes = bytes;
    stage.layout_bytes = 10;
    return stage;
  }

  static absl::StatusOr<StageShardReply> Stage(TestClient* at, const StageShard& wanted) {
    auto reply = at->AskFor<StageShardReply>(FrameType::kStageShard, wanted);
    if (reply.ok()) {
      at->Map(reply->pieces);
    }
    return reply;
  }

  // Memory with what rank 0 saves, and the digests of its chunks.
  static std::vector<Digest128> Fill(TestClient* at, const StageShardReply& staged) {
    OpenShardReply as_opened;
    as_opened.pieces = staged.pieces;
    return at->Fill(as_opened, 0);
  }

  static absl::Status Seal(TestClient* at, uint64_t upload) {
    SealStage seal;
    seal.upload = upload;
    return at->Ask(FrameType::kSealStage, seal).status();
  }

  // Staged, filled and sealed.
  static StageShardReply Sealed(TestClient* at, uint8_t number) {
    const auto staged = Stage(at, Wanted(number));
    GEMEL_CHECK(staged.ok() && !staged->wait) << staged.status().ToString();
    const std::vector<Digest128> digests = Fill(at, *staged);
    GEMEL_CHECK(at->Filled(staged->upload, digests).ok());
    GEMEL_CHECK(Seal(at, staged->upload).ok());
    return *staged;
  }

  static OpenShard OpenOf(uint8_t number, const std::string& name, uint32_t copies = 2) {
    OpenShard open = TestClient::OpenFor(name, 0, 1, kBytes);
    open.copies = copies;
    open.stage = IdOf(number);
    return open;
  }

  static absl::Status Drop(TestClient* at, uint8_t number) {
    DropStage drop;
    drop.stage = IdOf(number);
    return at->Ask(FrameType::kDropStage, drop).status();
  }

  // Opens what was staged, seals and awaits it; what was opened.
  OpenShardReply CommitOf(TestClient* by, uint8_t number, const std::string& name) {
    const auto opened = by->Open(OpenOf(number, name));
    GEMEL_CHECK(opened.ok()) << opened.status().ToString();
    GEMEL_CHECK(opened->decision == OpenDecision::kAccept);
    const absl::Status sealed = by->Seal(*opened, 0, opened->digests, kBytes);
    GEMEL_CHECK(sealed.ok()) << sealed.ToString();
    const auto done = by->Await(opened->snapshot, 0);
    GEMEL_CHECK(done.ok() && done->state == CommitState::kCommitted);
    return *opened;
  }

  uint64_t used() { return server(0).pool().used_bytes(); }

  TestClient client;
};

TEST(Stage, BecomesTheShardOfASnapshotWithoutAnotherCopy) {
  Staging s;
  const StageShardReply staged = Staging::Sealed(&s.client, 1);
  EXPECT_EQ(s.used(), kSlabs * s.slab_bytes);
  EXPECT_EQ(s.server(0).stages().bytes(), kSlabs * s.slab_bytes);
  const OpenShardReply opened = s.CommitOf(&s.client, 1, "7");
  EXPECT_TRUE(opened.pieces.empty());
  EXPECT_EQ(s.server(0).stages().size(), 0U);
  EXPECT_EQ(s.used(), kSlabs * s.slab_bytes) << "no second copy on this host";
  for (uint32_t i = 0; i < 2; ++i) {
    const auto object = s.server(i).objects().Find(ShardId{opened.snapshot, 0});
    ASSERT_NE(object, nullptr) << i;
    EXPECT_EQ(object->state(), ObjectState::kSealed);
    EXPECT_EQ(object->layout_bytes(), 10U);
  }
  const auto begun = s.client.Begin();
  const auto fetched = s.client.Fetch(begun->restore, 0, 0, 4);
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  EXPECT_TRUE(s.client.Holds(*fetched, 0, 0));
}

// What was staged is not written any more: whoever verifies it as it is sent vouches for it here.
TEST(Stage, IsNotHashedWhereAHolderVerifiesIt) {
  Staging s;
  Staging::Sealed(&s.client, 1);
  s.CommitOf(&s.client, 1, "7");
  EXPECT_EQ(s.nodes[0]->metrics.Counter("gemel_seal_hashed_bytes_total", "").Get(), 0);
}

TEST(Stage, IsRefusedWhenItsMemoryIsNotWhatWasStaged) {
  Staging s;
  const StageShardReply staged = Staging::Sealed(&s.client, 1);
  s.client.At(staged.pieces[1])[5] ^= std::byte{1};
  const auto opened = s.client.Open(Staging::OpenOf(1, "7"));
  ASSERT_TRUE(opened.ok()) << opened.status();
  const absl::Status sealed = s.client.Seal(*opened, 0, opened->digests, kBytes);
  EXPECT_EQ(sealed.code(), absl::StatusCode::kDataLoss) << sealed;
}

TEST(Stage, IsOpenedByAnotherProcessOfTheHost) {
  Staging s;
  Staging::Sealed(&s.client, 1);
  const auto opener = s.Another();
  const OpenShardReply opened = s.CommitOf(opener.get(), 1, "7");
  EXPECT_NE(s.server(1).objects().Find(ShardId{opened.snapshot, 0}), nullptr);
  // The stager's leaving or dropping takes nothing away any more.
  ASSERT_TRUE(Staging::Drop(&s.client, 1).ok());
  s.client.session = nullptr;
  s.world.RunFor(200ms);
  EXPECT_NE(s.server(0).objects().Find(ShardId{opened.snapshot, 0}), nullptr);
}

TEST(Stage, StandsInTheSlabDirectoryUnderItsNameOnceItHasOne) {
  Staging s;
  const StageShardReply staged = Staging::Sealed(&s.client, 1);
  const uint32_t slab = staged.pieces.front().slab;
  auto before = ReadSlabDirectory(s.server(0).pool().directory());
  ASSERT_TRUE(before.ok());
  EXPECT_EQ(before->entries[slab].state, SlabState::kInUse);
  EXPECT_NE(before->entries[slab].holder, kServerHolder);
  EXPECT_TRUE(before->entries[slab].shard.snapshot.job.empty());
  EXPECT_FALSE(before->entries[slab].sealed) << "nobody may take it for a copy";
  const auto opener = s.Another();
  const OpenShardReply opened = s.CommitOf(opener.get(), 1, "7");
  const auto after = ReadSlabDirectory(s.server(0).pool().directory());
  EXPECT_EQ(after->entries[slab].shard, (ShardId{opened.snapshot, 0}));
  EXPECT_EQ(after->entries[slab].token, Staging::OpenOf(1, "7").token);
  EXPECT_TRUE(after->entries[slab].sealed);
  EXPECT_EQ(after->entries[slab].holder, before->entries[slab].holder) << "who can write it";
  EXPECT_EQ(after->entries[slab].generation, before->entries[slab].generation);
}

TEST(Stage, IsReplicatedBeforeItsOpenerSeals) {
  Staging s;
  Staging::Sealed(&s.client, 1);
  const auto opened = s.client.Open(Staging::OpenOf(1, "7"));
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_TRUE(s.world.RunUntil(
      [&] {
        return s.nodes[1]->metrics.Counter("gemel_placed_bytes_total", "").Get() ==
               static_cast<int64_t>(kBytes);
      },
      2s));
}

TEST(Stage, MayBeAskedForTwice) {
  Staging s;
  const auto first = Staging::Stage(&s.client, Staging::Wanted(1));
  const auto again = Staging::Stage(&s.client, Staging::Wanted(1));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->upload, first->upload);
  EXPECT_EQ(s.used(), kSlabs * s.slab_bytes);
  const auto other = s.Another();
  EXPECT_EQ(Staging::Stage(other.get(), Staging::Wanted(1)).status().code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(Staging::Stage(&s.client, Staging::Wanted(1, kBytes + 1)).status().code(),
            absl::StatusCode::kAlreadyExists);
}

TEST(Stage, MayBeOpenedAgainWhenTheAnswerWasLost) {
  Staging s;
  Staging::Sealed(&s.client, 1);
  const auto first = s.client.Open(Staging::OpenOf(1, "7"));
  const auto again = s.client.Open(Staging::OpenOf(1, "7"));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->upload, first->upload);
  EXPECT_EQ(again->digests, first->digests);
}

TEST(Stage, IsNotOpenedWithOtherSizesOrBeforeItsSealOrUnderAnUnknownId) {
  Staging s;
  const auto staged = Staging::Stage(&s.client, Staging::Wanted(1));
  ASSERT_TRUE(staged.ok());
  auto refused = s.client.Open(Staging::OpenOf(1, "7")).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(Names(refused, "stage") && Names(refused, "not sealed")) << refused;
  Staging::Sealed(&s.client, 2);
  OpenShard larger = Staging::OpenOf(2, "7");
  larger.shard_bytes += 1;
  refused = s.client.Open(larger).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(Names(refused, std::to_string(kBytes))) << refused;
  OpenShard other_layout = Staging::OpenOf(2, "7");
  other_layout.layout_bytes = 11;
  EXPECT_EQ(s.client.Open(other_layout).status().code(), absl::StatusCode::kInvalidArgument);
  refused = s.client.Open(Staging::OpenOf(3, "7")).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(Names(refused, IdOf(3).ToShort())) << refused;
  EXPECT_EQ(s.fake().calls["Open"], 0U) << "nothing was opened for the other ranks";
  s.CommitOf(&s.client, 2, "7");
  EXPECT_EQ(s.client.Open(Staging::OpenOf(2, "8")).status().code(), absl::StatusCode::kNotFound);
}

TEST(Stage, StaysWhenItsOpenMustWaitOrFails) {
  Staging s;
  Staging::Sealed(&s.client, 1);
  for (const auto decision : {pb::OpenReply::WAIT, pb::OpenReply::SKIP}) {
    s.fake().decision = decision;
    ASSERT_TRUE(s.client.Open(Staging::OpenOf(1, "7")).ok());
    EXPECT_EQ(s.server(0).stages().size(), 1U);
  }
  s.fake().decision = pb::OpenReply::ACCEPT;
  s.fake().failures["Open"] = {absl::ResourceExhaustedError("no memory for copies")};
  EXPECT_EQ(s.client.Open(Staging::OpenOf(1, "7")).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(s.server(0).stages().size(), 1U);
  s.CommitOf(&s.client, 1, "7");
}

TEST(Stage, StaysWhenTheShardIsHereAlready) {
  Staging s;
  Staging::Sealed(&s.client, 1);
  const auto other = s.Another();
  ASSERT_TRUE(other->Open(TestClient::OpenFor("7", 0, 1, kBytes)).ok());
  EXPECT_EQ(s.client.Open(Staging::OpenOf(1, "7")).status().code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(s.server(0).stages().size(), 1U);
  EXPECT_TRUE(s.fake().saves.at(1).aborted.empty());
  s.CommitOf(&s.client, 1, "8");
}

TEST(Stage, TakenByTwoOpensAtOnceGoesToOneAndTheOtherIsAbortedForAll) {
  Staging s;
  Staging::Sealed(&s.client, 1);
  const auto other = s.Another();
  const auto ask = [](TestClient* by, const std::string& name) {
    Request request;
    request.type = FrameType::kOpenShard;
    request.body = EncodeMessage(Staging::OpenOf(1, name));
    return by->session->Call(std::move(request), {}, Add(by->life.loop.Now(), 10s));
  };
  // Both have passed the first look when placement answers them.
  s.fake().open_takes = 100ms;
  auto done = std::make_shared<std::optional<absl::StatusOr<Reply>>>();
  s.client.life.loop.Spawn(Life::Keep(ask(&s.client, "7"), done));
  const auto second = other->life.Run(ask(other.get(), "8"));
  ASSERT_TRUE(s.world.RunUntil([&] { return done->has_value(); }));
  const absl::Status first = (*done)->status();
  EXPECT_NE(first.ok(), second.ok());
  const absl::Status lost = first.ok() ? second.status() : first;
  EXPECT_EQ(lost.code(), absl::StatusCode::kNotFound);
  s.world.RunFor(500ms);
  uint32_t aborted = 0;
  for (const auto& [sequence, save] : s.fake().saves) {
    aborted += save.aborted.empty() ? 0 : 1;
  }
  EXPECT_EQ(aborted, 1U);
}

TEST(Stage, IsDroppedByItsClientOrWithIt) {
  Staging s;
  Staging::Sealed(&s.client, 1);
  ASSERT_TRUE(Staging::Stage(&s.client, Staging::Wanted(2)).ok());
  const auto other = s.Another();
  EXPECT_EQ(Staging::Drop(other.get(), 1).code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(Staging::Drop(&s.client, 1).ok());
  EXPECT_TRUE(Staging::Drop(&s.client, 1).ok()) << "the answer may have been lost";
  EXPECT_EQ(s.server(0).stages().size(), 1U);
  EXPECT_EQ(s.used(), kSlabs * s.slab_bytes);
  s.client.session->Close(error::Cancelled("the process goes on, its connection ended"));
  s.world.RunFor(200ms);
  EXPECT_EQ(s.server(0).stages().size(), 0U);
  EXPECT_EQ(s.used(), 0U);
  EXPECT_EQ(other->Open(Staging::OpenOf(2, "7")).status().code(), absl::StatusCode::kNotFound);
}

TEST(Stage, LeavesItsMemoryToNobodyElseWhileItsProcessLives) {
  Staging s(1, 8 * kMiB);
  const StageShardReply staged = Staging::Sealed(&s.client, 1);
  const auto other = s.Another();
  // Opened by another process, aborted by it: the memory goes back to who can write it.
  const auto opened = other->Open(Staging::OpenOf(1, "7", 1));
  ASSERT_TRUE(opened.ok()) << opened.status();
  AbortShard abort;
  abort.upload = opened->upload;
  ASSERT_TRUE(other->Ask(FrameType::kAbortShard, abort).ok());
  s.client.session->Close(error::Cancelled("only the connection"));
  s.world.RunFor(200ms);
  EXPECT_EQ(s.used(), 0U);
  EXPECT_EQ(s.server(0).pool().idle_bytes(), kSlabs * s.slab_bytes);
  const auto whole = Staging::Stage(other.get(), Staging::Wanted(2, 8 * kMiB));
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_TRUE(whole->wait);
  EXPECT_NE(whole->reason.find("mapped by living clients"), std::string::npos) << whole->reason;
  const auto half = Staging::Stage(other.get(), Staging::Wanted(3, 4 * kMiB));
  ASSERT_TRUE(half.ok() && !half->wait);
  for (const SlabPiece& given : half->pieces) {
    for (const SlabPiece& kept : staged.pieces) {
      EXPECT_NE(given.slab, kept.slab);
    }
  }
  ASSERT_TRUE(Staging::Drop(other.get(), 3).ok());
  s.client.life.Kill();
  s.world.RunFor(200ms);
  const auto now = Staging::Stage(other.get(), Staging::Wanted(4, 8 * kMiB));
  ASSERT_TRUE(now.ok()) << now.status();
  EXPECT_FALSE(now->wait) << now->reason;
}

TEST(Stage, OfADeadProcessStaysWithTheSnapshotThatTookItOver) {
  Staging s;
  auto stager = s.Another();
  Staging::Sealed(stager.get(), 1);
  const auto opened = s.client.Open(Staging::OpenOf(1, "7"));
  ASSERT_TRUE(opened.ok()) << opened.status();
  stager = nullptr;
  s.world.RunFor(200ms);
  ASSERT_TRUE(s.client.Seal(*opened, 0, opened->digests, kBytes).ok());
  EXPECT_EQ(s.client.Await(opened->snapshot, 0)->state, CommitState::kCommitted);
}

TEST(Stage, IsHashedAgainUnderItsName) {
  for (const bool changed_before_its_seal : {true, false}) {
    Staging s;
    const auto staged = Staging::Stage(&s.client, Staging::Wanted(1));
    ASSERT_TRUE(staged.ok() && !staged->wait) << staged.status();
    const std::vector<Digest128> digests = Staging::Fill(&s.client, *staged);
    ASSERT_TRUE(s.client.Filled(staged->upload, digests).ok());
    // A stray pointer of the process that wrote it.
    std::byte& stray = s.client.At(staged->pieces[1])[77];
    stray ^= changed_before_its_seal ? std::byte{1} : std::byte{0};
    ASSERT_TRUE(Staging::Seal(&s.client, staged->upload).ok());
    stray ^= changed_before_its_seal ? std::byte{0} : std::byte{1};
    const auto opener = s.Another();
    const auto opened = opener->Open(Staging::OpenOf(1, "7", 1));
    ASSERT_TRUE(opened.ok()) << opened.status();
    const absl::Status refused = opener->Seal(*opened, 0, opened->digests, kBytes);
    EXPECT_EQ(refused.code(), absl::StatusCode::kDataLoss);
    EXPECT_TRUE(Names(refused, "chunk 2")) << refused;
    EXPECT_EQ(s.nodes[0]->events.counts["seal_refused"], 1U);
    s.world.RunFor(300ms);
    EXPECT_FALSE(s.fake().saves.at(1).aborted.empty());
  }
}

TEST(Stage, IsFilledAndSealedInOrder) {
  Staging s;
  const auto staged = Staging::Stage(&s.client, Staging::Wanted(1));
  const std::vector<Digest128> digests = Staging::Fill(&s.client, *staged);
  const absl::Status early = Staging::Seal(&s.client, staged->upload);
  EXPECT_EQ(early.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(Names(early, "0 of 4 chunks")) << early;
  ASSERT_TRUE(s.client.Filled(staged->upload, digests).ok());
  std::vector<Digest128> others = digests;
  others[1].low ^= 1;
  EXPECT_EQ(s.client.Filled(staged->upload, others).code(), absl::StatusCode::kAlreadyExists);
  others = digests;
  others.push_back(digests[0]);
  EXPECT_EQ(s.client.Filled(staged->upload, others).code(), absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(Staging::Seal(&s.client, staged->upload).ok());
  EXPECT_TRUE(Staging::Seal(&s.client, staged->upload).ok()) << "the answer may have been lost";
  EXPECT_EQ(Staging::Stage(&s.client, Staging::Wanted(1)).status().code(),
            absl::StatusCode::kAlreadyExists);
  ASSERT_TRUE(Staging::Drop(&s.client, 1).ok());
  EXPECT_EQ(Staging::Seal(&s.client, staged->upload).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(s.client.Filled(staged->upload, digests).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Staging::Seal(&s.client, 99).code(), absl::StatusCode::kNotFound);
}

TEST(Stage, IsBounded) {
  Staging s(1, 64 * kMiB);
  for (uint8_t i = 1; i <= kStagesPerClientMax; ++i) {
    ASSERT_TRUE(Staging::Stage(&s.client, Staging::Wanted(i, 100)).ok()) << int{i};
  }
  const absl::Status refused = Staging::Stage(&s.client, Staging::Wanted(200, 100)).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(Names(refused, std::to_string(kStagesPerClientMax))) << refused;
  ASSERT_TRUE(Staging::Drop(&s.client, 1).ok());
  EXPECT_TRUE(Staging::Stage(&s.client, Staging::Wanted(200, 100)).ok());
}

TEST(Stage, OfMoreThanThereEverIsFailsAtOnceAndOfMoreThanNowWaits) {
  Staging s(1, 8 * kMiB);
  const absl::Status never = Staging::Stage(&s.client, Staging::Wanted(1, 9 * kMiB)).status();
  EXPECT_EQ(never.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(Names(never, "--memory")) << never;
  ASSERT_TRUE(Staging::Stage(&s.client, Staging::Wanted(2, 6 * kMiB)).ok());
  const auto now = Staging::Stage(&s.client, Staging::Wanted(3, 6 * kMiB));
  ASSERT_TRUE(now.ok()) << now.status();
  EXPECT_TRUE(now->wait);
  EXPECT_EQ(s.server(0).stages().size(), 1U);
  for (StageShard wrong : {Staging::Wanted(4, 0), Staging::Wanted(5, 9), StageShard()}) {
    EXPECT_EQ(Staging::Stage(&s.client, wrong).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace gemel::testing
