// SPDX-License-Identifier: Apache-2.0
//
// What the verbs fabric relies on, of queue pairs, windows and completions: the same cases on the
// fake (everywhere) and on a device, which is soft-RoCE in the guest (tests/lab/run.sh).
#include <gmock/gmock.h>
#include <poll.h>

#include <tuple>

#include "tests/lab/verbs_ends.h"

namespace gemel {
namespace {

using ::testing::Combine;
using ::testing::HasSubstr;
using ::testing::Range;
using ::testing::Values;
using ::testing::ValuesIn;

class VerbsPair {
 public:
  explicit VerbsPair(const std::string& fabric,
                     const VerbsQueuePair::Options& options = VerbsEnds::Impatient())
      : ends_(fabric) {
    ends_.Make(&a_, options);
    ends_.Make(&b_, options);
    VerbsEnds::Connect(&a_, &b_);
  }

 protected:
  // The peer of b may write into all of b's memory, or read it.
  void Open(bool may_write) { BindAt(&b_, b_.First(kEndBytes), may_write, IBV_WC_SUCCESS); }

  static void BindAt(VerbsEnd* end, MutableByteSpan bytes, bool may_write, ibv_wc_status status) {
    ASSERT_TRUE(end->pair->Bind(9, end->window.get(), *end->region, bytes, may_write).ok());
    Expect(end->Next(), 9, WorkKind::kBind, status);
  }

  static void Expect(const WorkDone& done, uint64_t id, WorkKind kind, ibv_wc_status status) {
    EXPECT_EQ(done.id, id);
    EXPECT_EQ(done.kind, kind);
    EXPECT_EQ(done.status, status) << CompletionName(done.status);
  }

  void Write(uint64_t id, size_t bytes, VerbsPlace to) {
    ASSERT_TRUE(a_.pair->Write(id, a_.First(bytes), *a_.region, to).ok());
  }

  void Fill(VerbsEnd* end) {
    for (size_t i = 0; i < end->memory.size(); ++i) {
      end->memory[i] = static_cast<std::byte>(i * 7 + 1);
    }
  }

