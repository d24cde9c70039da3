// SPDX-License-Identifier: Apache-2.0
//
// RegionTable: slice states and fences.
#include <gtest/gtest.h>

#include <algorithm>

#include "common/xxh3.h"
#include "tests/unit/transport_sockets.h"
#include "transport/region.h"

namespace gemel {
namespace {

constexpr uint64_t kTail = 1000;
constexpr uint64_t kRegionBytes = 2 * kChunkBytes + kTail;

class RegionTableTest : public ::testing::Test {
 protected:
  // Two extents: one chunk, then one chunk and a tail.
  void SetUp() override { grant_ = Open(Incarnation()); }

  Grant Open(const Incarnation& writer) {
    MutableByteSpan all(memory_);
    return table_.Open({all.first(kChunkBytes), all.subspan(kChunkBytes)}, kRegionBytes, writer);
  }

  FrameHeader Write(uint64_t offset, uint64_t bytes) const {
    FrameHeader header;
    header.type = FrameType::kWrite;
    header.region = grant_.region;
    header.generation = grant_.generation;
    header.offset = offset;
    header.payload_bytes = static_cast<uint32_t>(bytes);
    return header;
  }

  FrameHeader Slice(uint64_t index) const {
    return Write(index * kChunkBytes, index == 2 ? kTail : kChunkBytes);
  }

  ByteSpan Content(uint64_t index) const {
    return ByteSpan(content_).subspan(index * kChunkBytes, index == 2 ? kTail : kChunkBytes);
  }

  absl::StatusCode Begin(const FrameHeader& header, const void* lane) {
    return table_.BeginPlacing(header, {lane}).status().code();
  }

  // What a session does with a kWrite frame.
  absl::Status Put(uint64_t index, const void* lane) {
    auto placement = table_.BeginPlacing(Slice(index), {lane});
    if (!placement.ok()) {
      return placement.status();
    }
    std::ranges::copy(Content(index), placement->place.begin());
    return table_.FinishPlacing(Slice(index), Xxh3_128(Content(index)), lane);
  }

  SliceState State(uint64_t index) const {
    return *table_.StateOf(grant_.region, index * kChunkBytes);
  }

