// SPDX-License-Identifier: Apache-2.0
//
// RunPlan: what one seed makes of a run before it begins: shape of the cluster, jobs, the fault
// classes that strike and how hard. Swarm testing: each seed picks a random subset of the classes
// first, then strengths.
//
// Every choice has a stream of its own, so that taking one thing away (--disable, a smaller shape)
// leaves all others as they were: that is what shrinking stands on.
//
// Thread safety: values and pure functions.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/bytes.h"
#include "common/strategy.h"
#include "common/time.h"
#include "placement/manager/manager.h"
#include "server/limits.h"
#include "tests/sim/fault.h"

namespace gemel::sim {

inline constexpr Duration kFaultPhase = 6s;
inline constexpr Duration kOverkillPhase = 2500ms;

// What a command line takes away from a run.
struct ScenarioOptions {
  uint64_t seed = 1;
  std::set<Fault> disabled;
  bool knobs = true;     // false: times and windows are the defaults
  bool overkill = true;  // false: losses stay within what the placement tolerates
  Duration fault_phase = kFaultPhase;
  std::optional<Duration> until;  // ends the run there, without the checks of its end
  uint32_t servers_max = std::numeric_limits<uint32_t>::max();
  uint32_t jobs_max = std::numeric_limits<uint32_t>::max();
  uint32_t ranks_max = std::numeric_limits<uint32_t>::max();
};

struct JobPlan {
  std::string name;
  uint32_t ranks_max = 4;
  uint64_t shard_bytes_max = 0;
  uint32_t copies = 2;
  StrategyChoice strategy = StrategyChoice::kGroup;
  uint32_t keep_latest = 1;
  uint32_t persist_every = 0;  // 0: never
  uint32_t persist_copies = 1;
  uint32_t odd_permille = 0;  // of the opens of a rank: another layout than the others'
};

struct ClusterShape {
  uint32_t managers = 1;
  uint32_t servers = 3;  // at the start
  uint32_t spares = 0;   // that may join later
  uint32_t racks = 0;    // 0: every host is a domain of its own
  uint64_t memory_bytes = 0;
  uint64_t slab_bytes = kMiB;
  bool keepers = false;                                 // a gemel-keeper beside each server
  uint32_t control_protocol = kControlProtocolVersion;  // of all, at the start
  Duration scrub_pass{};                                // over memory, and over disks; zero: never
  Duration disk_patience = kPersistListPatience;        // of a server that starts
  PlacementOptions placement;

  uint32_t slots() const { return servers + spares; }
};

struct RunPlan {
  ClusterShape shape;
  std::vector<JobPlan> jobs;
  std::set<Fault> enabled;
  std::array<uint32_t, kFaultCount> strength{};  // 1 to 100
  bool overkill = false;

  bool Has(Fault fault) const { return enabled.contains(fault); }

  uint32_t StrengthOf(Fault fault) const { return strength[static_cast<size_t>(fault)]; }
};

RunPlan DrawPlan(const ScenarioOptions& options);

// "4 servers in 2 racks, jobs a (3 ranks, 2 copies), ...": for people.
std::string Describe(const RunPlan& plan);

}  // namespace gemel::sim
