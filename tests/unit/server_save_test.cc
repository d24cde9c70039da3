// SPDX-License-Identifier: Apache-2.0
//
// Saving through a real server: client messages in, copies and receipts out.
#include <google/protobuf/stubs/logging.h>
#include <gtest/gtest.h>

#include "tests/unit/server_world.h"

namespace gemel::testing {
namespace {

constexpr uint64_t kBytes = 5 * kMiB + 123;

struct Saving : ServerWorld {
  Saving() : ServerWorld(3), client(&world, "server-0") {
    GEMEL_CHECK(client.Hello("server-0").ok());
  }

  // An open shard of kBytes that was filled and told.
  std::pair<OpenShardReply, std::vector<Digest128>> Filled(uint32_t copies) {
    OpenShard open = TestClient::OpenFor("7", 0, 1, kBytes);
    open.copies = copies;
    const auto opened = client.Open(open);
    GEMEL_CHECK(opened.ok()) << opened.status().ToString();
    std::vector<Digest128> digests = client.Fill(*opened, 0);
    GEMEL_CHECK(client.Filled(opened->upload, digests).ok());
    return {*opened, std::move(digests)};
  }

  bool RunUntilPlaced(int64_t bytes) {
    const auto placed = [&](uint32_t i) {
      return nodes[i]->metrics.Counter("gemel_placed_bytes_total", "").Get();
    };
    return world.RunUntil([&] { return placed(1) + placed(2) == bytes; }, 2s);
  }

  int64_t hashed() { return nodes[0]->metrics.Counter("gemel_seal_hashed_bytes_total", "").Get(); }

