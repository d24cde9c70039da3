// SPDX-License-Identifier: Apache-2.0
//
// Credit of a grant: what a holder lets come, and how a sender keeps to it.
#include <gtest/gtest.h>

#include "tests/unit/server_world.h"

namespace gemel::testing {
namespace {

constexpr uint32_t kChunks = 12;  // of a copy; kIncomingPerPath may be on their way

// A holder with one data address, and a raw sender.
struct Crediting : ServerWorld {
  Crediting() : ServerWorld(1, {64 * kMiB, 2 * kMiB}), peer(&world, "peer-host") {
    GEMEL_CHECK(peer.Hello(fake(), server(0)).ok());
  }

  OfferReply Grant(const std::string& name) {
    Offer offer;
    offer.shard.snapshot = {"gpt", {1, 1}, 3, name, 0};
    offer.token.bytes[0] = 1;
    offer.bytes = kChunks * kChunkBytes;
    offer.limit = GrantLimit::kCredit;
    const auto grant = peer.AskFor<OfferReply>(FrameType::kOffer, offer);
    GEMEL_CHECK(grant.ok() && grant->limit == GrantLimit::kCredit) << grant.status();
    return *grant;
  }

  static Request AskOf(const OfferReply& grant, uint32_t wanted, uint32_t have) {
    AskCredit ask;
    ask.wanted = wanted;
    ask.have = have;
    Request request;
    request.type = FrameType::kAskCredit;
    request.region = grant.region;
    request.generation = grant.generation;
    request.body = EncodeMessage(ask);
    return request;
  }

  static absl::StatusOr<uint32_t> CreditIn(const absl::StatusOr<Reply>& reply) {
    if (!reply.ok()) {
      return reply.status();
    }
    return DecodeMessage<Credit>(reply->body)->chunks;
  }

  absl::StatusOr<uint32_t> Ask(const OfferReply& grant, uint32_t wanted, uint32_t have = 0) {
    return CreditIn(peer.Call(AskOf(grant, wanted, have)));
  }

  // Writes a chunk; the credit that the answer tells.
  absl::StatusOr<uint32_t> Put(const OfferReply& grant, uint32_t chunk) {
    return CreditIn(peer.Call(TestPeer::WriteOf(grant, chunk, bytes)));
  }

