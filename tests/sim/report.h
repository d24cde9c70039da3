// SPDX-License-Identifier: Apache-2.0
//
// Report: what a campaign of seeds did: counters, the table of fault classes by phase with the
// cells that were never hit, Situations and Buggify sites never reached. As text and as JSON.
//
// Thread safety: values and pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

#include "tests/sim/scenario.h"

namespace gemel::sim {

struct CampaignTotals {
  uint64_t seeds = 0;
  uint64_t failed = 0;
  uint64_t reruns = 0;      // seeds that were run twice
  uint64_t mismatches = 0;  // of them, those whose histories differ
  double wall_s = 0;
  uint32_t processes = 1;
  ScenarioCounts counts;

  void Add(const CampaignTotals& other);
  // Cells, Situations and sites that were never hit.
  size_t Uncovered() const;
};

// A worker's word on some seeds, for the process that adds up: numbers between blanks.
std::string EncodeTotals(const CampaignTotals& totals);
// DataLoss when it is not what EncodeTotals() gave.
absl::StatusOr<CampaignTotals> DecodeTotals(std::string_view text);

std::string TextOf(const CampaignTotals& totals);
std::string JsonOf(const CampaignTotals& totals, std::string_view commit, uint64_t first_seed);

}  // namespace gemel::sim
