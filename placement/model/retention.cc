// SPDX-License-Identifier: Apache-2.0
#include "placement/model/retention.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <string_view>

#include "common/check.h"

namespace gemel::model {
namespace {

std::vector<size_t> NewestFirst(std::span<const RetentionEntry> entries) {
  std::vector<size_t> order(entries.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(),
            [&](size_t a, size_t b) { return entries[a].order > entries[b].order; });
  for (size_t i = 1; i < order.size(); ++i) {
    GEMEL_CHECK(entries[order[i - 1]].order > entries[order[i]].order)
        << "snapshots " << entries[order[i]].name << " and " << entries[order[i - 1]].name
        << " have the same order";
  }
  return order;
}

}  // namespace

std::optional<size_t> Latest(std::span<const RetentionEntry> entries) {
  if (entries.empty()) {
    return std::nullopt;
  }
  return NewestFirst(entries).front();
}

bool IsReplaced(std::span<const RetentionEntry> entries, size_t index) {
  GEMEL_CHECK_LT(index, entries.size());
  const RetentionEntry& entry = entries[index];
  return std::any_of(entries.begin(), entries.end(), [&](const RetentionEntry& other) {
    GEMEL_CHECK(&other == &entry || other.name != entry.name ||
                other.order.epoch != entry.order.epoch || other.attempt != entry.attempt)
        << "two snapshots " << entry.name << " with attempt " << entry.attempt;
    return other.name == entry.name && other.order > entry.order;
  });
}

std::vector<size_t> Retire(std::span<const RetentionEntry> entries, uint32_t keep) {
  std::vector<size_t> retired;
  std::set<std::string_view> newer_names;
  uint32_t newer_full = 0;  // Newer ones at full redundancy that are not replaced.
  bool seen_full = false;
  for (const size_t index : NewestFirst(entries)) {
    const RetentionEntry& entry = entries[index];
    const bool replaced = !newer_names.insert(entry.name).second;
    GEMEL_DCHECK(replaced == IsReplaced(entries, index));
    const bool newest_full = entry.fully_redundant && !seen_full;
    const bool enough_newer = keep > 0 && newer_full >= keep;
    if (!entry.pinned && !newest_full && (replaced || enough_newer)) {
      retired.push_back(index);
    }
    seen_full = seen_full || entry.fully_redundant;
    newer_full += entry.fully_redundant && !replaced ? 1 : 0;
  }
  GEMEL_CHECK_LE(retired.size(), entries.size());
  std::reverse(retired.begin(), retired.end());
  return retired;
}

}  // namespace gemel::model
