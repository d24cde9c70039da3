// SPDX-License-Identifier: Apache-2.0
//
// Frame: the unit on every data connection (docs/formats/frames.md): a 64-byte header, a body in
// our codec, a payload of at most one chunk. Header and body carry a CRC32C each; the payload's
// XXH3-128 digest travels in the body of the messages that have one.
//
// Header, little-endian:
//   0 u32 magic "GEML"   4 u8 version   5 u8 type   6 u16 flags   8 u64 op
//   16 u64 region   24 u64 generation   32 u64 offset   40 u32 body_bytes   44 u32 payload_bytes
//   48 u32 body_crc32c   52 u32 status   56 u32 handle_count   60 u32 header_crc32c (of bytes
//   0..59)
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

#include "common/bytes.h"

namespace gemel {

constexpr uint32_t kFrameMagic = 0x4c4d4547;  // "GEML" on the wire
constexpr uint8_t kFrameVersion = 1;
constexpr size_t kFrameHeaderBytes = 64;
constexpr uint32_t kFrameBodyBytesMax = 4 * kMiB;  // a manifest of 16,384 ranks fits
constexpr uint32_t kFramePayloadBytesMax = kChunkBytes;
constexpr uint32_t kFrameHandlesMax = 64;

// Every message of every data connection. Numbers are for ever: retire, never reuse.
enum class FrameType : uint8_t {
  // client to server (transport/local/messages.h)
  kClientHello = 1,
  kAcquireEpoch = 2,
  kOpenShard = 3,
  kPrepareSlabs = 4,
  kChunksFilled = 5,
  kSealShard = 6,
  kAwaitCommit = 7,
  kAbortShard = 8,
  kBeginRestore = 9,
  kFetchChunks = 10,
  kReportRestore = 11,
  kAwaitRestore = 12,
  kReleaseRestore = 13,
  kStageShard = 14,
  kSealStage = 15,
  kDropStage = 16,
  kBeginRead = 17,
  kListSnapshots = 18,
  kRemoveSnapshot = 19,
  kReclaimSlabs = 20,
  // server to server (transport/peer/messages.h)
  kPeerHello = 32,
  kOffer = 33,
  kWrite = 34,
  kPeerSeal = 35,
  kRevoke = 36,
  kDescribe = 37,
  kRead = 38,
  kProbe = 39,
  kCancel = 40,
  kAskCredit = 41,
  // server to keeper (server/keeper/keeper_messages.h)
  kKeeperHello = 48,
  kKeeperTake = 49,
  kKeeperGive = 50,
  kKeeperForget = 51,
};

bool IsKnownFrameType(uint8_t type);

constexpr uint16_t kFlagReply = 1;

struct FrameHeader {
  FrameType type = FrameType::kProbe;
  uint16_t flags = 0;
  uint64_t op = 0;      // pairs a reply with its request; unique within a connection and direction
  uint64_t region = 0;  // names a grant (kWrite, kPeerSeal, kRevoke)
  uint64_t generation = 0;  // of that region: a stale one is refused
  uint64_t offset = 0;      // byte offset within the region
  uint32_t body_bytes = 0;
  uint32_t payload_bytes = 0;
  uint32_t body_crc32c = 0;
  uint32_t status = 0;  // replies: absl::StatusCode; the message is the body when not OK
  uint32_t handle_count = 0;

  bool is_reply() const { return (flags & kFlagReply) != 0; }
};

std::array<uint8_t, kFrameHeaderBytes> EncodeFrameHeader(const FrameHeader& header);

// InvalidArgument for a wrong magic, checksum, type or size; FailedPrecondition, naming both
// versions, for another version. Total: any 64 bytes are safe input.
absl::StatusOr<FrameHeader> DecodeFrameHeader(ByteSpan bytes);

// InvalidArgument when the body does not match header.body_crc32c.
absl::Status CheckFrameBody(const FrameHeader& header, std::string_view body);

}  // namespace gemel
