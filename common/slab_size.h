// SPDX-License-Identifier: Apache-2.0
//
// The size of a slab when nobody says one. A shard takes whole slabs, so small servers need small
// ones: with every snapshot of a small job kept, 64 MiB slabs of a 1 GiB server hold eight shards.
//
// Thread safety: pure functions.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "common/bytes.h"

namespace gemel {

inline constexpr uint64_t kSlabBytesDefaultMin = 1 * kMiB;
inline constexpr uint64_t kSlabBytesDefaultMax = 64 * kMiB;
inline constexpr uint64_t kSlabsAServer = 256;  // about so many

// `memory_bytes` / 256, rounded down to a power of two, between 1 and 64 MiB.
constexpr uint64_t DefaultSlabBytes(uint64_t memory_bytes) {
  const uint64_t share = std::bit_floor(memory_bytes / kSlabsAServer);
  return std::clamp(share, kSlabBytesDefaultMin, kSlabBytesDefaultMax);
}

static_assert(DefaultSlabBytes(0) == kMiB && DefaultSlabBytes(kGiB) == 4 * kMiB);
static_assert(DefaultSlabBytes(3 * kGiB) == 8 * kMiB && DefaultSlabBytes(~0ULL) == 64 * kMiB);

}  // namespace gemel
