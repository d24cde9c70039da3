// SPDX-License-Identifier: Apache-2.0
//
// RepairBudget: how fast this server pulls copies that nobody waits for: a token bucket on the
// loop's clock. Copies of a shard that has one left, and what a restore reads, do not ask it.
//
// Thread safety: one loop.
// Invariants:
//   (1) over any time t at most rate * t + kRepairBurst's worth + one chunk is taken;
//   (2) whoever is refused is told a wait greater than zero.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/check.h"
#include "common/loop.h"
#include "server/limits.h"

namespace gemel {

class RepairBudget {
 public:
  // 0 bytes a second: no bound.
  RepairBudget(Loop* loop, uint64_t bytes_per_second)
      : loop_(loop), rate_(static_cast<int64_t>(bytes_per_second)), filled_at_(loop->Now()) {
    GEMEL_CHECK_LE(bytes_per_second, kRepairRateMax);
    tokens_ = BurstBytes();
  }

  // Zero: taken. Otherwise how long until it is worth asking again.
  Duration Take(uint64_t bytes) {
    GEMEL_CHECK_LE(bytes, kChunkBytes);
    if (rate_ == 0) {
      return Duration::zero();
    }
    Fill();
    if (tokens_ <= 0) {
      const int64_t lacking = 1 - tokens_;
      return Duration(lacking * kSecond / rate_ + 1);
    }
    tokens_ -= static_cast<int64_t>(bytes);
    return Duration::zero();
  }

 private:
  static constexpr int64_t kSecond = 1'000'000'000;

  int64_t BurstBytes() const { return rate_ / (kSecond / kRepairBurst.count()) + 1; }

  void Fill() {
    const TimePoint now = loop_->Now();
    const int64_t elapsed_us = std::min((now - filled_at_).count(), kSecond) / 1000;
    const int64_t earned = elapsed_us * rate_ / 1'000'000;
    if (earned > 0) {
      tokens_ = std::min(BurstBytes(), tokens_ + earned);
      filled_at_ = now;
    }
  }

  Loop* const loop_;
  const int64_t rate_;
  int64_t tokens_ = 0;  // below zero: taken in advance, a chunk at a time
  TimePoint filled_at_;
};

}  // namespace gemel
