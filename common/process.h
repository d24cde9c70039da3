// SPDX-License-Identifier: Apache-2.0
//
// Process: what a part may ask of the process it runs in.
#pragma once

#include <cstdint>

namespace gemel {

class Process {
 public:
  virtual ~Process() = default;
  // Unpredictable bits, for incarnations, tokens and seeds.
  virtual uint64_t Entropy64() = 0;
  virtual uint64_t pid() const = 0;
};

}  // namespace gemel
