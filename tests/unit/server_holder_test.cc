// SPDX-License-Identifier: Apache-2.0
//
// What a raw peer may and may not do at a server.
#include <gtest/gtest.h>

#include "tests/unit/server_world.h"

namespace gemel::testing {
namespace {

constexpr uint64_t kBytes = 2 * kMiB + 100;

struct Holding : ServerWorld {
  Holding() : ServerWorld(1), peer(&world, "peer-host") {
    const absl::Status hello = peer.Hello(fake(), server(0));
    GEMEL_CHECK(hello.ok()) << hello.ToString();
    for (uint64_t at = 0; at < kBytes; at += kChunkBytes) {
      content.emplace_back(std::min(kChunkBytes, kBytes - at), static_cast<char>('a' + at / kMiB));
      digests.push_back(Xxh3_128(AsBytes(content.back())));
    }
  }

  static Offer OfferOf(const std::string& name, EpochId epoch = {1, 1}) {
    Offer offer;
    offer.shard.snapshot = {"gpt", epoch, 3, name, 0};
    offer.token.bytes[0] = 1;
    offer.bytes = kBytes;
    return offer;
  }

  absl::StatusOr<OfferReply> Ask(const Offer& offer) {
    return peer.AskFor<OfferReply>(FrameType::kOffer, offer);
  }

  absl::Status PutAll(const OfferReply& grant) {
    for (uint32_t chunk = 0; chunk < content.size(); ++chunk) {
      const absl::Status put = peer.Put(grant, chunk, content[chunk], digests[chunk]);
      if (!put.ok()) {
        return put;
      }
    }
    return absl::OkStatus();
  }

  Digest128 Root(const Offer& offer) const { return RootOf(offer.shard, digests, kBytes); }

  absl::StatusOr<Reply> Read(const Offer& offer, uint32_t chunk, MutableByteSpan into) {
    struct Read read;
    read.shard = offer.shard;
    read.root = Root(offer);
    read.chunk = chunk;
    Request request;
    request.type = FrameType::kRead;
    request.body = EncodeMessage(read);
    return peer.Call(std::move(request), into);
  }

