// SPDX-License-Identifier: Apache-2.0
#include "placement/model/receipts.h"

#include <algorithm>
#include <vector>

#include "common/check.h"

namespace gemel::model {
namespace {

std::vector<uint32_t> Distinct(std::span<const uint32_t> values) {
  std::vector<uint32_t> sorted(values.begin(), values.end());
  std::sort(sorted.begin(), sorted.end());
  sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
  return sorted;
}

}  // namespace

DomainRule RuleOn(std::span<const Member> members, uint32_t level) {
  return {.level = level, .domains = CountDomains(members, level)};
}

uint32_t CountDistinctDomains(std::span<const Member> members, std::span<const uint32_t> holders,
                              uint32_t level) {
  std::vector<Member> chosen;
  for (const uint32_t holder : Distinct(holders)) {
    GEMEL_CHECK_LT(holder, members.size()) << "receipt of a member that is not in the map";
    chosen.push_back({.domain = members[holder].domain, .placeable = true});
  }
  return CountDomains(chosen, level);
}

ReceiptCount CountReceipts(std::span<const Member> members, std::span<const uint32_t> receipts,
                           const CopyPolicy& policy, const DomainRule& rule) {
  GEMEL_CHECK_GE(policy.min_copies, 1u);
  GEMEL_CHECK_LE(policy.min_copies, policy.copies);
  ReceiptCount count;
  count.copies = static_cast<uint32_t>(Distinct(receipts).size());
  count.domains = CountDistinctDomains(members, receipts, rule.level);
  GEMEL_CHECK_LE(count.domains, count.copies);
  count.enough = count.copies >= policy.min_copies &&
                 count.domains >= std::min(policy.min_copies, rule.domains);
  count.full =
      count.copies >= policy.copies && count.domains >= std::min(policy.copies, rule.domains);
  GEMEL_CHECK(count.enough || !count.full) << "full redundancy implies enough to commit";
  return count;
}

bool EnoughReceipts(std::span<const Member> members, std::span<const uint32_t> receipts,
                    const CopyPolicy& policy, const DomainRule& rule) {
  return CountReceipts(members, receipts, policy, rule).enough;
}

}  // namespace gemel::model
