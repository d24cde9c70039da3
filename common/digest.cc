// SPDX-License-Identifier: Apache-2.0
#include "common/digest.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

#include "common/check.h"

namespace gemel {
namespace {

constexpr char kHexDigits[] = "0123456789abcdef";
constexpr size_t kWordBytes = sizeof(uint64_t);
constexpr size_t kWordHexDigits = 2 * kWordBytes;
static_assert(kDigestBytes == 2 * kWordBytes);

void AppendWordHex(uint64_t word, std::string* out) {
  for (size_t digit = 0; digit < kWordHexDigits; ++digit) {
    out->push_back(kHexDigits[(word >> (60 - 4 * digit)) & 0xf]);
  }
}

// -1 when `c` is no hexadecimal digit.
int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

bool ParseWordHex(std::string_view digits, uint64_t* word) {
  GEMEL_CHECK_EQ(digits.size(), kWordHexDigits);
  *word = 0;
  for (char c : digits) {
    const int value = HexValue(c);
    if (value < 0) return false;
    *word = *word << 4 | static_cast<uint64_t>(value);
  }
  return true;
}

void StoreWord(uint64_t word, uint8_t* out) {
  for (size_t i = 0; i < kWordBytes; ++i) out[i] = static_cast<uint8_t>(word >> (8 * i));
}

uint64_t LoadWord(const uint8_t* in) {
  uint64_t word = 0;
  for (size_t i = 0; i < kWordBytes; ++i) word |= static_cast<uint64_t>(in[i]) << (8 * i);
  return word;
}

}  // namespace

std::string ToHex(const Digest128& digest) {
  std::string text;
  text.reserve(kDigestHexDigits);
  AppendWordHex(digest.high, &text);
  AppendWordHex(digest.low, &text);
  GEMEL_CHECK_EQ(text.size(), kDigestHexDigits);
  return text;
}

absl::StatusOr<Digest128> DigestFromHex(std::string_view text) {
  if (text.size() != kDigestHexDigits) {
    return absl::InvalidArgumentError(absl::StrCat("a digest has ", kDigestHexDigits,
                                                   " hexadecimal digits, found ", text.size(),
                                                   " characters"));
  }
  Digest128 digest;
  if (!ParseWordHex(text.substr(0, kWordHexDigits), &digest.high) ||
      !ParseWordHex(text.substr(kWordHexDigits), &digest.low)) {
    return absl::InvalidArgumentError(absl::StrCat("a digest has hexadecimal digits only, found \"",
                                                   absl::string_view(text.data(), text.size()),
                                                   "\""));
  }
  return digest;
}

void EncodeDigest(const Digest128& digest, void* out) {
  GEMEL_CHECK(out != nullptr);
  auto* bytes = static_cast<uint8_t*>(out);
  StoreWord(digest.low, bytes);
  StoreWord(digest.high, bytes + kWordBytes);
}

Digest128 DecodeDigest(const void* in) {
  GEMEL_CHECK(in != nullptr);
  const auto* bytes = static_cast<const uint8_t*>(in);
  return Digest128{.low = LoadWord(bytes), .high = LoadWord(bytes + kWordBytes)};
}

}  // namespace gemel
