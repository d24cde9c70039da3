// SPDX-License-Identifier: Apache-2.0
#include "placement/model/fraction.h"

#include <algorithm>
#include <string>

#include "common/check.h"

namespace gemel::model {
namespace {

U128 Gcd(U128 a, U128 b) {
  while (b != 0) {
    const U128 rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

// Adds one unit in the last place to the decimal digits of `text`; true when it carries out.
bool CarryOne(std::string& text) {
  for (size_t i = text.size(); i > 0; --i) {
    char& digit = text[i - 1];
    GEMEL_DCHECK(digit >= '0' && digit <= '9');
    if (digit != '9') {
      ++digit;
      return false;
    }
    digit = '0';
  }
  return true;
}

}  // namespace

U128 CheckedMultiply(U128 a, U128 b) {
  U128 product = 0;
  GEMEL_CHECK(!__builtin_mul_overflow(a, b, &product)) << "product exceeds 128 bits";
  return product;
}

U128 CheckedAdd(U128 a, U128 b) {
  U128 sum = 0;
  GEMEL_CHECK(!__builtin_add_overflow(a, b, &sum)) << "sum exceeds 128 bits";
  return sum;
}

Fraction Fraction::Of(U128 numerator, U128 denominator) {
  GEMEL_CHECK(denominator > 0) << "fraction with denominator 0";
  const U128 divisor = Gcd(numerator, denominator);
  return {numerator / divisor, denominator / divisor};
}

Fraction operator*(const Fraction& a, const Fraction& b) {
  // Dividing crosswise first keeps the products as small as the result allows.
  const Fraction left = Fraction::Of(a.numerator, b.denominator);
  const Fraction right = Fraction::Of(b.numerator, a.denominator);
  return {CheckedMultiply(left.numerator, right.numerator),
          CheckedMultiply(left.denominator, right.denominator)};
}

bool Less(const Fraction& a, const Fraction& b) {
  const U128 divisor = Gcd(a.denominator, b.denominator);
  return CheckedMultiply(a.numerator, b.denominator / divisor) <
         CheckedMultiply(b.numerator, a.denominator / divisor);
}

Fraction SubtractToZero(const Fraction& a, const Fraction& b) {
  if (!Less(b, a)) {
    return {0, 1};
  }
  const U128 divisor = Gcd(a.denominator, b.denominator);
  const U128 left = CheckedMultiply(a.numerator, b.denominator / divisor);
  const U128 right = CheckedMultiply(b.numerator, a.denominator / divisor);
  GEMEL_CHECK(left > right);
  return Fraction::Of(left - right, CheckedMultiply(a.denominator, b.denominator / divisor));
}

U128 Binomial(uint64_t n, uint64_t k) {
  if (k > n) {
    return 0;
  }
  const uint64_t steps = std::min(k, n - k);
  U128 result = 1;
  for (uint64_t i = 1; i <= steps; ++i) {
    const U128 product = CheckedMultiply(result, n - steps + i);
    GEMEL_DCHECK(product % i == 0);
    result = product / i;
  }
  return result;
}

std::string ToString(U128 value) {
  std::string text;
  do {
    text.push_back(static_cast<char>('0' + static_cast<int>(value % 10)));
    value /= 10;
  } while (value != 0);
  std::reverse(text.begin(), text.end());
  return text;
}

std::string DecimalString(const Fraction& value, uint32_t digits) {
  GEMEL_CHECK_LE(digits, kDecimalDigitsMax);
  GEMEL_CHECK(value.denominator > 0);
  U128 whole = value.numerator / value.denominator;
  U128 rest = value.numerator % value.denominator;
  std::string decimals;
  for (uint32_t i = 0; i < digits; ++i) {
    rest = CheckedMultiply(rest, 10);
    decimals.push_back(static_cast<char>('0' + static_cast<int>(rest / value.denominator)));
    rest %= value.denominator;
  }
  // rest / denominator >= 1/2, written so that it cannot overflow.
  const bool round_up = rest >= value.denominator - rest;
  if (round_up && CarryOne(decimals)) {
    whole = CheckedAdd(whole, 1);
  }
  return digits == 0 ? ToString(whole) : ToString(whole) + "." + decimals;
}

}  // namespace gemel::model
