// SPDX-License-Identifier: Apache-2.0
//
// What failures cost a training job, by Gemini's model (Wang et al., SOSP 2023, Figures 11 and 14):
// each failure costs a fixed time (lost work, retrieval, restart), and a checkpoint a fixed share
// of the training time.
//
// Thread safety: pure functions; any thread.
#pragma once

#include <cstdint>

#include "placement/model/fraction.h"

namespace gemel::model {

inline constexpr uint32_t kMinutesPerDay = 1440;

// Share of the time that goes into training: max(0, undisturbed - failures * cost / 1440).
//   undisturbed        the share without failures, 1 when a checkpoint costs no time
//   failures_per_day   expected failures of the whole job
//   minutes_a_failure  training time that one failure costs
// REQUIRES: numerators and denominators below 2^40.
Fraction EffectiveTime(const Fraction& undisturbed, const Fraction& failures_per_day,
                       uint32_t minutes_a_failure);

// How many times shorter a checkpoint is to peers' memory than to shared storage: each of `members`
// sends its share to copies - 1 peers at 85 % of its link, against `storage_gbps` for all together.
// REQUIRES: link_gbps, storage_gbps, members >= 1; copies >= 2.
Fraction CheckpointSpeedup(uint32_t link_gbps, uint32_t storage_gbps, uint32_t members,
                           uint32_t copies);

}  // namespace gemel::model
