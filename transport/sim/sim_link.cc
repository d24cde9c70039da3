// SPDX-License-Identifier: Apache-2.0
#include "transport/sim/sim_link.h"

#include "common/check.h"

namespace gemel {
namespace {

constexpr uint32_t kMillion = 1'000'000;

}  // namespace

bool SimLink::Happens(uint32_t ppm) {
  GEMEL_CHECK_LE(ppm, kMillion);
  return ppm != 0 && random_.Chance(ppm, kMillion);
}

Duration SimLink::Between(Duration min, Duration max) {
  GEMEL_CHECK(min >= Duration::zero() && min <= max)
      << min.count() << " to " << max.count() << " ns";
  if (min == max) {
    return min;
  }
  const auto spread = static_cast<uint64_t>((max - min).count()) + 1;
  return min + Duration(static_cast<int64_t>(random_.Below(spread)));
}

}  // namespace gemel
