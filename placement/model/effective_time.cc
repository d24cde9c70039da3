// SPDX-License-Identifier: Apache-2.0
#include "placement/model/effective_time.h"

#include "common/check.h"

namespace gemel::model {

Fraction EffectiveTime(const Fraction& undisturbed, const Fraction& failures_per_day,
                       uint32_t minutes_a_failure) {
  GEMEL_CHECK(!Less({1, 1}, undisturbed)) << "a share of the time exceeds 1";
  const Fraction days_a_failure = Fraction::Of(minutes_a_failure, kMinutesPerDay);
  return SubtractToZero(undisturbed, failures_per_day * days_a_failure);
}

Fraction CheckpointSpeedup(uint32_t link_gbps, uint32_t storage_gbps, uint32_t members,
                           uint32_t copies) {
  GEMEL_CHECK(link_gbps >= 1 && storage_gbps >= 1 && members >= 1);
  GEMEL_CHECK_GE(copies, 2u) << "one copy sends nothing";
  const Fraction storage_share = Fraction::Of(storage_gbps, members);
  const Fraction usable = Fraction::Of(U128{link_gbps} * 85, 100);
  GEMEL_CHECK(storage_share.numerator > 0);
  return usable * Fraction::Of(storage_share.denominator,
                               CheckedMultiply(storage_share.numerator, copies - 1));
}

}  // namespace gemel::model
