// SPDX-License-Identifier: Apache-2.0
#include "placement/model/survival.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>
#include <vector>

#include "common/check.h"

namespace gemel::model {
namespace {

// Coefficient j: number of ways to kill j of some members without losing a shard.
using Ways = std::array<U128, kLossesMax + 1>;
using Sets = std::vector<std::vector<uint32_t>>;  // Each ascending.

Ways Product(const Ways& a, const Ways& b, uint32_t budget) {
  Ways result{};
  for (uint32_t i = 0; i <= budget; ++i) {
    for (uint32_t j = 0; i + j <= budget; ++j) {
      result[i + j] = CheckedAdd(result[i + j], CheckedMultiply(a[i], b[j]));
    }
  }
  return result;
}

Ways Sum(const Ways& a, const Ways& b) {
  Ways result{};
  for (size_t j = 0; j < result.size(); ++j) {
    result[j] = CheckedAdd(a[j], b[j]);
  }
  return result;
}

Ways AllSubsets(uint64_t members, uint32_t budget) {
  Ways result{};
  for (uint32_t j = 0; j <= budget; ++j) {
    result[j] = Binomial(members, j);
  }
  return result;
}

// Drops duplicates and sets too large to die within the budget.
void Simplify(Sets& sets, uint32_t budget) {
  std::sort(sets.begin(), sets.end());
  sets.erase(std::unique(sets.begin(), sets.end()), sets.end());
  std::erase_if(sets, [&](const std::vector<uint32_t>& set) { return set.size() > budget; });
}

size_t CountMembers(const Sets& sets) {
  std::vector<uint32_t> members;
  for (const std::vector<uint32_t>& set : sets) {
    members.insert(members.end(), set.begin(), set.end());
  }
  std::sort(members.begin(), members.end());
  return static_cast<size_t>(std::unique(members.begin(), members.end()) - members.begin());
}

// Splits sets into classes that share no member.
std::vector<Sets> Components(const Sets& sets) {
  uint32_t bound = 0;
  for (const std::vector<uint32_t>& set : sets) {
    bound = std::max(bound, set.back() + 1);
  }
  std::vector<uint32_t> parent(bound);
  std::iota(parent.begin(), parent.end(), 0u);
  const auto root = [&](uint32_t member) {
    while (parent[member] != member) {
      parent[member] = parent[parent[member]];
      member = parent[member];
    }
    return member;
  };
  for (const std::vector<uint32_t>& set : sets) {
    for (const uint32_t member : set) {
      parent[root(member)] = root(set.front());
    }
  }
  std::vector<uint32_t> slot(bound, bound);
  std::vector<Sets> result;
  for (const std::vector<uint32_t>& set : sets) {
    uint32_t& at = slot[root(set.front())];
    if (at == bound) {
      at = static_cast<uint32_t>(result.size());
      result.emplace_back();
    }
    result[at].push_back(set);
  }
  return result;
}

// The member that is in most sets, the lowest of several.
uint32_t BusiestMember(const Sets& sets) {
  std::vector<uint32_t> all;
  for (const std::vector<uint32_t>& set : sets) {
    all.insert(all.end(), set.begin(), set.end());
  }
  GEMEL_CHECK(!all.empty());
  std::sort(all.begin(), all.end());
  uint32_t best = all.front();
  std::ptrdiff_t best_count = 0;
  for (auto it = all.begin(); it != all.end();) {
    const auto end = std::upper_bound(it, all.end(), *it);
    if (end - it > best_count) {
      best_count = end - it;
      best = *it;
    }
    it = end;
  }
  return best;
}

class Counter {
 public:
  // Ways to kill up to `budget` of `members` members, `sets` being subsets of them.
  Ways Count(size_t members, Sets sets, uint32_t budget) {
    Simplify(sets, budget);
    const size_t covered = CountMembers(sets);
    GEMEL_CHECK_LE(covered, members);
    Ways result = AllSubsets(members - covered, budget);
    if (sets.empty() || !TakeStep()) {
      return result;
    }
    for (const Sets& component : Components(sets)) {
      result = Product(result, CountComponent(component, budget), budget);
    }
    return result;
  }

  bool Exhausted() const { return steps_ > kSurvivalStepsMax || depth_exceeded_; }

 private:
  static constexpr uint32_t kDepthMax = 1024;  // Bounds the stack.

  bool TakeStep() {
    ++steps_;
    return !Exhausted();
  }

  Ways CountComponent(const Sets& sets, uint32_t budget) {
    const size_t members = CountMembers(sets);
    if (sets.size() == 1) {
      Ways result = AllSubsets(members, budget);
      GEMEL_CHECK_LE(members, size_t{budget});
      --result[members];  // All of them.
      return result;
    }
    if (depth_ >= kDepthMax) {
      depth_exceeded_ = true;
      return {};
    }
    ++depth_;
    const Ways result = Branch(sets, members, budget);
    --depth_;
    return result;
  }