  VerbsEnds ends_;
  VerbsEnd a_;
  VerbsEnd b_;
};

class VerbsConformance : public VerbsPair, public ::testing::TestWithParam<std::string> {
 protected:
  VerbsConformance() : VerbsPair(GetParam()) {}
};

class VerbsSizes : public VerbsPair,
                   public ::testing::TestWithParam<std::tuple<std::string, size_t>> {
 protected:
  VerbsSizes() : VerbsPair(std::get<0>(GetParam())) { Fill(&a_); }

  size_t bytes() const { return std::get<1>(GetParam()); }

  // The first bytes are a's, the others as they were.
  void ExpectLanded() {
    EXPECT_TRUE(std::equal(b_.memory.begin(), b_.memory.begin() + static_cast<ptrdiff_t>(bytes()),
                           a_.memory.begin()));
    EXPECT_TRUE(std::all_of(b_.memory.begin() + static_cast<ptrdiff_t>(bytes()), b_.memory.end(),
                            [](std::byte b) { return b == std::byte(0); }));
  }
};

TEST_P(VerbsSizes, AWriteLands) {
  Open(true);
  Write(1, bytes(), b_.Place());
  Expect(a_.Next(), 1, WorkKind::kWrite, IBV_WC_SUCCESS);
  ExpectLanded();
}

TEST_P(VerbsSizes, AWriteWithANumberLandsAndIsTold) {
  Open(true);
  ASSERT_TRUE(b_.pair->PostReceive(5, {}, *b_.region).ok());
  ASSERT_TRUE(a_.pair->Write(1, a_.First(bytes()), *a_.region, b_.Place(), 0x12345678).ok());
  Expect(a_.Next(), 1, WorkKind::kWrite, IBV_WC_SUCCESS);
  const WorkDone told = b_.Next();
  Expect(told, 5, WorkKind::kTold, IBV_WC_SUCCESS);
  EXPECT_EQ(told.number, 0x12345678U);
  ExpectLanded();
}

TEST_P(VerbsSizes, AReadBringsTheBytes) {
  BindAt(&a_, a_.First(kEndBytes), false, IBV_WC_SUCCESS);
  ASSERT_TRUE(b_.pair->Read(1, b_.First(bytes()), *b_.region, a_.Place()).ok());
  Expect(b_.Next(), 1, WorkKind::kRead, IBV_WC_SUCCESS);
  ExpectLanded();
}

TEST_P(VerbsSizes, AMessageArrives) {
  ASSERT_TRUE(b_.pair->PostReceive(5, b_.First(kEndBytes), *b_.region).ok());
  ASSERT_TRUE(a_.pair->Send(1, a_.First(bytes()), *a_.region).ok());
  Expect(a_.Next(), 1, WorkKind::kSend, IBV_WC_SUCCESS);
  const WorkDone told = b_.Next();
  Expect(told, 5, WorkKind::kReceived, IBV_WC_SUCCESS);
  EXPECT_EQ(told.bytes, bytes());
  ExpectLanded();
}

INSTANTIATE_TEST_SUITE_P(Fabrics, VerbsSizes,
                         Combine(ValuesIn(Fabrics()),
                                 Values(0, 1, 255, 256, 257, 4095, 4096, 4097, kEndBytes)),
                         [](const auto& test) {
                           return std::get<0>(test.param) + "_" +
                                  std::to_string(std::get<1>(test.param));
                         });

// The fence of DESIGN section 7.
TEST_P(VerbsConformance, AWindowThatIsInvalidatedLetsNobodyWriteAnyMore) {
  Fill(&a_);
  Open(true);
  const VerbsPlace place = b_.Place();
  ASSERT_TRUE(b_.pair->Invalidate(2, *b_.window).ok());
  Expect(b_.Next(), 2, WorkKind::kInvalidate, IBV_WC_SUCCESS);
  Write(3, 1000, place);
  Expect(a_.Next(), 3, WorkKind::kWrite, IBV_WC_REM_ACCESS_ERR);
  EXPECT_EQ(OutcomeOfCompletion(IBV_WC_REM_ACCESS_ERR).outcome, Outcome::kFenced);
  EXPECT_TRUE(b_.IsEmpty());
}

TEST_P(VerbsConformance, AWindowThatIsBoundAgainHasAnotherKey) {
  Fill(&a_);
  Open(true);
  const VerbsPlace before = b_.Place();
  ASSERT_TRUE(b_.pair->Invalidate(2, *b_.window).ok());
  Expect(b_.Next(), 2, WorkKind::kInvalidate, IBV_WC_SUCCESS);
  Open(true);
  EXPECT_NE(b_.Place().key, before.key);
  Write(3, 100, b_.Place());
  Expect(a_.Next(), 3, WorkKind::kWrite, IBV_WC_SUCCESS);
  EXPECT_FALSE(b_.IsEmpty());
  std::fill(b_.memory.begin(), b_.memory.end(), std::byte(0));
  Write(4, 100, before);
  Expect(a_.Next(), 4, WorkKind::kWrite, IBV_WC_REM_ACCESS_ERR);
  EXPECT_TRUE(b_.IsEmpty());
}

// Amendment 10: a grant is a window for every queue pair that may use it.
TEST_P(VerbsConformance, AWindowWorksOnTheQueuePairThatBoundItAlone) {
  Fill(&a_);
  Open(true);
  VerbsEnd c;
  VerbsEnd d;
  ends_.Make(&c, VerbsEnds::Impatient());
  ends_.Make(&d, VerbsEnds::Impatient());
  VerbsEnds::Connect(&c, &d);
  ASSERT_TRUE(c.pair->Write(1, c.First(100), *c.region, b_.Place()).ok());
  Expect(c.Next(), 1, WorkKind::kWrite, IBV_WC_REM_ACCESS_ERR);
  Write(2, 100, b_.Place());
  Expect(a_.Next(), 2, WorkKind::kWrite, IBV_WC_SUCCESS);
}

TEST_P(VerbsConformance, AWindowForReadsRefusesAWrite) {
  Fill(&a_);
  Open(false);
  Write(1, 100, b_.Place());
  Expect(a_.Next(), 1, WorkKind::kWrite, IBV_WC_REM_ACCESS_ERR);
  EXPECT_TRUE(b_.IsEmpty());
}

TEST_P(VerbsConformance, AWindowForWritesRefusesARead) {
  Fill(&b_);
  Open(true);
  ASSERT_TRUE(a_.pair->Read(1, a_.First(100), *a_.region, b_.Place()).ok());
  Expect(a_.Next(), 1, WorkKind::kRead, IBV_WC_REM_ACCESS_ERR);
  EXPECT_TRUE(a_.IsEmpty());
}

TEST_P(VerbsConformance, AWriteThatPassesTheEndOfAWindowIsRefused) {
  Fill(&a_);
  BindAt(&b_, b_.First(1000), true, IBV_WC_SUCCESS);
  Write(1, 100, b_.Place(900));
  Expect(a_.Next(), 1, WorkKind::kWrite, IBV_WC_SUCCESS);
  if (ends_.device()->name().starts_with("rxe")) {
    return;  // soft-RoCE of Linux 6.1 looks at the bounds of the region only
  }
  std::fill(b_.memory.begin(), b_.memory.end(), std::byte(0));
  Write(2, 101, b_.Place(900));
  Expect(a_.Next(), 2, WorkKind::kWrite, IBV_WC_REM_ACCESS_ERR);
  EXPECT_TRUE(b_.IsEmpty());
}

TEST_P(VerbsConformance, AWriteThatPassesTheEndOfARegionIsRefused) {
  Fill(&a_);
  Open(true);
  Write(1, 101, b_.Place(kEndBytes - 100));
  Expect(a_.Next(), 1, WorkKind::kWrite, IBV_WC_REM_ACCESS_ERR);
  EXPECT_TRUE(b_.IsEmpty());
}

TEST_P(VerbsConformance, WithoutAWindowNobodyMayWriteByTheKeyOfTheRegion) {
  Fill(&a_);
  Write(1, 100, {.address = b_.Place().address, .key = b_.region->handle()->rkey});
  const WorkDone done = a_.Next();
  EXPECT_EQ(done.status, IBV_WC_REM_ACCESS_ERR) << CompletionName(done.status);
  EXPECT_TRUE(b_.IsEmpty());
}

TEST_P(VerbsConformance, WhatComesAfterAnErrorIsFlushed) {
  for (uint64_t id = 1; id <= 3; ++id) {
    Write(id, 100, {.address = b_.Place().address, .key = b_.window->key() ^ 0xFF00});
  }
  Expect(a_.Next(), 1, WorkKind::kWrite, IBV_WC_REM_ACCESS_ERR);
  Expect(a_.Next(), 2, WorkKind::kWrite, IBV_WC_WR_FLUSH_ERR);
  Expect(a_.Next(), 3, WorkKind::kWrite, IBV_WC_WR_FLUSH_ERR);
  EXPECT_TRUE(a_.pair->broken());
  EXPECT_EQ(a_.pair->Write(4, a_.First(1), *a_.region, b_.Place()).code(),
            absl::StatusCode::kUnavailable);
  EXPECT_TRUE(b_.IsEmpty());
}

TEST_P(VerbsConformance, ASourceThatIsNotRegisteredHereIsRefused) {
  absl::StatusOr<std::unique_ptr<VerbsDevice>> other =
      VerbsDevice::Open(&ends_.device()->calls(), "");
  ASSERT_TRUE(other.ok()) << other.status();
  Open(true);
  const std::unique_ptr<VerbsRegion> foreign = *(*other)->Register(a_.memory);
  ASSERT_TRUE(a_.pair->Write(1, a_.First(1000), *foreign, b_.Place()).ok());
  const WorkDone done = a_.Next();  // soft-RoCE has another status for it than the specification
  EXPECT_TRUE(done.status == IBV_WC_LOC_PROT_ERR || done.status == IBV_WC_LOC_QP_OP_ERR)
      << CompletionName(done.status);
  EXPECT_EQ(OutcomeOfCompletion(done.status).outcome, Outcome::kInvalid);
  EXPECT_TRUE(b_.IsEmpty());
}

TEST_P(VerbsConformance, BytesOutsideOfTheirRegionAreNotTaken) {
  Open(true);
  std::vector<std::byte> elsewhere(10);
  EXPECT_EQ(a_.pair->Write(1, elsewhere, *a_.region, b_.Place()).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(a_.pair->Read(1, elsewhere, *a_.region, b_.Place()).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(a_.pair->PostReceive(1, elsewhere, *a_.region).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(a_.pair->under_way(), 0U);
}

TEST_P(VerbsConformance, AReceiverWithoutABufferIsOutOfCredit) {
  ASSERT_TRUE(a_.pair->Send(1, a_.First(100), *a_.region).ok());
  Expect(a_.Next(), 1, WorkKind::kSend, IBV_WC_RNR_RETRY_EXC_ERR);
}

TEST_P(VerbsConformance, AMessageThatIsTooLongIsNotTaken) {
  ASSERT_TRUE(b_.pair->PostReceive(5, b_.First(100), *b_.region).ok());
  ASSERT_TRUE(a_.pair->Send(1, a_.First(101), *a_.region).ok());
  const WorkDone done = a_.Next();  // soft-RoCE: as if the peer could not
  EXPECT_TRUE(done.status == IBV_WC_REM_INV_REQ_ERR || done.status == IBV_WC_REM_OP_ERR)
      << CompletionName(done.status);
  EXPECT_NE(b_.Next().status, IBV_WC_SUCCESS);
}

TEST_P(VerbsConformance, AQueuePairThatIsGoneDoesNotAnswer) {
  Open(true);
  const VerbsPlace place = b_.Place();
  b_.window.reset();
  b_.pair.reset();
  Write(1, 100, place);
  Expect(a_.Next(), 1, WorkKind::kWrite, IBV_WC_RETRY_EXC_ERR);
  EXPECT_TRUE(b_.IsEmpty());
}

TEST_P(VerbsConformance, AChainIsOneDoorbellAndOneInSixteenIsSignalled) {
  Open(true);
  const VerbsCounts before = a_.pair->counts();
  for (uint64_t id = 0; id < 64; ++id) {
    Write(id, 512, b_.Place(id * 512));
  }
  for (uint64_t id = 0; id < 64; ++id) {
    Expect(a_.Next(), id, WorkKind::kWrite, IBV_WC_SUCCESS);
  }
  const VerbsCounts& counts = a_.pair->counts();
  EXPECT_EQ(counts.requests - before.requests, 64U);
  EXPECT_EQ(counts.doorbells - before.doorbells, 2U);
  EXPECT_EQ(counts.signalled - before.signalled, 4U);
}

TEST_P(VerbsConformance, AQueueThatIsFullTakesMoreOnceItIsPolled) {
  Open(true);
  const uint32_t depth = VerbsEnds::Impatient().depth;
  for (uint64_t id = 0; id < depth; ++id) {
    Write(id, 8, b_.Place());
  }
  const absl::Status full = a_.pair->Write(depth, a_.First(8), *a_.region, b_.Place());
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(MessageOf(full)), HasSubstr("128 requests are under way"));
  for (uint64_t id = 0; id < depth; ++id) {
    Expect(a_.Next(), id, WorkKind::kWrite, IBV_WC_SUCCESS);
  }
  Write(depth, 8, b_.Place());
  Expect(a_.Next(), depth, WorkKind::kWrite, IBV_WC_SUCCESS);
}

TEST_P(VerbsConformance, AConnectionThatIsBrokenTellsAllThatWasUnderWay) {
  Open(true);
  ASSERT_TRUE(a_.pair->PostReceive(5, {}, *a_.region).ok());
  for (uint64_t id = 0; id < 40; ++id) {  // a chain that was rung, and a part of one
    Write(id, 8, b_.Place());
  }
  a_.pair->Break();
  std::vector<bool> told(40, false);
  bool received = false;
  for (int i = 0; i < 41; ++i) {
    const WorkDone done = a_.Next();
    if (done.kind == WorkKind::kReceived) {
      EXPECT_EQ(done.status, IBV_WC_WR_FLUSH_ERR);
      received = true;
    } else {
      ASSERT_LT(done.id, told.size());
      EXPECT_FALSE(told[done.id]);
      told[done.id] = true;
      EXPECT_TRUE(done.id < 32 || done.status == IBV_WC_WR_FLUSH_ERR);
    }
  }
  EXPECT_TRUE(received);
  EXPECT_EQ(std::count(told.begin(), told.end(), true), 40);
  EXPECT_EQ(a_.pair->under_way(), 0U);
  EXPECT_EQ(a_.pair->PostReceive(6, {}, *a_.region).code(), absl::StatusCode::kUnavailable);
}

TEST_P(VerbsConformance, BeforeItIsConnectedAQueuePairTakesNoRequest) {
  VerbsEnd c;
  ends_.Make(&c, VerbsEnds::Impatient());
  EXPECT_EQ(c.pair->Send(1, c.First(1), *c.region).code(), absl::StatusCode::kUnavailable);
  c.pair->Break();
  EXPECT_EQ(c.pair->Connect(b_.pair->address()).code(), absl::StatusCode::kUnavailable);
}

TEST_P(VerbsConformance, ADeviceThatIsNotThereIsNamedBesideThoseThatAre) {
  const auto opened = VerbsDevice::Open(&ends_.device()->calls(), "none7");
  EXPECT_EQ(opened.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(MessageOf(opened.status())),
              HasSubstr("no RDMA device none7; there are " + ends_.device()->name()));
}

INSTANTIATE_TEST_SUITE_P(Fabrics, VerbsConformance, ValuesIn(Fabrics()),
                         [](const auto& test) { return test.param; });

class VerbsEvents : public VerbsPair, public ::testing::TestWithParam<std::string> {
 protected:
  VerbsEvents() : VerbsPair(GetParam(), {.with_events = true}) {}

  static bool Tells(const VerbsEnd& end, int patience_ms) {
    pollfd watched{.fd = end.pair->event_descriptor(), .events = POLLIN, .revents = 0};
    return poll(&watched, 1, patience_ms) == 1;
  }
};

TEST_P(VerbsEvents, TellOfWhatEndsOrArrivesOnceTheyAreAskedFor) {
  constexpr int kPatienceMs = 20'000;
  ASSERT_TRUE(b_.pair->PostReceive(5, b_.First(100), *b_.region).ok());
  a_.pair->Arm();
  b_.pair->Arm();
  EXPECT_FALSE(Tells(a_, 0));
  ASSERT_TRUE(a_.pair->Send(1, a_.First(100), *a_.region).ok());
  a_.pair->Ring();
  EXPECT_TRUE(Tells(a_, kPatienceMs));
  Expect(a_.Next(), 1, WorkKind::kSend, IBV_WC_SUCCESS);
  EXPECT_TRUE(Tells(b_, kPatienceMs));
  Expect(b_.Next(), 5, WorkKind::kReceived, IBV_WC_SUCCESS);
  a_.pair->Arm();
  b_.pair->Arm();
  EXPECT_FALSE(Tells(a_, 0));
  EXPECT_FALSE(Tells(b_, 0));
}

INSTANTIATE_TEST_SUITE_P(Fabrics, VerbsEvents, ValuesIn(Fabrics()),
                         [](const auto& test) { return test.param; });

// Every status that a completion may have, of every kind of request: it is told as it is, what
// preceded it went well, what follows is flushed.
class VerbsStatuses : public VerbsPair, public ::testing::TestWithParam<std::tuple<int, WorkKind>> {
 protected:
  VerbsStatuses() : VerbsPair("fake") {}

  absl::Status Request(uint64_t id, WorkKind kind) {
    switch (kind) {
      case WorkKind::kRead:
        return a_.pair->Read(id, a_.First(1000), *a_.region, b_.Place());
      case WorkKind::kSend:
        return a_.pair->Send(id, a_.First(1000), *a_.region);
      case WorkKind::kBind:
        return a_.pair->Bind(id, a_.window.get(), *a_.region, a_.First(1000), true);
      case WorkKind::kInvalidate:
        return a_.pair->Invalidate(id, *a_.window);
      default:
        return a_.pair->Write(id, a_.First(1000), *a_.region, b_.Place());
    }
  }
};

TEST_P(VerbsStatuses, AreToldAndBreakTheConnection) {
  const auto status = static_cast<ibv_wc_status>(std::get<0>(GetParam()));
  const WorkKind kind = std::get<1>(GetParam());
  Fill(&a_);
  Open(true);
  Write(1, 8, b_.Place(2000));
  a_.pair->Ring();
  while (ends_.fake()->Step()) {
  }
  ends_.fake()->FailNext(a_.pair->address().queue_pair, status, 500);
  ASSERT_TRUE(Request(2, kind).ok());
  Write(3, 8, b_.Place());
  Expect(a_.Next(), 1, WorkKind::kWrite, IBV_WC_SUCCESS);
  Expect(a_.Next(), 2, kind, status);
  Expect(a_.Next(), 3, WorkKind::kWrite, IBV_WC_WR_FLUSH_ERR);
  EXPECT_TRUE(a_.pair->broken());
  if (kind == WorkKind::kWrite) {  // which is why a write with an error may have landed
    EXPECT_EQ(b_.memory[499], a_.memory[499]);
    EXPECT_EQ(b_.memory[500], std::byte(0));
  }
}

INSTANTIATE_TEST_SUITE_P(Fake, VerbsStatuses,
                         Combine(Range(static_cast<int>(IBV_WC_SUCCESS) + 1,
                                       static_cast<int>(IBV_WC_TM_RNDV_INCOMPLETE) + 1),
                                 Values(WorkKind::kWrite, WorkKind::kRead, WorkKind::kSend,
                                        WorkKind::kBind, WorkKind::kInvalidate)));

}  // namespace
}  // namespace gemel
