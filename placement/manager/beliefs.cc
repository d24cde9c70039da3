// SPDX-License-Identifier: Apache-2.0
#include "placement/manager/beliefs.h"

#include <utility>

#include "common/check.h"
#include "placement/manager/core.h"

namespace gemel {

PlacementBeliefs PlacementCore::Beliefs() const {
  PlacementBeliefs beliefs;
  beliefs.term = leadership_->term();
  std::vector<model::Member> members;
  for (const auto& [id, member] : members_) {
    if (!member->in_service()) {
      continue;
    }
    if (member->reported) {
      members.push_back({.domain = member->record.domain, .placeable = !draining_.contains(id)});
    }
    CheckAccount(*member);
    for (const auto& [key, ranks] : member->held) {
      for (const auto& [rank, copy] : ranks) {
        GEMEL_CHECK(KeyOf(copy.snapshot) == key) << member->record.name;
        beliefs.copies.push_back({member->record.incarnation, {copy.snapshot, rank}});
      }
    }
    if (member->reported && !member->disk_unknown && member->tier_trouble.empty()) {
      PlacementBeliefs::Disk& disk = beliefs.disks.emplace_back();
      disk.incarnation = member->record.incarnation;
      for (const auto& [key, ranks] : member->disk) {
        for (const auto& [rank, copy] : ranks) {
          disk.shards.insert({copy.snapshot, rank});
        }
      }
    }
  }
  for (const auto& [name, job] : jobs_) {
    for (const auto& [sequence, attempt] : job->attempts) {
      if (attempt->state == AttemptState::kOpen && !attempt->members_changed) {
        AddPlanned(*attempt, members, &beliefs);
      }
    }
  }
  return beliefs;
}

// What is counted as under way at a member is in its queue.
void PlacementCore::CheckAccount(const MemberEntry& member) {
  size_t pulls = 0;
  size_t persists = 0;
  for (const QueuedDirective& queued : member.directives) {
    pulls += queued.body.has_pull_shard() && queued.done != nullptr ? 1 : 0;
    persists += queued.body.has_persist_shard() ? 1 : 0;
  }
  GEMEL_CHECK_LE(member.pulls, pulls) << member.record.name;
  GEMEL_CHECK_EQ(member.persists, persists) << member.record.name;
}

void PlacementCore::AddPlanned(const Attempt& attempt, const std::vector<model::Member>& members,
                               PlacementBeliefs* beliefs) const {
  for (uint32_t rank = 0; rank < attempt.slots.size(); ++rank) {
    const RankSlot& slot = attempt.slots[rank];
    if (slot.full || slot.holders.empty()) {
      continue;
    }
    PlacementBeliefs::Planned planned;
    planned.shard = {attempt.id(), rank};
    planned.copies = attempt.record.copies;
    planned.level = attempt.record.level;
    planned.members = members;
    for (const SlotReceipt& holder : slot.holders) {
      const auto found = members_.find(holder.server);
      if (found != members_.end() && found->second->in_service()) {
        planned.holders.push_back({.domain = found->second->record.domain});
      }
    }
    // One that just died: the plan changes when its death is stored.
    if (planned.holders.size() == slot.holders.size()) {
      beliefs->planned.push_back(std::move(planned));
    }
  }
}

}  // namespace gemel
