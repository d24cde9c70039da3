// SPDX-License-Identifier: Apache-2.0
//
// Campaign: injects damage into every layer by every kind, and counts. An injection is refused,
// believed (a failure), or read as what was written although bytes differ (without effect: bytes
// that mean nothing). Half of the injections have a good copy beside them, which must be found.
//
// Thread safety: one thread.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "tests/corruption/damage.h"
#include "tests/corruption/layers.h"

namespace gemel {

struct CampaignOptions {
  uint64_t seed = 1;
  uint64_t count = 20'000;
};

struct CampaignResult {
  struct Cell {
    uint64_t injected = 0;
    uint64_t refused = 0;
    uint64_t without_effect = 0;
    uint64_t believed = 0;
    uint64_t with_good_copy = 0;
    uint64_t repaired = 0;
  };

  std::map<std::pair<std::string, DamageKind>, Cell> cells;  // by layer and kind
  std::vector<std::string> failures;                         // the first ones, to replay

  Cell Sum() const;
  std::string Table() const;
};

CampaignResult RunCampaign(const std::vector<std::unique_ptr<Layer>>& layers,
                           const CampaignOptions& options);

}  // namespace gemel
