// SPDX-License-Identifier: Apache-2.0
//
// Repair: shards of committed snapshots that lost copies are pulled to other members, newest
// snapshot first, at detection. Copies are only ever added here; retiring removes.
#include <algorithm>

#include "common/check.h"
#include "common/errors.h"
#include "common/points.h"
#include "placement/manager/core.h"
#include "placement/model/retarget.h"

namespace gemel {

bool PlacementCore::RoomFor(const MemberEntry& member, uint64_t bytes) const {
  const uint64_t used = CommittedBytes(member) + InFlightBytes(member, nullptr);
  return used <= member.record.capacity_bytes && bytes <= member.record.capacity_bytes - used;
}

void PlacementCore::PullTo(Job* job, Committed* snapshot, uint32_t rank, MemberEntry* target,
                           const std::vector<ServerId>& sources) {
  const std::pair<uint32_t, ServerId> to{rank, target->record.id};
  const SnapshotId& id = snapshot->record.snapshot;
  const model::ManifestShard& shard = snapshot->parsed->shards.at(rank);
  if (snapshot->pulls.contains(to) || target->pulls >= kPullsMax) {
    return;
  }
  if (!RoomFor(*target, shard.bytes)) {
    Emit(Severity::kWarning, "repair_blocked",
         fmt::format("rank {} of {}: {} has no room for {} bytes; give it more memory (--memory)",
                     rank, id.ToString(), target->record.name, shard.bytes));
    return;
  }
  HeldCopy copy{
      .snapshot = id, .root = shard.root, .bytes = shard.bytes, .layout_bytes = shard.layout_bytes};
  const MemberEntry* source = FindMember(sources.front());
  if (!source->held.contains(KeyOf(id)) && !source->disk.contains(KeyOf(id))) {
    return;  // its queue of directives was given up meanwhile: it joins again
  }
  copy.token = CopyAt(*source, {id, rank}).token;
  QueuedDirective directive;
  pb::PullShard* pull = directive.body.mutable_pull_shard();
  HeldToProto({id, rank}, copy, pull->mutable_object());
  for (const ServerId& from : sources) {
    MemberToProto(from, pull->add_sources());
  }
  Sometimes(Situation::kRepairPull);
  snapshot->pulls.insert(to);
  target->pulls += 1;
  directive.done = [this, name = job->name, order = OrderOf(id.epoch, id.sequence), to,
                    copy](const pb::DirectiveResult& result) {
    MemberEntry* puller = FindMember(to.second);
    GEMEL_CHECK(puller != nullptr && puller->pulls > 0) << to.second.ToShort();
    puller->pulls -= 1;
    if (result.code() == 0) {
      puller->held[KeyOf(copy.snapshot)][to.first] = copy;
      repairs_.Add(1);
    }
    PullDone(name, order, to, result);
  };
  Direct(target, std::move(directive));
}

void PlacementCore::PullDone(const std::string& name, model::SnapshotOrder order,
                             std::pair<uint32_t, ServerId> to, const pb::DirectiveResult& result) {
  Job* job = FindJob(name);
  const auto found = job->snapshots.find(order);
  if (found == job->snapshots.end()) {
    return;
  }
  found->second.pulls.erase(to);
  if (result.code() != 0) {
    Sometimes(Situation::kRepairFailed);
    Emit(Severity::kWarning, "repair_failed",
         fmt::format("rank {} of {}: {} could not pull it: {}", to.first,
                     found->second.record.snapshot.ToString(), to.second.ToShort(),
                     result.message()));
  } else {
    MaintainSoon(job);
  }
  job->changed.NotifyAll();
}

void PlacementCore::Repair(Job* job, Committed* snapshot) {
  if (snapshot->full || !snapshot->in_memory || snapshot->parsed == nullptr ||
      !AllReported(nullptr)) {
    return;
  }
  Plan& plan = PlanFor(std::clamp<uint32_t>(snapshot->record.copies, 1, model::kCopiesMax));
  const model::CopyPolicy policy{.copies = plan.assignment.copies, .min_copies = 1};
  const model::DomainRule rule = plan.RuleAt(plan.assignment.level);
  const HolderTable table = HoldersOf(*snapshot);
  const HolderTable sources = SourcesOf(*snapshot);
  GEMEL_CHECK_EQ(table.size(), snapshot->parsed->shards.size());
  for (uint32_t rank = 0; rank < table.size(); ++rank) {
    model::ShardState shard;
    shard.receipts = Indices(plan, table[rank]);
    if (sources[rank].empty() ||
        model::CountReceipts(plan.members, shard.receipts, policy, rule).full) {
      continue;
    }
    std::vector<ServerId> pulling;
    for (auto it = snapshot->pulls.lower_bound({rank, ServerId()});
         it != snapshot->pulls.end() && it->first == rank; ++it) {
      pulling.push_back(it->second);
    }
    shard.old_holders = Indices(plan, pulling);
    const model::Retargeted target =
        model::Retarget(plan.members, plan.assignment, shard, plan.assignment.level);
    for (const uint32_t index : target.added) {
      MemberEntry* member = FindMember(plan.ids[index]);
      GEMEL_CHECK(member != nullptr && member->alive()) << plan.ids[index].ToShort();
      PullTo(job, snapshot, rank, member, sources[rank]);
    }
  }
}

}  // namespace gemel
