// SPDX-License-Identifier: Apache-2.0
#include "common/crc32c.h"

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

#include <array>
#include <cstring>

#include "common/check.h"

namespace gemel {
namespace {

constexpr uint32_t kPolynomialReflected = 0x82f63b78;
constexpr size_t kSliceBytes = 8;

using ByteTable = std::array<uint32_t, 256>;

// tables[k][b]: the register after byte b and then k zero bytes, from a zero register.
constexpr std::array<ByteTable, kSliceBytes> MakeSliceTables() {
  std::array<ByteTable, kSliceBytes> tables{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) {
      crc = (crc & 1) != 0 ? crc >> 1 ^ kPolynomialReflected : crc >> 1;
    }
    tables[0][byte] = crc;
  }
  for (size_t k = 1; k < kSliceBytes; ++k) {
    for (size_t byte = 0; byte < 256; ++byte) {
      const uint32_t previous = tables[k - 1][byte];
      tables[k][byte] = previous >> 8 ^ tables[0][previous & 0xff];
    }
  }
  return tables;
}

constexpr std::array<ByteTable, kSliceBytes> kSlice = MakeSliceTables();
static_assert(kSlice[0][0x80] == kPolynomialReflected);

uint32_t LoadLittleEndian32(const std::byte* data) {
  return std::to_integer<uint32_t>(data[0]) | std::to_integer<uint32_t>(data[1]) << 8 |
         std::to_integer<uint32_t>(data[2]) << 16 | std::to_integer<uint32_t>(data[3]) << 24;
}

uint32_t SliceStep(uint32_t crc, const std::byte* data) {
  const uint32_t low = LoadLittleEndian32(data) ^ crc;
  const uint32_t high = LoadLittleEndian32(data + 4);
  return kSlice[7][low & 0xff] ^ kSlice[6][low >> 8 & 0xff] ^ kSlice[5][low >> 16 & 0xff] ^
         kSlice[4][low >> 24] ^ kSlice[3][high & 0xff] ^ kSlice[2][high >> 8 & 0xff] ^
         kSlice[1][high >> 16 & 0xff] ^ kSlice[0][high >> 24];
}

#if defined(__x86_64__)

// Passing a fixed number of zero bytes through the register is a linear map over GF(2): a 32 x 32
// bit matrix, one column a bit. Squaring it doubles the number of bytes.
using BitMatrix = std::array<uint32_t, 32>;

constexpr uint32_t Apply(const BitMatrix& matrix, uint32_t vector) {
  uint32_t sum = 0;
  for (size_t bit = 0; bit < 32; ++bit) {
    if ((vector >> bit & 1) != 0) sum ^= matrix[bit];
  }
  return sum;
}

constexpr BitMatrix OneZeroByte() {
  BitMatrix matrix{};
  for (size_t bit = 0; bit < 32; ++bit) {
    const uint32_t vector = uint32_t{1} << bit;
    matrix[bit] = vector >> 8 ^ kSlice[0][vector & 0xff];
  }
  return matrix;
}

// The map for `bytes` zero bytes, as one table a byte of the register.
using ShiftTables = std::array<ByteTable, 4>;

constexpr ShiftTables MakeShiftTables(size_t bytes) {
  BitMatrix matrix = OneZeroByte();
  for (; bytes > 1; bytes /= 2) {
    BitMatrix squared{};
    for (size_t bit = 0; bit < 32; ++bit) squared[bit] = Apply(matrix, matrix[bit]);
    matrix = squared;
  }
  ShiftTables tables{};
  for (size_t position = 0; position < 4; ++position) {
    for (uint32_t byte = 0; byte < 256; ++byte) {
      tables[position][byte] = Apply(matrix, byte << (8 * position));
    }
  }
  return tables;
}

constexpr size_t kLongLaneBytes = 8192;
constexpr size_t kShortLaneBytes = 256;
static_assert((kLongLaneBytes & (kLongLaneBytes - 1)) == 0, "squaring doubles");
static_assert((kShortLaneBytes & (kShortLaneBytes - 1)) == 0, "squaring doubles");
constexpr ShiftTables kLongShift = MakeShiftTables(kLongLaneBytes);
constexpr ShiftTables kShortShift = MakeShiftTables(kShortLaneBytes);

uint32_t Shift(const ShiftTables& tables, uint32_t crc) {
  return tables[0][crc & 0xff] ^ tables[1][crc >> 8 & 0xff] ^ tables[2][crc >> 16 & 0xff] ^
         tables[3][crc >> 24];
}

uint64_t LoadWord(const std::byte* data) {
  uint64_t word;
  std::memcpy(&word, data, sizeof(word));
  return word;
}

// Takes whole groups of three lanes off the front of [data, data + size); returns how many bytes.
__attribute__((target("sse4.2"))) size_t ThreeLanes(const std::byte* data, size_t size,
                                                    size_t lane_bytes, const ShiftTables& tables,
                                                    uint32_t* register_value) {
  const size_t group_bytes = 3 * lane_bytes;
  size_t done = 0;
  for (; size - done >= group_bytes; done += group_bytes) {
    const std::byte* lane = data + done;
    uint64_t first = *register_value;
    uint64_t second = 0;
    uint64_t third = 0;
    for (size_t i = 0; i < lane_bytes; i += sizeof(uint64_t)) {
      first = _mm_crc32_u64(first, LoadWord(lane + i));
      second = _mm_crc32_u64(second, LoadWord(lane + lane_bytes + i));
      third = _mm_crc32_u64(third, LoadWord(lane + 2 * lane_bytes + i));
    }
    const uint32_t two =
        Shift(tables, static_cast<uint32_t>(first)) ^ static_cast<uint32_t>(second);
    *register_value = Shift(tables, two) ^ static_cast<uint32_t>(third);
  }
  return done;
}

__attribute__((target("sse4.2"))) uint32_t InstructionCrc(std::span<const std::byte> data,
                                                          uint32_t seed) {
  const std::byte* next = data.data();
  size_t left = data.size();
  uint32_t crc = ~seed;
  if (left >= 3 * kShortLaneBytes) {
    size_t done = ThreeLanes(next, left, kLongLaneBytes, kLongShift, &crc);
    done += ThreeLanes(next + done, left - done, kShortLaneBytes, kShortShift, &crc);
    next += done;
    left -= done;
  }
  uint64_t wide = crc;
  for (; left >= sizeof(uint64_t); left -= sizeof(uint64_t), next += sizeof(uint64_t)) {
    wide = _mm_crc32_u64(wide, LoadWord(next));
  }
  crc = static_cast<uint32_t>(wide);
  if (left >= sizeof(uint32_t)) {
    uint32_t half = 0;
    std::memcpy(&half, next, sizeof half);
    crc = _mm_crc32_u32(crc, half);
    left -= sizeof half;
    next += sizeof half;
  }
  for (; left > 0; --left, ++next) crc = _mm_crc32_u8(crc, std::to_integer<uint8_t>(*next));
  return ~crc;
}

#endif  // defined(__x86_64__)

using Crc32cFunction = uint32_t (*)(std::span<const std::byte>, uint32_t);

Crc32cFunction Choose() {
  return internal::HasCrc32cInstruction() ? internal::Crc32cInstruction : internal::Crc32cTable;
}

}  // namespace

