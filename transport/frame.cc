// SPDX-License-Identifier: Apache-2.0
#include "transport/frame.h"

#include <bit>
#include <cstddef>
#include <cstring>
#include <span>

#include "common/check.h"
#include "common/crc32c.h"
#include "common/errors.h"

namespace gemel {
namespace {

constexpr size_t kCheckedBytes = kFrameHeaderBytes - sizeof(uint32_t);
constexpr uint32_t kStatusCodeMax = 16;  // absl::StatusCode::kUnauthenticated
static_assert(std::endian::native == std::endian::little, "fields are stored as they lie");

template <typename T>
void Put(T value, uint8_t** at) {
  std::memcpy(*at, &value, sizeof value);
  *at += sizeof value;
}

template <typename T>
T Get(const std::byte** at) {
  T value;
  std::memcpy(&value, *at, sizeof value);
  *at += sizeof value;
  return value;
}

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
  std::array<uint8_t, kFrameHeaderBytes> bytes;
  uint8_t* at = bytes.data();
  Put(kFrameMagic, &at);
  Put(kFrameVersion, &at);
  Put(header.type, &at);
  Put(header.flags, &at);
  Put(header.op, &at);
  Put(header.region, &at);
  Put(header.generation, &at);
  Put(header.offset, &at);
  Put(header.body_bytes, &at);
  Put(header.payload_bytes, &at);
  Put(header.body_crc32c, &at);
  Put(header.status, &at);
  Put(header.handle_count, &at);
  GEMEL_CHECK_EQ(at - bytes.data(), ptrdiff_t{kCheckedBytes});
  Put(Crc32c(std::as_bytes(std::span(bytes)).first(kCheckedBytes)), &at);
  return bytes;
}

absl::StatusOr<FrameHeader> DecodeFrameHeader(ByteSpan bytes) {
  if (bytes.size() != kFrameHeaderBytes) {
    return error::InvalidArgument("frame header has {} bytes; it must have {}", bytes.size(),
                                  kFrameHeaderBytes);
  }
  const std::byte* at = bytes.data();
  const auto magic = Get<uint32_t>(&at);
  const auto version = Get<uint8_t>(&at);
  const auto type = Get<uint8_t>(&at);
  if (magic != kFrameMagic) {
    return error::InvalidArgument(
        "frame header: magic {:#x} is not Gemel's; is something else speaking on this port?",
        magic);
  }
  FrameHeader header;
  header.flags = Get<uint16_t>(&at);
  header.op = Get<uint64_t>(&at);
  header.region = Get<uint64_t>(&at);
  header.generation = Get<uint64_t>(&at);
  header.offset = Get<uint64_t>(&at);
  header.body_bytes = Get<uint32_t>(&at);
  header.payload_bytes = Get<uint32_t>(&at);
  header.body_crc32c = Get<uint32_t>(&at);
  header.status = Get<uint32_t>(&at);
  header.handle_count = Get<uint32_t>(&at);
  const auto crc = Get<uint32_t>(&at);
  GEMEL_CHECK_EQ(at - bytes.data(), ptrdiff_t{kFrameHeaderBytes});
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
