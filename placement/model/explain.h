// SPDX-License-Identifier: Apache-2.0
//
// Explain: an assignment as a person wants to read it: the groups, each member's holders with their
// domains, what could not be had, and P(survive k losses) exact beside Corollary 1 and, of a ring,
// beside its own bound.
//
// Thread safety: pure functions; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "placement/model/assignment.h"
#include "placement/model/cluster_map.h"
#include "placement/model/fraction.h"

namespace gemel::model {

inline constexpr uint32_t kExplainLossesMax = 4;
inline constexpr uint32_t kExplainDigits = 4;

struct SurvivalRow {
  uint32_t losses = 0;
  std::optional<Fraction> exact;       // Absent when counting would take too long (survival.h).
  Fraction corollary1;                 // Of groups; what a ring falls short of.
  std::optional<Fraction> ring_bound;  // RingBound(), of a ring of all members.
};

struct HolderLine {
  uint32_t owner = 0;
  std::vector<uint32_t> holders;
  std::vector<std::string> domains;  // Of the holders, whole paths.
  uint32_t load = 0;                 // Copies that the owner's server holds, its own included.
  bool conflict = false;             // Two of the copies share a domain.
};

struct Explanation {
  uint64_t version = 0;
  std::string strategy;  // StrategyName()
  uint32_t copies = 0;
  uint32_t members = 0;
  uint32_t spares = 0;  // Members that are not placeable.
  uint32_t level = 1;
  uint32_t domains = 0;
  uint32_t load_max = 0;
  bool degraded = false;
  std::vector<std::vector<uint32_t>> groups;
  bool last_group_is_ring = false;
  std::vector<HolderLine> lines;      // One a placeable member, ascending.
  std::vector<SurvivalRow> survival;  // k = 1 .. min(kExplainLossesMax, members).
};

// REQUIRES: `assignment` was built from map.members.
Explanation Explain(const ClusterMap& map, const Assignment& assignment);

// Text, one string a line, without line ends. `names`: a name for each member of the map.
std::vector<std::string> ExplainLines(const Explanation& explanation,
                                      std::span<const std::string> names);

}  // namespace gemel::model
