// SPDX-License-Identifier: Apache-2.0
//
// Damage: what hardware and software do to bytes, by kind. What comes back always differs from what
// went in.
//
// Thread safety: pure functions of the stream that is handed in.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/random.h"

namespace gemel {

enum class DamageKind : uint8_t {
  kBit,           // one bit is flipped
  kBurst,         // some bytes in a row are anything
  kZeros,         // a range reads as zeros: a hole, a lost page
  kTruncation,    // the end is missing
  kSwap,          // two ranges changed places, or one is that of another item
  kStale,         // an earlier version of the same item: a write that was lost
  kMisdirection,  // another item: a write or a read that went to the wrong place
};

inline constexpr DamageKind kDamageKinds[] = {
    DamageKind::kBit,  DamageKind::kBurst, DamageKind::kZeros,       DamageKind::kTruncation,
    DamageKind::kSwap, DamageKind::kStale, DamageKind::kMisdirection};

std::string_view NameOf(DamageKind kind);

// What a read may find instead of `good`.
struct Around {
  std::string_view good;
  std::string_view stale;  // an earlier version
  std::string_view other;  // of another item
};

// REQUIRES: the three differ; `good` has at least 8 bytes.
std::string Damaged(DamageKind kind, const Around& around, Random* random);

}  // namespace gemel
