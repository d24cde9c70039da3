// SPDX-License-Identifier: Apache-2.0
//
// Scenario: what happens to a simulated cluster in one run, all from one seed. Swarm testing: each
// seed first picks a subset of the fault classes, then their times and strengths.
//
// Phases: (1) faults, within what the placement tolerates (the next loss of a server's memory waits
// for a commit at full redundancy); (2) everything heals, and a new snapshot must be committed
// within kHealWithin.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/random.h"

namespace gemel::sim {

enum class Fault : uint8_t {
  kKillServer,     // with the trainers of its host; comes back empty
  kKillPlacement,  // goes on from its MetaStore
  kKillTrainers,   // the host lives: restored from local slabs
  kPauseServer,
  kPausePlacement,
  kZombieLaunch,  // the old incarnation is only paused, and wakes beside the new one
  kPartition,     // one or both ways, a server from everyone
  kLossyCalls,    // control calls lost before or after they were executed
  kResets,        // connections reset in the middle of a frame
  kLateWrites,    // one-sided writes that land again later
  kCorruption,    // bits flipped on the wire
  kStoreTrouble,  // transactions with unknown outcome
  kEpochRace,     // two launches at once
  kPowerCut,      // all servers and trainers, sometimes placement, at once: only disks are left
  kTierTrouble,   // persistent tiers that are slow, hang, fail or are full
  kClog,          // what one server sends to another is held up for a while, then comes at once
};

inline constexpr Fault kAllFaults[] = {
    Fault::kKillServer,     Fault::kKillPlacement, Fault::kKillTrainers, Fault::kPauseServer,
    Fault::kPausePlacement, Fault::kZombieLaunch,  Fault::kPartition,    Fault::kLossyCalls,
    Fault::kResets,         Fault::kLateWrites,    Fault::kCorruption,   Fault::kStoreTrouble,
    Fault::kEpochRace,      Fault::kPowerCut,      Fault::kTierTrouble,  Fault::kClog};

std::string NameOf(Fault fault);

struct ScenarioOptions {
  uint64_t seed = 1;
  std::vector<Fault> disabled;
  bool print_timeline = false;
};

struct ScenarioResult {
  std::vector<std::string> violations;
  uint64_t history_hash = 0;
  uint64_t events = 0;
  uint64_t commits = 0;
  uint64_t restores = 0;
  uint64_t kills = 0;
  uint64_t persists = 0;
  uint64_t power_cuts = 0;
  uint64_t launches = 0;
  std::vector<std::string> timeline;
};

ScenarioResult RunScenario(const ScenarioOptions& options);

}  // namespace gemel::sim
