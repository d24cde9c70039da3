// SPDX-License-Identifier: Apache-2.0
#include "transport/frame.h"

#include <algorithm>

#include "common/check.h"
#include "common/codec.h"
#include "common/crc32c.h"
#include "common/errors.h"

namespace gemel {
namespace {

constexpr size_t kCheckedBytes = kFrameHeaderBytes - sizeof(uint32_t);
constexpr uint32_t kStatusCodeMax = 16;  // absl::StatusCode::kUnauthenticated

absl::Status CheckLimits(const FrameHeader& header, uint8_t type) {
  if (!IsKnownFrameType(type)) {
    return error::InvalidArgument("frame header: type {} is not known", type);
  }
  if (header.body_bytes > kFrameBodyBytesMax || header.payload_bytes > kFramePayloadBytesMax ||
      header.handle_count > kFrameHandlesMax) {
    return error::InvalidArgument(
        "frame header: body of {} bytes, payload of {} bytes or {} handles is over the limits of "
        "{}, {} and {}",
        header.body_bytes, header.payload_bytes, header.handle_count, kFrameBodyBytesMax,
        kFramePayloadBytesMax, kFrameHandlesMax);
  }
  if ((header.flags & ~kFlagReply) != 0 || header.status > kStatusCodeMax) {
    return error::InvalidArgument("frame header: flags {:#x} or status {} is not known",
                                  header.flags, header.status);
  }
  return absl::OkStatus();
}

}  // namespace

bool IsKnownFrameType(uint8_t type) {
  const bool client = type >= static_cast<uint8_t>(FrameType::kClientHello) &&
                      type <= static_cast<uint8_t>(FrameType::kReclaimSlabs);
  const bool peer = type >= static_cast<uint8_t>(FrameType::kPeerHello) &&
                    type <= static_cast<uint8_t>(FrameType::kAskCredit);
  const bool keeper = type >= static_cast<uint8_t>(FrameType::kKeeperHello) &&
                      type <= static_cast<uint8_t>(FrameType::kKeeperForget);
  return client || peer || keeper;
}

std::array<uint8_t, kFrameHeaderBytes> EncodeFrameHeader(const FrameHeader& header) {
  GEMEL_CHECK_LE(header.body_bytes, kFrameBodyBytesMax);
  GEMEL_CHECK_LE(header.payload_bytes, kFramePayloadBytesMax);
  GEMEL_CHECK_LE(header.handle_count, kFrameHandlesMax);
  Encoder encoder;
  encoder.Int(kFrameMagic).Int(kFrameVersion).Int(header.type).Int(header.flags).Int(header.op);
  encoder.Int(header.region).Int(header.generation).Int(header.offset);
  encoder.Int(header.body_bytes).Int(header.payload_bytes).Int(header.body_crc32c);
  encoder.Int(header.status).Int(header.handle_count);
  std::string raw = encoder.Take();
  GEMEL_CHECK_EQ(raw.size(), kCheckedBytes);
  Encoder tail;
  tail.Int(Crc32c(AsBytes(raw)));
  raw += tail.Take();
  std::array<uint8_t, kFrameHeaderBytes> bytes{};
  std::copy(raw.begin(), raw.end(), bytes.begin());
  return bytes;
}

absl::StatusOr<FrameHeader> DecodeFrameHeader(ByteSpan bytes) {
  if (bytes.size() != kFrameHeaderBytes) {
    return error::InvalidArgument("frame header has {} bytes; it must have {}", bytes.size(),
                                  kFrameHeaderBytes);
  }
  Decoder decoder(bytes);
  const auto magic = decoder.Int<uint32_t>("magic");
  const auto version = decoder.Int<uint8_t>("version");
  const auto type = decoder.Int<uint8_t>("type");
  if (magic != kFrameMagic) {
    return error::InvalidArgument(
        "frame header: magic {:#x} is not Gemel's; is something else speaking on this port?",
        magic);
  }
  FrameHeader header;
  header.flags = decoder.Int<uint16_t>("flags");
  header.op = decoder.Int<uint64_t>("op");
  header.region = decoder.Int<uint64_t>("region");
  header.generation = decoder.Int<uint64_t>("generation");
  header.offset = decoder.Int<uint64_t>("offset");
  header.body_bytes = decoder.Int<uint32_t>("body_bytes");
  header.payload_bytes = decoder.Int<uint32_t>("payload_bytes");
  header.body_crc32c = decoder.Int<uint32_t>("body_crc32c");
  header.status = decoder.Int<uint32_t>("status");
  header.handle_count = decoder.Int<uint32_t>("handle_count");
  const auto crc = decoder.Int<uint32_t>("header_crc32c");
  GEMEL_CHECK(decoder.Finish("frame header").ok());
  if (crc != Crc32c(bytes.first(kCheckedBytes))) {
    return error::InvalidArgument("frame header: checksum {:#x} does not match its bytes", crc);
  }
  if (version != kFrameVersion) {
    return error::FailedPrecondition(
        "the peer speaks frame version {}, this side version {}: install the same Gemel on both",
        version, kFrameVersion);
  }
  if (absl::Status limits = CheckLimits(header, type); !limits.ok()) {
    return limits;
  }
  header.type = static_cast<FrameType>(type);
  return header;
}

absl::Status CheckFrameBody(const FrameHeader& header, std::string_view body) {
  GEMEL_CHECK_EQ(body.size(), header.body_bytes);
  const uint32_t crc = Crc32c(AsBytes(body));
  if (crc != header.body_crc32c) {
    return error::InvalidArgument("frame body of type {}: checksum {:#x} does not match {:#x}",
                                  static_cast<int>(header.type), crc, header.body_crc32c);
  }
  return absl::OkStatus();
}

}  // namespace gemel
