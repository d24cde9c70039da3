// SPDX-License-Identifier: Apache-2.0
//
// CRC32C (Castagnoli, polynomial 0x1edc6f41 reflected, RFC 3720 appendix B.4): the checksum of
// frame headers, frame bodies and small records. Content has an XXH3-128 digest instead (xxh3.h).
//
// On x86-64 with SSE4.2 three lanes of the crc32 instruction run interleaved (the instruction
// takes one result a cycle but three cycles each); elsewhere a table of eight bytes a step. The
// choice is made once, at run time; both give the same values.
//
// Thread safety: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace gemel {

// `seed` is the checksum of what came before: Crc32c(b, Crc32c(a)) == Crc32c(a followed by b).
uint32_t Crc32c(std::span<const std::byte> data, uint32_t seed = 0);

namespace internal {

// The two implementations, for tests and benchmarks.
uint32_t Crc32cTable(std::span<const std::byte> data, uint32_t seed);
bool HasCrc32cInstruction();

// REQUIRES: HasCrc32cInstruction().
uint32_t Crc32cInstruction(std::span<const std::byte> data, uint32_t seed);

}  // namespace internal
}  // namespace gemel
