// SPDX-License-Identifier: Apache-2.0
//
// ReadTimes: how long the reads of one class take, and after how long one is late.
//
// A histogram of buckets that grow by a sixty-fourth, halved whenever it is full, so that what was
// long ago counts little: bounded memory, no sorting. A read that was ended before its answer came
// is recorded with the time until then: that is behind the percentile already, where the time it
// would have taken is, so what hedging hides does not make the class look faster.
//
// Thread safety: one owner.
// Units: nanoseconds. Integers only, so that the simulator's histories are the same under every
// compiler.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "common/time.h"

namespace gemel {

// Of all reads of a class; the others are late. Below the share of reads that stall: at the 99th
// percentile a stall of 1 % is what is normal (Monte Carlo: p99.9 3.2 x the median, against 12.7).
inline constexpr uint64_t kLatePerMille = 980;
// Before as many reads are known, late is what takes longer than any of them, four times.
inline constexpr uint64_t kReadTimesMin = 64;
inline constexpr Duration kPatienceFirst = 50ms;

class ReadTimes {
 public:
  void Record(Duration took);

  // How long a read may take before it is late.
  Duration Patience() const { return patience_; }

 private:
  static constexpr uint64_t kStepBits = 6;  // of a power of two, in so many buckets
  static constexpr uint64_t kSteps = uint64_t{1} << kStepBits;
  static constexpr uint64_t kExponentMax = 36;  // 2^37 ns: longer than any deadline
  static constexpr size_t kBuckets = (kExponentMax - kStepBits + 2) * kSteps;

  static size_t BucketOf(uint64_t nanoseconds);
  static uint64_t EndOf(size_t bucket);
  Duration Late() const;

  std::array<uint32_t, kBuckets> counts_{};
  uint64_t total_ = 0;  // of counts_
  uint64_t recorded_ = 0;
  Duration longest_{};  // of the first kReadTimesMin
  Duration patience_ = kPatienceFirst;
};

}  // namespace gemel
