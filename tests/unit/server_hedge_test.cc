// SPDX-License-Identifier: Apache-2.0
//
// Restoring beside a holder that is stuck, slow, wrong or dies: hedged reads and probation.
#include <gtest/gtest.h>

#include "common/points.h"
#include "tests/unit/server_world.h"

namespace gemel::testing {
namespace {

constexpr uint32_t kChunks = 40;
constexpr uint64_t kBytes = kChunks * kMiB - 77;

// Reads under way on the connections that one server opened, by address.
struct Reads {
  size_t under_way = 0;
  size_t most = 0;
  size_t sent = 0;
  size_t cancels = 0;
};

class CountedConnection final : public Connection, private ConnectionEvents {
 public:
  CountedConnection(std::unique_ptr<Connection> inner, Reads* reads, Reads* all)
      : inner_(std::move(inner)), reads_(reads), all_(all) {}

  ~CountedConnection() override {
    reads_->under_way -= here_;
    all_->under_way -= here_;
  }

  void Start(ConnectionEvents* events) override {
    events_ = events;
    inner_->Start(this);
  }

  Task<absl::Status> Send(OutgoingFrame frame) override {
    if (frame.header.type == FrameType::kRead) {
      reads_->sent += 1;
      here_ += 1;
      for (Reads* const reads : {reads_, all_}) {
        reads->under_way += 1;
        reads->most = std::max(reads->most, reads->under_way);
      }
    }
    reads_->cancels += frame.header.type == FrameType::kCancel ? 1 : 0;
    return inner_->Send(std::move(frame));
  }

  void Close(absl::Status why) override { inner_->Close(std::move(why)); }

  std::string peer() const override { return inner_->peer(); }

 private:
  Placement PlacePayload(const FrameHeader& header, std::string_view body) override {
    return events_->PlacePayload(header, body);
  }

  void OnFrame(IncomingFrame frame) override {
    if (frame.header.type == FrameType::kRead && frame.header.is_reply()) {
      here_ -= 1;
      reads_->under_way -= 1;
      all_->under_way -= 1;
    }
    events_->OnFrame(std::move(frame));
  }

  void OnClosed(absl::Status why) override { events_->OnClosed(std::move(why)); }

  const std::unique_ptr<Connection> inner_;
  Reads* const reads_;
  Reads* const all_;
  size_t here_ = 0;
  ConnectionEvents* events_ = nullptr;
};

class CountedNet final : public Net {
 public:
  explicit CountedNet(Net* real) : real_(real) {}

  Task<absl::StatusOr<std::unique_ptr<Connection>>> Connect(std::string address,
                                                            TimePoint deadline) override {
    absl::StatusOr<std::unique_ptr<Connection>> made = co_await real_->Connect(address, deadline);
    if (!made.ok()) {
      co_return made;
    }
    co_return std::make_unique<CountedConnection>(*std::move(made), &reads[address], &all);
  }

  absl::StatusOr<std::unique_ptr<Listener>> Listen(std::string address,
                                                   AcceptCallback accept) override {
    return real_->Listen(std::move(address), std::move(accept));
  }

  std::map<std::string, Reads> reads;
  Reads all;  // under way and at most: of all addresses

 private:
  Net* const real_;
};

// Lets sites fire and counts what was met.
struct Points final : PointHooks {
  Points() { SetPointHooks(this); }

  ~Points() override { SetPointHooks(nullptr); }

  void Met(Situation situation) override { met[situation] += 1; }

  bool Fires(BuggifySite site) override { return fires.contains(site); }

