// SPDX-License-Identifier: Apache-2.0
//
// Heirs: a rank whose server is gone will start somewhere else. A server where no rank of the job
// saves takes over its slot, so its shards are pulled there at detection, before anybody asks
// (DESIGN section 4). Homes and heirs are soft state: after a restart of the manager, repair goes
// by the assignment alone until the next commit.
#include <algorithm>

#include "common/check.h"
#include "placement/manager/core.h"

namespace gemel {

void PlacementCore::RememberHomes(Job* job, const Attempt& attempt) {
  job->homes.clear();
  job->home_bytes.clear();
  job->heirs.clear();
  for (const RankSlot& slot : attempt.slots) {
    job->homes.push_back(slot.owner.value_or(ServerId()));
    job->home_bytes.push_back(slot.bytes);
  }
  GEMEL_CHECK_EQ(job->homes.size(), attempt.record.world_size) << job->name;
}

// None while its home lives, or when every other server is a home of the job itself.
std::optional<ServerId> PlacementCore::HeirOf(Job* job, uint32_t rank, KnownHeirs* known) {
  if (rank >= job->homes.size() || job->homes[rank].IsZero()) {
    return std::nullopt;
  }
  const ServerId home = job->homes[rank];
  const auto takes_work = [this](const ServerId& id) {
    const MemberEntry* member = FindMember(id);
    return member != nullptr && member->in_service() && !draining_.contains(id);
  };
  if (takes_work(home)) {
    return std::nullopt;
  }
  const auto chosen = job->heirs.find(home);
  if (chosen != job->heirs.end() && takes_work(chosen->second)) {
    return chosen->second;
  }
  const auto [entry, fresh] = known->emplace(std::pair(job, home), std::nullopt);
  if (fresh) {
    entry->second = ChooseHeir(*job, home);
    if (entry->second.has_value()) {
      job->heirs[home] = *entry->second;
      Emit(Severity::kInfo, "slot_taken_over",
           fmt::format("job {}: server {} takes over the slots of {}", job->name,
                       FindMember(*entry->second)->record.name, home.ToShort()));
    }
  }
  return entry->second;
}

// Who has most of what the home kept of its own ranks, then most room.
std::optional<ServerId> PlacementCore::ChooseHeir(const Job& job, const ServerId& home) const {
  std::set<ServerId> taken(job.homes.begin(), job.homes.end());
  for (const auto& [gone, heir] : job.heirs) {
    taken.insert(heir);
  }
  const auto newest = std::find_if(job.snapshots.rbegin(), job.snapshots.rend(),
                                   [](const auto& entry) { return entry.second.in_memory; });
  std::optional<ServerId> best;
  std::pair<size_t, uint64_t> best_claim;
  for (const auto& [id, member] : members_) {
    if (!member->alive() || !member->reported || draining_.contains(id) || taken.contains(id)) {
      continue;
    }
    size_t shards = 0;
    if (newest != job.snapshots.rend()) {
      const auto held = member->held.find(KeyOf(newest->second.record.snapshot));
      for (uint32_t rank = 0; held != member->held.end() && rank < job.homes.size(); ++rank) {
        shards += job.homes[rank] == home && held->second.contains(rank) ? 1 : 0;
      }
    }
    const std::pair<size_t, uint64_t> claim{shards, RoomAt(*member)};
    if (!best.has_value() || claim > best_claim) {
      best = id;
      best_claim = claim;
    }
  }
  return best;
}

}  // namespace gemel