  TestClient client;
};

TEST(Save, CommitsWithACopyAtAnotherServer) {
  Saving s;
  const auto opened = s.Commit(&s.client, "7", kBytes);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const ShardId shard{opened->snapshot, 0};
  int sealed = 0;
  for (uint32_t i = 0; i < 3; ++i) {
    const auto object = s.server(i).objects().Find(shard);
    sealed += object != nullptr && object->state() == ObjectState::kSealed ? 1 : 0;
  }
  EXPECT_EQ(sealed, 2);
  s.world.RunFor(100ms);
  EXPECT_EQ(s.server(0).uploads().size(), 0U);
  EXPECT_TRUE(s.server(0).identity().HasRecord(opened->snapshot));
}

TEST(Save, StreamsChunksBeforeTheLastOneIsFilled) {
  Saving s;
  const auto opened = s.client.Open(TestClient::OpenFor("7", 0, 1, kBytes));
  ASSERT_TRUE(opened.ok()) << opened.status();
  std::vector<Digest128> digests = s.client.Fill(*opened, 0);
  digests.resize(3);
  ASSERT_TRUE(s.client.Filled(opened->upload, digests).ok());
  EXPECT_TRUE(s.RunUntilPlaced(3 * int64_t{kMiB}));
}

TEST(Save, ReusesTheSlabsOfTheSameProcess) {
  Saving s;
  const auto first = s.client.Save("1", 0, 1, kBytes);
  ASSERT_TRUE(first.ok());
  s.world.RunFor(500ms);
  s.fake().saves.clear();
  pb::Directive dropped;
  WriteSnapshotId(first->snapshot, dropped.mutable_drop_snapshot()->mutable_snapshot());
  ASSERT_EQ(s.Do(0, dropped).code(), 0U);
  const auto second = s.client.Open(TestClient::OpenFor("2", 0, 1, kBytes));
  ASSERT_TRUE(second.ok()) << second.status();
  for (size_t i = 0; i < first->pieces.size(); ++i) {
    EXPECT_EQ(second->pieces[i].slab, first->pieces[i].slab);
    EXPECT_FALSE(second->pieces[i].has_handle);
  }
}

TEST(Save, SlabsOfAnAbortedUploadStayItsOwnWhileTheClientMayWriteThere) {
  Saving s;
  const auto first = s.client.Open(TestClient::OpenFor("1", 0, 1, kBytes));
  ASSERT_TRUE(first.ok());
  pb::Directive dropped;  // another thread of the process saved the name anew
  WriteSnapshotId(first->snapshot, dropped.mutable_drop_staging()->mutable_snapshot());
  ASSERT_EQ(s.Do(0, dropped).code(), 0U);
  s.world.RunFor(3s);  // whoever else used it has let go
  const auto second = s.client.Open(TestClient::OpenFor("2", 0, 1, kBytes));
  ASSERT_TRUE(second.ok()) << second.status();
  for (const SlabPiece& mine : first->pieces) {
    for (const SlabPiece& other : second->pieces) {
      EXPECT_NE(mine.slab, other.slab);
    }
  }
  AbortShard abort;
  abort.upload = first->upload;
  EXPECT_FALSE(s.client.Ask(FrameType::kAbortShard, abort).ok()) << "it has ended";
  s.world.RunFor(3s);
  const auto third = s.client.Open(TestClient::OpenFor("3", 0, 1, kBytes));
  ASSERT_TRUE(third.ok()) << third.status();
  EXPECT_EQ(third->pieces[0].slab, first->pieces[0].slab);
}

TEST(Save, PreparedSlabsAreThoseOfTheNextOpen) {
  Saving s;
  PrepareSlabs prepare;
  prepare.bytes = kBytes;
  const auto prepared = s.client.AskFor<PrepareSlabsReply>(FrameType::kPrepareSlabs, prepare);
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  s.client.Map(prepared->pieces);
  ASSERT_EQ(prepared->pieces.size(), 3U);
  const auto opened = s.client.Open(TestClient::OpenFor("2", 0, 1, kBytes));
  ASSERT_TRUE(opened.ok());
  EXPECT_EQ(opened->pieces[0].slab, prepared->pieces[0].slab);
  EXPECT_FALSE(opened->pieces[0].has_handle);
}

TEST(Save, GivesHandlesThatAReplyHasNoRoomForAfterwards) {
  ServerWorld s(2, {160 * kMiB, kMiB});
  TestClient client(&s.world, "server-0");
  client.slab_bytes = kMiB;
  ASSERT_TRUE(client.Hello("server-0").ok());
  const auto opened = client.Open(TestClient::OpenFor("7", 0, 1, 70 * kMiB));
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(client.handles.size(), kFrameHandlesMax);
  const auto rest = client.AskFor<PrepareSlabsReply>(FrameType::kPrepareSlabs, PrepareSlabs());
  ASSERT_TRUE(rest.ok());
  client.Map(rest->pieces);
  EXPECT_EQ(client.slabs.size(), 70U);
}

TEST(Save, RefusesASealWhoseBytesAreNotWhatTheClientHashed) {
  Saving s;
  const auto opened = s.client.Open(TestClient::OpenFor("7", 0, 1, kBytes));
  ASSERT_TRUE(opened.ok());
  const std::vector<Digest128> digests = s.client.Fill(*opened, 0);
  ASSERT_TRUE(s.client.Filled(opened->upload, digests).ok());
  s.client.At(opened->pieces[1])[5] ^= std::byte{1};  // a stray write before the seal
  const absl::Status sealed = s.client.Seal(*opened, 0, digests, kBytes);
  EXPECT_EQ(sealed.code(), absl::StatusCode::kDataLoss) << sealed;
  s.world.RunFor(100ms);
  EXPECT_FALSE(s.fake().saves.at(1).aborted.empty());
  EXPECT_EQ(s.server(0).objects().Find(ShardId{opened->snapshot, 0}), nullptr);
}

TEST(Save, RefusesASealAfterAStrayWriteIntoWhatAHolderHas) {
  Saving s;
  const auto [opened, digests] = s.Filled(2);
  ASSERT_TRUE(s.RunUntilPlaced(kBytes));
  s.world.RunFor(10ms);  // it has answered
  s.client.At(opened.pieces[1])[5] ^= std::byte{1};
  const absl::Status sealed = s.client.Seal(opened, 0, digests, kBytes);
  EXPECT_EQ(sealed.code(), absl::StatusCode::kDataLoss) << sealed;
  EXPECT_EQ(s.server(0).objects().Find(ShardId{opened.snapshot, 0}), nullptr);
}

TEST(Save, HashesWhatWasSentBeforeTheSeal) {
  Saving s;
  const auto [opened, digests] = s.Filled(2);
  ASSERT_TRUE(s.RunUntilPlaced(kBytes));
  s.world.RunFor(10ms);
  EXPECT_EQ(s.hashed(), 0);
  EXPECT_TRUE(s.client.Seal(opened, 0, digests, kBytes).ok());
  EXPECT_EQ(s.hashed(), kBytes);
}

TEST(Save, HashesAllOfAShardWithoutOtherCopies) {
  Saving s;
  const auto [opened, digests] = s.Filled(1);
  EXPECT_TRUE(s.client.Seal(opened, 0, digests, kBytes).ok());
  EXPECT_EQ(s.hashed(), kBytes);
}

TEST(Save, SealsSoonWhenNoHolderAnswers) {
  Saving s;
  s.world.world.Partition({"server-0"}, {"server-1", "server-2"});
  const auto [opened, digests] = s.Filled(2);
  const TimePoint began = s.client.life.loop.Now();
  EXPECT_TRUE(s.client.Seal(opened, 0, digests, kBytes).ok());
  EXPECT_LT(s.client.life.loop.Now() - began, 2 * kVouchPatience);
  EXPECT_EQ(s.hashed(), kBytes);
}

TEST(Save, RefusesARootOfAnotherIdentity) {
  Saving s;
  const auto opened = s.client.Open(TestClient::OpenFor("7", 0, 1, kBytes));
  const std::vector<Digest128> digests = s.client.Fill(*opened, 0);
  ASSERT_TRUE(s.client.Filled(opened->upload, digests).ok());
  EXPECT_EQ(s.client.Seal(*opened, 1, digests, kBytes).code(), absl::StatusCode::kDataLoss);
}

TEST(Save, RefusesRequestsOutOfOrderWithoutEnding) {
  Saving s;
  EXPECT_EQ(s.client.Filled(99, {}).code(), absl::StatusCode::kNotFound);
  SealShard seal;
  seal.upload = 99;
  EXPECT_EQ(s.client.Ask(FrameType::kSealShard, seal).status().code(), absl::StatusCode::kNotFound);
  const auto opened = s.client.Open(TestClient::OpenFor("7", 0, 1, kBytes));
  ASSERT_TRUE(opened.ok());
  std::vector<Digest128> digests = s.client.Fill(*opened, 0);
  EXPECT_EQ(s.client.Seal(*opened, 0, digests, kBytes).code(),
            absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(s.client.Filled(opened->upload, digests).ok());
  ASSERT_TRUE(s.client.Filled(opened->upload, digests).ok());  // repeated: the same
  digests[0].low ^= 1;
  EXPECT_EQ(s.client.Filled(opened->upload, digests).code(), absl::StatusCode::kAlreadyExists);
  digests.resize(20);
  EXPECT_EQ(s.client.Filled(opened->upload, digests).code(), absl::StatusCode::kInvalidArgument);
}

TEST(Save, AnswersNothingBeforeTheHello) {
  Saving s;
  TestClient other(&s.world, "server-0");
  ASSERT_TRUE(other.Connect("unix:///server-0").ok());
  AcquireEpoch acquire;
  acquire.job = "gpt";
  EXPECT_EQ(other.Ask(FrameType::kAcquireEpoch, acquire).status().code(),
            absl::StatusCode::kFailedPrecondition);
  ClientHello old;
  old.version = 77;
  const absl::Status refused = other.Ask(FrameType::kClientHello, old).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(MessageOf(refused).find("77"), std::string_view::npos);
  // A hello without the process handle.
  EXPECT_EQ(other.Ask(FrameType::kClientHello, ClientHello()).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(Save, RefusesShapesThatCannotBe) {
  Saving s;
  OpenShard open = TestClient::OpenFor("7", 3, 2, kBytes);
  EXPECT_EQ(s.client.Open(open).status().code(), absl::StatusCode::kInvalidArgument);
  open = TestClient::OpenFor("7", 0, 1, 0);
  open.layout_bytes = 0;
  EXPECT_EQ(s.client.Open(open).status().code(), absl::StatusCode::kInvalidArgument);
  open = TestClient::OpenFor("with space", 0, 1, kBytes);
  EXPECT_EQ(s.client.Open(open).status().code(), absl::StatusCode::kInvalidArgument);
  Request garbage;
  garbage.type = FrameType::kOpenShard;
  garbage.body = "\x01\x02\x03";
  EXPECT_EQ(s.client.Call(std::move(garbage)).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Save, PassesOnWaitAndSkip) {
  Saving s;
  s.fake().decision = pb::OpenReply::WAIT;
  EXPECT_EQ(s.client.Open(TestClient::OpenFor("7", 0, 1, kBytes))->decision, OpenDecision::kWait);
  s.fake().decision = pb::OpenReply::SKIP;
  const auto skipped = s.client.Open(TestClient::OpenFor("7", 0, 1, kBytes));
  EXPECT_EQ(skipped->decision, OpenDecision::kSkip);
  EXPECT_EQ(skipped->reason, "because the test says so");
  EXPECT_TRUE(skipped->pieces.empty());
}

TEST(Save, GivesTheSameUploadForARepeatedOpen) {
  Saving s;
  const auto first = s.client.Open(TestClient::OpenFor("7", 0, 1, kBytes));
  const auto again = s.client.Open(TestClient::OpenFor("7", 0, 1, kBytes));
  ASSERT_TRUE(first.ok() && again.ok());
  EXPECT_EQ(first->upload, again->upload);
  EXPECT_EQ(again->pieces[0].slab, first->pieces[0].slab);
}

TEST(Save, AbortsForAllWhenMemoryIsTooSmallAndNamesTheSizes) {
  Saving s;
  const auto opened = s.client.Open(TestClient::OpenFor("7", 0, 1, 64 * kMiB));
  EXPECT_EQ(opened.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(MessageOf(opened.status()).find("67108864"), std::string_view::npos);
  s.world.RunFor(100ms);
  EXPECT_FALSE(s.fake().saves.at(1).aborted.empty());
}

TEST(Save, EndsAnUploadOfWhichPlacementSaysThatANewerEpochWentByIt) {
  Saving s;
  const auto opened = s.client.Open(TestClient::OpenFor("7", 0, 1, kBytes));
  ASSERT_TRUE(opened.ok());
  s.world.RunFor(100ms);
  EXPECT_EQ(s.server(0).uploads().size(), 1U);
  s.fake().failures["AwaitCommit"].push_back(error::FailedPrecondition("it was passed over"));
  s.world.RunFor(2s);
  EXPECT_TRUE(s.fake().failures["AwaitCommit"].empty());
  EXPECT_EQ(s.server(0).uploads().size(), 0U);
  EXPECT_EQ(s.server(0).objects().Find({opened->snapshot, 0}), nullptr);
}

TEST(Save, EndsAnUploadWhoseCommitIsKeptNoLongerThoughItNeverHadAllCopies) {
  Saving s;
  s.fake().commits_closed_low = true;
  ASSERT_TRUE(s.Commit(&s.client, "7", kBytes).ok());
  s.world.RunFor(1s);
  EXPECT_EQ(s.server(0).uploads().size(), 0U);
}

TEST(Save, TellsPlacementThatItSendsNoCopiesOfAShardThatAClientWaitsFor) {
  Saving s;
  const auto opened = s.client.Open(TestClient::OpenFor("7", 0, 1, kBytes));
  ASSERT_TRUE(opened.ok());
  TestClient other(&s.world, "server-1");
  ASSERT_TRUE(other.Hello("server-1").ok());
  ASSERT_TRUE(s.client.Await(opened->snapshot, 0).ok());
  ASSERT_TRUE(other.Await(opened->snapshot, 0).ok());
  EXPECT_EQ(s.fake().unsent, std::set<std::string>{s.server(1).id().ToBytes()});
}

TEST(Save, AbortsOpenUploadsWhenTheClientDies) {
  Saving s;
  auto client = std::make_unique<TestClient>(&s.world, "server-0");
  ASSERT_TRUE(client->Hello("server-0").ok());
  const auto opened = client->Open(TestClient::OpenFor("7", 0, 1, kBytes));
  ASSERT_TRUE(opened.ok());
  EXPECT_EQ(s.server(0).pool().holder(opened->pieces[0].slab) == kServerHolder, false);
  client = nullptr;
  s.world.RunFor(500ms);
  EXPECT_NE(s.fake().saves.at(1).aborted.find("process"), std::string::npos);
  EXPECT_EQ(s.server(0).pool().used_bytes(), 0U);
  EXPECT_EQ(s.server(0).pool().state(opened->pieces[0].slab), SlabState::kFree);
}

TEST(Save, KeepsASealedShardOfADeadClient) {
  Saving s;
  auto client = std::make_unique<TestClient>(&s.world, "server-0");
  ASSERT_TRUE(client->Hello("server-0").ok());
  const auto opened = client->Save("7", 0, 1, kBytes);
  ASSERT_TRUE(opened.ok());
  client = nullptr;
  s.world.RunFor(1s);
  EXPECT_TRUE(s.fake().saves.at(1).committed);
  const auto object = s.server(0).objects().Find(ShardId{opened->snapshot, 0});
  ASSERT_NE(object, nullptr);
  EXPECT_EQ(s.server(0).pool().holder(object->SlabOf(0)), kServerHolder);
}

TEST(Save, KeepsSlabsOfAClientThatOnlyClosedItsConnection) {
  Saving s;
  const auto opened = s.client.Open(TestClient::OpenFor("7", 0, 1, kBytes));
  ASSERT_TRUE(opened.ok());
  s.client.session->Close(error::Unavailable("the test closes"));
  s.world.RunFor(500ms);
  EXPECT_FALSE(s.fake().saves.at(1).aborted.empty());
  EXPECT_EQ(s.server(0).pool().state(opened->pieces[0].slab), SlabState::kIdle);
}

TEST(Save, AbortOfOneRankIsToldToPlacement) {
  Saving s;
  const auto opened = s.client.Open(TestClient::OpenFor("7", 0, 1, kBytes));
  AbortShard abort;
  abort.upload = opened->upload;
  abort.why = "out of disk for the log";
  ASSERT_TRUE(s.client.Ask(FrameType::kAbortShard, abort).ok());
  EXPECT_NE(s.fake().saves.at(1).aborted.find("out of disk"), std::string::npos);
  EXPECT_EQ(s.server(0).objects().Find(ShardId{opened->snapshot, 0}), nullptr);
}

TEST(Save, AnAbortReachesPlacementWhateverBytesItsReasonHas) {
  const google::protobuf::LogSilencer silence;
  Saving s;
  const auto opened = s.client.Open(TestClient::OpenFor("7", 0, 1, kBytes));
  AbortShard abort;
  abort.upload = opened->upload;
  abort.why = "no room in /data/mod\xe8les " + std::string(kEventTextMax, '\xff');
  ASSERT_TRUE(s.client.Ask(FrameType::kAbortShard, abort).ok());
  EXPECT_NE(s.fake().saves.at(1).aborted.find("no room in /data/mod\\350les"), std::string::npos);
  EXPECT_LE(s.fake().saves.at(1).aborted.size(), kEventTextMax);
}

TEST(Save, FollowsAChangeOfHolders) {
  Saving s;
  s.fake().no_holders = {"server-2"};
  const auto opened = s.client.Open(TestClient::OpenFor("7", 0, 1, kBytes));
  ASSERT_TRUE(opened.ok());
  const std::vector<Digest128> digests = s.client.Fill(*opened, 0);
  s.Kill(1);
  // Placement notices, and wants server 2 in its place.
  auto& holders = s.fake().saves.at(1).ranks.at(0).holders;
  holders = {s.server(0).id().ToBytes(), s.server(2).id().ToBytes()};
  ASSERT_TRUE(s.client.Filled(opened->upload, digests).ok());
  ASSERT_TRUE(s.client.Seal(*opened, 0, digests, kBytes).ok());
  EXPECT_TRUE(s.world.RunUntil([&] { return s.fake().saves.at(1).committed; }, 20s));
  EXPECT_NE(s.server(2).objects().Find(ShardId{opened->snapshot, 0}), nullptr);
}

TEST(Save, GoesOnAfterTheSessionsAreReset) {
  Saving s;
  const auto opened = s.client.Open(TestClient::OpenFor("7", 0, 1, kBytes));
  std::vector<Digest128> digests = s.client.Fill(*opened, 0);
  const std::vector<Digest128> some(digests.begin(), digests.begin() + 3);
  ASSERT_TRUE(s.client.Filled(opened->upload, some).ok());
  s.world.RunFor(100ms);
  s.world.world.BreakConnections("server-0", "server-1");
  s.world.world.BreakConnections("server-0", "server-2");
  ASSERT_TRUE(s.client.Filled(opened->upload, digests).ok());
  ASSERT_TRUE(s.client.Seal(*opened, 0, digests, kBytes).ok());
  EXPECT_TRUE(s.world.RunUntil([&] { return s.fake().saves.at(1).committed; }, 20s));
  EXPECT_EQ(s.nodes[0]->events.counts["copy_delayed"], 0U) << "the grant outlives a session";
  s.world.RunFor(300ms);
  bool told = false;
  for (const auto& [id, member] : s.fake().members) {
    told = told || !member.unreachable.empty();
  }
  EXPECT_TRUE(told) << "the reset is reported in a heartbeat";
}

TEST(Save, RepeatsReceiptsUntilTheyAreAcknowledged) {
  Saving s;
  s.fake().failures["ReportReceipts"] = {
      absl::UnavailableError("lost"), absl::DeadlineExceededError("lost"),
      absl::UnavailableError("lost"), absl::UnavailableError("lost")};
  EXPECT_TRUE(s.Commit(&s.client, "7", kBytes).ok());
}

TEST(Save, RefusesAnEpochThatWasSuperseded) {
  Saving s;
  pb::Directive see;
  see.mutable_see_epoch()->set_job("gpt");
  WriteEpochId({1, 5}, see.mutable_see_epoch()->mutable_epoch());
  ASSERT_EQ(s.Do(0, see).code(), 0U);
  EXPECT_EQ(s.client.Open(TestClient::OpenFor("7", 0, 1, kBytes)).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(Save, RepeatsAnOpenWhoseAnswerWasLost) {
  Saving s;
  s.fake().failures["Open"] = {absl::UnavailableError("lost"), absl::UnavailableError("lost")};
  EXPECT_TRUE(s.client.Open(TestClient::OpenFor("7", 0, 1, kBytes)).ok());
}

TEST(Save, CopiesToTheNewIncarnationOfAHolder) {
  Saving s;
  s.fake().no_holders = {"server-2"};
  const auto opened = s.client.Open(TestClient::OpenFor("7", 0, 1, kBytes));
  ASSERT_TRUE(opened.ok());
  const std::vector<Digest128> digests = s.client.Fill(*opened, 0);
  ASSERT_TRUE(s.client.Filled(opened->upload, digests).ok());
  s.world.RunFor(100ms);
  ASSERT_TRUE(s.Start(1).ok());
  ASSERT_TRUE(s.client.Seal(*opened, 0, digests, kBytes).ok());
  EXPECT_TRUE(s.world.RunUntil([&] { return s.fake().saves.at(1).committed; }, 20s));
  const auto copy = s.server(1).objects().Find(ShardId{opened->snapshot, 0});
  ASSERT_NE(copy, nullptr);
  EXPECT_EQ(copy->state(), ObjectState::kSealed);
}

TEST(Save, DoesNotBelieveACopyUnderAnotherRoot) {
  Saving s;
  s.fake().no_holders = {"server-2"};
  // Somebody else put other bytes under the name that this save will have.
  TestPeer forger(&s.world, "peer-host");
  ASSERT_TRUE(forger.Hello(s.fake(), s.server(1)).ok());
  const std::string bytes(100, 'z');
  Offer offer;
  offer.shard = ShardId{{"gpt", {1, 1}, 1, "7", 0}, 0};
  offer.bytes = bytes.size();
  const auto grant = forger.AskFor<OfferReply>(FrameType::kOffer, offer);
  ASSERT_TRUE(grant.ok()) << grant.status();
  const Digest128 digest = Xxh3_128(AsBytes(bytes));
  ASSERT_TRUE(forger.Put(*grant, 0, bytes, digest).ok());
  ASSERT_TRUE(forger.Seal(*grant, offer.shard, RootOf(offer.shard, {digest}, bytes.size())).ok());
  const auto opened = s.client.Save("7", 0, 1, kBytes);
  ASSERT_TRUE(opened.ok()) << opened.status();
  ASSERT_EQ((ShardId{opened->snapshot, 0}), offer.shard);
  s.world.RunFor(2s);
  bool named = false;
  for (const std::string& text : s.nodes[0]->events.texts) {
    named = named || text.find("under root") != std::string::npos;
  }
  EXPECT_TRUE(named);
}

TEST(Save, EndsItsCopiesWhenItIsAborted) {
  Saving s;
  const auto opened = s.client.Open(TestClient::OpenFor("7", 0, 1, kBytes));
  ASSERT_TRUE(opened.ok());
  s.world.RunFor(100ms);
  AbortShard abort;
  abort.upload = opened->upload;
  ASSERT_TRUE(s.client.Ask(FrameType::kAbortShard, abort).ok());
  s.world.RunFor(1s);
  EXPECT_EQ(s.server(0).uploads().size(), 0U);
  EXPECT_EQ(s.nodes[0]->events.counts["copy_delayed"], 0U);
}

TEST(Save, CountsAndRefusesACorruptWireAndSendsAgain) {
  Saving s;
  s.fake().no_holders = {"server-2"};
  s.world.world.Faults("server-0", "server-1").corrupt_ppm = 150'000;
  const auto opened = s.client.Save("7", 0, 1, kBytes);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_TRUE(s.world.RunUntil([&] { return s.fake().saves.at(1).committed; }, 60s));
  const auto copy = s.server(1).objects().Find(ShardId{opened->snapshot, 0});
  ASSERT_NE(copy, nullptr);
  EXPECT_TRUE(s.client.life.Run(CheckAllChunks(&s.client.life.loop, copy)).ok());
}

// Its memory decayed after the seal, before the first copy was made.
TEST(Save, SendsNothingOnThatIsNotWhatWasSealed) {
  Saving s;
  s.fake().no_holders = {"server-2"};
  s.world.world.Partition({"server-0"}, {"server-1"});
  const auto opened = s.client.Save("7", 0, 1, kBytes);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const ShardId shard{opened->snapshot, 0};
  const std::shared_ptr<Object> object = s.server(0).mutable_objects()->Find(shard);
  ASSERT_NE(object, nullptr);
  object->Chunk(1)[4] ^= std::byte{4};
  s.world.world.Heal();
  ASSERT_TRUE(s.world.RunUntil([&] { return s.fake().named("server-0").joins == 2; }, 5s));
  EXPECT_EQ(s.fake().named("server-0").last_join.objects_size(), 0);
  EXPECT_EQ(s.nodes[0]->events.counts["chunk_corrupt"], 1U);
  const size_t delayed = s.nodes[0]->events.counts["copy_delayed"];
  s.world.RunFor(1s);
  EXPECT_EQ(s.nodes[0]->events.counts["copy_delayed"], delayed) << "it is still sent";
}

TEST(Save, IgnoresLateAndRepeatedWrites) {
  Saving s;
  s.fake().no_holders = {"server-2"};
  LinkFaults& faults = s.world.world.Faults("server-0", "server-1");
  faults.late_write_ppm = 1'000'000;
  faults.duplicate_ppm = 500'000;
  faults.late_max = 500ms;
  ASSERT_TRUE(s.Commit(&s.client, "7", kBytes).ok());
  s.world.RunFor(2s);
  const auto copy = s.server(1).objects().Find(ShardId{ReadSnapshotId(s.fake().saves.at(1).id), 0});
  ASSERT_NE(copy, nullptr);
  EXPECT_TRUE(s.client.life.Run(CheckAllChunks(&s.client.life.loop, copy)).ok());
}

}  // namespace
}  // namespace gemel::testing