  Ways Branch(const Sets& sets, size_t members, uint32_t budget) {
    const uint32_t pivot = BusiestMember(sets);
    Sets alive;  // The pivot lives: its sets cannot die.
    Sets dead;   // The pivot is dead: its sets are smaller by one.
    bool lost = false;
    for (const std::vector<uint32_t>& set : sets) {
      std::vector<uint32_t> rest = set;
      const bool has_pivot = std::erase(rest, pivot) > 0;
      if (!has_pivot) {
        alive.push_back(set);
      }
      lost = lost || rest.empty();
      dead.push_back(std::move(rest));
    }
    Ways result = Count(members - 1, std::move(alive), budget);
    if (budget == 0 || lost) {
      return result;
    }
    const Ways after_death = Count(members - 1, std::move(dead), budget - 1);
    for (uint32_t j = 1; j <= budget; ++j) {
      result[j] = CheckedAdd(result[j], after_death[j - 1]);
    }
    return result;
  }

  uint32_t steps_ = 0;
  uint32_t depth_ = 0;
  bool depth_exceeded_ = false;
};

using WaysByRun = std::vector<Ways>;  // By length of the dead run at the end, below m.

// One more member at the end of the line: it lives, or it dies and lengthens the run.
WaysByRun Extend(const WaysByRun& by_run) {
  WaysByRun next(by_run.size(), Ways{});
  for (size_t run = 0; run < by_run.size(); ++run) {
    next[0] = Sum(next[0], by_run[run]);
    if (run + 1 < by_run.size()) {
      std::copy(by_run[run].begin(), by_run[run].end() - 1, next[run + 1].begin() + 1);
    }
  }
  return next;
}

// Of `length` members in a row, ways to kill j with fewer than m dead in a row, the run at the end
// being at most `last_run_max`.
Ways CountLine(uint32_t length, uint32_t m, uint32_t last_run_max) {
  WaysByRun by_run(m, Ways{});
  by_run[0][0] = 1;
  for (uint32_t i = 0; i < length; ++i) {
    by_run = Extend(by_run);
  }
  Ways result{};
  for (uint32_t run = 0; run < m && run <= last_run_max; ++run) {
    result = Sum(result, by_run[run]);
  }
  return result;
}

Fraction UnionBound(uint32_t n, uint32_t m, uint32_t k, uint32_t sets_divisor) {
  GEMEL_CHECK(m >= 1 && m <= kCopiesMax) << "copies " << m;
  GEMEL_CHECK(n <= kMembersMax && k <= n && k <= kLossesMax) << n << " members, " << k << " die";
  if (k < m) {
    return {1, 1};
  }
  const U128 all = CheckedMultiply(Binomial(n, k), sets_divisor);
  const U128 fatal = CheckedMultiply(Binomial(n - m, k - m), n);
  return SubtractToZero({1, 1}, Fraction::Of(fatal, all));
}

}  // namespace

absl::StatusOr<Fraction> ExactSurvival(const Assignment& assignment, uint32_t k) {
  if (k > assignment.members || k > kLossesMax) {
    return absl::InvalidArgumentError(
        fmt::format("survival of {} losses among {} members: at most {} losses are counted, and no "
                    "more than there are members",
                    k, assignment.members, kLossesMax));
  }
  if (assignment.strategy == Strategy::kRing && assignment.moved.empty()) {
    return RingSurvival(assignment.members, assignment.copies, k);
  }
  Sets sets;
  for (std::vector<uint32_t> set : assignment.holders) {
    if (!set.empty()) {
      std::sort(set.begin(), set.end());
      sets.push_back(std::move(set));
    }
  }
  Counter counter;
  const Ways ways = counter.Count(assignment.members, std::move(sets), k);
  if (counter.Exhausted()) {
    return absl::ResourceExhaustedError(
        fmt::format("survival of {} losses among {} members takes more than {} counting steps; ask "
                    "for fewer losses",
                    k, assignment.members, kSurvivalStepsMax));
  }
  GEMEL_CHECK(ways[k] <= Binomial(assignment.members, k));
  return Fraction::Of(ways[k], Binomial(assignment.members, k));
}

Fraction RingSurvival(uint32_t n, uint32_t m, uint32_t k) {
  GEMEL_CHECK(m >= 1 && m <= n && n <= kMembersMax) << n << " members, " << m << " copies";
  GEMEL_CHECK_LE(k, std::min(n, kLossesMax));
  U128 ways = 0;
  // The ring is cut before a member whose predecessors' dead run wraps round: `first` dead members
  // come first, then one that lives, then a line whose last run may add up with `first` to m - 1.
  for (uint32_t first = 0; first < m && first <= k && first < n; ++first) {
    ways = CheckedAdd(ways, CountLine(n - first - 1, m, m - 1 - first)[k - first]);
  }
  GEMEL_CHECK(ways <= Binomial(n, k));
  return Fraction::Of(ways, Binomial(n, k));
}

Fraction Corollary1(uint32_t n, uint32_t m, uint32_t k) { return UnionBound(n, m, k, m); }

Fraction RingBound(uint32_t n, uint32_t m, uint32_t k) { return UnionBound(n, m, k, 1); }

}  // namespace gemel::model