namespace internal {

uint32_t Crc32cTable(std::span<const std::byte> data, uint32_t seed) {
  GEMEL_CHECK(data.data() != nullptr || data.empty());
  const std::byte* next = data.data();
  size_t left = data.size();
  uint32_t crc = ~seed;
  for (; left >= kSliceBytes; left -= kSliceBytes, next += kSliceBytes) {
    crc = SliceStep(crc, next);
  }
  for (; left > 0; --left, ++next) {
    crc = crc >> 8 ^ kSlice[0][(crc ^ std::to_integer<uint32_t>(*next)) & 0xff];
  }
  return ~crc;
}

#if defined(__x86_64__)

bool HasCrc32cInstruction() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("sse4.2") != 0;
}

uint32_t Crc32cInstruction(std::span<const std::byte> data, uint32_t seed) {
  GEMEL_CHECK(data.data() != nullptr || data.empty());
  return InstructionCrc(data, seed);
}

#else

bool HasCrc32cInstruction() { return false; }

uint32_t Crc32cInstruction(std::span<const std::byte>, uint32_t) {
  GEMEL_CHECK(false) << "this processor has no crc32 instruction of SSE4.2";
  return 0;
}

#endif

}  // namespace internal

uint32_t Crc32c(std::span<const std::byte> data, uint32_t seed) {
  static const Crc32cFunction function = Choose();
  return function(data, seed);
}

}  // namespace gemel
