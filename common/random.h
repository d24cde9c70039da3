// SPDX-License-Identifier: Apache-2.0
//
// Random: xoshiro256** (Blackman and Vigna), splittable by label, equal on every machine and
// compiler. Not for secrets. Seeds come from Process::Entropy64() in production and from the seed
// of the run in the simulator. One stream a part, so that a new draw in one part does not shift
// another's.
//
// Thread safety: one owner.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace gemel {

class Random {
 public:
  explicit Random(uint64_t seed);

  uint64_t Next();
  // Uniform in [0, bound). REQUIRES: bound > 0.
  uint64_t Below(uint64_t bound);
  // True `numerator` times in `denominator`.
  bool Chance(uint64_t numerator, uint64_t denominator);
  // An independent stream; equal parents and labels give equal children. Does not draw.
  Random Split(std::string_view label) const;

 private:
  std::array<uint64_t, 4> state_;
};

}  // namespace gemel