  std::map<Situation, int> met;
  std::set<BuggifySite> fires;
};

// server-0 and server-1 hold a shard, server-2 restores it. server-1 is the one with troubles.
struct Hedging : ServerWorld {
  Hedging() : ServerWorld(2, {64 * kMiB, 2 * kMiB}) {
    TestClient saver(&world, "server-0");
    GEMEL_CHECK(saver.Hello("server-0").ok());
    shard = CommitShard(&saver, "7", kBytes);
    disks.push_back(std::make_unique<SimDiskState>());
    nodes.push_back(std::make_unique<ServerNode>(&world, "server-2", disks[2].get(),
                                                 ServerNode::Memory{64 * kMiB, 2 * kMiB}));
    net = std::make_unique<CountedNet>(&nodes[2]->life.net);
    nodes[2]->UseNet(net.get());
    GEMEL_CHECK(nodes[2]->life.Run(nodes[2]->server->Start()).ok());
    world.RunFor(200ms);
    client = std::make_unique<TestClient>(&world, "server-2");
    GEMEL_CHECK(client->Hello("server-2").ok());
    const auto begun = client->Begin();
    GEMEL_CHECK(begun.ok()) << begun.status().ToString();
    restore = begun->restore;
    const auto first = client->Fetch(restore, 0, 0, 2);  // one from each: sessions are there
    GEMEL_CHECK(first.ok()) << first.status().ToString();
  }

  ~Hedging() {
    client = nullptr;
    nodes.clear();  // before the net that they use
  }

  LinkFaults& Way(uint32_t holder) {
    return world.world.Faults("server-" + std::to_string(holder), "server-2");
  }

  void Stick(uint32_t holder, Duration time) {
    Way(holder).clogged_until = Add(world.scheduler.now(), time);
  }

  Reads& ReadsOf(uint32_t holder) { return net->reads[server(holder).data_address()]; }

  int64_t Counted(const std::string& name) { return nodes[2]->metrics.Counter(name, "").Get(); }

  // How long it took to fetch and verify them.
  absl::StatusOr<Duration> Fetch(uint32_t first, uint32_t count) {
    const TimePoint began = world.scheduler.now();
    const auto fetched = client->Fetch(restore, 0, first, count);
    if (!fetched.ok()) {
      return fetched.status();
    }
    const Duration took = world.scheduler.now() - began;
    return client->Holds(*fetched, 0, first) ? absl::StatusOr<Duration>(took)
                                             : error::DataLoss("wrong bytes");
  }

