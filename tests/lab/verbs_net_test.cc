// SPDX-License-Identifier: Apache-2.0
//
// The verbs fabric: frames over queue pairs, on the fake and on a device; who calls wrongly; what
// happens when a queue pair breaks.
#include <gmock/gmock.h>

#include "common/copies.h"
#include "tests/lab/verbs_ends.h"
#include "tests/unit/transport_sockets.h"
#include "transport/verbs/verbs_hello.h"
#include "transport/verbs/verbs_references.h"

namespace gemel {
namespace {

using ::testing::AnyOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::ValuesIn;

using ConnectionOr = absl::StatusOr<std::unique_ptr<Connection>>;

// What one end has heard; payloads land in memory of their own.
struct Hearer {
  Hearer() {
    recorder.place = [this](const FrameHeader& header) {
      landing.emplace_back(header.payload_bytes);
      return Placement{.place = landing.back(), .revocation = revocation};
    };
  }

  Recorder recorder;
  std::deque<std::vector<std::byte>> landing;
  std::shared_ptr<Revocation> revocation = std::make_shared<Revocation>();
};

class VerbsNet {
 protected:
  explicit VerbsNet(const std::string& fabric, VerbsOptions options = {}, uint64_t seed = 1)
      : before_(OpenDescriptors()),
        on_device_(fabric == "device"),
        fake_(on_device_ ? nullptr : std::make_unique<FakeVerbs>(seed)),
        loop_(*EpollLoop::Create()) {
    options.calls = on_device_ ? nullptr : &fake_->calls();
    RealNet::Options net;
    net.verbs = options;
    net_ = std::make_unique<RealNet>(loop_.get(), &events_, net);
  }

  ~VerbsNet() {
    calling_.reset();
    answering_.reset();
    listener_.reset();
    Settle();  // what lingers
    loop_->Shutdown();
    net_.reset();
    loop_.reset();
    fake_.reset();
    if (!on_device_) {
      EXPECT_EQ(OpenDescriptors(), before_);
    }
  }

  bool RunUntil(const std::function<bool()>& done) { return RunLoop(loop_.get(), done); }

  // All that is ready or posted.
  void Turn() {
    bool turned = false;
    loop_->Post([&turned] { turned = true; });
    ASSERT_TRUE(RunUntil([&turned] { return turned; }));
  }

  // Until nothing has happened for a while.
  void Settle() {
    loop_->RunUntil([] { return false; }, Add(loop_->Now(), on_device_ ? 300ms : 5ms));
  }

  void Listen() {
    absl::StatusOr<std::unique_ptr<Listener>> listener = net_->Listen(
        on_device_ ? "verbs://10.99.0.2:0" : "verbs://127.0.0.1:0",
        [this](std::unique_ptr<Connection> accepted) { answering_ = std::move(accepted); });
    ASSERT_TRUE(listener.ok()) << listener.status();
    listener_ = *std::move(listener);
  }

  void Connect() {
    Listen();
    ConnectionOr calling =
        RunTask(loop_.get(), net_->Connect(listener_->address(), Add(loop_->Now(), Duration(20s))));
    ASSERT_TRUE(calling.ok()) << calling.status();
    calling_ = *std::move(calling);
    ASSERT_TRUE(RunUntil([this] { return answering_ != nullptr; }));
    calling_->Start(&caller_.recorder);
    answering_->Start(&answerer_.recorder);
  }

  std::shared_ptr<std::optional<absl::Status>> Send(Connection* connection, uint64_t op,
                                                    std::string body, ByteSpan payload = {}) {
    return gemel::Start(
        loop_.get(), connection->Send(FrameWith(FrameType::kWrite, op, std::move(body), payload)));
  }

  static bool Ended(const Hearer& hearer) { return !hearer.recorder.closed.empty(); }

