// SPDX-License-Identifier: Apache-2.0
#include "server/byte_size.h"

#include <array>

#include "common/errors.h"

namespace gemel {
namespace {

constexpr uint64_t kBytesMax = uint64_t{1} << 63;

char Lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

// The power of two of a unit; -1 for none that we know.
int ShiftOf(std::string_view unit) {
  std::string lower;
  for (const char c : unit) {
    lower.push_back(Lower(c));
  }
  constexpr std::array<char, 4> kLetters = {'k', 'm', 'g', 't'};
  if (lower.empty() || lower == "b") {
    return 0;
  }
  const std::string_view rest = std::string_view(lower).substr(1);
  if (!rest.empty() && rest != "b" && rest != "ib") {
    return -1;
  }
  for (size_t i = 0; i < kLetters.size(); ++i) {
    if (lower[0] == kLetters[i]) {
      return 10 * (static_cast<int>(i) + 1);
    }
  }
  return -1;
}

}  // namespace

absl::StatusOr<uint64_t> ParseByteSize(std::string_view text, std::string_view what) {
  size_t digits = 0;
  uint64_t number = 0;
  bool fits = true;
  while (digits < text.size() && text[digits] >= '0' && text[digits] <= '9') {
    const auto digit = static_cast<uint64_t>(text[digits] - '0');
    fits = fits && number <= (kBytesMax - digit) / 10;
    number = fits ? number * 10 + digit : number;
    digits += 1;
  }
  std::string_view unit = text.substr(digits);
  while (!unit.empty() && unit.front() == ' ') {
    unit.remove_prefix(1);
  }
  const int shift = ShiftOf(unit);
  if (digits == 0 || shift < 0) {
    return error::InvalidArgument("{} is '{}': give a number of bytes, or one with KiB, MiB, GiB",
                                  what, text);
  }
  if (!fits || number > (kBytesMax >> shift)) {
    return error::InvalidArgument("{} is '{}': more than any machine has", what, text);
  }
  return number << shift;
}

}  // namespace gemel
