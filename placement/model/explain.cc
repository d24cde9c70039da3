// SPDX-License-Identifier: Apache-2.0
#include "placement/model/explain.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_join.h"

#include "common/check.h"
#include "placement/model/survival.h"

namespace gemel::model {
namespace {

std::vector<SurvivalRow> SurvivalRows(const Assignment& assignment) {
  std::vector<SurvivalRow> rows;
  const uint32_t last = std::min(kExplainLossesMax, assignment.members);
  for (uint32_t k = 1; k <= last; ++k) {
    SurvivalRow row{.losses = k};
    const absl::StatusOr<Fraction> exact = ExactSurvival(assignment, k);
    if (exact.ok()) {
      row.exact = *exact;
    }
    // With fewer members than copies all copies there are stand in for m.
    const uint32_t copies = std::min(assignment.copies, assignment.members);
    row.corollary1 = Corollary1(assignment.members, copies, k);
    if (assignment.strategy == Strategy::kRing) {
      row.ring_bound = RingBound(assignment.members, copies, k);
    }
    rows.push_back(row);
  }
  return rows;
}

std::string Names(std::span<const uint32_t> members, std::span<const std::string> names) {
  std::vector<std::string> parts;
  for (const uint32_t member : members) {
    GEMEL_CHECK_LT(member, names.size());
    parts.push_back(names[member]);
  }
  return absl::StrJoin(parts, " ");
}

void AppendHead(const Explanation& explanation, std::vector<std::string>& lines) {
  lines.push_back(fmt::format("map {}: {} members, {} spares, {} copies, strategy {}",
                              explanation.version, explanation.members, explanation.spares,
                              explanation.copies, explanation.strategy));
  lines.push_back(fmt::format("domains: {} at level {}; at most {} copies on a member",
                              explanation.domains, explanation.level, explanation.load_max));
  if (explanation.degraded) {
    lines.push_back(fmt::format("DEGRADED: {} members cannot hold {} copies; add {} servers",
                                explanation.members, explanation.copies,
                                explanation.copies - explanation.members));
  }
}

void AppendSurvival(const Explanation& explanation, std::vector<std::string>& lines) {
  for (const SurvivalRow& row : explanation.survival) {
    const std::string exact =
        row.exact ? DecimalString(*row.exact, kExplainDigits) : std::string("not counted");
    const std::string corollary1 = DecimalString(row.corollary1, kExplainDigits);
    const std::string bound =
        row.ring_bound ? fmt::format("the ring's bound: {}; groups, Corollary 1: {}",
                                     DecimalString(*row.ring_bound, kExplainDigits), corollary1)
                       : "Corollary 1: " + corollary1;
    lines.push_back(fmt::format("P(survive {} lost at once) = {} ({})", row.losses, exact, bound));
  }
}

}  // namespace

Explanation Explain(const ClusterMap& map, const Assignment& assignment) {
  GEMEL_CHECK_EQ(map.members.size(), assignment.holders.size());
  Explanation result{.version = map.version,
                     .strategy = StrategyName(assignment.strategy),
                     .copies = assignment.copies,
                     .members = assignment.members,
                     .spares = static_cast<uint32_t>(map.members.size()) - assignment.members,
                     .level = assignment.level,
                     .domains = assignment.domains,
                     .degraded = assignment.degraded,
                     .groups = assignment.groups,
                     .last_group_is_ring = assignment.strategy == Strategy::kMixed ||
                                           assignment.strategy == Strategy::kRing};
  const std::vector<uint32_t> loads = Loads(assignment);
  for (size_t i = 0; i < assignment.holders.size(); ++i) {
    if (assignment.holders[i].empty()) {
      continue;
    }
    HolderLine line{.owner = static_cast<uint32_t>(i), .holders = assignment.holders[i]};
    for (const uint32_t holder : line.holders) {
      line.domains.push_back(map.members[holder].domain);
    }
    line.load = loads[i];
    line.conflict = std::binary_search(assignment.conflicts.begin(), assignment.conflicts.end(),
                                       static_cast<uint32_t>(i));
    result.load_max = std::max(result.load_max, line.load);
    result.lines.push_back(std::move(line));
  }
  result.survival = SurvivalRows(assignment);
  return result;
}

std::vector<std::string> ExplainLines(const Explanation& explanation,
                                      std::span<const std::string> names) {
  std::vector<std::string> lines;
  AppendHead(explanation, lines);
  for (size_t i = 0; i < explanation.groups.size(); ++i) {
    const bool ring = explanation.last_group_is_ring && i + 1 == explanation.groups.size();
    lines.push_back(
        fmt::format("{} {}: {}", ring ? "ring" : "group", i, Names(explanation.groups[i], names)));
  }
  for (const HolderLine& line : explanation.lines) {
    GEMEL_CHECK_EQ(line.holders.size(), line.domains.size());
    std::vector<std::string> places;
    for (size_t i = 0; i < line.holders.size(); ++i) {
      GEMEL_CHECK_LT(line.holders[i], names.size());
      places.push_back(fmt::format("{} ({})", names[line.holders[i]], line.domains[i]));
    }
    lines.push_back(fmt::format("{} -> {}{}", names[line.owner], absl::StrJoin(places, ", "),
                                line.conflict ? "  SHARED DOMAIN" : ""));
  }
  AppendSurvival(explanation, lines);
  return lines;
}

}  // namespace gemel::model