  TestPeer peer;
  std::vector<std::string> content;
  std::vector<Digest128> digests;
};

TEST(Holder, SealsWhatWasWrittenAndSendsAReceipt) {
  Holding h;
  const Offer offer = Holding::OfferOf("7");
  const auto grant = h.Ask(offer);
  ASSERT_TRUE(grant.ok()) << grant.status();
  ASSERT_TRUE(h.PutAll(*grant).ok());
  ASSERT_TRUE(h.peer.Seal(*grant, offer.shard, h.Root(offer)).ok());
  EXPECT_EQ(h.server(0).holder().grants(), 0U);
  EXPECT_TRUE(h.world.RunUntil([&] { return h.fake().calls["ReportReceipts"] > 0; }, 1s));
  std::string into(kChunkBytes, '\0');
  const auto read = h.Read(offer, 1, std::as_writable_bytes(std::span(into)));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(into, h.content[1]);
}

TEST(Holder, SaysAlreadySealedWhenTheAnswerToTheSealWasLost) {
  Holding h;
  const Offer offer = Holding::OfferOf("7");
  const auto grant = h.Ask(offer);
  ASSERT_TRUE(h.PutAll(*grant).ok());
  ASSERT_TRUE(h.peer.Seal(*grant, offer.shard, h.Root(offer)).ok());
  EXPECT_TRUE(h.peer.Seal(*grant, offer.shard, h.Root(offer)).ok());
  EXPECT_EQ(h.peer.Seal(*grant, offer.shard, Digest128{1, 1}).code(), absl::StatusCode::kDataLoss);
  const auto again = h.Ask(offer);
  ASSERT_TRUE(again.ok());
  EXPECT_TRUE(again->already_sealed);
  EXPECT_EQ(again->root, h.Root(offer));
}

TEST(Holder, FencesTheOldGrantWithANewOffer) {
  Holding h;
  const Offer offer = Holding::OfferOf("7");
  const auto old = h.Ask(offer);
  const auto fresh = h.Ask(offer);
  ASSERT_TRUE(old.ok() && fresh.ok());
  EXPECT_FALSE(h.peer.Put(*old, 0, h.content[0], h.digests[0]).ok());
  EXPECT_FALSE(h.peer.Seal(*old, offer.shard, h.Root(offer)).ok());
  ASSERT_TRUE(h.PutAll(*fresh).ok());
  EXPECT_TRUE(h.peer.Seal(*fresh, offer.shard, h.Root(offer)).ok());
  EXPECT_EQ(h.server(0).pool().used_bytes(), 4 * kMiB);
}

TEST(Holder, RefusesASealWithAMissingChunkOrAWrongRoot) {
  Holding h;
  const Offer offer = Holding::OfferOf("7");
  auto grant = h.Ask(offer);
  ASSERT_TRUE(h.peer.Put(*grant, 0, h.content[0], h.digests[0]).ok());
  EXPECT_EQ(h.peer.Seal(*grant, offer.shard, h.Root(offer)).code(),
            absl::StatusCode::kFailedPrecondition);
  // Fenced by the seal that failed.
  EXPECT_FALSE(h.peer.Put(*grant, 1, h.content[1], h.digests[1]).ok());
  grant = h.Ask(offer);
  ASSERT_TRUE(h.PutAll(*grant).ok());
  EXPECT_EQ(h.peer.Seal(*grant, offer.shard, Digest128{5, 5}).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(h.server(0).objects().Find(offer.shard)->state(), ObjectState::kStaging);
  grant = h.Ask(offer);
  ASSERT_TRUE(grant.ok()) << grant.status();
  ASSERT_TRUE(h.PutAll(*grant).ok());
  EXPECT_TRUE(h.peer.Seal(*grant, offer.shard, h.Root(offer)).ok());
}

TEST(Holder, RefusesAChunkThatFailsItsDigestAndTakesItAgain) {
  Holding h;
  const Offer offer = Holding::OfferOf("7");
  const auto grant = h.Ask(offer);
  EXPECT_EQ(h.peer.Put(*grant, 0, h.content[0], Digest128{1, 2}).code(),
            absl::StatusCode::kDataLoss);
  EXPECT_EQ(h.nodes[0]->events.counts["chunk_corrupt"], 1U);
  EXPECT_TRUE(h.PutAll(*grant).ok());
}

TEST(Holder, DoesNotTouchAPlacedChunkTwice) {
  Holding h;
  const Offer offer = Holding::OfferOf("7");
  const auto grant = h.Ask(offer);
  ASSERT_TRUE(h.PutAll(*grant).ok());
  const std::string other(kChunkBytes, 'x');
  EXPECT_EQ(h.peer.Put(*grant, 0, other, Xxh3_128(AsBytes(other))).code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(h.peer.Seal(*grant, offer.shard, h.Root(offer)).ok());
}

TEST(Holder, RefusesWritesOutsideTheGrantAndByAnotherServer) {
  Holding h;
  const auto grant = h.Ask(Holding::OfferOf("7"));
  EXPECT_EQ(h.peer.Put(*grant, 9, h.content[0], h.digests[0]).code(),
            absl::StatusCode::kInvalidArgument);
  OfferReply stale = *grant;
  stale.generation += 1;
  EXPECT_EQ(h.peer.Put(stale, 0, h.content[0], h.digests[0]).code(),
            absl::StatusCode::kFailedPrecondition);
  TestPeer other(&h.world, "other-host");
  ASSERT_TRUE(other.Connect(h.server(0).data_address()).ok());
  PeerHello hello = other.HelloFor(h.fake());
  hello.incarnation.bytes[0] += 1;
  ASSERT_TRUE(other.Ask(FrameType::kPeerHello, hello).ok());
  EXPECT_EQ(other.Put(*grant, 0, h.content[0], h.digests[0]).code(),
            absl::StatusCode::kPermissionDenied);
  TestPeer lane(&h.world, "peer-host");  // another session of the one that was granted
  ASSERT_TRUE(lane.Hello(h.fake(), h.server(0)).ok());
  EXPECT_TRUE(lane.Put(*grant, 0, h.content[0], h.digests[0]).ok());
}

TEST(Holder, RefusesAStaleEpoch) {
  Holding h;
  const auto grant = h.Ask(Holding::OfferOf("7", {1, 1}));
  ASSERT_TRUE(grant.ok());
  ASSERT_TRUE(h.PutAll(*grant).ok());
  ASSERT_TRUE(h.Ask(Holding::OfferOf("8", {1, 2})).ok());
  EXPECT_EQ(h.Ask(Holding::OfferOf("9", {1, 1})).status().code(),
            absl::StatusCode::kFailedPrecondition);
  const Offer offer = Holding::OfferOf("7", {1, 1});
  EXPECT_EQ(h.peer.Seal(*grant, offer.shard, h.Root(offer)).code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(Holder, AdmitsFromItsBudgetOnly) {
  Holding h;
  Offer offer = Holding::OfferOf("7");
  offer.bytes = 33 * kMiB;
  EXPECT_EQ(h.Ask(offer).status().code(), absl::StatusCode::kResourceExhausted);
  offer.bytes = 0;
  EXPECT_EQ(h.Ask(offer).status().code(), absl::StatusCode::kInvalidArgument);
  offer = Holding::OfferOf("7");
  offer.layout_bytes = kBytes + 1;
  EXPECT_EQ(h.Ask(offer).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Holder, FreesTheMemoryOfARevokedGrant) {
  Holding h;
  const Offer offer = Holding::OfferOf("7");
  const auto grant = h.Ask(offer);
  ASSERT_TRUE(grant.ok());
  struct Revoke revoke;
  revoke.shard = offer.shard;
  Request request;
  request.type = FrameType::kRevoke;
  request.region = grant->region;
  request.generation = grant->generation;
  request.body = EncodeMessage(revoke);
  ASSERT_TRUE(h.peer.Call(std::move(request)).ok());
  EXPECT_EQ(h.server(0).pool().used_bytes(), 0U);
  EXPECT_FALSE(h.peer.Put(*grant, 0, h.content[0], h.digests[0]).ok());
}

TEST(Holder, HidesStagingFromReaders) {
  Holding h;
  const Offer offer = Holding::OfferOf("7");
  const auto grant = h.Ask(offer);
  ASSERT_TRUE(h.PutAll(*grant).ok());
  std::string into(kChunkBytes, '\0');
  EXPECT_EQ(h.Read(offer, 0, std::as_writable_bytes(std::span(into))).status().code(),
            absl::StatusCode::kNotFound);
}

TEST(Holder, SendsNoChunkThatDecayedAndDropsTheObject) {
  Holding h;
  const Offer offer = Holding::OfferOf("7");
  const auto grant = h.Ask(offer);
  ASSERT_TRUE(h.PutAll(*grant).ok());
  ASSERT_TRUE(h.peer.Seal(*grant, offer.shard, h.Root(offer)).ok());
  h.server(0).objects().Find(offer.shard)->Chunk(1)[9] ^= std::byte{2};
  std::string into(kChunkBytes, '\0');
  EXPECT_TRUE(h.Read(offer, 0, std::as_writable_bytes(std::span(into))).ok());
  EXPECT_EQ(h.Read(offer, 1, std::as_writable_bytes(std::span(into))).status().code(),
            absl::StatusCode::kDataLoss);
  EXPECT_EQ(h.nodes[0]->events.counts["chunk_corrupt"], 1U);
  EXPECT_EQ(h.server(0).objects().Find(offer.shard), nullptr);
  h.world.RunFor(500ms);
  EXPECT_EQ(h.fake().named("server-0").joins, 2U) << "its inventory is reported anew";
  EXPECT_EQ(h.fake().named("server-0").last_join.objects_size(), 0);
}

TEST(Holder, AsksForAHelloOfItsOwnCluster) {
  Holding h;
  TestPeer other(&h.world, "other-host");
  ASSERT_TRUE(other.Connect(h.server(0).data_address()).ok());
  EXPECT_EQ(other.AskFor<OfferReply>(FrameType::kOffer, Holding::OfferOf("7")).status().code(),
            absl::StatusCode::kFailedPrecondition);
  PeerHello hello = other.HelloFor(h.fake());
  hello.cluster.bytes[5] = 1;
  EXPECT_EQ(other.Ask(FrameType::kPeerHello, hello).status().code(),
            absl::StatusCode::kFailedPrecondition);
  hello = other.HelloFor(h.fake());
  hello.version = 9;
  EXPECT_EQ(other.Ask(FrameType::kPeerHello, hello).status().code(),
            absl::StatusCode::kFailedPrecondition);
  // Somebody who claims to be this server.
  hello = other.HelloFor(h.fake());
  hello.server = h.server(0).id();
  EXPECT_EQ(other.Ask(FrameType::kPeerHello, hello).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(Holder, RefusesAnIncarnationThatTheMapDoesNotKnow) {
  ServerWorld s(2);
  TestPeer other(&s.world, "other-host");
  ASSERT_TRUE(other.Connect(s.server(0).data_address()).ok());
  PeerHello hello = other.HelloFor(s.fake());
  hello.server = s.server(1).id();
  EXPECT_EQ(other.Ask(FrameType::kPeerHello, hello).status().code(),
            absl::StatusCode::kUnavailable);
  hello.incarnation = s.server(1).incarnation();
  EXPECT_TRUE(other.Ask(FrameType::kPeerHello, hello).ok());
}

TEST(Holder, SurvivesGarbage) {
  Holding h;
  for (int type = 0; type < 64; ++type) {
    if (!IsKnownFrameType(static_cast<uint8_t>(type))) {
      continue;
    }
    Request request;
    request.type = static_cast<FrameType>(type);
    request.body = std::string(type, '\x7f');
    h.peer.Call(std::move(request)).status().IgnoreError();
  }
  EXPECT_TRUE(h.Ask(Holding::OfferOf("7")).ok());
}

TEST(Holder, FencesALateWriteAfterTheSeal) {
  Holding h;
  const Offer offer = Holding::OfferOf("7");
  const auto grant = h.Ask(offer);
  ASSERT_TRUE(h.PutAll(*grant).ok());
  ASSERT_TRUE(h.peer.Seal(*grant, offer.shard, h.Root(offer)).ok());
  const std::string other(kChunkBytes, 'x');
  EXPECT_EQ(h.peer.Put(*grant, 0, other, Xxh3_128(AsBytes(other))).code(),
            absl::StatusCode::kNotFound);
  const auto object = h.server(0).objects().Find(offer.shard);
  EXPECT_TRUE(h.peer.life.Run(CheckAllChunks(&h.peer.life.loop, object)).ok());
}

TEST(Holder, FencesWritesBeforeItLooksAtTheDigests) {
  Holding h;
  const Offer offer = Holding::OfferOf("7");
  const auto grant = h.Ask(offer);
  ASSERT_TRUE(h.PutAll(*grant).ok());
  ASSERT_EQ(h.peer.Seal(*grant, offer.shard, Digest128{5, 5}).code(), absl::StatusCode::kDataLoss);
  // The seal was refused and the region is closed all the same.
  EXPECT_EQ(h.peer.Put(*grant, 0, h.content[0], h.digests[0]).code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(h.peer.Seal(*grant, offer.shard, h.Root(offer)).ok());
  EXPECT_EQ(h.nodes[0]->events.counts["seal_refused"], 1U);
  EXPECT_EQ(h.fake().calls["ReportReceipts"], 0U);
}

TEST(Holder, RefusesASecondOfferWithOtherSizes) {
  Holding h;
  Offer offer = Holding::OfferOf("7");
  const auto grant = h.Ask(offer);
  ASSERT_TRUE(grant.ok());
  offer.bytes += 1;
  const absl::Status other = h.Ask(offer).status();
  EXPECT_EQ(other.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_NE(MessageOf(other).find(std::to_string(kBytes)), std::string_view::npos) << other;
  EXPECT_NE(MessageOf(other).find(std::to_string(kBytes + 1)), std::string_view::npos) << other;
  offer = Holding::OfferOf("7");
  offer.token.bytes[0] = 2;
  EXPECT_EQ(h.Ask(offer).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(h.PutAll(*grant).ok()) << "the grant goes on";
}

TEST(Holder, NamesTheSizesWhenItsMemoryIsTooSmall) {
  Holding h;
  Offer offer = Holding::OfferOf("7");
  offer.bytes = 40 * kMiB;
  const absl::Status full = h.Ask(offer).status();
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(MessageOf(full).find(std::to_string(40 * kMiB)), std::string_view::npos) << full;
  EXPECT_NE(MessageOf(full).find(std::to_string(32 * kMiB)), std::string_view::npos) << full;
  EXPECT_EQ(h.server(0).holder().grants(), 0U);
}

TEST(Holder, RefusesNamesThatCannotBe) {
  Holding h;
  Offer offer = Holding::OfferOf("7");
  offer.shard.snapshot.job = "../../etc";
  EXPECT_EQ(h.Ask(offer).status().code(), absl::StatusCode::kInvalidArgument);
  offer = Holding::OfferOf("two words");
  EXPECT_EQ(h.Ask(offer).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Holder, AnOfferOfANewerEpochFreesTheStagingOfOlderOnes) {
  Holding h;
  ASSERT_TRUE(h.Ask(Holding::OfferOf("7", {1, 3})).ok());
  EXPECT_EQ(h.server(0).holder().grants(), 1U);
  ASSERT_TRUE(h.Ask(Holding::OfferOf("8", {1, 4})).ok());
  EXPECT_EQ(h.server(0).holder().grants(), 1U);
  EXPECT_EQ(h.server(0).objects().size(), 1U);
}

TEST(Holder, GivesNoGrantForAnEpochThatItCannotRemember) {
  Holding h;
  h.disks[0]->FailNextSync();
  EXPECT_EQ(h.Ask(Holding::OfferOf("7", {1, 4})).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(h.server(0).holder().grants(), 0U);
  EXPECT_EQ(h.Ask(Holding::OfferOf("7", {1, 3})).status().code(),
            absl::StatusCode::kFailedPrecondition)
      << "what was seen holds, whatever the disk says";
}

TEST(Holder, GivesAGrantForANewEpochOnAFullDiskToo) {
  Holding h;
  h.disks[0]->set_full(true);
  EXPECT_TRUE(h.Ask(Holding::OfferOf("7", {1, 4})).ok());
  EXPECT_EQ(h.server(0).holder().grants(), 1U);
}

TEST(Holder, RemembersTheEpochOfAnOfferAfterARestart) {
  Holding h;
  ASSERT_TRUE(h.Ask(Holding::OfferOf("7", {1, 4})).ok());
  h.peer.session = nullptr;
  ASSERT_TRUE(h.Start(0).ok());
  ASSERT_TRUE(h.peer.Hello(h.fake(), h.server(0)).ok());
  EXPECT_EQ(h.Ask(Holding::OfferOf("8", {1, 3})).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(Holder, TakesTheOfferOfAWriterThatCameBack) {
  Holding h;
  const Offer offer = Holding::OfferOf("7");
  const auto lost = h.Ask(offer);
  ASSERT_TRUE(h.peer.Put(*lost, 0, h.content[0], h.digests[0]).ok());
  h.peer.session->Close(error::Unavailable("the test closes"));
  h.world.RunFor(50ms);
  EXPECT_EQ(h.server(0).holder().sessions(), 0U);
  ASSERT_TRUE(h.peer.Hello(h.fake(), h.server(0)).ok());
  const auto grant = h.Ask(offer);
  ASSERT_TRUE(grant.ok()) << grant.status();
  EXPECT_EQ(h.server(0).pool().used_bytes(), 4 * kMiB) << "the same memory";
  EXPECT_EQ(h.peer.Seal(*grant, offer.shard, h.Root(offer)).code(),
            absl::StatusCode::kFailedPrecondition)
      << "what was placed under the old grant does not count";
  const auto third = h.Ask(offer);
  ASSERT_TRUE(third.ok());
  ASSERT_TRUE(h.PutAll(*third).ok());
  EXPECT_TRUE(h.peer.Seal(*third, offer.shard, h.Root(offer)).ok());
}

// The bytes of a slice come slowly over one path; the other one brings them again.
TEST(Holder, AWriteThatIsSentAgainTakesALateOneOver) {
  Holding h;
  TestPeer slow(&h.world, "slow-host");
  ASSERT_TRUE(slow.Hello(h.fake(), h.server(0)).ok());
  LinkFaults stalls;
  stalls.stall_ppm = 1'000'000;
  stalls.stall_max = 5s;
  h.world.world.SetLink("slow-host", "server-0", stalls);
  h.world.world.SetLink("server-0", "slow-host", stalls);
  const Offer offer = Holding::OfferOf("7");
  const auto grant = h.Ask(offer);
  const auto late = slow.Begin(TestPeer::WriteOf(*grant, 0, h.content[0]));
  h.world.RunFor(5ms);
  ASSERT_FALSE(late->has_value()) << (*late)->status();
  EXPECT_EQ(h.peer.Call(TestPeer::WriteOf(*grant, 0, h.content[0])).status().code(),
            absl::StatusCode::kUnavailable)
      << "it does not say that it was sent again";
  const auto again = TestPeer::WriteOf(*grant, 0, h.content[0], WriteSent::kAgain);
  ASSERT_TRUE(h.peer.Call(again).ok());
  ASSERT_TRUE(h.world.RunUntil([&] { return late->has_value(); }, 10s));
  EXPECT_EQ((*late)->status().code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(h.peer.Put(*grant, 1, h.content[1], h.digests[1]).ok());
  EXPECT_TRUE(h.peer.Put(*grant, 2, h.content[2], h.digests[2]).ok());
  EXPECT_TRUE(h.peer.Seal(*grant, offer.shard, h.Root(offer)).ok());
}

TEST(Holder, RefusesAWriteWithoutBytesAndAnUnalignedOne) {
  Holding h;
  const auto grant = h.Ask(Holding::OfferOf("7"));
  EXPECT_EQ(h.peer.Put(*grant, 0, "", h.digests[0]).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(h.peer.Put(*grant, 0, "short", h.digests[0]).code(),
            absl::StatusCode::kInvalidArgument);
  OfferReply unknown = *grant;
  unknown.region += 100;
  EXPECT_EQ(h.peer.Put(unknown, 0, h.content[0], h.digests[0]).code(), absl::StatusCode::kNotFound);
}

TEST(Holder, RevokesOnlyTheGrantThatIsNamed) {
  Holding h;
  const Offer offer = Holding::OfferOf("7");
  const auto grant = h.Ask(offer);
  const auto revoke = [&](uint64_t region, uint64_t generation) {
    struct Revoke message;
    message.shard = offer.shard;
    Request request;
    request.type = FrameType::kRevoke;
    request.region = region;
    request.generation = generation;
    request.body = EncodeMessage(message);
    return h.peer.Call(std::move(request)).status();
  };
  EXPECT_EQ(revoke(grant->region, grant->generation + 1).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(revoke(grant->region + 1, grant->generation).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(h.server(0).holder().grants(), 1U);
  EXPECT_TRUE(revoke(grant->region, grant->generation).ok());
  EXPECT_EQ(revoke(grant->region, grant->generation).code(), absl::StatusCode::kNotFound);
}

TEST(Holder, DescribesOnlyWhatIsSealedUnderThatRoot) {
  Holding h;
  const Offer offer = Holding::OfferOf("7");
  struct Describe describe;
  describe.shard = offer.shard;
  describe.root = h.Root(offer);
  EXPECT_EQ(h.peer.Ask(FrameType::kDescribe, describe).status().code(),
            absl::StatusCode::kNotFound);
  const auto grant = h.Ask(offer);
  ASSERT_TRUE(h.PutAll(*grant).ok());
  EXPECT_EQ(h.peer.Ask(FrameType::kDescribe, describe).status().code(),
            absl::StatusCode::kNotFound);
  ASSERT_TRUE(h.peer.Seal(*grant, offer.shard, h.Root(offer)).ok());
  const auto described = h.peer.AskFor<DescribeReply>(FrameType::kDescribe, describe);
  ASSERT_TRUE(described.ok()) << described.status();
  EXPECT_EQ(described->bytes, kBytes);
  EXPECT_EQ(described->digests, h.digests);
  describe.root.low ^= 1;
  EXPECT_EQ(h.peer.Ask(FrameType::kDescribe, describe).status().code(),
            absl::StatusCode::kNotFound);
  std::string into(kChunkBytes, '\0');
  EXPECT_EQ(h.Read(offer, 3, std::as_writable_bytes(std::span(into))).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(Holder, FencesAGrantThatBeganWhileItsSnapshotWasDropped) {
  Holding h;
  h.disks[0]->set_slowness(100);
  const Offer offer = Holding::OfferOf("7");
  ASSERT_TRUE(h.Ask(offer).ok()) << "the epoch is seen";
  pb::Directive drop;
  WriteSnapshotId(offer.shard.snapshot, drop.mutable_drop_snapshot()->mutable_snapshot());
  const uint64_t id = h.fake().Direct("server-0", drop);
  ASSERT_TRUE(h.world.RunUntil([&] { return h.server(0).holder().grants() == 0; }, 1s));
  const auto grant = h.Ask(offer);
  ASSERT_TRUE(grant.ok()) << grant.status();
  ASSERT_EQ(h.fake().ResultOf("server-0", id), nullptr) << "the record is being removed";
  ASSERT_TRUE(h.world.RunUntil([&] { return h.fake().ResultOf("server-0", id) != nullptr; }, 5s));
  EXPECT_EQ(h.server(0).objects().Find(offer.shard), nullptr);
  EXPECT_EQ(h.server(0).holder().grants(), 0U);
  EXPECT_FALSE(h.PutAll(*grant).ok());
  EXPECT_EQ(h.peer.Seal(*grant, offer.shard, h.Root(offer)).code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace gemel::testing
