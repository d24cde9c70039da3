// SPDX-License-Identifier: Apache-2.0
//
// What the fuzz targets share: an input read as choices, and seeded changes of valid inputs for the
// replays that need no fuzzer.
//
// Thread safety: values.
#pragma once

#include <algorithm>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/bytes.h"
#include "common/random.h"

namespace gemel {

// An input as a stream of choices; zeros when it is used up.
class Choices {
 public:
  explicit Choices(ByteSpan input) : left_(AsText(input)) {}

  bool empty() const { return left_.empty(); }

  uint8_t Byte() {
    if (left_.empty()) {
      return 0;
    }
    const auto byte = static_cast<uint8_t>(left_.front());
    left_.remove_prefix(1);
    return byte;
  }

  // In [0, bound), bound at most 256.
  size_t Below(size_t bound) { return Byte() % bound; }

  uint64_t Bits64() {
    uint64_t bits = 0;
    for (int i = 0; i < 8; ++i) {
      bits = bits << 8 | Byte();
    }
    return bits;
  }

  std::string Text(size_t bytes) {
    const std::string text(left_.substr(0, bytes));
    left_.remove_prefix(text.size());
    return text;
  }

  std::string Rest() { return Text(left_.size()); }

 private:
  std::string_view left_;
};

inline std::string RandomBytes(Random* random, size_t bytes) {
  std::string out;
  for (size_t i = 0; i < bytes; ++i) {
    out.push_back(static_cast<char>(random->Next()));
  }
  return out;
}

// One change as a fuzzer makes it: a byte, a bit, a cut, bytes put in, an extreme number.
inline void ChangeOnce(Random* random, std::string* input) {
  if (input->empty()) {
    input->push_back(static_cast<char>(random->Next()));
    return;
  }
  const size_t at = random->Below(input->size());
  switch (random->Below(6)) {
    case 0:
      (*input)[at] = static_cast<char>(random->Next());
      return;
    case 1:
      (*input)[at] = static_cast<char>((*input)[at] ^ (1 << random->Below(8)));
      return;
    case 2:
      input->resize(at);
      return;
    case 3:
      input->insert(at, RandomBytes(random, 1 + random->Below(9)));
      return;
    case 4:
      input->erase(at, 1 + random->Below(9));
      return;
    default:
      for (size_t i = at; i < std::min(at + 4, input->size()); ++i) {
        (*input)[i] = static_cast<char>(random->Chance(1, 2) ? 0xff : 0);
      }
  }
}

// A seed after up to `changes` changes.
inline std::string Changed(Random* random, std::string input, uint64_t changes) {
  const uint64_t count = random->Below(changes + 1);
  for (uint64_t i = 0; i < count; ++i) {
    ChangeOnce(random, &input);
  }
  return input;
}

// Runs `count` changed `seeds` and random inputs through `run`, which says whether the input was
// accepted; returns how many were.
inline size_t ReplayChanged(const std::vector<std::string>& seeds, int count, uint64_t seed,
                            const std::function<bool(ByteSpan)>& run) {
  Random random(seed);
  size_t accepted = 0;
  for (int i = 0; i < count; ++i) {
    const bool from_seed = !seeds.empty() && random.Chance(7, 8);
    const size_t bytes = random.Below(300);
    const std::string input = from_seed ? Changed(&random, seeds[random.Below(seeds.size())], 3)
                                        : RandomBytes(&random, bytes);
    accepted += run(AsBytes(input)) ? 1 : 0;
  }
  return accepted;
}

// Runs `count` sequences of random choices through a new Target each, after a first byte that says
// how it begins; returns how many steps were answered OK.
template <typename Target>
size_t ReplayChoices(uint8_t begins, uint64_t seed, int count, size_t choices_max) {
  Random random(seed);
  size_t ok = 0;
  for (int i = 0; i < count; ++i) {
    const size_t choices = choices_max / 10 + random.Below(choices_max);
    Target target;
    ok += target.Run(AsBytes(static_cast<char>(begins) + RandomBytes(&random, choices)));
  }
  return ok;
}

}  // namespace gemel
