// SPDX-License-Identifier: Apache-2.0
//
// Admission of one rank's shard: on every server that will hold it, committed + in flight + this
// snapshot + one more copy for a pin must fit (placement/model/admission.h).
#include <algorithm>
#include <limits>

#include "common/check.h"
#include "placement/manager/core.h"
#include "placement/model/admission.h"

namespace gemel {

uint64_t PlacementCore::CommittedBytes(const MemberEntry& member) const {
  uint64_t bytes = 0;
  for (const auto& [key, shards] : member.held) {
    const auto job = jobs_.find(key.job);
    if (job == jobs_.end() || !job->second->snapshots.contains(OrderOf(key.epoch, key.sequence))) {
      continue;
    }
    for (const auto& [rank, copy] : shards) {
      bytes += copy.bytes;
    }
  }
  return bytes;
}

uint64_t PlacementCore::InFlightBytes(const MemberEntry& member, const Attempt* except) const {
  uint64_t bytes = member.dropping_bytes + member.pulling_bytes;
  for (const auto& [name, job] : jobs_) {
    for (const auto& [sequence, attempt] : job->attempts) {
      const auto reserved = attempt->reserved.find(member.record.id);
      if (attempt.get() != except && reserved != attempt->reserved.end()) {
        bytes += reserved->second;
      }
    }
  }
  return bytes;
}

// What only a pin keeps; the newest snapshot stays anyway.
uint64_t PlacementCore::PinnedBytes(const MemberEntry& member) const {
  uint64_t bytes = 0;
  for (const auto& [key, shards] : member.held) {
    const auto found = jobs_.find(key.job);
    if (found == jobs_.end() || found->second->snapshots.empty()) {
      continue;
    }
    const Job& job = *found->second;
    const model::SnapshotOrder order = OrderOf(key.epoch, key.sequence);
    if (!IsPinned(job, order) || job.snapshots.rbegin()->first == order) {
      continue;
    }
    for (const auto& [rank, copy] : shards) {
      bytes += copy.bytes;
    }
  }
  return bytes;
}

// The holders of this rank are asked; the others' shares were admitted with their own ranks.
absl::StatusOr<bool> PlacementCore::Admit(Attempt* attempt, MemberEntry* owner, uint64_t bytes,
                                          std::string* reason) {
  Plan& plan = PlanFor(attempt->record.copies);
  const uint32_t index = plan.index.at(owner->record.id);
  std::vector<uint64_t> owned(plan.ids.size(), 0);
  for (const RankSlot& slot : attempt->slots) {
    const auto found = slot.opened ? plan.index.find(*slot.owner) : plan.index.end();
    if (found != plan.index.end()) {
      owned[found->second] += slot.bytes;
    }
  }
  GEMEL_CHECK_LT(index, owned.size()) << owner->record.name;
  owned[index] += bytes;
  const std::vector<uint32_t>& holders = plan.slots.holders[index];
  std::vector<model::ServerMemory> servers(plan.ids.size());
  for (uint32_t i = 0; i < servers.size(); ++i) {
    const MemberEntry& member = *members_.at(plan.ids[i]);
    servers[i].name = member.record.name;
    servers[i].capacity_bytes = std::numeric_limits<uint64_t>::max();
    if (std::find(holders.begin(), holders.end(), i) != holders.end()) {
      servers[i].capacity_bytes = member.record.capacity_bytes;
      servers[i].committed_bytes = CommittedBytes(member);
      servers[i].in_flight_bytes = InFlightBytes(member, attempt);
      servers[i].pinned_bytes = std::min(PinnedBytes(member), servers[i].committed_bytes);
    }
  }
  const model::Admission admission = model::AdmitSnapshot(servers, plan.slots, owned);
  if (admission.verdict == model::Verdict::kAccept) {
    return true;
  }
  *reason = std::string(MessageOf(admission.status));
  bool freed = false;
  for (const uint32_t holder : holders) {
    freed = GiveUpPersistsFor(*members_.at(plan.ids[holder]), attempt->id()) || freed;
  }
  if (freed || admission.verdict == model::Verdict::kWait) {
    return false;
  }
  return Annotate(admission.status, attempt->id().ToString());
}

}  // namespace gemel
