// SPDX-License-Identifier: Apache-2.0
//
// VerbsHello: what two processes tell each other over TCP before their queue pairs are connected
// (docs/formats/verbs.md).
//
// Thread safety: pure functions.
// Errors: InvalidArgument for bytes that are no hello; FailedPrecondition, naming both versions,
// for another version. Total: any 64 bytes are safe input.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"

#include "common/bytes.h"
#include "transport/verbs/verbs_queue_pair.h"

namespace gemel {

inline constexpr uint8_t kVerbsVersion = 2;
inline constexpr size_t kVerbsHelloBytes = 64;
inline constexpr uint32_t kVerbsSlotsMin = 4;
inline constexpr uint32_t kVerbsSlotsMax = 1024;
inline constexpr uint32_t kVerbsSlotBytesMin = 256;
inline constexpr uint32_t kVerbsSlotBytesMax = 1 * kMiB;

struct VerbsHello {
  VerbsAddress address;
  uint32_t slots = 0;       // receives that are posted
  uint32_t slot_bytes = 0;  // of each
};

std::string EncodeVerbsHello(const VerbsHello& hello);
absl::StatusOr<VerbsHello> DecodeVerbsHello(ByteSpan bytes);

// Bytes of the stream that did not come with the message: the receiver of it reads them where they
// lie, under a window's key.
struct VerbsReference {
  VerbsPlace place;
  uint32_t bytes = 0;
};

inline constexpr size_t kVerbsReferenceBytes = 16;
inline constexpr uint32_t kVerbsReferredBytesMax = 1 * kMiB;

// The first bytes of every message of a queue pair.
struct VerbsPrelude {
  uint16_t returned = 0;  // receives that the sender of this has posted again
  uint32_t bytes = 0;     // of the stream, behind the prelude
  uint16_t read = 0;      // of the references that it was sent, read in whole, the oldest first
  std::optional<VerbsReference> reference = std::nullopt;  // what comes next in the stream
};

inline constexpr size_t kVerbsPreludeBytes = 16;

// Around the bytes of the stream, which are in `message` already, at kVerbsPreludeBytes; the length
// of the whole message. REQUIRES: they, and a reference, fit.
size_t EncodeVerbsPrelude(const VerbsPrelude& prelude, MutableByteSpan message);
// `message`: as it arrived.
absl::StatusOr<VerbsPrelude> DecodeVerbsPrelude(ByteSpan message);

}  // namespace gemel
