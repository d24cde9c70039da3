// SPDX-License-Identifier: Apache-2.0
//
// Scenario: what happens to a simulated cluster in one run, all from one seed.
//
// A run (1) injects faults, within what the placement tolerates; (2) in a share of the seeds goes
// on beyond that: then only safety and honesty are checked; (3) heals, and must converge within
// bounds of virtual time (convergence.h).
//
// Thread safety: one run at a time in a process.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tests/sim/fault.h"
#include "tests/sim/plan.h"
#include "tests/sim/sim_points.h"

namespace gemel::sim {

// Counts add up over runs.
struct ScenarioCounts {
  uint64_t events = 0;
  uint64_t virtual_ms = 0;
  uint64_t commits = 0;
  uint64_t restores = 0;
  uint64_t persists = 0;
  uint64_t launches = 0;
  uint64_t servers_killed = 0;
  uint64_t power_cuts = 0;
  uint64_t losses_told = 0;
  uint64_t stale_refused = 0;  // calls of superseded epochs
  uint64_t overkills = 0;
  uint64_t undecided = 0;  // histories of calls that were not judged to the end
  FaultLedger faults;
  BuggifyCounts buggify{};
  SituationCounts situations{};

  void Add(const ScenarioCounts& other);
};

struct ScenarioResult {
  std::vector<std::string> violations;
  uint64_t history_hash = 0;
  ScenarioCounts counts;
  std::string plan;
  std::vector<std::string> lines;    // the time line, one line an event
  std::vector<std::string> columns;  // and one column a node
};

ScenarioResult RunScenario(const ScenarioOptions& options);

}  // namespace gemel::sim