  ShardId shard;
  std::unique_ptr<CountedNet> net;
  std::unique_ptr<TestClient> client;
  uint64_t restore = 0;
};

TEST(Hedge, AHolderThatIsStuckCostsAHedgeAndNotItsDeadline) {
  Hedging h;
  Points points;
  h.Stick(1, 1500ms);
  const auto took = h.Fetch(2, 6);
  ASSERT_TRUE(took.ok()) << took.status();
  EXPECT_LE(*took, 150ms);
  EXPECT_EQ(h.ReadsOf(1).cancels, 3U) << "of six chunks each holder had three";
  EXPECT_EQ(points.met[Situation::kHedgeWon], 3);
  const int64_t before = h.Counted("gemel_hedge_wasted_bytes_total");
  h.world.RunFor(3s);
  EXPECT_EQ(h.Counted("gemel_reads_hedged_total"), 3);
  EXPECT_EQ(h.Counted("gemel_hedges_won_total"), 3);
  EXPECT_EQ(h.Counted("gemel_reads_cancelled_total"), 3);
  EXPECT_LE(h.Counted("gemel_hedge_wasted_bytes_total") - before, 3 * static_cast<int64_t>(kMiB));
  const auto rest = h.Fetch(0, kChunks);
  ASSERT_TRUE(rest.ok()) << rest.status();
  EXPECT_EQ(h.server(2).objects().Find(h.shard)->state(), ObjectState::kSealed);
}

TEST(Hedge, AHolderThatIsStuckIsAskedForNoMoreThanItsLanes) {
  Hedging h;
  h.Stick(1, 1500ms);
  h.Way(0).transmit_per_mib = 20ms;  // chunks wait when the first hedges win
  const auto took = h.Fetch(2, kChunks - 2);
  ASSERT_TRUE(took.ok()) << took.status();
  EXPECT_LE(h.ReadsOf(1).sent, 1 + kReadWindow);
  EXPECT_LE(h.Counted("gemel_reads_hedged_total"), static_cast<int64_t>(kHedgesFirst));
}

TEST(Hedge, ACorruptSecondCopyDoesNotHurtTheFirstRead) {
  Hedging h;
  Points points;
  for (uint32_t chunk = 2; chunk < kChunks; ++chunk) {
    h.server(0).objects().Find(h.shard)->Chunk(chunk)[5] ^= std::byte{1};
  }
  h.Stick(1, 700ms);
  const auto took = h.Fetch(2, 2);
  ASSERT_TRUE(took.ok()) << took.status();
  EXPECT_GE(*took, 650ms);
  EXPECT_EQ(points.met[Situation::kHedgeWon], 0);
}

TEST(Hedge, AHedgeThatTheWireDamagesDoesNotHurtTheFirstRead) {
  Hedging h;
  h.Stick(1, 700ms);
  h.Way(0).corrupt_ppm = 1'000'000;
  const auto took = h.Fetch(2, 2);
  ASSERT_TRUE(took.ok()) << took.status();
}

TEST(Hedge, AHolderThatDiesWhileItsReadIsHedgedEndsNothing) {
  Hedging h;
  h.Stick(1, 1500ms);
  h.Way(0).transmit_per_mib = 100ms;
  auto done = std::make_shared<std::optional<absl::StatusOr<Reply>>>();
  FetchChunks fetch;
  fetch.restore = h.restore;
  fetch.first_chunk = 2;
  fetch.count = 6;
  Request request;
  request.type = FrameType::kFetchChunks;
  request.body = EncodeMessage(fetch);
  h.client->life.loop.Spawn(
      Life::Keep(h.client->session->Call(std::move(request), {}, h.world.In(20s)), done));
  ASSERT_TRUE(h.world.RunUntil([&] { return h.ReadsOf(0).sent > 4; }));
  EXPECT_FALSE(done->has_value());
  h.Kill(1);
  ASSERT_TRUE(h.world.RunUntil([&] { return done->has_value(); }, 5s));
  ASSERT_TRUE((*done)->ok() && (**done)->status.ok());
  h.client->handles = std::move((**done)->handles);
  h.client->Map(DecodeMessage<FetchChunksReply>((**done)->body)->pieces);
  EXPECT_TRUE(h.Fetch(2, 6).ok());
}

TEST(Hedge, WhatNobodyWaitsForIsNotReadAgain) {
  Hedging h;
  h.Stick(1, 1500ms);
  pb::Directive pull;
  *pull.mutable_pull_shard()->mutable_object() = h.fake().Held(h.fake().saves.at(1), 0);
  for (const auto& [id, member] : h.fake().members) {
    *pull.mutable_pull_shard()->add_sources() = member.member;
  }
  const auto result = h.Do(2, std::move(pull));
  EXPECT_EQ(result.code(), 0U) << result.message();
  EXPECT_EQ(h.Counted("gemel_reads_hedged_total"), 0);
}

TEST(Hedge, AnAnswerThatArrivesAtOnceIsNotReadAgain) {
  Hedging h;
  ASSERT_TRUE(h.Fetch(2, kChunks - 2).ok());
  EXPECT_EQ(h.Counted("gemel_reads_hedged_total"), 0);
  EXPECT_EQ(h.ReadsOf(0).sent + h.ReadsOf(1).sent, kChunks);
}

TEST(Hedge, ReadsThatAreHedgedAtOnceBringTheSameBytes) {
  Hedging h;
  Points points;
  points.fires = {BuggifySite::kHedgeAtOnce};
  ASSERT_TRUE(h.Fetch(2, kChunks - 2).ok());
  h.world.RunFor(3s);
  EXPECT_EQ(h.Counted("gemel_reads_hedged_total"), static_cast<int64_t>(kHedgesFirst));
  EXPECT_EQ(h.Counted("gemel_fetched_bytes_total"), static_cast<int64_t>(kBytes));
}

TEST(Probation, AHolderThatIsSlowForAWhileReadsOneChunkAtATime) {
  Hedging h;
  Points points;
  points.fires = {BuggifySite::kProbationSoon};  // one slow slice
  h.Way(1).transmit_per_mib = 30ms;
  h.Way(0).transmit_per_mib = 3ms;
  ASSERT_TRUE(h.Fetch(2, 10).ok());
  ASSERT_GT(points.met[Situation::kSourceOnProbation], 0);
  h.world.RunFor(1s);
  h.ReadsOf(0).most = 0;
  h.ReadsOf(1).most = 0;
  ASSERT_TRUE(h.Fetch(12, 12).ok());
  EXPECT_EQ(h.ReadsOf(1).most, 1U);
  EXPECT_GT(h.ReadsOf(0).most, 1U);
}

TEST(Probation, TheOnlyHolderIsReadAsEver) {
  Hedging h;
  Points points;
  points.fires = {BuggifySite::kProbationSoon};
  h.Way(1).transmit_per_mib = 30ms;
  ASSERT_TRUE(h.Fetch(2, 10).ok());
  ASSERT_GT(points.met[Situation::kSourceOnProbation], 0);
  h.world.RunFor(1s);
  h.Kill(0);
  h.world.RunFor(100ms);
  h.ReadsOf(1).most = 0;
  const auto took = h.Fetch(12, 12);
  ASSERT_TRUE(took.ok()) << took.status();
  EXPECT_GT(h.ReadsOf(1).most, 1U);
}

TEST(ReadTurns, NoHolderHasMoreThanHalfOfWhatMayCome) {
  Hedging h;
  ASSERT_TRUE(h.Fetch(2, kChunks - 2).ok());
  EXPECT_EQ(h.ReadsOf(0).most, kIncomingPerPath / 2);
  EXPECT_EQ(h.ReadsOf(1).most, kIncomingPerPath / 2);
  EXPECT_EQ(h.Counted("gemel_read_waits_total"), 0);
}

TEST(ReadTurns, NoMoreIsReadAtOnceThanMayCome) {
  Points points;
  points.fires = {BuggifySite::kCreditScarce};  // one slice
  Hedging h;
  h.net->all.most = 0;
  ASSERT_TRUE(h.Fetch(2, kChunks - 2).ok());
  EXPECT_EQ(h.net->all.most, 1U);
  EXPECT_GT(h.Counted("gemel_read_waits_total"), 0);
  EXPECT_EQ(h.Counted("gemel_fetched_bytes_total"), static_cast<int64_t>(kBytes));
}

TEST(ReadTurns, AHolderThatIsStuckDoesNotKeepTheTurnsOfOthers) {
  Points points;
  points.fires = {BuggifySite::kCreditScarce};
  Hedging h;
  h.Stick(1, 1500ms);
  const auto took = h.Fetch(2, 6);
  ASSERT_TRUE(took.ok()) << took.status();
  EXPECT_LE(*took, 600ms);
  h.Kill(0);  // what is read from it fails
  EXPECT_TRUE(h.Fetch(8, 12).ok());
  h.world.RunFor(3s);
  EXPECT_EQ(h.server(2).admission().transfers(), 0U) << "each turn has ended";
}

TEST(Features, AreToldToWhoReadsThem) {
  Hedging h;
  TestPeer peer(&h.world, "peer");
  ASSERT_TRUE(peer.Connect(h.server(0).data_address()).ok());
  Request request;
  request.type = FrameType::kPeerHello;
  request.body = EncodeMessage(peer.HelloFor(h.fake()));
  Request reads = request;
  reads.offset = kHelloReadsFeatures;
  const auto old = peer.Call(std::move(request));
  ASSERT_TRUE(old.ok()) << old.status();
  const auto told = peer.Call(std::move(reads));
  ASSERT_TRUE(told.ok()) << told.status();
  EXPECT_EQ(DecodeMessage<PeerHello>(old->body)->features, 0U) << "it would refuse them";
  EXPECT_EQ(told->body.size(), old->body.size() + sizeof(uint32_t));
  EXPECT_EQ(DecodeMessage<PeerHello>(told->body)->features, kPeerCancels);
}

}  // namespace
}  // namespace gemel::testing
