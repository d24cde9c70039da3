// SPDX-License-Identifier: Apache-2.0
#include "placement/model/separation.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "common/check.h"

namespace gemel::model {
namespace {

// Number of entries of `order` in each domain.
std::vector<uint32_t> CountByDomain(std::span<const uint32_t> order,
                                    std::span<const uint32_t> domain_ids) {
  std::vector<uint32_t> counts(domain_ids.size(), 0);
  for (const uint32_t member : order) {
    GEMEL_CHECK_LT(domain_ids[member], counts.size());
    ++counts[domain_ids[member]];
  }
  return counts;
}

// The search for a new place for one copy.
struct Mover {
  std::span<const Member> members;
  std::span<const uint32_t> domain_ids;
  std::optional<uint32_t> load_max;
  std::vector<uint32_t> loads;

  bool Usable(uint32_t candidate, std::span<const uint32_t> kept) const {
    if (!members[candidate].placeable || (load_max && loads[candidate] >= *load_max)) {
      return false;
    }
    return std::none_of(kept.begin(), kept.end(), [&](uint32_t holder) {
      return domain_ids[holder] == domain_ids[candidate];
    });
  }

  std::optional<uint32_t> Find(uint32_t owner, std::span<const uint32_t> kept) const {
    std::optional<uint32_t> best;
    const auto size = static_cast<uint32_t>(members.size());
    for (uint32_t step = 1; step < size; ++step) {
      const uint32_t candidate = (owner + step) % size;
      if (Usable(candidate, kept) && (!best || loads[candidate] < loads[*best])) {
        best = candidate;
      }
    }
    return best;
  }
};

// Splits a holder set into the copies that open a domain and those that share one.
std::pair<std::vector<uint32_t>, std::vector<uint32_t>> SplitByDomain(
    std::span<const uint32_t> holders, std::span<const uint32_t> domain_ids) {
  std::vector<uint32_t> kept;
  std::vector<uint32_t> shared;
  for (const uint32_t holder : holders) {
    const bool seen = std::any_of(kept.begin(), kept.end(), [&](uint32_t other) {
      return domain_ids[other] == domain_ids[holder];
    });
    (seen ? shared : kept).push_back(holder);
  }
  return {std::move(kept), std::move(shared)};
}

// Gives `holders` as many domains as can be had; true when a copy moved.
bool SeparateOne(Mover& mover, std::vector<uint32_t>& holders) {
  const size_t size_before = holders.size();
  auto [kept, shared] = SplitByDomain(holders, mover.domain_ids);
  bool moved = false;
  std::vector<uint32_t> stuck;
  for (const uint32_t holder : shared) {
    const std::optional<uint32_t> place = mover.Find(holders.front(), kept);
    if (!place) {
      stuck.push_back(holder);
      continue;
    }
    GEMEL_CHECK_GE(mover.loads[holder], 1u);
    --mover.loads[holder];
    ++mover.loads[*place];
    kept.push_back(*place);
    moved = true;
  }
  kept.insert(kept.end(), stuck.begin(), stuck.end());
  GEMEL_CHECK_EQ(kept.size(), size_before);
  GEMEL_CHECK_EQ(kept.front(), holders.front()) << "the owner keeps its local copy";
  holders = std::move(kept);
  return moved;
}

}  // namespace

std::vector<uint32_t> TakeRing(std::span<const Member> members, uint32_t level, size_t count,
                               std::vector<uint32_t>& order) {
  GEMEL_CHECK_LE(count, order.size());
  const uint32_t deepest = std::max(level, DeepestLevel(members));
  std::vector<std::vector<uint32_t>> ids;  // By level from `level` on.
  std::vector<std::vector<uint32_t>> left;
  for (uint32_t at = level; at <= deepest; ++at) {
    ids.push_back(DomainIds(members, at));
    left.push_back(CountByDomain(order, ids.back()));
  }
  std::vector<uint32_t> in_ring(members.size(), 0);  // By domain at `level`.
  const auto better = [&](uint32_t a, uint32_t b) {
    const uint32_t ring_a = in_ring[ids[0][a]];
    const uint32_t ring_b = in_ring[ids[0][b]];
    if (ring_a != ring_b) {
      return ring_a < ring_b;
    }
    for (size_t at = 0; at < ids.size(); ++at) {
      const uint32_t left_a = left[at][ids[at][a]];
      const uint32_t left_b = left[at][ids[at][b]];
      if (left_a != left_b) {
        return left_a > left_b;
      }
    }
    return false;
  };
  std::vector<uint32_t> ring;
  while (ring.size() < count) {
    const auto best = std::min_element(order.begin(), order.end(), better);
    GEMEL_CHECK(best != order.end());
    ring.push_back(*best);
    ++in_ring[ids[0][*best]];
    for (size_t at = 0; at < ids.size(); ++at) {
      GEMEL_CHECK_GE(left[at][ids[at][*best]], 1u);
      --left[at][ids[at][*best]];
    }
    order.erase(best);
  }
  return ring;
}

std::vector<std::vector<uint32_t>> DealGroups(std::span<const uint32_t> order, uint32_t copies) {
  GEMEL_CHECK_GE(copies, 1u);
  GEMEL_CHECK_EQ(order.size() % copies, size_t{0});
  const size_t count = order.size() / copies;
  std::vector<std::vector<uint32_t>> groups(count);
  for (size_t i = 0; i < order.size(); ++i) {
    groups[i % count].push_back(order[i]);
  }
  return groups;
}

std::vector<uint32_t> RingOrder(std::span<const Member> members, uint32_t level, uint32_t copies) {
  std::vector<uint32_t> order = DomainOrder(members);
  GEMEL_CHECK(copies >= 1 && copies <= order.size()) << copies << " of " << order.size();
  const size_t rows = order.size() / copies;
  const std::vector<uint32_t> ids = DomainIds(members, level);
  const std::vector<uint32_t> sizes = CountByDomain(order, ids);
  std::vector<uint32_t> others;
  const auto of_others = [&](uint32_t member) { return sizes[ids[member]] != rows; };
  std::copy_if(order.begin(), order.end(), std::back_inserter(others), of_others);
  std::erase_if(order, of_others);
  order.insert(order.end(), others.begin(), others.end());
  std::vector<uint32_t> ring;
  ring.reserve(order.size());
  for (size_t row = 0; row < rows; ++row) {
    for (size_t i = row; i < order.size(); i += rows) {
      ring.push_back(order[i]);
    }
  }
  GEMEL_CHECK_EQ(ring.size(), order.size());
  return ring;
}

bool SharesDomain(std::span<const uint32_t> holders, std::span<const uint32_t> domain_ids) {
  return !SplitByDomain(holders, domain_ids).second.empty();
}

Separation Separate(std::span<const Member> members, std::span<const uint32_t> domain_ids,
                    HolderTable holders, std::optional<uint32_t> load_max) {
  GEMEL_CHECK_EQ(members.size(), domain_ids.size());
  GEMEL_CHECK_EQ(members.size(), holders.size());
  Mover mover{members, domain_ids, load_max, std::vector<uint32_t>(members.size(), 0)};
  for (const std::vector<uint32_t>& set : holders) {
    for (const uint32_t holder : set) {
      ++mover.loads[holder];
    }
  }
  Separation result;
  for (size_t owner = 0; owner < holders.size(); ++owner) {
    std::vector<uint32_t>& set = holders[owner];
    if (set.empty() || !SharesDomain(set, domain_ids)) {
      continue;
    }
    if (SeparateOne(mover, set)) {
      result.moved.push_back(static_cast<uint32_t>(owner));
    }
    if (SharesDomain(set, domain_ids)) {
      result.conflicts.push_back(static_cast<uint32_t>(owner));
    }
  }
  result.holders = std::move(holders);
  return result;
}

}  // namespace gemel::model
