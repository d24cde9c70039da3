// SPDX-License-Identifier: Apache-2.0
//
// Frame header codec and FrameReader: no sockets.
#include <gmock/gmock.h>

#include "common/crc32c.h"
#include "tests/unit/transport_sockets.h"
#include "transport/frame_reader.h"

namespace gemel {
namespace {

using ::testing::HasSubstr;

FrameHeader FullHeader() {
  FrameHeader header;
  header.type = FrameType::kWrite;
  header.flags = kFlagReply;
  header.op = 0x1122334455667788;
  header.region = 0x99aabbccddeeff00;
  header.generation = 7;
  header.offset = 3 * kChunkBytes;
  header.body_bytes = 16;
  header.payload_bytes = kChunkBytes;
  header.body_crc32c = 0xcafef00d;
  header.status = 16;
  header.handle_count = kFrameHandlesMax;
  return header;
}

std::string Encoded(const FrameHeader& header) {
  const auto bytes = EncodeFrameHeader(header);
  return {bytes.begin(), bytes.end()};
}

// `raw` with its checksum made right again after a change.
std::string Resealed(std::string raw) {
  const uint32_t crc = Crc32c(AsBytes(raw).first(kFrameHeaderBytes - 4));
  for (size_t i = 0; i < 4; ++i) {
    raw[kFrameHeaderBytes - 4 + i] = static_cast<char>(crc >> (8 * i));
  }
  return raw;
}

TEST(FrameHeader, RoundTripKeepsEveryField) {
  const auto decoded = DecodeFrameHeader(AsBytes(Encoded(FullHeader())));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  const FrameHeader expected = FullHeader();
  EXPECT_EQ(decoded->type, expected.type);
  EXPECT_EQ(decoded->flags, expected.flags);
  EXPECT_EQ(decoded->op, expected.op);
  EXPECT_EQ(decoded->region, expected.region);
  EXPECT_EQ(decoded->generation, expected.generation);
  EXPECT_EQ(decoded->offset, expected.offset);
  EXPECT_EQ(decoded->body_bytes, expected.body_bytes);
  EXPECT_EQ(decoded->payload_bytes, expected.payload_bytes);
  EXPECT_EQ(decoded->body_crc32c, expected.body_crc32c);
  EXPECT_EQ(decoded->status, expected.status);
  EXPECT_EQ(decoded->handle_count, expected.handle_count);
}

TEST(FrameHeader, EveryTruncationIsRefused) {
  const std::string whole = Encoded(FullHeader());
  for (size_t length = 0; length < whole.size(); ++length) {
    EXPECT_FALSE(DecodeFrameHeader(AsBytes(whole).first(length)).ok()) << length;
  }
  EXPECT_FALSE(DecodeFrameHeader(AsBytes(whole + "x")).ok());
}

TEST(FrameHeader, EverySingleBitFlipIsRefused) {
  const std::string whole = Encoded(FullHeader());
  for (size_t bit = 0; bit < 8 * whole.size(); ++bit) {
    std::string flipped = whole;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_FALSE(DecodeFrameHeader(AsBytes(flipped)).ok()) << bit;
  }
}

TEST(FrameHeader, ValuesOverTheLimitsAreRefusedEvenWithARightChecksum) {
  const std::string whole = Encoded(FullHeader());

  struct Change {
    size_t at;
    char value;
  };

  // type, flags, body_bytes, payload_bytes, status, handle_count
  for (const Change& change : {Change{5, 0}, Change{5, 31}, Change{5, 47}, Change{6, 2},
                               Change{43, 1}, Change{47, 1}, Change{52, 17}, Change{56, 65}}) {
    std::string changed = whole;
    changed[change.at] = change.value;
    const auto decoded = DecodeFrameHeader(AsBytes(Resealed(changed)));
    EXPECT_EQ(decoded.status().code(), absl::StatusCode::kInvalidArgument) << change.at;
  }
}

TEST(FrameHeader, AnotherVersionIsNamedWithOurs) {
  std::string other = Encoded(FullHeader());
  other[4] = 9;
  const absl::Status status = DecodeFrameHeader(AsBytes(Resealed(other))).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(MessageOf(status)), HasSubstr("version 9"));
  EXPECT_THAT(std::string(MessageOf(status)), HasSubstr("version 1"));
}

TEST(FrameHeader, BodyMustMatchItsChecksum) {
  FrameHeader header;
  header.body_bytes = 4;
  header.body_crc32c = Crc32c(AsBytes("body"));
  EXPECT_TRUE(CheckFrameBody(header, "body").ok());
  EXPECT_FALSE(CheckFrameBody(header, "bodz").ok());
}

// Feeds `wire` in pieces of `step`; the payload goes to `placement`.
absl::StatusOr<IncomingFrame> Feed(FrameReader* reader, std::string_view wire, size_t step,
                                   const Placement& placement) {
  while (!wire.empty()) {
    const MutableByteSpan target = reader->Target();
    const size_t bytes = std::min({step, wire.size(), target.size()});
    std::memcpy(target.data(), wire.data(), bytes);
    wire.remove_prefix(bytes);
    auto progress = reader->Advance(bytes);
    if (!progress.ok()) {
      return progress.status();
    }
    if (*progress == FrameProgress::kPlace) {
      reader->Place(placement);
    } else if (*progress == FrameProgress::kFrame) {
      EXPECT_TRUE(wire.empty());
      return reader->Take();
    }
  }
  return error::Unavailable("cut");
}

TEST(FrameReader, PiecesOfAnySizeGiveTheSameFrame) {
  const std::vector<std::byte> payload = Pattern(300);
  const std::string wire = WireOf(FrameWith(FrameType::kWrite, 5, "the body", payload));
  for (size_t step : {1UL, 7UL, 64UL, 71UL, 1000UL}) {
    FrameReader reader;
    std::vector<std::byte> place(400);
    auto frame = Feed(&reader, wire, step, Placement{place});
    ASSERT_TRUE(frame.ok()) << frame.status();
    EXPECT_EQ(frame->body, "the body");
    EXPECT_EQ(frame->payload.data(), place.data()) << "a bounce buffer";
    EXPECT_TRUE(SameBytes(frame->payload, payload));
    EXPECT_FALSE(reader.inside_frame());
  }
}

TEST(FrameReader, LongPayloadsAreHashedAsTheyLand) {
  FrameReader reader;
  for (const size_t size : {kHashLandingBytes, kHashLandingBytes + 1, 3 * kHashLandingBytes}) {
    const std::vector<std::byte> payload = Pattern(size);
    const std::string wire = WireOf(FrameWith(FrameType::kWrite, 5, "the body", payload));
    for (size_t step : {4001UL, 65536UL, 4 * kHashLandingBytes}) {
      std::vector<std::byte> place(size);
      const auto frame = Feed(&reader, wire, step, Placement{place});
      ASSERT_TRUE(frame.ok()) << frame.status();
      EXPECT_EQ(frame->landed.has_value(), size > kHashLandingBytes);
      EXPECT_EQ(DigestOf(frame->payload, frame->landed), Xxh3_128(payload)) << size << " " << step;
      const auto dropped = Feed(&reader, wire, step, Placement());
      ASSERT_TRUE(dropped.ok()) << dropped.status();
      EXPECT_FALSE(dropped->landed.has_value());
    }
  }
}

TEST(FrameReader, EveryCutIsInsideTheFrame) {
  const std::vector<std::byte> payload = Pattern(100);
  const std::string wire = WireOf(FrameWith(FrameType::kWrite, 5, "the body", payload));
  for (size_t cut = 1; cut < wire.size(); ++cut) {
    FrameReader reader;
    std::vector<std::byte> place(100);
    EXPECT_FALSE(Feed(&reader, wire.substr(0, cut), 1000, Placement{place}).ok());
    EXPECT_TRUE(reader.inside_frame()) << cut;
  }
}

TEST(FrameReader, RevokedPlaceIsNotWrittenFromThatByteOn) {
  const std::vector<std::byte> payload = Pattern(200);
  const std::string wire = WireOf(FrameWith(FrameType::kWrite, 5, "", payload));
  FrameReader reader;
  std::vector<std::byte> place(200);
  const Placement placement{place, std::make_shared<Revocation>()};
  EXPECT_FALSE(Feed(&reader, wire.substr(0, 164), 1000, placement).ok());
  placement.revocation->Revoke();
  const std::vector<std::byte> before = place;
  auto frame = Feed(&reader, wire.substr(164), 1000, placement);
  ASSERT_TRUE(frame.ok());
  EXPECT_TRUE(frame->payload_dropped);
  EXPECT_TRUE(frame->payload.empty());
  EXPECT_TRUE(SameBytes(place, before));
}

TEST(FrameReader, RevocationAfterTheLastByteStillDropsThePayload) {
  const std::vector<std::byte> payload = Pattern(10);
  const std::string wire = WireOf(FrameWith(FrameType::kWrite, 5, "", payload));
  FrameReader reader;
  std::vector<std::byte> place(10);
  const Placement placement{place, std::make_shared<Revocation>()};
  EXPECT_FALSE(Feed(&reader, wire.substr(0, wire.size() - 1), 1000, placement).ok());
  const MutableByteSpan target = reader.Target();
  target[0] = static_cast<std::byte>(wire.back());
  placement.revocation->Revoke();
  EXPECT_EQ(*reader.Advance(1), FrameProgress::kFrame);
  EXPECT_TRUE(reader.Take().payload_dropped);
}

TEST(FrameReader, HandlesInTheMiddleOfAFrameAreRefused) {
  const std::string wire = WireOf(FrameWith(FrameType::kWrite, 5, "the body"));
  FrameReader reader;
  EXPECT_FALSE(Feed(&reader, wire.substr(0, 66), 1000, Placement()).ok());
  Handles handles = {std::make_shared<DescriptorHandle>(Descriptor(dup(0)))};
  EXPECT_EQ(reader.AddHandles(handles).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace gemel
