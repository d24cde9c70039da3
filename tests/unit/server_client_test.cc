// SPDX-License-Identifier: Apache-2.0
//
// What a client process may and may not do at its server, and what becomes of it when it goes.
#include <gtest/gtest.h>

#include "tests/unit/server_world.h"

namespace gemel::testing {
namespace {

constexpr uint64_t kBytes = 3 * kMiB + 5;

bool Names(const absl::Status& status, std::string_view text) {
  return MessageOf(status).find(text) != std::string_view::npos;
}

struct Serving : ServerWorld {
  explicit Serving(uint32_t servers = 1, uint64_t memory = 32 * kMiB, uint64_t slab = 2 * kMiB)
      : ServerWorld(servers, {memory, slab}), client(&world, "server-0") {
    client.slab_bytes = slab;
    GEMEL_CHECK(client.Hello("server-0").ok());
  }

  // Rank 0 of a world of 1, without copies elsewhere.
  static OpenShard Alone(const std::string& name, uint64_t bytes = kBytes) {
    OpenShard open = TestClient::OpenFor(name, 0, 1, bytes);
    open.copies = 1;
    return open;
  }

  // An open and the chunks of it.
  OpenShardReply Filled(const std::string& name, std::vector<Digest128>* digests) {
    auto opened = client.Open(Alone(name));
    GEMEL_CHECK(opened.ok()) << opened.status().ToString();
    *digests = client.Fill(*opened, 0);
    GEMEL_CHECK(client.Filled(opened->upload, *digests).ok());
    return *opened;
  }

  // Placement takes no receipts for a while: what is sealed is not committed.
  void HoldReceipts() {
    fake().failures["ReportReceipts"].assign(1000, absl::UnavailableError("not now"));
  }

  TestClient client;
};

// A connection whose peer sends one frame and is gone in the same turn of the loop.
class HastyConnection final : public Connection {
 public:
  explicit HastyConnection(IncomingFrame frame) : frame_(std::move(frame)) {}

  void Start(ConnectionEvents* events) override {
    events->OnFrame(std::move(frame_));
    events->OnClosed(error::Unavailable("the peer is gone"));
  }

  Task<absl::Status> Send(OutgoingFrame) override { co_return error::Unavailable("closed"); }

  void Close(absl::Status) override {}

  std::string peer() const override { return "hasty"; }

 private:
  IncomingFrame frame_;
};

// A connection whose peer sends what the test says, when it says it.
class ScriptedConnection final : public Connection {
 public:
  explicit ScriptedConnection(ConnectionEvents** events) : events_(events) {}

  ~ScriptedConnection() override { *events_ = nullptr; }

  void Start(ConnectionEvents* events) override { *events_ = events; }

  Task<absl::Status> Send(OutgoingFrame) override { co_return absl::OkStatus(); }

  void Close(absl::Status) override {}

  std::string peer() const override { return "scripted"; }

 private:
  ConnectionEvents** const events_;
};

// Keeps what the server would do with a connection of a client.
class CapturingNet final : public Net {
 public:
  explicit CapturingNet(Net* real) : real_(real) {}

  Task<absl::StatusOr<std::unique_ptr<Connection>>> Connect(std::string address,
                                                            TimePoint deadline) override {
    return real_->Connect(std::move(address), deadline);
  }

  absl::StatusOr<std::unique_ptr<Listener>> Listen(std::string address,
                                                   AcceptCallback accept) override {
    accepts[address] = accept;
    return real_->Listen(std::move(address), std::move(accept));
  }

  std::map<std::string, AcceptCallback> accepts;

 private:
  Net* const real_;
};

// A server whose connections of clients are the test's.
struct Captured : ServerWorld {
  Captured() : ServerWorld(0), node(&world, "server-0", &disk, {8 * kMiB, 2 * kMiB}) {
    node.UseNet(&net);
    GEMEL_CHECK(node.life.Run(node.server->Start()).ok());
  }

  void Accept(std::unique_ptr<Connection> connection) {
    net.accepts.at("unix:///server-0")(std::move(connection));
  }

  static IncomingFrame Frame(FrameType type, std::string body, Handles handles = {}) {
    IncomingFrame frame;
    frame.header.type = type;
    frame.header.op = 1;
    frame.body = std::move(body);
    frame.handles = std::move(handles);
    return frame;
  }

