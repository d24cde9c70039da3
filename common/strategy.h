// SPDX-License-Identifier: Apache-2.0
//
// StrategyChoice: how a job wants its copies spread over the servers (placement/model/assignment.h
// says what each does). The numbers are for ever: they stand in messages and on disks, where an
// absent one is kGroup.
#pragma once

#include <cstdint>

namespace gemel {

enum class StrategyChoice : uint8_t {
  kGroup = 0,  // groups that keep copies for each other; mixed where they do not come out even
  kRing = 1,   // each server's copies on its successors in one ring
};

inline bool IsValid(StrategyChoice value) { return value <= StrategyChoice::kRing; }

// "group" or "ring": what a person writes.
inline const char* NameOf(StrategyChoice value) {
  return value == StrategyChoice::kRing ? "ring" : "group";
}

}  // namespace gemel
