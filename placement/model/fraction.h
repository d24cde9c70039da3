// SPDX-License-Identifier: Apache-2.0
//
// Fraction: exact probabilities and ratios in 128-bit integers, printed as decimals by long
// division. Nothing here touches floating point, so a table is the same on every machine.
//
// Thread safety: values and pure functions; any thread.
// Invariants:
//   (1) denominator > 0, and numerator and denominator have no common divisor.
//   (2) every operation checks for overflow and ends the process instead of wrapping; within
//       kMembersMax members and kLossesMax losses (cluster_map.h) no count overflows, since
//       kCopiesMax * C(16384, 8) < 2^102.
#pragma once

#include <cstdint>
#include <string>

namespace gemel::model {

using U128 = unsigned __int128;

// More digits than this are never printed; bounds the long division.
inline constexpr uint32_t kDecimalDigitsMax = 30;

struct Fraction {
  U128 numerator = 0;
  U128 denominator = 1;

  // The fraction in lowest terms. REQUIRES: denominator > 0.
  static Fraction Of(U128 numerator, U128 denominator);

  friend bool operator==(const Fraction&, const Fraction&) = default;
};

Fraction operator*(const Fraction& a, const Fraction& b);

// a < b, exactly (by cross multiplication).
bool Less(const Fraction& a, const Fraction& b);

// max(0, a - b).
Fraction SubtractToZero(const Fraction& a, const Fraction& b);

// C(n, k), the number of k-subsets of n things; 0 when k > n.
U128 Binomial(uint64_t n, uint64_t k);

// a * b and a + b; a wrapped result ends the process.
U128 CheckedMultiply(U128 a, U128 b);
U128 CheckedAdd(U128 a, U128 b);

// All digits of an unsigned 128-bit integer.
std::string ToString(U128 value);

// `value` with `digits` places after the point, rounded half up: {2, 3} with 4 digits is "0.6667".
// REQUIRES: digits <= kDecimalDigitsMax.
std::string DecimalString(const Fraction& value, uint32_t digits);

}  // namespace gemel::model
