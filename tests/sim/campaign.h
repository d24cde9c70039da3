// SPDX-License-Identifier: Apache-2.0
//
// Campaign: many seeds in worker processes. Workers have no clock and are told seed after seed; the
// process that tells them has the clock, and reports a worker that dies or hangs by its seed.
//
// Thread safety: call it from the only thread of a process: it forks.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tests/sim/report.h"

namespace gemel::sim {

struct CampaignOptions {
  ScenarioOptions scenario;       // its seed is the first
  uint64_t seeds = 1;             // without `minutes`
  std::optional<double> minutes;  // no seed begins after that
  uint32_t processes = 1;         // REQUIRES: in [1, kProcessesMax]
  uint64_t failures_max = 20;     // then no seed begins any more
};

inline constexpr uint32_t kProcessesMax = 64;

// Violations are printed as they are found, each with the line that replays it; or put into
// `violations`.
CampaignTotals RunCampaign(const CampaignOptions& options,
                           std::vector<std::string>* violations = nullptr);

// A seed for campaigns that want fresh ones: another one each day (UTC), room for a million after
// it.
uint64_t SeedOfToday();

// The line that replays a run.
std::string ReplayLine(const ScenarioOptions& options);

}  // namespace gemel::sim