  const std::string bytes = std::string(kChunkBytes, 'g');
  TestPeer peer;
};

TEST(HolderCredit, NothingIsTakenBeyondIt) {
  Crediting c;
  const OfferReply grant = c.Grant("1");
  EXPECT_EQ(c.Put(grant, 0).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(*c.Ask(grant, 2), 2U);
  EXPECT_EQ(*c.Put(grant, 0), 2U);
  EXPECT_EQ(*c.Put(grant, 5), 2U) << "which ones is the sender's choice";
  EXPECT_EQ(c.Put(grant, 1).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(c.Put(grant, 0).status().code(), absl::StatusCode::kAlreadyExists);
}

TEST(HolderCredit, AnswersToWritesTellOfMore) {
  Crediting c;
  const OfferReply grant = c.Grant("1");
  EXPECT_EQ(*c.Ask(grant, kChunks), kIncomingPerPath);
  for (uint32_t chunk = 0; chunk < kChunks; ++chunk) {
    const auto credit = c.Put(grant, chunk);
    ASSERT_TRUE(credit.ok()) << credit.status();
    EXPECT_EQ(*credit, std::min<uint32_t>(kChunks, kIncomingPerPath + chunk + 1));
  }
}

TEST(HolderCredit, AskingWaitsUntilAnotherCopyMovesOn) {
  Crediting c;
  const OfferReply first = c.Grant("1");
  const OfferReply second = c.Grant("2");
  ASSERT_EQ(*c.Ask(first, kChunks), kIncomingPerPath);
  const auto answer = c.peer.Begin(Crediting::AskOf(second, kChunks, 0));
  c.world.RunFor(40ms);
  EXPECT_FALSE(answer->has_value());
  ASSERT_TRUE(c.Put(first, 0).ok());
  EXPECT_TRUE(c.world.RunUntil([&] { return answer->has_value(); }, 20ms));
  EXPECT_EQ(*Crediting::CreditIn(**answer), 1U);
}

TEST(HolderCredit, WhoHasAllAndSendsNothingDoesNotHoldTheOthersUp) {
  Crediting c;
  const OfferReply hangs = c.Grant("1");
  const OfferReply waits = c.Grant("2");
  ASSERT_EQ(*c.Ask(hangs, kChunks), kIncomingPerPath);
  const TimePoint began = c.peer.life.loop.Now();
  EXPECT_GT(*c.Ask(waits, kChunks), 0U);
  EXPECT_LT(c.peer.life.loop.Now() - began, kCreditHold) << "not by the end of the hold";
  EXPECT_TRUE(c.Put(hangs, 0).ok()) << "what it has is still good";
}

TEST(HolderCredit, IsAnsweredAtTheEndOfTheHoldWithWhatThereIs) {
  Crediting c;
  const OfferReply grant = c.Grant("1");
  const TimePoint began = c.peer.life.loop.Now();
  EXPECT_EQ(*c.Ask(grant, 3, 3), 3U);
  EXPECT_GE(c.peer.life.loop.Now() - began, kCreditHold);
}

TEST(HolderCredit, ANewOfferEndsTheWaitOfTheOldOne) {
  Crediting c;
  const OfferReply full = c.Grant("1");
  const OfferReply old = c.Grant("2");
  ASSERT_EQ(*c.Ask(full, kChunks), kIncomingPerPath);
  const auto answer = c.peer.Begin(Crediting::AskOf(old, kChunks, 0));
  c.world.RunFor(5ms);
  const OfferReply fresh = c.Grant("2");
  EXPECT_TRUE(c.world.RunUntil([&] { return answer->has_value(); }, 20ms));
  EXPECT_EQ((*answer)->status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(c.Ask(old, 1).status().code(), absl::StatusCode::kNotFound);
  const OfferReply again = c.Grant("1");  // gives its place to the others
  EXPECT_EQ(*c.Ask(fresh, kChunks), kIncomingPerPath);
  EXPECT_EQ(c.Put(again, 0).status().code(), absl::StatusCode::kResourceExhausted);
}

// What a holder without credit grants is written at once, and one that is offered no limit has
// none.
TEST(HolderCredit, WhoDoesNotKnowItWritesAsBefore) {
  Crediting c;
  Offer offer;
  offer.shard.snapshot = {"gpt", {1, 1}, 3, "1", 0};
  offer.token.bytes[0] = 1;
  offer.bytes = kChunkBytes;
  const auto grant = c.peer.AskFor<OfferReply>(FrameType::kOffer, offer);
  ASSERT_TRUE(grant.ok());
  EXPECT_EQ(grant->limit, GrantLimit::kNone);
  EXPECT_TRUE(c.peer.Call(TestPeer::WriteOf(*grant, 0, c.bytes)).ok());
  EXPECT_EQ(c.Ask(*grant, 1).status().code(), absl::StatusCode::kNotFound);
}

// One saves a long shard into a server, two others many short ones, which go first: all get there,
// the long one after it had nothing under way for a while and asked again; and none sent more than
// it was let: that costs a try.
TEST(SenderCredit, ManyCopiesIntoOneServerAllGetThere) {
  constexpr uint32_t kShort = 12;
  ServerWorld world(4, {256 * kMiB, 2 * kMiB});
  world.fake().no_holders = {"server-0", "server-1", "server-2"};
  std::vector<std::unique_ptr<TestClient>> clients;
  for (uint32_t i = 0; i < 3; ++i) {
    const std::string server = "server-" + std::to_string(i);
    LinkFaults slow;
    slow.transmit_per_mib = 5ms;
    world.world.world.SetLink(server, "server-3", slow);
    clients.push_back(std::make_unique<TestClient>(&world.world, server));
    ASSERT_TRUE(clients[i]->Hello(server).ok());
  }
  std::vector<SnapshotId> snapshots(3);
  std::vector<std::function<absl::Status()>> seals;  // each ends with its copy: all are sent first
  const auto save = [&](uint32_t i, uint32_t rank, uint32_t ranks, uint64_t bytes) {
    const auto opened =
        clients[i]->Open(TestClient::OpenFor(std::to_string(i), rank, ranks, bytes));
    ASSERT_TRUE(opened.ok()) << opened.status();
    const std::vector<Digest128> digests = clients[i]->Fill(*opened, rank);
    ASSERT_TRUE(clients[i]->Filled(opened->upload, digests).ok());
    snapshots[i] = opened->snapshot;
    seals.emplace_back([client = clients[i].get(), opened = *opened, rank, digests, bytes] {
      return client->Seal(opened, rank, digests, bytes);
    });
  };
  save(0, 0, 1, 40 * kMiB);
  for (uint32_t rank = 0; rank < kShort; ++rank) {
    save(1, rank, kShort, 6 * kMiB);
    save(2, rank, kShort, 6 * kMiB);
  }
  for (const auto& seal : seals) {
    EXPECT_TRUE(seal().ok());
  }
  for (uint32_t i = 0; i < 3; ++i) {
    const auto done = clients[i]->Await(snapshots[i], 0);
    ASSERT_TRUE(done.ok() && done->state == CommitState::kCommitted) << done.status();
    EXPECT_EQ(world.nodes[i]->metrics.Counter("gemel_replication_retries_total", "").Get(), 0);
  }
  EXPECT_GT(world.nodes[3]->metrics.Counter("gemel_credit_waits_total", "").Get(), 0);
}

}  // namespace
}  // namespace gemel::testing
