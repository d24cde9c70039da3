// SPDX-License-Identifier: Apache-2.0
//
// Repair: shards of committed snapshots that lost copies are pulled to other members, from
// detection on, over all jobs and snapshots in order of risk: the last copy first, then the newest
// snapshot. Copies are only ever added here; retiring removes. Soft state: whoever dies in the
// middle is left out of the next pass, and a restarted manager begins anew.
//
// A shard that keeps two copies or more waits a moment after a death when it is not of its job's
// newest snapshot: a server that was paused, or that its keeper brings back, still has its own, and
// the bytes would have been copied for nothing. The newest is what a restart reads: it never waits.
#include <algorithm>

#include "common/check.h"
#include "common/errors.h"
#include "common/points.h"
#include "placement/manager/core.h"

namespace gemel {
namespace {

// Between two passes; a large backlog is looked at less often than a small one.
constexpr Duration kRepairEvery = 20ms;
constexpr Duration kRepairEveryThousand = 10ms;

}  // namespace

uint64_t PlacementCore::RoomAt(const MemberEntry& member) const {
  const uint64_t used = CommittedBytes(member) + InFlightBytes(member, nullptr);
  return member.record.capacity_bytes - std::min(used, member.record.capacity_bytes);
}

void PlacementCore::RepairSoon() {
  repair_again_ = true;
  if (!repairing_ && !stopping_) {
    repairing_ = true;
    SpawnInside(RunRepairs());
  }
}

Task<void> PlacementCore::RunRepairs() {
  while (repair_again_ && !stopping_) {
    repair_again_ = false;
    Backlog backlog = CollectBacklog();
    IssueRepairs(&backlog);
    TellBlocked(backlog);
    const Duration pause =
        kRepairEvery + static_cast<int64_t>(backlog.tasks.size() / 1000) * kRepairEveryThousand;
    co_await loop_->Sleep(pause);
  }
  repairing_ = false;
}

void PlacementCore::IssueRepairs(Backlog* backlog) {
  if (!AllReported(nullptr)) {
    return;  // whoever has not reported may hold what seems to be missing
  }
  Room room;
  for (const auto& [id, member] : members_) {
    if (member->alive() && member->reported && !draining_.contains(id)) {
      room[id] = RoomAt(*member);
    }
  }
  KnownHeirs heirs;
  for (const RepairTask& task : backlog->tasks) {
    const bool slots = std::any_of(room.begin(), room.end(), [this](const auto& entry) {
      return FindMember(entry.first)->pulls < kPullsMax;
    });
    if (!slots) {
      break;  // every server is as busy as it may be
    }
    IssueRepair(task, &room, &heirs, backlog);
  }
  IssueRewrites(backlog);
}

bool PlacementCore::IsBarred(const Committed& snapshot, std::pair<uint32_t, ServerId> to) const {
  const auto failure = snapshot.repair_failures.find(to);
  return failure != snapshot.repair_failures.end() && loop_->Now() < failure->second.until;
}

// Who has it, who pulls it, and who cannot take it now.
model::RepairShard PlacementCore::ShardOf(const RepairTask& task, const Plan& plan, Room* room,
                                          std::set<std::string>* failures) {
  const Committed& snapshot = task.job->snapshots.at(task.order);
  model::RepairShard shard;
  shard.holders = Indices(plan, RankHolders(snapshot, task.rank));
  for (uint32_t index = 0; index < plan.ids.size(); ++index) {
    const ServerId& id = plan.ids[index];
    const std::pair<uint32_t, ServerId> to{task.rank, id};
    if (snapshot.pulls.contains(to)) {
      shard.pulling.push_back(index);
      continue;
    }
    const auto free = room->find(id);
    const bool failed = IsBarred(snapshot, to);
    if (failed) {
      AddLine(failures, fmt::format("{}: {}", members_.at(id)->record.name,
                                    snapshot.repair_failures.at(to).why));
    }
    if (failed || free == room->end() || free->second < task.bytes) {
      shard.barred.push_back(index);
    }
  }
  return shard;
}

void PlacementCore::IssueRepair(const RepairTask& task, Room* room, KnownHeirs* heirs,
                                Backlog* backlog) {
  Committed& snapshot = task.job->snapshots.at(task.order);
  const std::string what = ShardId{snapshot.record.snapshot, task.rank}.ToString();
  if (task.living >= 2 && task.living < task.wanted && task.age > 0 &&
      loop_->Now() < repair_after_) {
    AddLine(&backlog->waiting, "a server that died may come back with what it held");
    return;
  }
  Plan& plan = PlanOf(snapshot.record);
  std::set<std::string> failures;
  model::RepairShard shard = ShardOf(task, plan, room, &failures);
  const std::optional<ServerId> heir = HeirOf(task.job, task.rank, heirs);
  if (heir.has_value()) {
    shard.heir = plan.index.at(*heir);
  }
  const std::vector<ServerId> sources = RankSources(snapshot, task.rank);
  GEMEL_CHECK(!sources.empty()) << what;
  for (const uint32_t index : shard.pulling) {
    if (task.urgent() && !snapshot.pulls.at({task.rank, plan.ids[index]})) {
      PullTo(task, FindMember(plan.ids[index]), sources, true);
    }
  }
  const model::RepairTargets found = plan.repairs->TargetsOf(shard);
  if (found.blocked && !failures.empty()) {
    AddLine(&backlog->waiting,
            fmt::format("{} is tried again: {}", what, fmt::join(failures, "; ")));
  } else if (found.blocked) {
    AddLine(&backlog->blocked,
            fmt::format("job {}: shards of {} bytes have no room at any server that lacks them: "
                        "give servers more memory (--memory), or start another",
                        task.job->name, task.bytes));
  }
  for (const uint32_t index : found.targets) {
    MemberEntry* target = FindMember(plan.ids[index]);
    room->at(target->record.id) -= task.bytes;  // also when it waits: what is less at risk may not
    const size_t pulls_max = task.urgent() ? kPullsMax : kPullsCalmMax;
    if (target->pulls < pulls_max && target->directives.size() < kDirectivesMax / 2) {
      PullTo(task, target, sources, false);
    }
  }
}

// `again`: it is under way and has become urgent; the server hurries, and answers both.
void PlacementCore::PullTo(const RepairTask& task, MemberEntry* target,
                           const std::vector<ServerId>& sources, bool again) {
  Committed& snapshot = task.job->snapshots.at(task.order);
  const SnapshotId& id = snapshot.record.snapshot;
  GEMEL_CHECK(target->alive() && !sources.empty()) << target->record.name;
  const MemberEntry* source = FindMember(sources.front());
  if (!source->held.contains(KeyOf(id)) && !source->disk.contains(KeyOf(id))) {
    return;  // its queue of directives was given up meanwhile: it joins again
  }
  const HeldCopy copy = CopyAt(*source, {id, task.rank});
  QueuedDirective directive;
  pb::PullShard* pull = directive.body.mutable_pull_shard();
  HeldToProto({id, task.rank}, copy, pull->mutable_object());
  pull->set_urgent(task.urgent());
  for (const ServerId& from : sources) {
    MemberToProto(from, pull->add_sources());
  }
  const std::pair<uint32_t, ServerId> to{task.rank, target->record.id};
  GEMEL_CHECK_EQ(snapshot.pulls.contains(to), again) << id.ToString();
  snapshot.pulls[to] = task.urgent();
  if (!again) {
    Sometimes(Situation::kRepairPull);
    target->pulls += 1;
    target->pulling_bytes += copy.bytes;
    directive.done = [this, task, server = target->record.id,
                      copy](const pb::DirectiveResult& result) {
      MemberEntry* puller = FindMember(server);
      GEMEL_CHECK(puller != nullptr) << server.ToShort();
      PullDone(task, puller, copy, result);
    };
  }
  Direct(target, std::move(directive));
}

void PlacementCore::PullDone(const RepairTask& task, MemberEntry* target, const HeldCopy& copy,
                             const pb::DirectiveResult& result) {
  GEMEL_CHECK(target->pulls > 0 && target->pulling_bytes >= copy.bytes) << target->record.name;
  target->pulls -= 1;
  target->pulling_bytes -= copy.bytes;
  if (result.code() == 0) {
    Reach(CrashPoint::kRepairHeard);
    target->held[KeyOf(copy.snapshot)][task.rank] = copy;
    repairs_.Add(1);
    repaired_bytes_.Add(static_cast<int64_t>(copy.bytes));
  }
  const std::pair<uint32_t, ServerId> to{task.rank, target->record.id};
  const auto found = task.job->snapshots.find(task.order);
  if (found == task.job->snapshots.end()) {
    return;
  }
  Committed& snapshot = found->second;
  snapshot.pulls.erase(to);
  if (result.code() != 0) {
    Sometimes(Situation::kRepairFailed);
    snapshot.rewrites.erase(to);
    NoteFailure(&snapshot, to, result.message());
    RepairSoon();
  } else {
    snapshot.repair_failures.erase(to);
    snapshot.manifest_idle = false;  // the new holder gets the commit record and the manifest
    MaintainSoon(task.job);
  }
  task.job->changed.NotifyAll();
  ReviewRestoreSoon(task.job);
}

void PlacementCore::NoteFailure(Committed* snapshot, std::pair<uint32_t, ServerId> to,
                                std::string why) {
  RepairFailure& failure = snapshot->repair_failures[to];
  Duration wait = kRepairRetryMin;
  for (uint32_t i = 0; i < failure.tries && wait < kRepairRetryMax; ++i) {
    wait = std::min(2 * wait, kRepairRetryMax);
  }
  failure.tries += 1;
  failure.until = Add(loop_->Now(), wait);
  failure.why = std::move(why);
  const MemberEntry* member = FindMember(to.second);
  Emit(Severity::kWarning, "repair_failed",
       fmt::format("rank {} of {}: {} could not take a copy: {}", to.first,
                   snapshot->record.snapshot.ToString(),
                   member == nullptr ? to.second.ToShort() : member->record.name, failure.why));
}

}  // namespace gemel