  std::vector<std::byte> memory_ = std::vector<std::byte>(kRegionBytes);
  const std::vector<std::byte> content_ = Pattern(kRegionBytes);
  RegionTable table_;
  Grant grant_;
  const int lanes_[2] = {0, 0};
  const void* const one_ = &lanes_[0];
  const void* const two_ = &lanes_[1];
};

TEST_F(RegionTableTest, WholeRegionClosesCompleteWithItsDigestsInOrder) {
  for (uint64_t index : {2, 0, 1}) {
    EXPECT_EQ(State(index), SliceState::kEmpty);
    ASSERT_TRUE(Put(index, one_).ok());
    EXPECT_EQ(State(index), SliceState::kPlaced);
  }
  auto closed = table_.Close(grant_.region, grant_.generation);
  ASSERT_TRUE(closed.ok());
  EXPECT_TRUE(closed->complete);
  ASSERT_EQ(closed->digests.size(), 3U);
  for (uint64_t index = 0; index < 3; ++index) {
    EXPECT_EQ(closed->digests[index], Xxh3_128(Content(index)));
  }
  EXPECT_TRUE(SameBytes(memory_, content_));
  EXPECT_FALSE(table_.Contains(grant_.region));
  EXPECT_EQ(table_.size(), 0U);
}

TEST_F(RegionTableTest, MissingSlicesAreCountedAndNoDigestsGiven) {
  ASSERT_TRUE(Put(1, one_).ok());
  auto closed = table_.Close(grant_.region, grant_.generation);
  ASSERT_TRUE(closed.ok());
  EXPECT_FALSE(closed->complete);
  EXPECT_EQ(closed->missing, 2U);
  EXPECT_TRUE(closed->digests.empty());
}

TEST_F(RegionTableTest, OfTwoLanesRacingForOneSliceTheFirstWins) {
  auto first = table_.BeginPlacing(Slice(0), {one_});
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(State(0), SliceState::kPlacing);
  EXPECT_EQ(Begin(Slice(0), two_), absl::StatusCode::kUnavailable);
  // The loser cannot finish what is not its own, and does not disturb the winner.
  EXPECT_EQ(table_.FinishPlacing(Slice(0), Xxh3_128(Content(0)), two_).code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_FALSE(first->revoked());
  std::ranges::copy(Content(0), first->place.begin());
  EXPECT_TRUE(table_.FinishPlacing(Slice(0), Xxh3_128(Content(0)), one_).ok());
  EXPECT_EQ(Begin(Slice(0), two_), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(Begin(Slice(0), one_), absl::StatusCode::kAlreadyExists);
}

TEST_F(RegionTableTest, CorruptSliceIsEmptyAgainAndCounted) {
  auto placement = table_.BeginPlacing(Slice(2), {one_});
  ASSERT_TRUE(placement.ok());
  std::ranges::copy(Content(2), placement->place.begin());
  placement->place[17] ^= std::byte{4};
  const absl::Status refused = table_.FinishPlacing(Slice(2), Xxh3_128(Content(2)), one_);
  EXPECT_EQ(refused.code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(MessageOf(refused).find(ToHex(Xxh3_128(Content(2)))), std::string_view::npos);
  EXPECT_EQ(State(2), SliceState::kEmpty);
  EXPECT_EQ(table_.corrupt_slices(), 1U);
  EXPECT_TRUE(Put(2, two_).ok());
}

TEST_F(RegionTableTest, AbandonedSliceIsRevokedAndFreeForAnother) {
  auto placement = table_.BeginPlacing(Slice(0), {one_});
  ASSERT_TRUE(placement.ok());
  ASSERT_TRUE(Put(1, one_).ok());
  table_.AbandonLane(two_);
  EXPECT_EQ(State(0), SliceState::kPlacing);
  table_.AbandonLane(one_);
  EXPECT_TRUE(placement->revoked());
  EXPECT_EQ(State(0), SliceState::kEmpty);
  EXPECT_EQ(State(1), SliceState::kPlaced);
  EXPECT_TRUE(Put(0, two_).ok());
  EXPECT_EQ(table_.FinishPlacing(Slice(0), Xxh3_128(Content(0)), one_).code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(RegionTableTest, ClosingIsAFence) {
  auto placement = table_.BeginPlacing(Slice(0), {one_});
  ASSERT_TRUE(placement.ok());
  ASSERT_TRUE(table_.Close(grant_.region, grant_.generation).ok());
  EXPECT_TRUE(placement->revoked());
  EXPECT_EQ(table_.FinishPlacing(Slice(0), Xxh3_128(Content(0)), one_).code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(Begin(Slice(0), one_), absl::StatusCode::kNotFound);
  const Grant next = Open(Incarnation());
  EXPECT_NE(next.region, grant_.region);
  EXPECT_GT(next.generation, grant_.generation);
}

TEST_F(RegionTableTest, AnotherGenerationIsFenced) {
  const uint64_t open = grant_.generation;
  for (const uint64_t other : {open - 1, open + 1}) {
    grant_.generation = other;
    EXPECT_EQ(Begin(Slice(0), one_), absl::StatusCode::kFailedPrecondition) << other;
    EXPECT_EQ(table_.Close(grant_.region, other).status().code(),
              absl::StatusCode::kFailedPrecondition);
    EXPECT_TRUE(table_.Contains(grant_.region));
  }
}

TEST_F(RegionTableTest, OnlyTheWriterOfTheGrantMayWriteOverAnyOfItsLanes) {
  Incarnation writer;
  writer.bytes[0] = 1;
  Incarnation other;
  other.bytes[0] = 2;
  grant_ = Open(writer);
  EXPECT_EQ(table_.BeginPlacing(Slice(0), {one_, other}).status().code(),
            absl::StatusCode::kPermissionDenied);
  EXPECT_TRUE(table_.BeginPlacing(Slice(0), {one_, writer}).ok());
  EXPECT_TRUE(table_.BeginPlacing(Slice(1), {two_, writer}).ok());
}

TEST_F(RegionTableTest, WhatIsSentAgainTakesALateSliceOverAndNoPlacedOne) {
  auto late = table_.BeginPlacing(Slice(0), {one_});
  ASSERT_TRUE(late.ok());
  EXPECT_EQ(table_.BeginPlacing(Slice(0), {one_, {}, true}).status().code(),
            absl::StatusCode::kUnavailable)
      << "on the same lane the first one is still coming";
  auto again = table_.BeginPlacing(Slice(0), {two_, {}, true});
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(late->revoked()) << "what the late lane still brings goes to scratch";
  EXPECT_EQ(table_.FinishPlacing(Slice(0), Xxh3_128(Content(0)), one_).code(),
            absl::StatusCode::kFailedPrecondition);
  std::ranges::copy(Content(0), again->place.begin());
  EXPECT_TRUE(table_.FinishPlacing(Slice(0), Xxh3_128(Content(0)), two_).ok());
  EXPECT_EQ(table_.BeginPlacing(Slice(0), {one_, {}, true}).status().code(),
            absl::StatusCode::kAlreadyExists);
}

TEST_F(RegionTableTest, NoMoreDifferentSlicesAreTakenThanThereIsCreditFor) {
  table_.SetCredit(grant_.region, 1);
  auto first = table_.BeginPlacing(Slice(1), {one_});
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(Begin(Slice(0), one_), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(table_.BeginPlacing(Slice(1), {two_, {}, true}).ok()) << "it is the same one";
  table_.AbandonLane(two_);
  EXPECT_TRUE(Put(0, one_).ok()) << "the other one is gone";
  EXPECT_EQ(Begin(Slice(1), one_), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Begin(Slice(0), one_), absl::StatusCode::kAlreadyExists);
  table_.SetCredit(grant_.region, 2);
  EXPECT_TRUE(Put(1, one_).ok());
}

TEST_F(RegionTableTest, ACorruptSliceUsesNoCreditUp) {
  table_.SetCredit(grant_.region, 1);
  ASSERT_TRUE(table_.BeginPlacing(Slice(0), {one_}).ok());
  EXPECT_EQ(table_.FinishPlacing(Slice(0), Digest128{1, 1}, one_).code(),
            absl::StatusCode::kDataLoss);
  EXPECT_TRUE(Put(0, two_).ok());
}

TEST_F(RegionTableTest, OnlyWholeSlicesInsideTheRegionAreTaken) {
  EXPECT_EQ(Begin(Write(1, kChunkBytes), one_), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Begin(Write(0, kChunkBytes - 1), one_), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Begin(Write(0, 0), one_), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Begin(Write(2 * kChunkBytes, kChunkBytes), one_), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Begin(Write(3 * kChunkBytes, kChunkBytes), one_), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Begin(Write(~uint64_t{0} - kChunkBytes + 1, kChunkBytes), one_),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Begin(Write(2 * kChunkBytes, kTail), one_), absl::StatusCode::kOk);
}

}  // namespace
}  // namespace gemel
