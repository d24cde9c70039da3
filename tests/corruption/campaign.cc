// SPDX-License-Identifier: Apache-2.0
#include "tests/corruption/campaign.h"

#include <fmt/format.h>

#include <iterator>

#include "common/check.h"

namespace gemel {
namespace {

constexpr uint32_t kIdentities = 64;
constexpr uint32_t kVersions = 8;
constexpr size_t kFailuresKept = 10;

// What a reader does: the next copy, until one is not refused.
Reading ReadCopies(const Layer& layer, const Item& wanted, const std::vector<std::string>& copies) {
  for (const std::string& copy : copies) {
    const Reading reading = layer.Read(wanted, copy);
    if (reading != Reading::kRefused) {
      return reading;
    }
  }
  return Reading::kRefused;
}

void Inject(const Layer& layer, DamageKind kind, uint64_t number, CampaignResult* result,
            Random* random) {
  Item item;
  item.identity = static_cast<uint32_t>(random->Below(kIdentities));
  item.version = 2 + static_cast<uint32_t>(random->Below(kVersions));
  const Item other{.identity = item.identity + 1, .version = item.version};
  const Item older{.identity = item.identity, .version = item.version - 1};
  const std::string good = layer.Bytes(item);
  const std::string of_other = layer.Bytes(other);
  const std::string stale = layer.Bytes(older);
  const Around around{.good = good, .stale = stale, .other = of_other};
  std::vector<std::string> copies = {Damaged(kind, around, random)};
  CampaignResult::Cell& cell = result->cells[{std::string(layer.name()), kind}];
  cell.injected += 1;
  const Reading alone = layer.Read(item, copies.front());
  cell.refused += alone == Reading::kRefused ? 1 : 0;
  cell.without_effect += alone == Reading::kRight ? 1 : 0;
  cell.believed += alone == Reading::kWrong ? 1 : 0;
  bool failed = alone == Reading::kWrong;
  if (random->Chance(1, 2)) {
    copies.insert(random->Chance(1, 2) ? copies.begin() : copies.end(), good);
    const bool repaired = ReadCopies(layer, item, copies) == Reading::kRight;
    cell.with_good_copy += 1;
    cell.repaired += repaired ? 1 : 0;
    failed = failed || !repaired;
  }
  if (failed && result->failures.size() < kFailuresKept) {
    result->failures.push_back(fmt::format("injection {}: {} of the {}, identity {} version {}",
                                           number, NameOf(kind), layer.name(), item.identity,
                                           item.version));
  }
}

}  // namespace

CampaignResult::Cell CampaignResult::Sum() const {
  Cell sum;
  for (const auto& [where, cell] : cells) {
    sum.injected += cell.injected;
    sum.refused += cell.refused;
    sum.without_effect += cell.without_effect;
    sum.believed += cell.believed;
    sum.with_good_copy += cell.with_good_copy;
    sum.repaired += cell.repaired;
  }
  return sum;
}

std::string CampaignResult::Table() const {
  std::string text =
      fmt::format("{:<16} {:<13} {:>9} {:>9} {:>9} {:>9} {:>10} {:>9}\n", "layer", "damage",
                  "injected", "refused", "no effect", "believed", "good copy", "repaired");
  const auto line = [&text](std::string_view layer, std::string_view kind, const Cell& cell) {
    text += fmt::format("{:<16} {:<13} {:>9} {:>9} {:>9} {:>9} {:>10} {:>9}\n", layer, kind,
                        cell.injected, cell.refused, cell.without_effect, cell.believed,
                        cell.with_good_copy, cell.repaired);
  };
  for (const auto& [where, cell] : cells) {
    line(where.first, NameOf(where.second), cell);
  }
  line("all", "", Sum());
  return text;
}

CampaignResult RunCampaign(const std::vector<std::unique_ptr<Layer>>& layers,
                           const CampaignOptions& options) {
  GEMEL_CHECK(!layers.empty());
  CampaignResult result;
  for (uint64_t i = 0; i < options.count; ++i) {
    // A stream an injection: one is replayed alone by its number.
    Random random = Random(options.seed).Split(fmt::format("injection {}", i));
    const Layer& layer = *layers[i % layers.size()];
    const DamageKind kind = kDamageKinds[(i / layers.size()) % std::size(kDamageKinds)];
    Inject(layer, kind, i, &result, &random);
  }
  return result;
}

}  // namespace gemel