  SimDiskState disk;
  ServerNode node;
  CapturingNet net{&node.life.net};
};

TEST(Client, LearnsWhoAnswersAtItsHello) {
  Serving s;
  TestClient other(&s.world, "server-0");
  ASSERT_TRUE(other.Connect("unix:///server-0").ok());
  Request request;
  request.type = FrameType::kClientHello;
  request.body = EncodeMessage(ClientHello());
  request.handles = {*other.life.host.OwnProcess()};
  const auto reply = other.Call(std::move(request));
  ASSERT_TRUE(reply.ok()) << reply.status();
  const auto hello = DecodeMessage<ClientHelloReply>(reply->body);
  ASSERT_TRUE(hello.ok());
  EXPECT_EQ(hello->cluster, s.fake().cluster);
  EXPECT_EQ(hello->server, s.server(0).id());
  EXPECT_EQ(hello->incarnation, s.server(0).incarnation());
  EXPECT_EQ(hello->slab_bytes, 2 * kMiB);
}

TEST(Client, MaySayHelloOnce) {
  Serving s;
  ClientHello hello;
  Handles own = {*s.client.life.host.OwnProcess()};
  EXPECT_EQ(s.client.Ask(FrameType::kClientHello, hello, std::move(own)).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(s.client.Open(Serving::Alone("7")).ok());
}

TEST(Client, MayLeaveBeforeItsHelloIsHandled) {
  Captured s;
  s.Accept(std::make_unique<HastyConnection>(Captured::Frame(
      FrameType::kClientHello, EncodeMessage(ClientHello()), {*s.node.life.host.OwnProcess()})));
  s.world.RunFor(100ms);
  TestClient client(&s.world, "server-0");
  ASSERT_TRUE(client.Hello("server-0").ok());
  EXPECT_TRUE(client.Open(Serving::Alone("7")).ok());
}

// Its request comes so many events after its death: before, at and after the server's hearing of
// it.
TEST(Client, MayDieBeforeItsRequestIsLookedAt) {
  bool gone = false;
  for (int events_between = 0; !gone; ++events_between) {
    ConnectionEvents* events = nullptr;  // outlives the connection
    Captured s;
    TestClient dying(&s.world, "server-0");
    s.Accept(std::make_unique<ScriptedConnection>(&events));
    events->OnFrame(Captured::Frame(FrameType::kClientHello, EncodeMessage(ClientHello()),
                                    {*dying.life.host.OwnProcess()}));
    s.world.RunFor(100ms);
    dying.life.Kill();
    for (int i = 0; i < events_between && events != nullptr; ++i) {
      s.world.scheduler.RunOne(kTimeNever);
    }
    gone = events == nullptr;
    if (!gone) {
      PrepareSlabs prepare;
      prepare.bytes = 2 * kMiB;
      events->OnFrame(Captured::Frame(FrameType::kPrepareSlabs, EncodeMessage(prepare)));
      events->OnClosed(error::Unavailable("the peer is gone"));
    }
    s.world.RunFor(100ms);
    EXPECT_EQ(s.node.server->pool().idle_bytes(), 0U) << "slabs of a process that is dead";
    TestClient client(&s.world, "server-0");
    ASSERT_TRUE(client.Hello("server-0").ok()) << events_between;
    ASSERT_LT(events_between, 100) << "its connection stays";
  }
}

TEST(Client, MayNotSendWhatIsForPeers) {
  Serving s;
  EXPECT_EQ(s.client.Ask(FrameType::kOffer, Offer()).status().code(),
            absl::StatusCode::kInvalidArgument);
  TestPeer peer(&s.world, "peer-host");
  ASSERT_TRUE(peer.Hello(s.fake(), s.server(0)).ok());
  EXPECT_EQ(peer.Ask(FrameType::kOpenShard, Serving::Alone("7")).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(Client, SurvivesGarbageOfEveryType) {
  Serving s;
  for (int type = 0; type < 64; ++type) {
    if (!IsKnownFrameType(static_cast<uint8_t>(type))) {
      continue;
    }
    Request request;
    request.type = static_cast<FrameType>(type);
    request.body = std::string(static_cast<size_t>(type) + 1, '\x7f');
    s.client.Call(std::move(request)).status().IgnoreError();
  }
  EXPECT_TRUE(s.client.Open(Serving::Alone("7")).ok());
}

TEST(Client, GetsTheEpochThatPlacementGives) {
  Serving s;
  s.fake().epoch = {2, 9};
  s.fake().failures["AcquireEpoch"] = {absl::UnavailableError("lost")};
  AcquireEpoch acquire;
  acquire.job = "gpt";
  const auto done = s.client.AskFor<AcquireEpochDone>(FrameType::kAcquireEpoch, acquire);
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_EQ(done->epoch, (EpochId{2, 9}));
  acquire.job = "no/such job";
  EXPECT_EQ(s.client.Ask(FrameType::kAcquireEpoch, acquire).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(Client, HearsWhatPlacementRefuses) {
  Serving s;
  s.fake().failures["AcquireEpoch"] = {absl::ResourceExhaustedError("too many jobs")};
  AcquireEpoch acquire;
  acquire.job = "gpt";
  const absl::Status refused = s.client.Ask(FrameType::kAcquireEpoch, acquire).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(Names(refused, "too many jobs"));
}

TEST(Client, WaitsNoLongerThanABoundForPlacement) {
  Serving s;
  s.fake().failures["Open"].assign(1000, absl::UnavailableError("down"));
  const TimePoint before = s.client.life.loop.Now();
  EXPECT_EQ(s.client.Open(Serving::Alone("7")).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_LE(s.client.life.loop.Now() - before, 20s);
}

TEST(Client, HearsOfADecisionThatMakesNoSense) {
  Serving s;
  s.fake().decision = pb::OpenReply::DECISION_UNKNOWN;
  EXPECT_EQ(s.client.Open(Serving::Alone("7")).status().code(), absl::StatusCode::kInternal);
  ASSERT_EQ(s.server(0).uploads().size(), 0U);
}

TEST(Client, SharesNoSlabWithAnotherConnectionOfItsProcess) {
  Serving s;
  const auto opened = s.client.Open(Serving::Alone("7"));
  ASSERT_TRUE(opened.ok());
  AbortShard abort;
  abort.upload = opened->upload;
  ASSERT_TRUE(s.client.Ask(FrameType::kAbortShard, abort).ok());
  s.world.RunFor(100ms);
  ASSERT_EQ(s.server(0).pool().state(opened->pieces[0].slab), SlabState::kIdle);
  TestClient second(&s.world, "server-0");
  ASSERT_TRUE(second.Hello("server-0").ok());
  const auto other = second.Open(Serving::Alone("8"));
  ASSERT_TRUE(other.ok()) << other.status();
  for (const SlabPiece& piece : other->pieces) {
    EXPECT_TRUE(piece.has_handle);
    for (const SlabPiece& own : opened->pieces) {
      EXPECT_NE(piece.slab, own.slab);
    }
  }
}

TEST(Client, HasItsSlabsForItselfUntilItsProcessIsDead) {
  Serving s(1, 8 * kMiB, 2 * kMiB);
  auto greedy = std::make_unique<TestClient>(&s.world, "server-0");
  ASSERT_TRUE(greedy->Hello("server-0").ok());
  ASSERT_TRUE(greedy->Open(Serving::Alone("7", 8 * kMiB)).ok());
  const absl::Status full = s.client.Open(Serving::Alone("8")).status();
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(Names(full, "8388608")) << full;
  // Its connection ends, its process lives: what it may still write goes to nobody.
  greedy->session->Close(error::Unavailable("the test closes"));
  s.world.RunFor(200ms);
  EXPECT_EQ(s.server(0).pool().used_bytes(), 0U);
  EXPECT_EQ(s.client.Open(Serving::Alone("9")).status().code(),
            absl::StatusCode::kResourceExhausted);
  greedy = nullptr;
  s.world.RunFor(200ms);
  EXPECT_EQ(s.nodes[0]->events.counts["client_died"], 1U);
  EXPECT_TRUE(s.client.Open(Serving::Alone("10")).ok());
}

TEST(Client, MayNotOpenAShardAgainWithOtherSizes) {
  Serving s;
  const auto opened = s.client.Open(Serving::Alone("7"));
  ASSERT_TRUE(opened.ok());
  const absl::Status other = s.client.Open(Serving::Alone("7", kBytes + 1)).status();
  EXPECT_EQ(other.code(), absl::StatusCode::kAlreadyExists) << other;
  EXPECT_TRUE(Names(other, std::to_string(kBytes))) << other;
  EXPECT_EQ(s.server(0).uploads().size(), 1U);
}

TEST(Client, MayNotTouchTheUploadOfAnother) {
  Serving s;
  const auto opened = s.client.Open(Serving::Alone("7"));
  ASSERT_TRUE(opened.ok());
  TestClient other(&s.world, "server-0");
  ASSERT_TRUE(other.Hello("server-0").ok());
  EXPECT_EQ(other.Filled(opened->upload, {}).code(), absl::StatusCode::kNotFound);
  AbortShard abort;
  abort.upload = opened->upload;
  EXPECT_EQ(other.Ask(FrameType::kAbortShard, abort).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(other.Open(Serving::Alone("7")).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(s.server(0).uploads().size(), 1U);
}

TEST(Client, HasABoundOfOpenUploads) {
  Serving s(1, 72 * kMiB, kMiB);
  for (size_t i = 0; i < kUploadsPerClientMax; ++i) {
    ASSERT_TRUE(s.client.Open(Serving::Alone(std::to_string(i), 100)).ok()) << i;
  }
  const absl::Status full = s.client.Open(Serving::Alone("more", 100)).status();
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(Names(full, "64")) << full;
  AbortShard abort;
  abort.upload = 1;
  ASSERT_TRUE(s.client.Ask(FrameType::kAbortShard, abort).ok());
  EXPECT_TRUE(s.client.Open(Serving::Alone("more", 100)).ok());
}

TEST(Client, HasABoundOfOpenRestores) {
  Serving s;
  ASSERT_TRUE(s.Commit(&s.client, "7", kBytes, 1).ok());
  uint64_t last = 0;
  for (size_t i = 0; i < kRestoresPerClientMax; ++i) {
    const auto begun = s.client.Begin();
    ASSERT_TRUE(begun.ok()) << begun.status();
    last = begun->restore;
  }
  EXPECT_EQ(s.client.Begin().status().code(), absl::StatusCode::kResourceExhausted);
  ReleaseRestore release;
  release.restore = last;
  ASSERT_TRUE(s.client.Ask(FrameType::kReleaseRestore, release).ok());
  EXPECT_TRUE(s.client.Begin().ok());
  EXPECT_EQ(s.client.Ask(FrameType::kReleaseRestore, release).status().code(),
            absl::StatusCode::kNotFound)
      << "a second time it is not there";
}

TEST(Client, OfASupersededEpochMayNotRestore) {
  Serving s;
  ASSERT_TRUE(s.Commit(&s.client, "7", kBytes, 1).ok());
  pb::Directive see;
  see.mutable_see_epoch()->set_job("gpt");
  WriteEpochId({1, 5}, see.mutable_see_epoch()->mutable_epoch());
  ASSERT_EQ(s.Do(0, see).code(), 0U);
  const absl::Status stale = s.client.Begin().status();
  EXPECT_EQ(stale.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(Names(stale, "superseded")) << stale;
}

TEST(Client, GetsNoMemoryForAnEpochThatEndsWhilePlacementAnswers) {
  Serving s;
  auto done = std::make_shared<std::optional<absl::StatusOr<Reply>>>();
  Request request;
  request.type = FrameType::kOpenShard;
  request.body = EncodeMessage(Serving::Alone("7"));
  s.client.life.loop.Spawn(Life::Keep(
      s.client.session->Call(std::move(request), {}, Add(s.client.life.loop.Now(), 10s)), done));
  ASSERT_TRUE(s.world.RunUntil([&] { return s.fake().calls["Open"] == 1; }, 1s));
  pb::Directive see;
  see.mutable_see_epoch()->set_job("gpt");
  WriteEpochId({1, 5}, see.mutable_see_epoch()->mutable_epoch());
  std::string manifest;
  ASSERT_TRUE(s.nodes[0]->life.Run(s.server(0).directives()->Do(see, &manifest)).ok());
  ASSERT_TRUE(s.world.RunUntil([&] { return done->has_value(); }, 10s));
  EXPECT_EQ((*done)->status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(s.server(0).uploads().size(), 0U);
  EXPECT_EQ(s.server(0).pool().used_bytes(), 0U);
}

TEST(Client, MaySealAgainUnderTheSameRootOnly) {
  Serving s;
  s.HoldReceipts();
  std::vector<Digest128> digests;
  const OpenShardReply opened = s.Filled("7", &digests);
  ASSERT_TRUE(s.client.Seal(opened, 0, digests, kBytes).ok());
  EXPECT_TRUE(s.client.Seal(opened, 0, digests, kBytes).ok());
  EXPECT_EQ(s.client.Seal(opened, 1, digests, kBytes).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(s.client.Filled(opened.upload, digests).ok()) << "nothing new is said";
  digests[0].low ^= 1;
  EXPECT_EQ(s.client.Filled(opened.upload, digests).code(), absl::StatusCode::kAlreadyExists);
}

TEST(Client, MayNotSealAShardWhoseUploadHasEnded) {
  Serving s;
  std::vector<Digest128> digests;
  const OpenShardReply opened = s.Filled("7", &digests);
  s.fake().saves.clear();  // placement forgot the attempt
  ASSERT_TRUE(s.world.RunUntil([&] { return s.server(0).uploads().size() == 0; }, 5s));
  EXPECT_EQ(s.client.Seal(opened, 0, digests, kBytes).code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(s.server(0).pool().used_bytes(), 0U);
}

TEST(Client, HearsWhyASaveWasAborted) {
  Serving s;
  const auto opened = s.client.Open(Serving::Alone("7"));
  ASSERT_TRUE(opened.ok());
  s.fake().saves.at(1).aborted = "rank 3 ran out of memory";
  const auto done = s.client.Await(opened->snapshot, 0);
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_EQ(done->state, CommitState::kAborted);
  EXPECT_EQ(done->why, "rank 3 ran out of memory");
  EXPECT_EQ(done->code, static_cast<uint32_t>(absl::StatusCode::kAborted));
  s.world.RunFor(2s);
  EXPECT_EQ(s.server(0).uploads().size(), 0U);
  EXPECT_EQ(s.server(0).objects().size(), 0U);
}

TEST(Client, HearsThatACommitIsNotYetThere) {
  Serving s;
  const auto opened = s.client.Open(Serving::Alone("7"));
  const auto done = s.client.Await(opened->snapshot, 0);
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_EQ(done->state, CommitState::kOpen);
  SnapshotId unknown = opened->snapshot;
  unknown.sequence = 99;
  EXPECT_EQ(s.client.Await(unknown, 0).status().code(), absl::StatusCode::kNotFound);
}

TEST(Client, AbortIsRepeatedUntilPlacementHasHeard) {
  Serving s;
  const auto opened = s.client.Open(Serving::Alone("7"));
  s.fake().failures["AbortSnapshot"] = {absl::UnavailableError("lost"),
                                        absl::DeadlineExceededError("lost")};
  AbortShard abort;
  abort.upload = opened->upload;
  abort.why = "enough";
  ASSERT_TRUE(s.client.Ask(FrameType::kAbortShard, abort).ok());
  EXPECT_EQ(s.fake().calls["AbortSnapshot"], 3U);
  EXPECT_NE(s.fake().saves.at(1).aborted.find("enough"), std::string::npos);
  EXPECT_EQ(s.client.Ask(FrameType::kAbortShard, abort).status().code(),
            absl::StatusCode::kNotFound);
}

TEST(Client, PreparesNoMoreThanItsShareOfMemory) {
  Serving s(1, 16 * kMiB, 2 * kMiB);
  PrepareSlabs prepare;
  prepare.bytes = uint64_t{1} << 60;
  const auto prepared = s.client.AskFor<PrepareSlabsReply>(FrameType::kPrepareSlabs, prepare);
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  EXPECT_EQ(prepared->pieces.size(), 6U) << "of 8 slabs a quarter is left to others";
  EXPECT_EQ(s.server(0).pool().idle_bytes(), 12 * kMiB);
}

}  // namespace
}  // namespace gemel::testing
