// SPDX-License-Identifier: Apache-2.0
#include "placement/model/retarget.h"

#include <algorithm>
#include <iterator>

#include "common/check.h"

namespace gemel::model {
namespace {

bool Contains(std::span<const uint32_t> values, uint32_t value) {
  return std::find(values.begin(), values.end(), value) != values.end();
}

void AppendNew(std::span<const uint32_t> values, std::vector<uint32_t>& list) {
  for (const uint32_t value : values) {
    if (!Contains(list, value)) {
      list.push_back(value);
    }
  }
}

// Rule 2's candidates, best first.
std::vector<uint32_t> Candidates(std::span<const Member> members, const Assignment& next,
                                 const ShardState& shard) {
  std::vector<uint32_t> list;
  AppendNew(shard.old_holders, list);
  std::optional<uint32_t> anchor = shard.owner;
  if (!anchor && !shard.receipts.empty()) {
    anchor = shard.receipts.front();
  }
  if (anchor) {
    GEMEL_CHECK_LT(*anchor, next.holders.size());
    AppendNew(next.holders[*anchor], list);
  }
  const auto size = static_cast<uint32_t>(members.size());
  std::vector<bool> listed(size, false);
  for (const uint32_t member : list) {
    GEMEL_CHECK_LT(member, size) << "holder that is not in the map";
    listed[member] = true;
  }
  for (uint32_t step = 1; step <= size; ++step) {
    const uint32_t member = (anchor.value_or(0) + step) % size;
    if (!listed[member]) {
      list.push_back(member);
    }
  }
  std::erase_if(list, [&](uint32_t member) { return !members[member].placeable; });
  // Last: those without room.
  std::vector<uint32_t> without;
  const auto has_none = [&](uint32_t member) {
    return !Contains(shard.old_holders, member) && Contains(shard.full, member);
  };
  std::copy_if(list.begin(), list.end(), std::back_inserter(without), has_none);
  std::erase_if(list, has_none);
  list.insert(list.end(), without.begin(), without.end());
  return list;
}

// The plan under construction.
struct Plan {
  std::vector<uint32_t> domain_ids;
  std::vector<uint32_t> holders;
  std::vector<uint32_t> covered;  // Domain ids of `holders`.

  void Add(uint32_t member) {
    GEMEL_CHECK(!Contains(holders, member)) << "member " << member << " planned twice";
    holders.push_back(member);
    if (!Contains(covered, domain_ids[member])) {
      covered.push_back(domain_ids[member]);
    }
  }
};

void Fill(std::span<const uint32_t> candidates, size_t copies, size_t domains, Plan& plan) {
  for (const uint32_t member : candidates) {
    if (plan.covered.size() >= domains) {
      break;
    }
    if (!Contains(plan.covered, plan.domain_ids[member])) {
      plan.Add(member);
    }
  }
  for (const uint32_t member : candidates) {
    if (plan.holders.size() >= copies) {
      break;
    }
    if (!Contains(plan.holders, member)) {
      plan.Add(member);
    }
  }
}

}  // namespace

Retargeted Retarget(std::span<const Member> members, const Assignment& next,
                    const ShardState& shard, uint32_t level) {
  GEMEL_CHECK_EQ(members.size(), next.holders.size());
  if (members.empty()) {
    GEMEL_CHECK(shard.receipts.empty() && shard.old_holders.empty());
    return {};
  }
  const uint32_t available = CountDomains(members, level);
  Plan plan;
  plan.domain_ids = DomainIds(members, level);
  for (const uint32_t member : shard.receipts) {
    GEMEL_CHECK_LT(member, members.size()) << "receipt of a member that is not in the map";
    if (!Contains(plan.holders, member)) {
      plan.Add(member);
    }
  }
  const size_t with_receipt = plan.holders.size();
  const size_t copies = std::min(next.copies, next.members);
  const size_t domains = std::min(next.copies, available);
  Fill(Candidates(members, next, shard), copies, domains, plan);
  GEMEL_CHECK_GE(plan.holders.size(), copies);
  GEMEL_CHECK_GE(plan.covered.size(), domains);

  Retargeted result;
  result.holders = plan.holders;
  result.needed.assign(plan.holders.begin() + static_cast<std::ptrdiff_t>(with_receipt),
                       plan.holders.end());
  for (const uint32_t member : result.needed) {
    if (!Contains(shard.old_holders, member)) {
      result.added.push_back(member);
    }
  }
  for (const uint32_t member : shard.old_holders) {
    if (!Contains(plan.holders, member)) {
      result.dropped.push_back(member);
    }
  }
  return result;
}

}  // namespace gemel::model
