// SPDX-License-Identifier: Apache-2.0
#include "common/random.h"

#include <bit>

#include "common/check.h"

namespace gemel {
namespace {

uint64_t SplitMix(uint64_t* state) {
  *state += 0x9e3779b97f4a7c15ULL;
  uint64_t z = *state;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

}  // namespace

Random::Random(uint64_t seed) : state_{} {
  for (uint64_t& word : state_) {
    word = SplitMix(&seed);
  }
}

uint64_t Random::Next() {
  const uint64_t result = std::rotl(state_[1] * 5, 7) * 9;
  const uint64_t shifted = state_[1] << 17;
  state_[2] ^= state_[0];
  state_[3] ^= state_[1];
  state_[1] ^= state_[2];
  state_[0] ^= state_[3];
  state_[2] ^= shifted;
  state_[3] = std::rotl(state_[3], 45);
  return result;
}

uint64_t Random::Below(uint64_t bound) {
  GEMEL_CHECK_GT(bound, 0U);
  // Rejects the values that would make low results likelier.
  const uint64_t threshold = (0 - bound) % bound;
  uint64_t drawn = Next();
  while (drawn < threshold) {
    drawn = Next();
  }
  return drawn % bound;
}

bool Random::Chance(uint64_t numerator, uint64_t denominator) {
  return Below(denominator) < numerator;
}

Random Random::Split(std::string_view label) const {
  uint64_t mixed = state_[0] ^ std::rotl(state_[2], 23);
  for (char c : label) {
    mixed = (mixed ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  }
  return Random(SplitMix(&mixed));
}

}  // namespace gemel
