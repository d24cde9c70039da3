// SPDX-License-Identifier: Apache-2.0
#include "placement/model/repair.h"

#include <algorithm>

#include "common/check.h"

namespace gemel::model {
namespace {

bool Contains(std::span<const uint32_t> values, uint32_t value) {
  return std::find(values.begin(), values.end(), value) != values.end();
}

// Level 0 is that of an assignment without members.
std::vector<uint32_t> IdsAt(std::span<const Member> members, const Assignment& assignment) {
  return members.empty() ? std::vector<uint32_t>() : DomainIds(members, assignment.level);
}

}  // namespace

// Holders as they are gathered.
class RepairPlanner::Gathering {
 public:
  explicit Gathering(std::span<const uint32_t> domain_ids) : domain_ids_(domain_ids) {}

  void Add(uint32_t member) {
    if (Contains(holders_, member)) {
      return;
    }
    holders_.push_back(member);
    if (OpensDomain(member)) {
      covered_.push_back(domain_ids_[member]);
    }
  }

  bool Has(uint32_t member) const { return Contains(holders_, member); }

  bool OpensDomain(uint32_t member) const {
    GEMEL_CHECK_LT(member, domain_ids_.size()) << "a holder that is not in the map";
    return !Contains(covered_, domain_ids_[member]);
  }

  size_t copies() const { return holders_.size(); }

  size_t domains() const { return covered_.size(); }

  const std::vector<uint32_t>& holders() const { return holders_; }

 private:
  const std::span<const uint32_t> domain_ids_;
  std::vector<uint32_t> holders_;
  std::vector<uint32_t> covered_;
};

RepairPlanner::RepairPlanner(std::span<const Member> members, const Assignment& assignment)
    : members_(members),
      assignment_(assignment),
      domain_ids_(IdsAt(members, assignment)),
      copies_(std::min(assignment.copies, assignment.members)),
      domains_(members.empty()
                   ? 0
                   : std::min(assignment.copies, CountDomains(members, assignment.level))) {
  GEMEL_CHECK_EQ(members.size(), assignment.holders.size());
  GEMEL_CHECK_LE(domains_, copies_);
}

// Rule 2's candidates, best first.
std::vector<uint32_t> RepairPlanner::Candidates(const RepairShard& shard,
                                                const Gathering& have) const {
  std::vector<bool> out(members_.size(), false);  // no candidate, or listed already
  for (const uint32_t member : have.holders()) {
    out[member] = true;
  }
  for (const uint32_t member : shard.barred) {
    GEMEL_CHECK_LT(member, members_.size()) << "a barred member that is not in the map";
    out[member] = true;
  }
  std::vector<uint32_t> list;
  const auto add = [&](uint32_t member) {
    GEMEL_CHECK_LT(member, members_.size());
    if (members_[member].placeable && !out[member]) {
      out[member] = true;
      list.push_back(member);
    }
  };
  if (shard.heir.has_value()) {
    add(*shard.heir);
  }
  uint32_t anchor = 0;
  if (have.copies() > 0) {
    anchor = have.holders().front();
    std::for_each(assignment_.holders[anchor].begin(), assignment_.holders[anchor].end(), add);
  } else if (!shard.holders.empty()) {
    anchor = shard.holders.front();
  }
  const auto size = static_cast<uint32_t>(members_.size());
  for (uint32_t step = 1; step <= size; ++step) {
    add((anchor + step) % size);
  }
  return list;
}

RepairPlanner::Gathering RepairPlanner::Have(std::span<const uint32_t> holders) const {
  Gathering have(domain_ids_);
  for (const uint32_t member : holders) {
    GEMEL_CHECK_LT(member, members_.size()) << "a holder that is not in the map";
    if (members_[member].placeable) {
      have.Add(member);
    }
  }
  return have;
}

uint32_t RepairPlanner::Missing(std::span<const uint32_t> holders) const {
  const Gathering have = Have(holders);
  const size_t lacking = copies_ - std::min<size_t>(copies_, have.copies());
  return std::max(static_cast<uint32_t>(lacking), have.domains() < domains_ ? 1U : 0U);
}

RepairTargets RepairPlanner::TargetsOf(const RepairShard& shard) const {
  Gathering have = Have(shard.holders);
  for (const uint32_t member : shard.pulling) {
    if (members_[member].placeable) {
      have.Add(member);
    }
  }
  RepairTargets result;
  if (have.copies() >= copies_ && have.domains() >= domains_) {
    return result;
  }
  const auto take = [&](uint32_t member) {
    have.Add(member);
    result.targets.push_back(member);
  };
  const std::vector<uint32_t> candidates = Candidates(shard, have);
  for (const uint32_t member : candidates) {
    if (have.domains() < domains_ && have.OpensDomain(member)) {
      take(member);
    }
  }
  for (const uint32_t member : candidates) {
    if (have.copies() < copies_ && !have.Has(member)) {
      take(member);
    }
  }
  result.blocked = have.copies() < copies_ || have.domains() < domains_;
  return result;
}

}  // namespace gemel::model