  const size_t before_;
  const bool on_device_;
  std::unique_ptr<FakeVerbs> fake_;
  RecordedEvents events_;
  std::unique_ptr<EpollLoop> loop_;
  std::unique_ptr<RealNet> net_;
  std::unique_ptr<Listener> listener_;
  Hearer caller_;
  Hearer answerer_;
  std::unique_ptr<Connection> calling_;
  std::unique_ptr<Connection> answering_;
};

class VerbsFabrics : public VerbsNet, public ::testing::TestWithParam<std::string> {
 protected:
  VerbsFabrics() : VerbsNet(GetParam()) {}
};

TEST_P(VerbsFabrics, AFrameWithAPayloadArrivesAtItsPlaceAndIsAnswered) {
  Connect();
  EXPECT_THAT(calling_->peer(), HasSubstr("verbs://"));
  const std::vector<std::byte> payload = Pattern(kFramePayloadBytesMax);
  auto sent = Send(calling_.get(), 7, "body", payload);
  ASSERT_TRUE(RunUntil([this] { return !answerer_.recorder.frames.empty(); }));
  const IncomingFrame& frame = answerer_.recorder.frames[0];
  EXPECT_EQ(frame.header.op, 7U);
  EXPECT_EQ(frame.body, "body");
  EXPECT_TRUE(SameBytes(frame.payload, payload));
  ASSERT_TRUE(RunUntil([&sent] { return sent->has_value(); }));
  EXPECT_TRUE((*sent)->ok());
  Send(answering_.get(), 8, "reply");
  ASSERT_TRUE(RunUntil([this] { return !caller_.recorder.frames.empty(); }));
  EXPECT_EQ(caller_.recorder.frames[0].body, "reply");
}

// More than all receives of both sides hold, of sizes around a slot's.
TEST_P(VerbsFabrics, FramesOfAllSizesGoBothWaysAtOnceInOrder) {
  Connect();
  const std::vector<std::byte> source = Pattern(3 * kChunkBytes / 4);
  constexpr size_t kMessage =
      VerbsOptions().slot_bytes - kVerbsPreludeBytes - kVerbsReferenceBytes - kFrameHeaderBytes;
  const std::vector<size_t> sizes = {
      0, 1, 100, kMessage - 1, kMessage, kMessage + 1, 200'000, source.size()};
  constexpr uint64_t kFrames = 64;
  for (uint64_t op = 0; op < kFrames; ++op) {
    const size_t bytes = sizes[op % sizes.size()];
    Send(calling_.get(), op, std::string(op * 11, 'c'), ByteSpan(source).first(bytes));
    Send(answering_.get(), op, std::string(op * 7, 'a'), ByteSpan(source).last(bytes));
  }
  ASSERT_TRUE(RunUntil([this] {
    return caller_.recorder.frames.size() == kFrames && answerer_.recorder.frames.size() == kFrames;
  }));
  for (uint64_t op = 0; op < kFrames; ++op) {
    const size_t bytes = sizes[op % sizes.size()];
    const IncomingFrame& there = answerer_.recorder.frames[op];
    const IncomingFrame& back = caller_.recorder.frames[op];
    EXPECT_EQ(there.header.op, op);
    EXPECT_EQ(there.body, std::string(op * 11, 'c'));
    EXPECT_TRUE(SameBytes(there.payload, ByteSpan(source).first(bytes))) << op;
    EXPECT_EQ(back.header.op, op);
    EXPECT_EQ(back.body, std::string(op * 7, 'a'));
    EXPECT_TRUE(SameBytes(back.payload, ByteSpan(source).last(bytes))) << op;
  }
}

// One way only: nothing goes back but receives.
TEST_P(VerbsFabrics, WhoOnlyListensGivesReceivesBack) {
  Connect();
  constexpr uint64_t kFrames = 300;
  for (uint64_t op = 0; op < kFrames; ++op) {
    Send(calling_.get(), op, std::string(20'000, 'x'));
  }
  ASSERT_TRUE(RunUntil([this] { return answerer_.recorder.frames.size() == kFrames; }));
  EXPECT_TRUE(caller_.recorder.frames.empty());
}

TEST_P(VerbsFabrics, RevokedMemoryIsNotWrittenAnyMore) {
  Connect();
  answerer_.revocation->Revoke();
  const std::vector<std::byte> payload = Pattern(200'000);
  Send(calling_.get(), 1, "revoked", payload);
  ASSERT_TRUE(RunUntil([this] { return !answerer_.recorder.frames.empty(); }));
  EXPECT_TRUE(answerer_.recorder.frames[0].payload_dropped);
  EXPECT_TRUE(SameBytes(answerer_.landing[0], std::vector<std::byte>(200'000)));
}

TEST_P(VerbsFabrics, WhatWasSentBeforeTheEndArrivesBeforeIt) {
  Connect();
  auto sent = Send(calling_.get(), 1, std::string(300'000, 'l'));
  ASSERT_TRUE(RunUntil([&sent] { return sent->has_value(); }));
  ASSERT_TRUE((*sent)->ok());
  calling_.reset();
  ASSERT_TRUE(RunUntil([this] { return Ended(answerer_); }));
  ASSERT_EQ(answerer_.recorder.frames.size(), 1U);
  EXPECT_EQ(answerer_.recorder.frames[0].body.size(), 300'000U);
  EXPECT_EQ(answerer_.recorder.closed[0].code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(MessageOf(answerer_.recorder.closed[0])), HasSubstr("ended"));
  Settle();
  EXPECT_EQ(answerer_.recorder.closed.size(), 1U);
}

TEST_P(VerbsFabrics, AConnectionMayEndItselfInItsOwnEvent) {
  Connect();
  answerer_.recorder.on_frame = [this] { answering_.reset(); };
  Send(calling_.get(), 1, "one");
  Send(calling_.get(), 2, "two");
  ASSERT_TRUE(RunUntil([this] { return Ended(caller_); }));
  EXPECT_EQ(answerer_.recorder.frames.size(), 1U);
}

TEST_P(VerbsFabrics, HandlesAreRefused) {
  Connect();
  OutgoingFrame frame = FrameWith(FrameType::kWrite, 1);
  frame.handles.push_back(std::make_shared<DescriptorHandle>(Descriptor(dup(STDERR_FILENO))));
  EXPECT_EQ(RunTask(loop_.get(), calling_->Send(std::move(frame))).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_P(VerbsFabrics, NobodyListeningIsUnavailableAndNamesTheAddress) {
  Listen();
  const std::string address = listener_->address();
  listener_.reset();
  const ConnectionOr none =
      RunTask(loop_.get(), net_->Connect(address, Add(loop_->Now(), Duration(20s))));
  EXPECT_EQ(none.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(MessageOf(none.status())), HasSubstr(address.substr(8)));
}

// Source and place in memory that the devices know: neither side copies a payload.
class VerbsMemory : public VerbsNet {
 protected:
  explicit VerbsMemory(const std::string& fabric, VerbsOptions options = {}, uint64_t seed = 1)
      : VerbsNet(fabric, options, seed) {
    net_->AddMemory(places_);
    Connect();
    net_->AddMemory(Source());  // now that the device is open
    answerer_.recorder.place = [this](const FrameHeader& header) {
      placing_ = true;
      return Placement{PlaceOf(header.op).first(header.payload_bytes), answerer_.revocation};
    };
  }

  static MutableByteSpan Source() {
    static std::vector<std::byte> source = Pattern(kPayloads * kPayloadBytes);
    return source;
  }

  static ByteSpan SourceOf(uint64_t op) {
    return Source().subspan(op * kPayloadBytes, kPayloadBytes);
  }

  MutableByteSpan PlaceOf(uint64_t op) {
    return MutableByteSpan(places_).subspan(op * kPayloadBytes, kPayloadBytes);
  }

  static constexpr size_t kPayloadBytes = 100'000;
  static constexpr uint64_t kPayloads = 40;

  std::vector<std::byte> places_ = std::vector<std::byte>(kPayloads * kPayloadBytes);
  bool placing_ = false;
};

class VerbsMemories : public VerbsMemory, public ::testing::TestWithParam<std::string> {
 protected:
  VerbsMemories() : VerbsMemory(GetParam(), {.slots = 64}) {}
};

TEST_P(VerbsMemories, PayloadsGoFromPlaceToPlaceWithoutACopy) {
  const uint64_t before = CopiedBytes();
  std::vector<std::shared_ptr<std::optional<absl::Status>>> sent;
  constexpr uint64_t kFrames = kVerbsReferencesMax;
  for (uint64_t op = 0; op < kFrames; ++op) {
    sent.push_back(Send(calling_.get(), op, "body", SourceOf(op)));
  }
  ASSERT_TRUE(RunUntil([&] { return answerer_.recorder.frames.size() == kFrames; }));
  EXPECT_LT(CopiedBytes() - before, kFrames * 2000);
  for (uint64_t op = 0; op < kFrames; ++op) {
    EXPECT_TRUE(SameBytes(answerer_.recorder.frames[op].payload, SourceOf(op))) << op;
    ASSERT_TRUE(RunUntil([&] { return sent[op]->has_value(); })) << op;
    EXPECT_TRUE((*sent[op])->ok());
  }
}

// More at once than there are windows: the others are copied.
TEST_P(VerbsMemories, MoreThanThereAreWindowsArriveToo) {
  const uint64_t before = CopiedBytes();
  for (uint64_t op = 0; op < kPayloads; ++op) {
    Send(calling_.get(), op, "", SourceOf(op));
  }
  ASSERT_TRUE(RunUntil([&] { return answerer_.recorder.frames.size() == kPayloads; }));
  EXPECT_GT(CopiedBytes() - before, 2 * kPayloadBytes);
  for (uint64_t op = 0; op < kPayloads; ++op) {
    EXPECT_TRUE(SameBytes(answerer_.recorder.frames[op].payload, SourceOf(op))) << op;
  }
}

TEST_P(VerbsMemories, WhatIsDroppedIsNotWaitedFor) {
  answerer_.revocation->Revoke();
  auto sent = Send(calling_.get(), 3, "", SourceOf(3));
  ASSERT_TRUE(RunUntil([&] { return !answerer_.recorder.frames.empty() && sent->has_value(); }));
  EXPECT_TRUE((*sent)->ok());
  EXPECT_TRUE(answerer_.recorder.frames[0].payload_dropped);
  EXPECT_TRUE(SameBytes(PlaceOf(3), std::vector<std::byte>(kPayloadBytes)));
}

INSTANTIATE_TEST_SUITE_P(Fabrics, VerbsMemories, ValuesIn(Fabrics()),
                         [](const auto& test) { return test.param; });

// A place that is revoked at some moment while payloads land.
class VerbsRevoking final : public VerbsMemory {
 public:
  explicit VerbsRevoking(uint64_t seed) : VerbsMemory("fake", {.slots = 8}, seed), random_(seed) {}

  // Whether the connection had to end.
  bool Go() {
    constexpr uint64_t kFrames = 3;
    std::vector<std::shared_ptr<std::optional<absl::Status>>> sent;
    for (uint64_t op = 0; op < kFrames; ++op) {
      sent.push_back(Send(calling_.get(), op, "", SourceOf(op)));
    }
    EXPECT_TRUE(RunUntil([this] { return placing_; }));
    for (uint64_t turns = random_.Below(12); turns > 0; --turns) {
      Turn();
    }
    answerer_.revocation->Revoke();
    const std::vector<std::byte> was = places_;
    EXPECT_TRUE(RunUntil(
        [this] { return Ended(answerer_) || answerer_.recorder.frames.size() == kFrames; }));
    const bool ended = Ended(answerer_);
    EXPECT_TRUE(SameBytes(places_, was)) << "a revoked place was written";
    answering_.reset();
    EXPECT_TRUE(RunUntil([&] {
      return std::all_of(sent.begin(), sent.end(),
                         [](const auto& one) { return one->has_value(); });
    })) << "a source is held for ever";
    for (const IncomingFrame& frame : answerer_.recorder.frames) {
      EXPECT_TRUE(frame.payload_dropped || SameBytes(frame.payload, SourceOf(frame.header.op)));
    }
    return ended;
  }

 private:
  Random random_;
};

TEST(VerbsRevocations, FenceAtAnyMoment) {
  uint64_t ended = 0;
  constexpr uint64_t kSeeds = 300;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    VerbsRevoking run(seed);
    ended += run.Go() ? 1 : 0;
    ASSERT_FALSE(testing::Test::HasFailure()) << "seed " << seed;
  }
  EXPECT_GT(ended, kSeeds / 20);
  EXPECT_LT(ended, kSeeds - kSeeds / 20);
}

INSTANTIATE_TEST_SUITE_P(Fabrics, VerbsFabrics, ValuesIn(Fabrics()),
                         [](const auto& test) { return test.param; });

class VerbsCallers : public VerbsNet, public ::testing::Test {
 protected:
  VerbsCallers() : VerbsNet("fake") {}

  Descriptor Raw() { return RawConnect("tcp" + listener_->address().substr(5)); }

  static std::string Hello() {
    return EncodeVerbsHello({.address = {.queue_pair = 5}, .slots = 16, .slot_bytes = 4096});
  }

  void ExpectRefused(const std::string& saying) {
    ASSERT_TRUE(RunUntil([this] { return !events_.names.empty(); }));
    EXPECT_EQ(events_.names[0], "connection_refused");
    EXPECT_THAT(events_.texts[0], HasSubstr(saying));
    events_ = RecordedEvents();
  }
};

TEST_F(VerbsCallers, WhoSpeaksSomethingElseIsRefusedAndOthersAreServed) {
  Listen();
  std::string older = Hello();
  older[4] = 9;
  std::string torn = Hello();
  torn[30] = static_cast<char>(torn[30] ^ 1);
  const std::vector<std::pair<std::string, std::string>> wrong = {
      {std::string(kVerbsHelloBytes, 'G'), "something else speaking"},
      {older, "version 9"},
      {torn, "checksum"},
  };
  for (const auto& [bytes, saying] : wrong) {
    const Descriptor raw = Raw();
    RawSend(raw, bytes);
    ExpectRefused(saying);
  }
  const Descriptor unready = Raw();
  RawSend(unready, Hello() + "?");
  ExpectRefused("says 63");
  Connect();
}

TEST_F(VerbsCallers, SilentOnesAreBoundedAndForgotten) {
  Listen();
  std::vector<Descriptor> silent;
  for (size_t i = 0; i <= kVerbsHellosMax; ++i) {
    silent.push_back(Raw());
  }
  ExpectRefused("have not said their hello");
  silent.clear();
  Settle();
  EXPECT_TRUE(events_.names.empty()) << "of callers that left";
  Connect();
}

TEST_F(VerbsCallers, AListenerThatGoesHandsNothingOut) {
  Listen();
  const Descriptor raw = Raw();
  Settle();
  listener_.reset();
  RawSend(raw, Hello() + "\x01");
  Settle();
  EXPECT_EQ(answering_, nullptr);
}

// As placement asks, on a machine that may have no RDMA.
TEST_F(VerbsCallers, AProbeNeedsNoDeviceAndIsNotTold) {
  Listen();
  const std::string address = listener_->address();
  RealNet::Options options;
  options.verbs.calls = nullptr;
  RealNet without(loop_.get(), &events_, options);
  const auto probe = [&] {
    return RunTask(loop_.get(), without.Probe(address, Add(loop_->Now(), Duration(5s))));
  };
  EXPECT_TRUE(probe().ok());
  Settle();
  EXPECT_TRUE(events_.names.empty());
  listener_.reset();
  EXPECT_EQ(probe().code(), absl::StatusCode::kUnavailable);
}

TEST_F(VerbsCallers, AnAddressOfNoDeviceSaysWhichThereAre) {
  const absl::Status none = net_->Listen("verbs://127.0.0.2:0", [](auto) {}).status();
  EXPECT_EQ(none.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(MessageOf(none)), HasSubstr("127.0.0.2"));
  EXPECT_THAT(std::string(MessageOf(none)), HasSubstr("fake0"));
  EXPECT_EQ(net_->Listen("verbs://fastnode:0", [](auto) {}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(VerbsCallers, WhatCannotBePinnedIsToldOnceAndCopied) {
  Connect();
  fake_->PinNoMore();
  std::vector<std::byte> source = Pattern(200'000);
  std::vector<std::byte> more(4096);
  net_->AddMemory(source);
  net_->AddMemory(more);
  ASSERT_EQ(events_.names, std::vector<std::string>{"verbs_copies"});
  EXPECT_THAT(events_.texts[0], HasSubstr("ulimit -l"));
  const uint64_t before = CopiedBytes();
  Send(calling_.get(), 1, "", source);
  ASSERT_TRUE(RunUntil([this] { return !answerer_.recorder.frames.empty(); }));
  EXPECT_TRUE(SameBytes(answerer_.recorder.frames[0].payload, source));
  EXPECT_GE(CopiedBytes() - before, source.size());
}

class VerbsBroken : public VerbsNet, public ::testing::TestWithParam<int> {
 protected:
  VerbsBroken() : VerbsNet("fake") {}
};

// Both ends hear of it, once, and the event names the status.
TEST_P(VerbsBroken, AFailedRequestEndsTheConnection) {
  const auto status = static_cast<ibv_wc_status>(GetParam());
  Connect();
  Send(calling_.get(), 1, "arrives");
  ASSERT_TRUE(RunUntil([this] { return !answerer_.recorder.frames.empty(); }));
  for (uint32_t pair = 17; pair < 19; ++pair) {
    fake_->FailNext(pair, status, 0);
  }
  Send(calling_.get(), 2, "does not");
  ASSERT_TRUE(RunUntil([this] { return Ended(caller_); }));
  calling_.reset();
  ASSERT_TRUE(RunUntil([this] { return Ended(answerer_); }));
  Settle();
  EXPECT_EQ(caller_.recorder.closed.size(), 1U);
  EXPECT_EQ(answerer_.recorder.closed.size(), 1U);
  EXPECT_THAT(caller_.recorder.closed[0].code(),
              AnyOf(absl::StatusCode::kUnavailable, absl::StatusCode::kDeadlineExceeded));
  EXPECT_THAT(events_.names, Contains("verbs_broken"));
  EXPECT_THAT(events_.texts, Contains(HasSubstr(std::string(CompletionName(status)))));
}

INSTANTIATE_TEST_SUITE_P(Fake, VerbsBroken,
                         ::testing::Range(static_cast<int>(IBV_WC_SUCCESS) + 1,
                                          static_cast<int>(IBV_WC_TM_RNDV_INCOMPLETE) + 1));

// Frames both ways at once over few small receives; at some point a request may fail.
class VerbsBreaking final : public VerbsNet {
 public:
  explicit VerbsBreaking(uint64_t seed)
      : VerbsNet("fake", {.slots = 4 + static_cast<uint32_t>(seed % 5), .slot_bytes = 512}, seed),
        random_(seed) {}

  // Whether all of it arrived.
  bool Go() {
    Connect();
    const uint64_t frames = 1 + random_.Below(12);
    const uint64_t breaks_at = random_.Below(2 * frames);
    for (uint64_t op = 0; op < frames; ++op) {
      if (op == breaks_at) {
        fake_->FailNext(17 + static_cast<uint32_t>(random_.Below(2)), IBV_WC_RETRY_EXC_ERR, 0);
      }
      bodies_.emplace_back(random_.Below(3000), static_cast<char>('a' + op));
      Send(calling_.get(), op, bodies_.back());
      Send(answering_.get(), op, bodies_.back());
    }
    const auto all = [frames](const Hearer& hearer) {
      return hearer.recorder.frames.size() == frames;
    };
    EXPECT_TRUE(RunUntil(
        [&] { return Ended(caller_) || Ended(answerer_) || (all(caller_) && all(answerer_)); }));
    ExpectPrefix(caller_);
    ExpectPrefix(answerer_);
    return all(caller_);
  }

 private:
  void ExpectPrefix(const Hearer& hearer) {
    for (size_t i = 0; i < hearer.recorder.frames.size(); ++i) {
      EXPECT_EQ(hearer.recorder.frames[i].header.op, i);
      EXPECT_EQ(hearer.recorder.frames[i].body, bodies_[i]);
    }
  }

  Random random_;
  std::vector<std::string> bodies_;
};

TEST(VerbsStreams, WhatArrivesIsWhatWasSentUpToWhereItBreaks) {
  uint64_t whole = 0;
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    VerbsBreaking run(seed);
    whole += run.Go() ? 1 : 0;
    ASSERT_FALSE(testing::Test::HasFailure()) << "seed " << seed;
  }
  EXPECT_GT(whole, 100U);
  EXPECT_LT(whole, 290U);
}

}  // namespace
}  // namespace gemel
