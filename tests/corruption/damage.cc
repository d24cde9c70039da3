// SPDX-License-Identifier: Apache-2.0
#include "tests/corruption/damage.h"

#include <algorithm>
#include <iterator>

#include "common/check.h"

namespace gemel {
namespace {

constexpr size_t kBurstBytesMax = 64;
constexpr size_t kZeroBytesMax = 512;
constexpr size_t kSwapBytesMax = 256;

// Exchanges two ranges that do not overlap, or takes one from the other item.
void Swap(std::string* bytes, std::string_view other, Random* random) {
  const size_t length = 1 + random->Below(std::min(kSwapBytesMax, bytes->size() / 3));
  const size_t first = random->Below(bytes->size() - 2 * length + 1);
  const size_t second = first + length + random->Below(bytes->size() - first - 2 * length + 1);
  if (random->Chance(1, 2) && other.size() >= first + length) {
    std::copy_n(other.begin() + static_cast<std::ptrdiff_t>(first), length,
                bytes->begin() + static_cast<std::ptrdiff_t>(first));
    return;
  }
  const auto begin = bytes->begin();
  std::swap_ranges(begin + static_cast<std::ptrdiff_t>(first),
                   begin + static_cast<std::ptrdiff_t>(first + length),
                   begin + static_cast<std::ptrdiff_t>(second));
}

std::string Once(DamageKind kind, const Around& around, Random* random) {
  std::string bytes(around.good);
  const size_t at = random->Below(bytes.size());
  switch (kind) {
    case DamageKind::kBit:
      bytes[at] = static_cast<char>(bytes[at] ^ (1 << random->Below(8)));
      break;
    case DamageKind::kBurst: {
      const size_t length = 1 + random->Below(std::min(kBurstBytesMax, bytes.size() - at));
      std::generate_n(bytes.begin() + static_cast<std::ptrdiff_t>(at), length,
                      [random] { return static_cast<char>(random->Below(256)); });
      break;
    }
    case DamageKind::kZeros: {
      const size_t length = 1 + random->Below(std::min(kZeroBytesMax, bytes.size() - at));
      std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(at), length, '\0');
      break;
    }
    case DamageKind::kTruncation:
      bytes.resize(at);
      break;
    case DamageKind::kSwap:
      Swap(&bytes, around.other, random);
      break;
    case DamageKind::kStale:
      return std::string(around.stale);
    case DamageKind::kMisdirection:
      return std::string(around.other);
  }
  return bytes;
}

}  // namespace

std::string_view NameOf(DamageKind kind) {
  static constexpr std::string_view kNames[] = {"bit",  "burst", "zeros",       "truncation",
                                                "swap", "stale", "misdirection"};
  static_assert(std::size(kNames) == std::size(kDamageKinds));
  return kNames[static_cast<size_t>(kind)];
}

std::string Damaged(DamageKind kind, const Around& around, Random* random) {
  constexpr int kTriesMax = 1000;  // a range of zeros may be zeros already
  GEMEL_CHECK_GE(around.good.size(), 8U);
  GEMEL_CHECK(around.good != around.stale && around.good != around.other);
  for (int i = 0; i < kTriesMax; ++i) {
    std::string damaged = Once(kind, around, random);
    if (damaged != around.good) {
      return damaged;
    }
  }
  GEMEL_CHECK(false) << NameOf(kind) << " changes nothing";
  return {};
}

}  // namespace gemel
