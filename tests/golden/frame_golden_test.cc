// SPDX-License-Identifier: Apache-2.0
//
// The bytes of a frame header (docs/formats/frames.md), for ever.
#include <gtest/gtest.h>

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "transport/frame.h"

namespace gemel {
namespace {

std::string HexOf(ByteSpan bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string hex;
  for (std::byte byte : bytes) {
    hex += kDigits[static_cast<uint8_t>(byte) >> 4];
    hex += kDigits[static_cast<uint8_t>(byte) & 15];
  }
  return hex;
}

FrameHeader WriteReply() {
  FrameHeader header;
  header.type = FrameType::kWrite;
  header.flags = kFlagReply;
  header.op = 0x0102030405060708;
  header.region = 0x1112131415161718;
  header.generation = 0x2122232425262728;
  header.offset = 0x3132333435363738;
  header.body_bytes = 0x00010203;
  header.payload_bytes = 0x00040506;
  header.body_crc32c = 0x51525354;
  header.status = 15;
  header.handle_count = 3;
  return header;
}

TEST(FrameGolden, HeaderBytes) {
  const auto bytes = EncodeFrameHeader(WriteReply());
  EXPECT_EQ(HexOf(std::as_bytes(std::span(bytes))),
            "47454d4c"          // magic "GEML"
            "01"                // version
            "22"                // type: write
            "0100"              // flags: reply
            "0807060504030201"  // op
            "1817161514131211"  // region
            "2827262524232221"  // generation
            "3837363534333231"  // offset
            "03020100"          // body_bytes
            "06050400"          // payload_bytes
            "54535251"          // body_crc32c
            "0f000000"          // status: DATA_LOSS
            "03000000"          // handle_count
            "1c672549");        // header_crc32c
}

// A cancel is a header: its op is that of the read.
TEST(FrameGolden, CancelBytes) {
  FrameHeader header;
  header.type = FrameType::kCancel;
  header.op = 0x0102030405060708;
  const auto bytes = EncodeFrameHeader(header);
  EXPECT_EQ(HexOf(std::as_bytes(std::span(bytes))),
            "47454d4c"          // magic "GEML"
            "01"                // version
            "28"                // type: cancel
            "0000"              // flags
            "0807060504030201"  // op
            "0000000000000000"  // region
            "0000000000000000"  // generation
            "0000000000000000"  // offset
            "00000000"          // body_bytes
            "00000000"          // payload_bytes
            "00000000"          // body_crc32c
            "00000000"          // status
            "00000000"          // handle_count
            "1571fee1");        // header_crc32c
}

TEST(FrameGolden, LimitsAreThoseOfTheDocument) {
  EXPECT_EQ(kFrameHeaderBytes, 64U);
  EXPECT_EQ(kFrameBodyBytesMax, 4U << 20);
  EXPECT_EQ(kFramePayloadBytesMax, 1U << 20);
  EXPECT_EQ(kFrameHandlesMax, 64U);
}

TEST(FrameGolden, TypeNumbersAreForEver) {
  const std::vector<std::pair<FrameType, int>> numbers = {
      {FrameType::kClientHello, 1},     {FrameType::kAcquireEpoch, 2},
      {FrameType::kOpenShard, 3},       {FrameType::kPrepareSlabs, 4},
      {FrameType::kChunksFilled, 5},    {FrameType::kSealShard, 6},
      {FrameType::kAwaitCommit, 7},     {FrameType::kAbortShard, 8},
      {FrameType::kBeginRestore, 9},    {FrameType::kFetchChunks, 10},
      {FrameType::kReportRestore, 11},  {FrameType::kAwaitRestore, 12},
      {FrameType::kReleaseRestore, 13}, {FrameType::kStageShard, 14},
      {FrameType::kSealStage, 15},      {FrameType::kDropStage, 16},
      {FrameType::kBeginRead, 17},      {FrameType::kListSnapshots, 18},
      {FrameType::kRemoveSnapshot, 19}, {FrameType::kReclaimSlabs, 20},
      {FrameType::kKeeperHello, 48},    {FrameType::kKeeperTake, 49},
      {FrameType::kKeeperGive, 50},     {FrameType::kKeeperForget, 51},
      {FrameType::kPeerHello, 32},      {FrameType::kOffer, 33},
      {FrameType::kWrite, 34},          {FrameType::kPeerSeal, 35},
      {FrameType::kRevoke, 36},         {FrameType::kDescribe, 37},
      {FrameType::kRead, 38},           {FrameType::kProbe, 39},
      {FrameType::kCancel, 40},         {FrameType::kAskCredit, 41}};
  for (const auto& [type, number] : numbers) {
    EXPECT_EQ(static_cast<int>(type), number);
    EXPECT_TRUE(IsKnownFrameType(static_cast<uint8_t>(number)));
  }
}

}  // namespace
}  // namespace gemel
