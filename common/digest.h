// SPDX-License-Identifier: Apache-2.0
//
// Digest128: a 128-bit content digest (XXH3-128) as a value, its bytes and its text.
//
// Bytes (canonical, everywhere on the wire and in slabs): low then high, each little-endian.
// Text: 32 lower-case hexadecimal digits, high then low, the same string `xxh128sum` prints.
// The order of operator<=> is total and the same on all machines, and means nothing else.
//
// XXH3 is not a cryptographic hash: it finds damage and mix-ups, it does not stop a forger.
//
// Thread safety: values; all functions are pure.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace gemel {

inline constexpr size_t kDigestBytes = 16;
inline constexpr size_t kDigestHexDigits = 2 * kDigestBytes;

struct Digest128 {
  uint64_t low = 0;
  uint64_t high = 0;

  friend auto operator<=>(const Digest128&, const Digest128&) = default;

  // The value of a digest nobody has set. No content is known to hash to it.
  bool IsZero() const { return low == 0 && high == 0; }
};

std::string ToHex(const Digest128& digest);

// InvalidArgument, naming what was found, unless `text` is exactly 32 hexadecimal digits of either
// case.
absl::StatusOr<Digest128> DigestFromHex(std::string_view text);

// REQUIRES: `out` has room for kDigestBytes; no alignment needed.
void EncodeDigest(const Digest128& digest, void* out);

// REQUIRES: `in` holds kDigestBytes; no alignment needed. Every 16 bytes are a digest.
Digest128 DecodeDigest(const void* in);

}  // namespace gemel
