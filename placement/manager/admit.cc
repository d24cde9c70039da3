// SPDX-License-Identifier: Apache-2.0
//
// Admission of one rank's shard: on every server that will hold it, committed + in flight + this
// snapshot + one more copy for a pin must fit (placement/model/admission.h). Where the strategy
// puts a copy and it does not fit, another server takes it (placement/model/room.h).
#include <algorithm>

#include "absl/strings/str_join.h"

#include "common/bytes.h"
#include "common/check.h"
#include "placement/manager/core.h"
#include "placement/model/room.h"

namespace gemel {
namespace {

bool IsKeptFor(const Elsewhere& kept, const Attempt& attempt, uint64_t map_version) {
  return kept.epoch == attempt.id().epoch && kept.map_version == map_version &&
         kept.copies == attempt.record.copies && kept.strategy == attempt.record.strategy;
}

}  // namespace

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

// It holds what is to be retired: only the MetaStore has to hear of it yet.
bool PlacementCore::RetiresAt(const MemberEntry& member) const {
  return std::any_of(member.held.begin(), member.held.end(), [this](const auto& held) {
    const auto found = jobs_.find(held.first.job);
    if (found == jobs_.end() || found->second->snapshots.empty()) {
      return false;
    }
    const Job& job = *found->second;
    const std::vector<model::RetentionEntry> entries = Entries(job);
    const std::vector<size_t> retired =
        model::Retire(entries, job.snapshots.rbegin()->second.record.keep_latest);
    return std::any_of(retired.begin(), retired.end(), [&](size_t index) {
      return entries[index].order == OrderOf(held.first.epoch, held.first.sequence);
    });
  });
}

// Without what `attempt` has reserved there.
model::ServerMemory PlacementCore::MemoryOf(const MemberEntry& member,
                                            const Attempt* attempt) const {
  model::ServerMemory memory{.name = member.record.name,
                             .capacity_bytes = member.record.capacity_bytes,
                             .committed_bytes = CommittedBytes(member),
                             .in_flight_bytes = InFlightBytes(member, attempt)};
  memory.pinned_bytes = std::min(PinnedBytes(member), memory.committed_bytes);
  return memory;
}

// Made when the first rank asks, and anew when the members changed; counted on by Admit().
ExpectedCopies* PlacementCore::ExpectedOf(Attempt* attempt, const Plan& plan) const {
  ExpectedCopies* expected = &attempt->expected;
  if (expected->plan == plan.number) {
    return expected;
  }
  const Job& job = *jobs_.at(attempt->id().job);
  *expected = {.plan = plan.number};
  expected->bytes.resize(plan.ids.size());
  expected->opened.resize(plan.ids.size());
  const auto world = static_cast<uint32_t>(attempt->slots.size());
  expected->homes.resize(job.homes.size() == world ? world : 0);
  for (uint32_t rank = 0; rank < world; ++rank) {
    const RankSlot& slot = attempt->slots[rank];
    const auto owner = slot.opened ? plan.index.find(*slot.owner) : plan.index.end();
    if (owner != plan.index.end()) {
      expected->opened[owner->second] += 1;
    }
    expected->coming += slot.opened ? 0 : 1;
    const auto home = expected->homes.empty() ? plan.index.end() : plan.index.find(job.homes[rank]);
    if (home != plan.index.end() && !slot.opened) {
      expected->homes[rank] = {.member = home->second, .bytes = job.home_bytes[rank]};
      expected->bytes[home->second] += job.home_bytes[rank];
    }
  }
  return expected;
}

// Where the copies of this rank should lie: where they were put before in this epoch, else where
// the strategy puts them.
std::vector<uint32_t> PlacementCore::PreferredHolders(const Job& job, const Attempt& attempt,
                                                      const Plan& plan, uint32_t rank,
                                                      uint32_t owner) const {
  const std::vector<uint32_t>& usual = plan.slots.holders[owner];
  GEMEL_CHECK(!usual.empty() && usual.front() == owner) << attempt.id().ToString();
  const Elsewhere& kept = job.elsewhere;
  const auto found = kept.holders.find(rank);
  if (found == kept.holders.end() || !IsKeptFor(kept, attempt, cluster_.map_version)) {
    return usual;
  }
  const std::vector<uint32_t> before = Indices(plan, found->second);
  const bool usable = before.size() == usual.size() && before.front() == owner &&
                      std::all_of(before.begin() + 1, before.end(),
                                  [&](uint32_t index) { return plan.members[index].placeable; });
  return usable ? before : usual;
}

void PlacementCore::RememberElsewhere(Job* job, const Attempt& attempt, uint32_t rank,
                                      const std::vector<ServerId>& holders,
                                      const absl::Status& why) {
  Elsewhere& kept = job->elsewhere;
  if (!IsKeptFor(kept, attempt, cluster_.map_version)) {
    kept = {.epoch = attempt.id().epoch,
            .map_version = cluster_.map_version,
            .copies = attempt.record.copies,
            .strategy = attempt.record.strategy};
  }
  if (kept.holders.empty()) {
    std::vector<std::string> names;
    names.reserve(holders.size());
    for (const ServerId& id : holders) {
      names.push_back(members_.at(id)->record.name);
    }
    Emit(Severity::kInfo, "placed_elsewhere",
         fmt::format("{}: rank {} keeps its copies at {}; other ranks of this epoch may do as much "
                     "without being told: {}",
                     attempt.id().ToString(), rank, absl::StrJoin(names, ", "), MessageOf(why)));
  }
  kept.holders[rank] = holders;
  GEMEL_CHECK_LE(kept.holders.size(), model::kWorldSizeMax) << job->name;
}

// Room for the copies of one rank: who keeps them, or none and `reason` to wait for. Those of the
// other ranks were admitted with them.
absl::StatusOr<std::vector<ServerId>> PlacementCore::Admit(Attempt* attempt,
                                                           const MemberEntry& owner,
                                                           const pb::OpenRequest& request,
                                                           std::string* reason) {
  Job* job = FindJob(attempt->id().job);
  Plan& plan = PlanFor(attempt->record.copies, attempt->record.strategy);
  const uint32_t own = plan.index.at(owner.record.id);
  const model::ShardRequest shard{
      .bytes = request.shard_bytes(),
      .preferred = PreferredHolders(*job, *attempt, plan, request.rank(), own)};
  // This rank is expected no more.
  ExpectedCopies* expected = ExpectedOf(attempt, plan);
  GEMEL_CHECK_GT(expected->coming, 0U) << attempt->id().ToString();
  const ExpectedCopies::Home home =
      expected->homes.empty() ? ExpectedCopies::Home() : expected->homes[request.rank()];
  const auto even =
      static_cast<uint32_t>(DivideUp(attempt->slots.size(), std::max(1U, plan.assignment.members)));
  const model::SnapshotRoom room{
      .memory = [&](uint32_t i) { return MemoryOf(*members_.at(plan.ids[i]), attempt); },
      .staged_bytes =
          [&](uint32_t i) {
            const auto reserved = attempt->reserved.find(plan.ids[i]);
            return reserved == attempt->reserved.end() ? 0 : reserved->second;
          },
      .expected_bytes =
          [&](uint32_t i) {
            if (!expected->homes.empty()) {
              return expected->bytes[i] - (i == home.member ? home.bytes : 0);
            }
            const uint32_t here = expected->opened[i] + (i == own ? 1 : 0);
            const uint32_t more = plan.members[i].placeable ? even - std::min(even, here) : 0;
            return request.shard_bytes() * std::min(expected->coming - 1, more);
          }};
  const model::PlacedShard placed = model::PlaceShard(*plan.repairs, shard, room);
  std::vector<ServerId> holders;
  holders.reserve(placed.holders.size());
  for (const uint32_t index : placed.holders) {
    holders.push_back(plan.ids[index]);
  }
  if (placed.verdict == model::Verdict::kAccept) {
    expected->coming -= 1;
    expected->opened[own] += 1;
    expected->bytes[home.member] -= home.bytes;
    if (placed.elsewhere) {
      RememberElsewhere(job, *attempt, request.rank(), holders, placed.status);
    }
    return holders;
  }
  *reason = std::string(MessageOf(placed.status));
  bool freed = false;
  for (const uint32_t index : shard.preferred) {
    const MemberEntry& holder = *members_.at(plan.ids[index]);
    freed = GiveUpPersistsFor(holder, attempt->id()) || RetiresAt(holder) || freed;
  }
  if (freed || placed.verdict == model::Verdict::kWait) {
    return holders;
  }
  return Annotate(placed.status, attempt->id().ToString());
}

}  // namespace gemel
