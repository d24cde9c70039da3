// SPDX-License-Identifier: Apache-2.0
//
// Byte spans and sizes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace gemel {

using ByteSpan = std::span<const std::byte>;
using MutableByteSpan = std::span<std::byte>;

constexpr uint64_t kKiB = 1024;
constexpr uint64_t kMiB = 1024 * kKiB;
constexpr uint64_t kGiB = 1024 * kMiB;

// Unit of transfer and of digest (DESIGN section 2).
constexpr uint64_t kChunkBytes = kMiB;

constexpr uint64_t DivideUp(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit; }

// Chunks of an object of `bytes`; the last may be short.
constexpr uint64_t ChunkCount(uint64_t bytes) { return DivideUp(bytes, kChunkBytes); }

inline ByteSpan AsBytes(std::string_view text) { return std::as_bytes(std::span(text)); }

inline std::string_view AsText(ByteSpan bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace gemel
