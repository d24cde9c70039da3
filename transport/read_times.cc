// SPDX-License-Identifier: Apache-2.0
#include "transport/read_times.h"

#include <algorithm>
#include <bit>

#include "common/check.h"

namespace gemel {
namespace {

// A read counts as many, so that halving leaves something of the rare ones.
constexpr uint32_t kWeight = 64;
constexpr uint64_t kTotalMax = uint64_t{4096} * kWeight;
constexpr uint64_t kLookEvery = 32;  // reads
constexpr int64_t kUnknownFactor = 4;
constexpr Duration kLongest = 1h;  // that counts: no deadline is longer

}  // namespace

size_t ReadTimes::BucketOf(uint64_t nanoseconds) {
  constexpr uint64_t kMost = (uint64_t{1} << (kExponentMax + 1)) - 1;
  const uint64_t value = std::min(nanoseconds, kMost);
  if (value < kSteps) {
    return value;
  }
  const auto exponent = static_cast<uint64_t>(std::bit_width(value)) - 1;
  const uint64_t step = value >> (exponent - kStepBits);  // in [kSteps, 2 * kSteps)
  return (exponent - kStepBits) * kSteps + step;
}

// The first nanosecond behind it.
uint64_t ReadTimes::EndOf(size_t bucket) {
  if (bucket < kSteps) {
    return bucket + 1;
  }
  const uint64_t shift = bucket / kSteps - 1;
  return (bucket % kSteps + kSteps + 1) << shift;
}

void ReadTimes::Record(Duration took) {
  const size_t bucket = BucketOf(static_cast<uint64_t>(std::max<int64_t>(took.count(), 0)));
  GEMEL_CHECK_LT(bucket, kBuckets);
  counts_[bucket] += kWeight;
  total_ += kWeight;
  recorded_ += 1;
  if (total_ >= kTotalMax) {
    total_ = 0;
    for (uint32_t& count : counts_) {
      count /= 2;
      total_ += count;
    }
  }
  if (recorded_ < kReadTimesMin) {
    longest_ = std::max(longest_, std::min(took, kLongest));
    patience_ = std::max(kPatienceFirst, kUnknownFactor * longest_);
  } else if (recorded_ % kLookEvery == 0) {
    patience_ = Late();
  }
}

Duration ReadTimes::Late() const {
  uint64_t left = total_ - total_ * kLatePerMille / 1000;  // behind the percentile
  GEMEL_CHECK_GT(total_, left);
  for (size_t bucket = kBuckets; bucket > 0; --bucket) {
    const uint64_t count = counts_[bucket - 1];
    if (count > left) {
      const uint64_t end = EndOf(bucket - 1);
      const uint64_t width = bucket > 1 ? end - EndOf(bucket - 2) : end;
      return Duration(static_cast<int64_t>(end - width * left / count));
    }
    left -= count;
  }
  return patience_;
}

}  // namespace gemel
